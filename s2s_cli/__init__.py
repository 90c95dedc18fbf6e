"""The commands."""

from s2s.config import cores, stand_in

cores.prepare()  # here, because modules of the commands import PyTorch
stand_in.prepare()
