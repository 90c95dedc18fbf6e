"""The components of decoding (searchers, scorers and rules) and the check that they go together. Imports no torch.

Each component declares which options of `decode` it reads and what it does not go with. `check` compares the options of
a command, a call or a request with these declarations: before any model is loaded, and again when the models are known.
"""

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from s2s import registry
from s2s.errors import UserError

# Options of `decode` that every searcher reads, or that are read outside of the search.
COMMON = frozenset(
    ["search", "scorers", "rules", "ctc_weight", "n_best", "mbr", "batch_tokens", "slots", "buffer", "max_source",
     "pack_source", "subnet", "encoder_exit_similarity", "encoder_chunk", "encoder_chunk_overlap", "long_source",
     "on_error", "backend", "dtype", "chunk_seconds", "chunk_overlap", "alignment_layer", "alignment_head",
     "replace_unknown", "unknown_dictionary"]
)  # fmt: skip

# Options of decode that scoring given targets reads. A search reads the others.
SCORING = frozenset(
    ["length_penalty", "length_normalization", "word_reward", "temperature", "eos_scale", "free_beginning", "uncounted",
     "ctc_weight", "scorers", "language_model", "language_model_weight", "coverage_penalty", "alignment_layer",
     "alignment_head", "ensemble", "ensemble_weights", "auxiliary_weights", "encoder_layer", "subnet", "pack_source",
     "exit_layer", "exit_confidence", "encoder_exit_similarity", "decoder_exit_similarity", "encoder_chunk",
     "encoder_chunk_overlap", "cross_attention_k", "max_source", "long_source", "batch_tokens", "buffer", "on_error",
     "backend", "dtype"]
)  # fmt: skip


