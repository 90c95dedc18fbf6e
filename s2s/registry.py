"""Names of components, and the one place where a name becomes a class or a function.

A component is imported only when it is chosen. A component that has options is a class that carries their dataclass as
`Config`, whose first field is `type`, the component's name; that of `decode`, of which there are only presets, is the
dataclass itself. Other people's packages add components through entry points, one group for each kind: a `setup.cfg`
with `s2s.model = mine = my_package.model:MyModel` makes `model=mine` work.
"""

import functools
import importlib
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points

from s2s.errors import UserError

COMPONENTS = {
    "task": {
        "translation": "s2s.tasks.translation:TranslationTask",
        "speech_to_text": "s2s.tasks.speech:SpeechToTextTask",
        "language_modeling": "s2s.tasks.language_modeling:LanguageModelingTask",
    },
    "tokenizer": {
        "sentencepiece": "s2s.text.sentencepiece:SentencePieceTokenizer",
        "characters": "s2s.text.characters:CharacterTokenizer",
        "bytes": "s2s.text.bytes:ByteTokenizer",
        "words": "s2s.text.words:WordTokenizer",
    },
    "model": {
        "transformer": "s2s.models.transformer:Transformer",
        "speech": "s2s.models.speech:SpeechModel",
        "transformer_lm": "s2s.models.language_model:LanguageModel",
    },
    "criterion": {
        "cross_entropy": "s2s.criterions.cross_entropy:CrossEntropy",
        "distillation": "s2s.criterions.distillation:Distillation",
        "ctc_attention": "s2s.criterions.ctc_attention:CTCAttention",
    },
    "decode": {"default": "s2s.decoding.config:DecodeConfig"},
    "optim": {"adam": "s2s.optim.adam:Adam", "adamw": "s2s.optim.adam:AdamW"},
    "schedule": {name: f"s2s.optim.schedule:{name}" for name in ("inverse_sqrt", "cosine", "linear", "constant")},
    "cost": {f"{name}": f"s2s.data.costs:{name}" for name in ("max", "sum", "product", "source", "target", "frames")},
    "logger": {
        "tensorboard": "s2s.training.loggers:TensorBoard",
        "wandb": "s2s.training.loggers:WeightsAndBiases",
    },
    "metric": {
        "bleu": "s2s.scoring.translation:bleu",
        "chrf": "s2s.scoring.translation:chrf",
        "chrf++": "s2s.scoring.translation:chrf_plus_plus",
        "ter": "s2s.scoring.translation:ter",
        "wer": "s2s.scoring.edits:WordErrorRate",
        "cer": "s2s.scoring.edits:CharacterErrorRate",
        "per": "s2s.scoring.edits:PhonemeErrorRate",
        "ser": "s2s.scoring.edits:SentenceErrorRate",
        "exact_match": "s2s.scoring.agreement:ExactMatch",
        "token_accuracy": "s2s.scoring.agreement:TokenAccuracy",
    },
}


class Names(Sequence):
    """The names of a kind's components, those of plug-ins too, as the choices of an option. Looked up when they are
    needed, and not when a schema is defined.

    Args:
        kind: A key of COMPONENTS.
        more: Other choices, which come first.
    """

    def __init__(self, kind: str, *more: str):
        self.kind, self.more = kind, more

    def _names(self) -> list[str]:
        return [*self.more, *names(self.kind)]

    def __getitem__(self, place):
        return self._names()[place]

    def __len__(self) -> int:
        return len(self._names())


@functools.cache
def _plugins(kind: str) -> dict:
    """Entry points of installed packages by name."""
    return {point.name: point for point in entry_points(group=f"s2s.{kind}")}


def names(kind: str) -> list[str]:
    """Names of all components of a kind: the toolkit's in its order, then those of plug-ins."""
    return list(dict.fromkeys([*COMPONENTS[kind], *sorted(_plugins(kind))]))


@functools.cache
def find(kind: str, name: str):
    """The class or function of a component, imported now.

    Raises:
        UserError: no such component; the message names the nearest one.
    """
    if name in COMPONENTS[kind]:
        module, attribute = COMPONENTS[kind][name].split(":")
        return getattr(importlib.import_module(module), attribute)
    if name in _plugins(kind):
        return _plugins(kind)[name].load()
    raise UserError(f"no {kind} is called '{name}'; {nearest(name, names(kind))}")


def nearest(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the closest known one, or all of them."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(sorted(known))}"
