"""What a search is made of: searchers, scorers and rules, and what goes with what. Imports no torch.

Each component says itself which options of `decode` it reads and what it does not go with. `check` holds the options of
a command, a call or a request against that, before any model is loaded and again when the models are known.
"""

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from s2s import registry
from s2s.errors import UserError

# Options of `decode` that any search reads, or that are read outside of it.
COMMON = frozenset(
    ["search", "scorers", "rules", "ctc_weight", "n_best", "mbr", "batch_tokens", "slots", "buffer", "max_source",
     "long_source", "on_error", "backend", "dtype", "chunk_seconds", "chunk_overlap", "alignment_layer",
     "alignment_head"]
)  # fmt: skip


class Flat(NamedTuple):
    """Options of `decode` that are those of a component, which the first one chooses.

    Attributes:
        kind, component: Of the registry.
        options: Of the component -> of `decode`.
    """

    kind: str
    component: str
    options: dict[str, str]


FLAT = {
    "no_repeat_ngram": Flat("rule", "no_repeat_ngram", {"n": "no_repeat_ngram"}),
    "forbidden": Flat("rule", "forbidden", {"file": "forbidden"}),
    "allowed": Flat("rule", "allowed", {"file": "allowed"}),
    "language_model": Flat("scorer", "language_model",
                           {"run": "language_model", "weight": "language_model_weight"}),
    "coverage_penalty": Flat("scorer", "coverage", {"weight": "coverage_penalty"}),
}  # fmt: skip
OWNED = {option for flat in FLAT.values() for option in flat.options.values()}
# What is no component, and says too what it does not go with.
FEATURES = {
    "shortlist": "s2s.decoding.shortlist:Shortlist",
    "chunk_seconds": "s2s.decoding.times:Chunks",
    "constraints": "s2s.decoding.search.constrained:ConstrainedBeam",
}


class Component:
    """A scorer or a rule.

    Attributes:
        Config: Its options.
        feature: What searchers and others call it: `rules`, `scorers` or `final_scorers`.
        without: What it does not go with -> why: an option of `decode`, `rules`, `scorers`, `final_scorers`, or of a
            call `prefix`, `constraints`, `alignment`, `several_models`.

    Args:
        config: Its options.
        loaded: What `load` has given.
        setting: What it works with.
    """

    Config: ClassVar[type]
    feature: ClassVar[str]
    without: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Any, loaded: Any, setting: Any):
        self.config = config

    @classmethod
    def load(cls, config: Any, task: Any, device: Any) -> Any:
        """What its files hold, read once for any number of searches. Raises UserError."""


class Chosen(NamedTuple):
    """A scorer or a rule that is chosen.

    Attributes:
        kind: `scorer` or `rule`.
        name: What it is called by: an option of `decode`, or its section.
        said: What has chosen it, in words.
        found: Its class.
        config: Its options.
    """

    kind: str
    name: str
    said: str
    found: type[Component]
    config: Any


def chosen(config: Any, more: Iterable[str] = ()) -> Iterator[Chosen]:
    """The scorers and rules of decode options; `more`: of FLAT those that are chosen without an option."""
    for option, flat in FLAT.items():
        value = getattr(config, option)
        if value or option in more:
            found = registry.find(flat.kind, flat.component)
            values = {own: getattr(config, name) for own, name in flat.options.items()}
            said = f"decode.{option}={_text(value)}" if value else f"decode.{option}"
            yield Chosen(flat.kind, option, said, found, found.Config(**values))
    for kind in ("scorer", "rule"):
        for name, own in getattr(config, f"{kind}s").items():
            yield Chosen(kind, name, f"decode.{kind}s=[{name}]", registry.find(kind, own.type), own)


def check(config: Any, searcher: type, given: Mapping[str, str] = {}, more: Iterable[Chosen] = ()) -> None:
    """Whether all that is asked for does something, and goes together.

    Args:
        config: Decode options.
        searcher: What searches.
        given: What is given besides, such as `prefix` -> what it is called.
        more: Components that no option of `chosen` has chosen.

    Raises:
        UserError: what does nothing, or does not go with what.
    """
    components = [*chosen(config), *more]
    _read(config, searcher, components, given)
    present = {key: f"decode.{key}={_text(value)}" for key, value in _changed(config)} | dict(given)
    for one in components:
        present.setdefault(one.found.feature, one.said)
    speaking = [(present[key], _imported(where), None) for key, where in FEATURES.items() if key in present]
    speaking += [(one.said, one.found, one) for one in components]
    for said, found, own in speaking:
        for other, why in found.without.items():
            others = [one.said for one in components if one.found.feature == other and one is not own]
            if other in present and (others or own is None or own.found.feature != other):
                raise UserError(f"{said}: does not go with {others[0] if others else present[other]}: {why}")
    searcher.check(config)


def _read(config: Any, searcher: type, components: list[Chosen], given: Mapping[str, str]) -> None:
    """Whether a searcher reads what is asked for."""
    for key, value in _changed(config):
        if key not in COMMON | OWNED | searcher.options:
            raise UserError(f"decode.{key}={_text(value)}: does nothing with {searcher.said(config)}"
                            + _others(lambda other, key=key: key in other.options))  # fmt: skip
    for one in components:
        names = {one.found.feature, getattr(one.config, "type", None)}
        if not names & searcher.takes:
            raise UserError(f"{one.said}: does not go with {searcher.said(config)}"
                            + _others(lambda other, names=names: names & other.takes)
                            + getattr(one.found, "leave_out", ""))  # fmt: skip
    for name, said in given.items():
        if name not in searcher.takes | searcher.options:
            raise UserError(f"{said}: does not go with {searcher.said(config)}"
                            + _others(lambda other, name=name: name in other.takes | other.options))  # fmt: skip


def _changed(config: Any) -> Iterator[tuple[str, Any]]:
    """Options that are not as they are by default; those that hold components are not among them."""
    for field in dataclasses.fields(config):
        if "group" not in field.metadata:
            value, make = getattr(config, field.name), field.default_factory
            if value != (field.default if make is dataclasses.MISSING else make()):
                yield field.name, value


def _others(fits) -> str:
    """Which searches are meant."""
    found = (registry.find("searcher", name) for name in registry.names("searcher"))
    names = [one.called() for one in found if fits(one)]
    if not names:
        return ""
    *rest, last = [name if number == 0 else name.removeprefix("decode.search=") for number, name in enumerate(names)]
    return f"; it is for {', '.join(rest)}{' and ' * bool(rest)}{last}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _imported(where: str) -> type:
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)