class Flat(NamedTuple):
    """A component whose options stand directly under `decode`. The first of them switches it on.

    Attributes:
        kind: Kind of component in the registry.
        component: Name of the component in the registry.
        options: Option of the component -> option of `decode`.
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
# Features that are no components but declare `without`, too: option of `decode` or argument of a call -> class.
FEATURES = {
    "shortlist": "s2s.decoding.shortlist:Shortlist",
    "chunk_seconds": "s2s.decoding.times:Chunks",
    "constraints": "s2s.decoding.search.constrained:ConstrainedBeam",
}


class Component:
    """A scorer or a rule.

    Attributes:
        Config: The dataclass of its options.
        feature: Its group, by which searchers and other components name it: `rules`, `scorers` or `final_scorers`.
        without: What it does not go with -> the reason. A key is an option of `decode`, a group (`rules`, `scorers`,
            `final_scorers`), an argument of a call (`prefix`, `constraints`, `alignment`) or `several_models`.

    Args:
        config: Its options.
        loaded: The return value of `load`.
        setting: Models and task.
    """

    Config: ClassVar[type]
    feature: ClassVar[str]
    without: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Any, loaded: Any, setting: Any):
        self.config = config

    @classmethod
    def load(cls, config: Any, task: Any, device: Any) -> Any:
        """Read its files, once for any number of searches.

        Args:
            config: Its options.
            task: The task of the models.
            device: The device of the models.

        Returns:
            Any object; `__init__` takes it as `loaded`.

        Raises:
            UserError: a file is missing or unusable.
        """


class Chosen(NamedTuple):
    """A scorer or a rule that the options have chosen.

    Attributes:
        kind: `scorer` or `rule`.
        name: Its name: an option of `decode`, or the name of its section.
        label: The setting that has chosen it, for messages.
        component: Its class.
        config: Its options.
    """

    kind: str
    name: str
    label: str
    component: type[Component]
    config: Any


def chosen(config: Any, more: Iterable[str] = ()) -> Iterator[Chosen]:
    """The scorers and rules that decode options choose.

    Args:
        config: Decode options.
        more: Keys of FLAT that are chosen though their option is not set.
    """
    for option, flat in FLAT.items():
        value = getattr(config, option)
        if value or option in more:
            component = registry.find(flat.kind, flat.component)
            values = {own: getattr(config, name) for own, name in flat.options.items()}
            label = f"decode.{option}={_text(value)}" if value else f"decode.{option}"
            yield Chosen(flat.kind, option, label, component, component.Config(**values))
    for kind in ("scorer", "rule"):
        for name, own in getattr(config, f"{kind}s").items():
            yield Chosen(kind, name, f"decode.{kind}s=[{name}]", registry.find(kind, own.type), own)


def check(config: Any, searcher: Any, given: Mapping[str, str] = {}, more: Iterable[Chosen] = ()) -> None:
    """Check that every option has an effect, and that all of them go together.

    Args:
        config: Decode options.
        searcher: The class of the searcher.
        given: Arguments of a call, such as `prefix` -> their label in messages.
        more: Components in addition to those of `chosen(config)`.

    Raises:
        UserError: an option has no effect, or two settings do not go together.
    """
    components = [*chosen(config), *more]
    _read(config, searcher, components, given)
    present = {key: f"decode.{key}={_text(value)}" for key, value in _changed(config)} | dict(given)
    for item in components:
        present.setdefault(item.component.feature, item.label)
    declarations: list[tuple[str, Any, Chosen | None]]
    declarations = [(present[key], _imported(where), None) for key, where in FEATURES.items() if key in present]
    declarations += [(item.label, item.component, item) for item in components]
    for label, cls, own in declarations:
        for other, why in cls.without.items():
            others = [item.label for item in components if item.component.feature == other and item is not own]
            if other in present and (others or own is None or own.component.feature != other):
                raise UserError(f"{label}: does not go with {others[0] if others else present[other]}: {why}")
    searcher.check(config)
    for name, message in searcher.needs(config).items():
        if name not in given:
            raise UserError(message)


def check_scoring(given: Iterable[str]) -> None:
    """Check that scoring given targets reads the options of a command.

    Args:
        given: The keys that the user has set, such as `decode.beam_size`.

    Raises:
        UserError: only a search reads one of them.
    """
    known = {field.name for field in dataclasses.fields(registry.find("decode", "default"))}
    for key in sorted(given):
        section, _, name = key.partition(".")
        if key in ("seed", "draft") or (section == "decode" and name.partition(".")[0] in known - SCORING):
            raise UserError(f"{key}=: does nothing with mode=score, which searches nothing; of decode it reads "
                            f"{', '.join(sorted(SCORING))}")  # fmt: skip


def _read(config: Any, searcher: Any, components: list[Chosen], given: Mapping[str, str]) -> None:
    """Check that the searcher reads every option, component and argument. Raises UserError."""
    for key, value in _changed(config):
        if key not in COMMON | OWNED | searcher.options:
            raise UserError(f"decode.{key}={_text(value)}: does nothing with {searcher.label(config)}"
                            + _others(lambda other, key=key: key in other.options))  # fmt: skip
    for item in components:
        names = {item.component.feature, getattr(item.config, "type", None)}
        if not names & searcher.takes:
            raise UserError(f"{item.label}: does not go with {searcher.label(config)}"
                            + _others(lambda other, names=names: names & other.takes)
                            + getattr(item.component, "leave_out", ""))  # fmt: skip
    for name, label in given.items():
        if name not in searcher.takes | searcher.options | searcher.needs(config).keys():
            raise UserError(f"{label}: does not go with {searcher.label(config)}"
                            + _others(lambda other, name=name: name in other.takes | other.options))  # fmt: skip


def _changed(config: Any) -> Iterator[tuple[str, Any]]:
    """Options that differ from their defaults, and their values; without those that hold components."""
    for field in dataclasses.fields(config):
        if "group" not in field.metadata:
            value, make = getattr(config, field.name), field.default_factory
            if value != (field.default if make is dataclasses.MISSING else make()):
                yield field.name, value


def _others(fits) -> str:
    """The end of a message: the searchers that it would go with."""
    searchers = (registry.find("searcher", name) for name in registry.names("searcher"))
    names = [searcher.option() for searcher in searchers if fits(searcher)]
    if not names:
        return ""
    *rest, last = [name if number == 0 else name.removeprefix("decode.search=") for number, name in enumerate(names)]
    return f"; it goes with {', '.join(rest)}{' and ' * bool(rest)}{last}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _imported(where: str) -> type:
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)
