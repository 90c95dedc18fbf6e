"""Adam and AdamW in PyTorch's fused form. Their options include those of the learning-rate schedule."""

import dataclasses

import torch
from torch import nn

from s2s import registry
from s2s.config.schema import option
from s2s.optim.groups import GroupConfig, parameter_groups


@dataclasses.dataclass
class AdamConfig:
    """Options of Adam and of its schedule."""

    type: str = option("adam", "component")
    lr: float = option(1e-3, "highest learning rate", at_least=0)
    schedule: str = option("inverse_sqrt", "course of the learning rate after the warm-up", registry.Names("schedule"))
    warmup_updates: int = option(1000, "updates over which the learning rate rises linearly from 0", at_least=0)
    min_lr: float = option(0.0, "learning rate at the end of the cosine and linear schedules", at_least=0,
                           needs="schedule=cosine|linear")  # fmt: skip
    beta1: float = option(0.9, "decay of the mean of gradients", at_least=0, below=1)
    beta2: float = option(0.98, "decay of the mean of squared gradients", at_least=0, below=1)
    eps: float = option(1e-9, "added to the root of the mean square", at_least=0)
    weight_decay: float = option(0.0, "weight decay of matrices (not of biases and norms)", at_least=0)
    groups: list[GroupConfig] = option(
        [],
        "parameters with a learning rate of their own, such as [{parameters:[encoder],factor:0.1,warmup_updates:4000}]",
    )
    layer_decay: float = option(
        1.0, "learning rate of a layer relative to the layer above it; embeddings have the lowest", at_most=1,
        at_least=0,
    )  # fmt: skip


@dataclasses.dataclass
class AdamWConfig(AdamConfig):
    """Options of AdamW: Adam with decoupled weight decay."""

    type: str = option("adamw", "component")
    weight_decay: float = option(0.01, "decoupled weight decay of matrices (not of biases and norms)", at_least=0)


class Adam:
    """Adam (Kingma and Ba 2015). Weight decay is added to the gradient."""

    Config = AdamConfig
    optimizer = torch.optim.Adam

    def __init__(self, config: AdamConfig):
        self.config = config

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over the trainable parameters of a model. Raises UserError as `parameter_groups` does."""
        c = self.config
        groups = parameter_groups(model, c)
        return self.optimizer(groups, lr=c.lr, betas=(c.beta1, c.beta2), eps=c.eps, fused=True)


class AdamW(Adam):
    """AdamW (Loshchilov and Hutter 2019)."""

    Config = AdamWConfig
    optimizer = torch.optim.AdamW
