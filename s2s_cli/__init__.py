"""The commands."""

from s2s.config import cores

cores.prepare()  # here, because modules of the commands import PyTorch
