"""What every tokenizer does: lines to ids and back, learned once, saved in readable files, never pickled."""

import dataclasses
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from s2s import registry
from s2s.config import schema
from s2s.config.documents import read_json
from s2s.config.schema import group, option
from s2s.config.shapes import shown
from s2s.errors import UserError
from s2s.files import write
from s2s.text.pretokenizers.pretokenizer import PreTokenizer
from s2s.text.vocabulary import EOS, UNK, Vocabulary

LATER = ("reserved", "pre")  # options that tokenizers of older stores do not have
NO_WIDTH = dict.fromkeys((0x200B, 0x2060, 0xFEFF))  # zero width space, word joiner, zero width no-break space


class LearningError(UserError):
    """A text from which no tokenizer can be learned with the chosen settings."""


@dataclasses.dataclass
class TokenizerConfig:
    """Options of all tokenizers."""

    type: str = option("", "component")
    normalization: str = option("nfc", "Unicode normalisation of every line", choices=("none", "nfc", "nfkc"))
    lowercase: bool = option(False, "lower-case every line")
    pre: Any = group("pretokenizer", None, "what a line is rewritten as before it is tokenized, and back again")
    joint: bool = option(True, "one tokenizer and one vocabulary for both sides; false: one for each side")
    reserved: list[str] = option(
        [], "symbols beside those of texts, for the model alone, such as <mask>; the task adds its own"
    )


