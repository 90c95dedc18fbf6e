"""Adapters in a model: which linear maps have one, what is trained, and the model without them for decoding."""

import collections
import dataclasses

from torch import nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.parts import matching, select
from s2s.nn.adapted import AdaptedLinear
from s2s.registry import find


@dataclasses.dataclass
class AdapterConfig:
    """Options of every adapter."""

    type: str = option("", "component")
    parts: list[str] = option(
        ["*.layers.*"], "linear maps that have an adapter: encoder, decoder, or patterns of names"
    )
    trained: list[str] = option(
        [], "parameters that are trained beside the adapters: embeddings, encoder, decoder, or patterns of names"
    )


def adapt(model: nn.Module, config: AdapterConfig | None) -> None:
    """Give adapters to linear maps of a new model, which keep their parameters. Only plain linear maps can have one.

    Args:
        model: The model.
        config: The options of the adapters; None: the model has none.

    Raises:
        UserError: a pattern that matches no linear map, or one whose matrix another module has, too.
    """
    if config is None:
        return
    kind, names = find("adapter", config.type), collections.defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) is nn.Linear:
            names[id(module)].append(name)
    chosen = matching({several[0]: several for several in names.values()}, config.parts, "model.adapter.parts",
                      "linear map")  # fmt: skip
    owners = collections.Counter(p for module in model.modules() for p in module.parameters(recurse=False))
    made = {}
    for name in (several[0] for several in names.values() if several[0] in chosen):
        linear = model.get_submodule(name)
        if owners[linear.weight] > 1:
            raise UserError(f"model.adapter.parts: {name} shares its matrix with another part of the model")
        made[linear] = kind(config, linear)
    for holder in list(model.modules()):
        for name, module in holder._modules.items():
            if module in made:
                setattr(holder, name, made[module])
    if config.trained:
        untrained(model, config)


def own_names(model: nn.Module) -> set[str]:
    """Names of the parameters of a model's adapters."""
    adapted = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, AdaptedLinear)}
    return {f"{name}.adapter.{inner}" for name, m in adapted.items() for inner, _ in m.adapter.named_parameters()}


def untrained(model: nn.Module, config: AdapterConfig | None) -> set[str]:
    """Names of the parameters that are not trained because a model has adapters; config: the options of its adapters.
    Raises UserError if a pattern matches nothing."""
    if config is None:
        return set()
    trained = select(model, config.trained, "model.adapter.trained")
    return {name for name, _ in model.named_parameters()} - own_names(model) - trained
