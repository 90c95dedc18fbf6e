"""Stages of training: each lasts a number of updates, and has its own frozen parameters and learning rates."""

import dataclasses

import torch
from torch import nn

from s2s import registry
from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models import adapting
from s2s.models.parts import select
from s2s.optim.groups import GroupConfig
from s2s.optim.schedule import learning_rate


@dataclasses.dataclass
class TrainStageConfig:
    """A stage of training; null: as without stages."""

    updates: int | None = option(None, "number of updates; null: to the end, for the last stage only", at_least=1)
    freeze: list[str] | None = option(None, "as train.freeze")
    factor: float = option(1.0, "factor of all learning rates", at_least=0)
    groups: list[GroupConfig] | None = option(None, "as optim.groups")


class Stages:
    """The stages of a run: trained parameters and learning rates as a function of the update, without state.

    Args:
        config: The whole train config.
        model: The model.

    Raises:
        UserError: the number of updates of a stage is missing (or given for the last stage), a pattern matches no
            parameter, or a stage trains nothing.
    """

    def __init__(self, config, model: nn.Module):
        self.config, self.model = config, model
        options, optim = config.train, config.optim
        stages = options.stages or [TrainStageConfig()]
        self.ends: list[int] = []  # the last update of each stage except the last stage
        for number, stage in enumerate(stages[:-1]):
            if stage.updates is None:
                raise UserError(
                    f"train.stages[{number}]: requires updates=NUMBER; only the last stage has no end of its own"
                )
            self.ends.append(sum(self.ends[-1:]) + stage.updates)
        if stages[-1].updates is not None:
            raise UserError(f"train.stages[{len(stages) - 1}].updates: the last stage ends with train.max_updates")
        self.factors = [stage.factor for stage in stages]
        self.frozen: list[set[str]] = []
        self.optimizers = []
        names, adapter = {name for name, _ in model.named_parameters()}, getattr(config.model, "adapter", None)
        for number, stage in enumerate(stages):
            key = "train.freeze" if stage.freeze is None else f"train.stages[{number}].freeze"
            patterns = options.freeze if stage.freeze is None else stage.freeze
            self.frozen.append(select(model, patterns, key) | adapting.untrained(model, adapter))
            if self.frozen[-1] == names:
                raise UserError(f"{key}: nothing is left to train")
            settings = optim if stage.groups is None else dataclasses.replace(optim, groups=stage.groups)
            self.optimizers.append(registry.find("optim", optim.type)(settings))
            # Built now, so that errors are raised before the run starts.
            self.optimizers[-1].build(model)

    def at(self, update: int) -> int:
        """The number of the stage of an update, from 0."""
        return sum(update > end for end in self.ends)

    def enter(self, stage: int, before: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
        """Freeze the parameters of a stage, and make its optimizer; it takes over the states of `before`."""
        for name, p in self.model.named_parameters():
            p.requires_grad_(name not in self.frozen[stage])
            p.grad = None  # an old gradient would count in the norm
        optimizer = self.optimizers[stage].build(self.model)
        if before:
            optimizer.state.update({p: state for p, state in before.state.items() if p.requires_grad})
        return optimizer

    def describe(self, stage: int) -> str:
        """One line about a stage."""
        parameters = list(self.model.named_parameters())
        frozen = sum(p.numel() for name, p in parameters if name in self.frozen[stage])
        where = f"stage {stage + 1} of {len(self.factors)} | " if self.ends else ""
        return f"{where}frozen: {frozen:,} of {sum(p.numel() for _, p in parameters):,} parameters"

    def learning_rate(self, update: int, warmup: int | None = None) -> float:
        """The learning rate of an update, for parameters with factor 1; warmup: updates of warm-up, by default
        optim.warmup_updates."""
        o = self.config.optim
        warmup = o.warmup_updates if warmup is None else warmup
        rate = learning_rate(o.schedule, update, o.lr, warmup, self.config.train.max_updates, o.min_lr)
        return rate * self.factors[self.at(update)]

    def set_rates(self, optimizer: torch.optim.Optimizer, update: int) -> None:
        """Set the learning rates of all groups of an optimizer for an update."""
        for group in optimizer.param_groups:
            group["lr"] = group.get("factor", 1.0) * self.learning_rate(update, group.get("warmup_updates"))
