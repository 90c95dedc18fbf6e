"""Groups of parameters, with or without weight decay, and with their own learning rates."""

import dataclasses
import re

from torch import nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.parts import select


@dataclasses.dataclass
class GroupConfig:
    """Parameters with a learning rate of their own."""

    parameters: list[str] = option([], "embeddings, encoder, decoder, or patterns of parameter names")
    factor: float = option(1.0, "factor of their learning rate", at_least=0)
    warmup_updates: int | None = option(None, "their warm-up; null: optim.warmup_updates", at_least=0)


def parameter_groups(model: nn.Module, config) -> list[dict]:
    """The trainable parameters of a model in the groups that an optimizer takes.

    Args:
        model: The model.
        config: Options of the optimizer: weight_decay (of matrices only), groups, layer_decay.

    Returns:
        Groups with `params`, `weight_decay`, and two keys that the trainer reads: `factor` of the learning rate, and
        `warmup_updates`, None where it is that of `config`.

    Raises:
        UserError: a pattern that matches nothing, a parameter in two groups, or `layer_decay` without numbered layers.
    """
    chosen: dict[str, int] = {}
    for number, group in enumerate(config.groups):
        for name in select(model, group.parameters, f"optim.groups[{number}]"):
            if chosen.setdefault(name, number) != number:
                raise UserError(f"optim.groups: {name} is in two of them, {chosen[name]} and {number} (from 0)")
    below = _below_the_top(model) if config.layer_decay < 1 else {}
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            group = config.groups[chosen[name]] if name in chosen else GroupConfig()
            factor = group.factor * config.layer_decay ** below.get(name, 0)
            decay = config.weight_decay if p.ndim > 1 else 0.0
            groups.setdefault((decay, factor, group.warmup_updates), []).append(p)
    return [
        {"params": params, "weight_decay": decay, "factor": factor, "warmup_updates": warmup}
        for (decay, factor, warmup), params in groups.items()
    ]


def _below_the_top(model: nn.Module) -> dict[str, int]:
    """Number of layers above each parameter in its stack, by parameter name: 0 in the top layer, and the number of all
    layers for embeddings.

    Raises:
        UserError: the model has no numbered layers.
    """
    names = [name for name, _ in model.named_parameters()]
    matches = {name: match for name in names if (match := re.match(r"(\w+)\.layers\.(\d+)\.", name))}
    layers: dict[str, int] = {}
    for stack, number in (match.groups() for match in matches.values()):
        layers[stack] = max(layers.get(stack, 0), int(number) + 1)
    if not layers:
        raise UserError("optim.layer_decay: the model has no layers that are numbered")
    below = {name: layers[match[1]] - 1 - int(match[2]) for name, match in matches.items()}
    under = {"frontend.": "encoder", "decoder.embedding.": "decoder"}
    return below | {name: layers[stack] for start, stack in under.items() for name in names if name.startswith(start)}
