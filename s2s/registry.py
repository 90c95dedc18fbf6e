"""Names of components, and the one place where a name becomes a class.

A component is imported only when it is chosen. Each component class carries its config dataclass as `Config`, whose
first field is `type`, the component's name; the one of `decode`, of which there are only presets, is the dataclass
itself. Other people's packages add components through entry points, one group for each kind: a `setup.cfg` with
`s2s.model = mine = my_package.model:MyModel` makes `model=mine` work.
"""

import importlib
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
}


def names(kind: str) -> list[str]:
    """Names of all components of a kind, installed plug-ins included."""
    return sorted({*COMPONENTS[kind], *(point.name for point in entry_points(group=f"s2s.{kind}"))})


def find(kind: str, name: str) -> type:
    """The class of a component, imported now.

    Raises:
        UserError: no such component; the message names the nearest one.
    """
    if name in COMPONENTS[kind]:
        module, attribute = COMPONENTS[kind][name].split(":")
        return getattr(importlib.import_module(module), attribute)
    for point in entry_points(group=f"s2s.{kind}"):
        if point.name == name:
            return point.load()
    raise UserError(f"no {kind} is called '{name}'; {nearest(name, names(kind))}")


def nearest(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the closest known one, or all of them."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(sorted(known))}"