class Tokenizer(ABC):
    """Lines of text to ids of a vocabulary and back.

    A component gives `Config`, `_learn`, `_encode`, `_decode`, and `save`/`_load` where it has files of its own. These
    see lines as the tokenizer does: normalised, lower-cased, and rewritten by the pre-tokenizer.

    Args:
        config: Its `Config`.
        vocabulary: Its symbols. `self.vocabulary` has the reserved ones too, after them.
    """

    Config: ClassVar[type] = TokenizerConfig

    def __init__(self, config: TokenizerConfig, vocabulary: Vocabulary):
        self.config, self.vocabulary = config, vocabulary.with_reserved(config.reserved)

    @cached_property
    def pre(self) -> PreTokenizer | None:
        """The pre-tokenizer. That of a saved tokenizer is read from its files."""
        return _pre(self.config)

    @classmethod
    def learn(cls, config: TokenizerConfig, chunks: Iterable[list[str]] = (), seed: int = 1) -> "Tokenizer":
        """Learn from text; the same text, config and seed give the same tokenizer.

        Args:
            config: Its `Config`.
            chunks: Raw lines, some at a time, read at most once and only as far as needed.
            seed: Of the sample, where a tokenizer learns from a sample.

        Raises:
            LearningError: nothing can be learned from this text with these settings.
            UserError: a file that the config names is missing or wrong, or the pre-tokenizer does not go with it.
        """
        seen = view(config)
        return cls._learn(config, map(seen, chunks), seed)

    @classmethod
    @abstractmethod
    def _learn(cls, config: Any, chunks: Iterable[list[str]], seed: int) -> "Tokenizer":
        """As `learn`, of lines as the tokenizer sees them."""

    @abstractmethod
    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Integer ids of all lines as the tokenizer sees them, one after the other, and how many each line has."""

    @abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """The text of ids, none of them PAD, BOS, EOS or reserved."""

    def word_marks(self) -> tuple[np.ndarray | None, int | None]:
        """How words show in ids: which symbols begin one, booleans [vocabulary], or else the symbol between two."""
        return np.array([symbol.startswith("\u2581") for symbol in self.vocabulary.symbols]), None

    def word_starts(self) -> tuple[int, ...]:
        """Ids of the symbols that begin a word; a symbol between two words begins the second."""
        begins, separator = self.word_marks()
        if begins is not None:
            return tuple(np.flatnonzero(begins).tolist())
        return () if separator in (None, UNK) else (separator,)

    def normalise(self, lines: list[str]) -> list[str]:
        """Lines normalised and lower-cased as configured."""
        return normalise(lines, self.config.normalization, self.config.lowercase)

    def rewrite(self, lines: list[str]) -> list[str]:
        """Normalised lines after the pre-tokenizer, where there is one."""
        return lines if self.pre is None else [self.pre.apply(line) for line in lines]

    def encode_flat(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of many lines, one after the other, without BOS and EOS; a line that is blank has none.

        Returns:
            ids: Integers [sum of lengths].
            lengths: Integers [number of lines], tokens of each line.
        """
        lines = self.normalise(lines)
        return without_blank("".join(lines), lines, *self._encode(self.rewrite(lines)))

    def encode_text(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_flat` of the lines of a text, with line feeds between them: the fastest way for many lines."""
        lines = self._normalised(text).split("\n")
        return without_blank(text, lines, *self._encode(self.rewrite(lines)))

    def _normalised(self, text: str) -> str:
        return _normalised(text, self.config.normalization, self.config.lowercase)

    @property
    def sampling(self) -> float:
        """How strongly `sample` departs from `encode_flat`, in the algorithm's own measure; 0: not at all."""
        return 0.0

    def sample(self, lines: list[str], seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_flat`, with a random segmentation of each line where the tokenizer has `sampling`.

        A line's ids depend on the line and its seed only: they are the same in any thread, batch and order.

        Args:
            lines: Raw lines.
            seeds: uint64 [lines].
        """
        return self.encode_flat(lines)

    def encode_lines(self, lines: list[str]) -> list[np.ndarray]:
        """Ids of each line, without BOS and EOS, as integer arrays. One call for many lines is the fast way."""
        if not lines:
            return []
        ids, lengths = self.encode_flat(lines)
        return np.split(ids, np.cumsum(lengths[:-1]))

    def encode(self, line: str) -> list[int]:
        """Ids of one line, without BOS and EOS."""
        return self.encode_flat([line])[0].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; PAD, BOS, EOS and reserved symbols are passed over, ids outside the vocabulary count as
        unknown."""
        size = len(self.vocabulary)
        shown = size - len(self.vocabulary.reserved)
        kept = (i for i in map(int, ids) if i == UNK or EOS < i < shown or i >= size)
        text = self._decode([i if i < size else UNK for i in kept])
        return text if self.pre is None else self.pre.undo(text)

    def save(self, folder: Path, name: str) -> None:
        """Write all that `load_tokenizer` needs to `folder`, into files called `name.*`."""
        folder = Path(folder)
        facts = self.facts()
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        write(folder / f"{name}.tokenizer.json", text + "\n")
        self.vocabulary.save(folder / f"{name}.vocabulary.txt")
        if self.pre is not None:
            self.pre.save(folder, name)

    def facts(self) -> dict[str, Any]:
        """The config as it is written to files. Options that came later are left out where they do nothing, so that
        the digests of older stores stay as they are."""
        facts = dataclasses.asdict(self.config)
        return {key: value for key, value in facts.items() if value or key not in LATER}

    @classmethod
    def load(cls, folder: Path, name: str) -> "Tokenizer":
        """Read what `save` wrote. Raises UserError naming the file that is missing or wrong."""
        path = Path(folder) / f"{name}.tokenizer.json"
        config = schema.load(cls.Config, _read_config(path), str(path))
        tokenizer = cls._load(config, Path(folder), name)
        if config.pre is not None:
            tokenizer.pre = registry.find("pretokenizer", config.pre.type).load(config.pre, Path(folder), name)
        return tokenizer

    @classmethod
    def _load(cls, config: TokenizerConfig, folder: Path, name: str) -> "Tokenizer":
        path = _present(folder / f"{name}.vocabulary.txt")
        try:
            return cls(config, Vocabulary.load(path).without(config.reserved))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error


def load_tokenizer(folder: Path, name: str) -> Tokenizer:
    """The tokenizer of whatever type that was saved under a name ("source", "target") in a folder.

    Raises:
        UserError: naming the file that is missing or wrong.
    """
    path = Path(folder) / f"{name}.tokenizer.json"
    kind = _read_config(path)["type"]
    if kind not in registry.names("tokenizer"):
        known = registry.nearest(kind, registry.names("tokenizer"))
        raise UserError(f"{path}: no tokenizer is called {shown(kind)}; {known}")
    return registry.find("tokenizer", kind).load(folder, name)


def view(config: TokenizerConfig) -> Callable[[list[str]], list[str]]:
    """What turns lines into what a tokenizer of a config sees."""
    pre = _pre(config)

    def seen(lines: list[str]) -> list[str]:
        lines = normalise(lines, config.normalization, config.lowercase)
        return lines if pre is None else [pre.apply(line) for line in lines]

    return seen


def _pre(config: TokenizerConfig) -> PreTokenizer | None:
    """The pre-tokenizer of a config. Raises UserError: it does not go with the normal form."""
    if config.pre is None:
        return None
    kind = registry.find("pretokenizer", config.pre.type)
    if config.normalization not in kind.forms:
        needed = " or ".join(kind.forms)
        raise UserError(f"pre={config.pre.type} requires normalization={needed}, not {config.normalization}")
    return kind(config.pre)


def check_output(config: TokenizerConfig, where: str) -> None:
    """Raise UserError for the tokenizer of a target whose pre-tokenizer has no inverse; `where`: its key."""
    if config.pre is not None and not registry.find("pretokenizer", config.pre.type).reverses(config.pre):
        raise UserError(f"{where}.pre={config.pre.type} cannot be undone with these options, so a target cannot have "
                        "it; source_tokenizer.pre is for the source alone")  # fmt: skip


def is_blank(line: str) -> bool:
    """Whether nothing is to be seen of a line: white space (`str.isspace`) and characters of no width only."""
    return not line.translate(NO_WIDTH).strip()


def without_blank(text: str, lines: list[str], ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids and lengths, as `encode_flat` has them, without those of blank lines; `text` holds all lines."""
    blank = is_blank if any(map(text.__contains__, map(chr, NO_WIDTH))) else str.isspace
    drop = np.fromiter(map(blank, lines), bool, len(lines))
    if not drop.any():
        return ids, lengths
    return ids[np.repeat(~drop, lengths)], np.where(drop, 0, lengths)


def check_given(config: TokenizerConfig, file: str, learning: Iterable[str]) -> None:
    """Whether options of learning are left alone where a file is given instead; `file` and `learning` are options.

    Raises:
        LearningError: naming one that does nothing.
    """
    for field in dataclasses.fields(config):
        if field.name in learning and (value := getattr(config, field.name)) != field.default:
            raise LearningError(f"{field.name}={value}: does nothing beside {file}={getattr(config, file)}")


def normalise(lines: list[str], form: str, lowercase: bool) -> list[str]:
    """Lines in a Unicode normal form ("none", "nfc", "nfkc"), lower-cased or not.

    All lines are treated as one text: no character composes or changes case across a line feed, and text that is
    normal already, which is nearly all text, costs one check.
    """
    text = "\n".join(lines)
    result = _normalised(text, form, lowercase)
    if result == text:
        return lines
    split = result.split("\n")
    if len(split) != len(lines):  # lines with line feeds inside: not from a corpus, but right all the same
        return ["\n".join(normalise(line.split("\n"), form, lowercase)) for line in lines]
    return split


def _normalised(text: str, form: str, lowercase: bool) -> str:
    """`normalise` of the lines of a text, with line feeds between them: there are as many afterwards."""
    if form != "none":
        text = _in_form(text, form)
    if lowercase:
        text = text.lower()
        if form != "none":  # lower-casing can undo the normal form: one dotted capital I becomes two characters
            text = _in_form(text, form)
    return text


def _in_form(text: str, form: str) -> str:
    name: Any = form.upper()  # NFC or NFKC
    return text if text.isascii() or unicodedata.is_normalized(name, text) else unicodedata.normalize(name, text)


def _read_config(path: Path) -> dict:
    return read_json(_present(path), {"type": str, ...: object})


def _present(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: this file of a tokenizer is missing")
    return path
