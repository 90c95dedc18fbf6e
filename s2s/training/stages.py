"""Stages of training: what is frozen and how fast the rest learns, for so many updates each."""

import dataclasses

import torch
from torch import nn

from s2s import registry
from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.parts import select
from s2s.optim.groups import GroupConfig
from s2s.optim.schedule import learning_rate


@dataclasses.dataclass
class TrainStageConfig:
    """A stage of training; null: as without stages."""

    updates: int | None = option(None, "how many it lasts; null, of the last one only: to the end", at_least=1)
    freeze: list[str] | None = option(None, "as train.freeze")
    factor: float = option(1.0, "all learning rates are so many times what they would be", at_least=0)
    groups: list[GroupConfig] | None = option(None, "as optim.groups")


class Stages:
    """What is trained in which update, and at which rates: a function of the update, so that there is nothing to save.

    Args:
        config: The whole train config.
        model: The model.

    Raises:
        UserError: lengths that are missing or left over, patterns that match nothing, a stage that trains nothing.
    """

    def __init__(self, config, model: nn.Module):
        self.config, self.model = config, model
        options, optim = config.train, config.optim
        stages = options.stages or [TrainStageConfig()]
        self.ends: list[int] = []  # the last update of each stage but the last one
        for number, stage in enumerate(stages[:-1]):
            if stage.updates is None:
                raise UserError(
                    f"train.stages[{number}]: how many updates does it last? only the last stage has no end"
                )
            self.ends.append(sum(self.ends[-1:]) + stage.updates)
        if stages[-1].updates is not None:
            raise UserError(f"train.stages[{len(stages) - 1}].updates: the last stage ends with train.max_updates")
        self.factors = [stage.factor for stage in stages]
        self.frozen: list[set[str]] = []
        self.optimizers = []
        names = {name for name, _ in model.named_parameters()}
        for number, stage in enumerate(stages):
            key = "train.freeze" if stage.freeze is None else f"train.stages[{number}].freeze"
            self.frozen.append(select(model, options.freeze if stage.freeze is None else stage.freeze, key))
            if self.frozen[-1] == names:
                raise UserError(f"{key}: nothing is left to train")
            settings = optim if stage.groups is None else dataclasses.replace(optim, groups=stage.groups)
            self.optimizers.append(registry.find("optim", optim.type)(settings))
            # Its errors are told now, not in the middle of the run.
            self.optimizers[-1].build(model)

    def at(self, update: int) -> int:
        """The number of an update's stage, from 0."""
        return sum(update > end for end in self.ends)

    def enter(self, stage: int, before: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
        """Freeze what a stage freezes, and make its optimizer; what `before` knows of parameters that go on stays."""
        for name, p in self.model.named_parameters():
            p.requires_grad_(name not in self.frozen[stage])
            p.grad = None  # one that is left over would count in the norm
        optimizer = self.optimizers[stage].build(self.model)
        if before:
            optimizer.state.update({p: state for p, state in before.state.items() if p.requires_grad})
        return optimizer

    def describe(self, stage: int) -> str:
        """What a stage is, in a line."""
        parameters = list(self.model.named_parameters())
        frozen = sum(p.numel() for name, p in parameters if name in self.frozen[stage])
        where = f"stage {stage + 1} of {len(self.factors)} | " if self.ends else ""
        return f"{where}frozen: {frozen:,} of {sum(p.numel() for _, p in parameters):,} parameters"

    def learning_rate(self, update: int, warmup: int | None = None) -> float:
        """The learning rate of an update, of parameters with a factor of 1; `warmup` in place of the common one."""
        o = self.config.optim
        warmup = o.warmup_updates if warmup is None else warmup
        rate = learning_rate(o.schedule, update, o.lr, warmup, self.config.train.max_updates, o.min_lr)
        return rate * self.factors[self.at(update)]

    def set_rates(self, optimizer: torch.optim.Optimizer, update: int) -> None:
        """Give every group of an optimizer its learning rate of an update."""
        for group in optimizer.param_groups:
            group["lr"] = group.get("factor", 1.0) * self.learning_rate(update, group.get("warmup_updates"))
