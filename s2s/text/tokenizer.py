"""Base class of tokenizers: lines to ids and back, learned once, saved in readable files without pickle."""

import dataclasses
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
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
from s2s.text.protection import Protection
from s2s.text.vocabulary import EOS, UNK, Vocabulary

LATER = ("reserved", "pre", "extend", "protect", "symbols")  # options that the tokenizers of older stores lack
NO_WIDTH = dict.fromkeys((0x200B, 0x2060, 0xFEFF))  # zero width space, word joiner, zero width no-break space


class LearningError(UserError):
    """No tokenizer can be learned from the text with the chosen settings."""


@dataclasses.dataclass
class TokenizerConfig:
    """Options of all tokenizers."""

    type: str = option("", "component")
    normalization: str = option("nfc", "Unicode normalisation of every line", choices=("none", "nfc", "nfkc"))
    lowercase: bool = option(False, "lower-case every line")
    pre: Any = group(
        "pretokenizer", None, "pre-tokenizer: rewrites lines before they are tokenized, and back after decoding"
    )
    protect: list[str] = option(
        [], "regular expressions of parts of lines that stay as they are, such as tags '<[^>]*>' and placeholders "
        "'\\{[^}]*\\}': neither normalised, lower-cased nor rewritten by the pre-tokenizer",
    )  # fmt: skip
    joint: bool = option(True, "one tokenizer and one vocabulary for both sides; false: one for each side")
    reserved: list[str] = option(
        [], "additional symbols that never occur in text, such as <mask>; the task adds its own"
    )


class Tokenizer(ABC):
    """Converts lines of text to ids of a vocabulary and back.

    A subclass defines `Config`, `_learn`, `_encode`, `_decode`, and `save`/`_load` if it has files of its own. These
    methods receive lines that are normalised, lower-cased and rewritten by the pre-tokenizer, as configured.

    Args:
        config: Its `Config`.
        vocabulary: Its symbols. In `self.vocabulary` the reserved symbols follow them.

    Attributes:
        widens: Whether a saved tokenizer knows further symbols of texts if its vocabulary, and its SentencePiece model,
            get them.
        unknown: How decoding writes an unknown symbol. None: it has none, or no `_texts` and `_joined`.
    """

    Config: ClassVar[type] = TokenizerConfig
    unknown: ClassVar[str | None] = None
    widens: ClassVar[bool] = False

    def __init__(self, config: TokenizerConfig, vocabulary: Vocabulary):
        self.config, self.vocabulary = config, vocabulary.with_reserved(config.reserved)

    @cached_property
    def pre(self) -> PreTokenizer | None:
        """The pre-tokenizer. That of a saved tokenizer is read from its files."""
        return _pre(self.config)

    @cached_property
    def protection(self) -> Protection | None:
        """The protected parts of lines; None: there are none."""
        return Protection(self.config.protect, self.pre) if self.config.protect else None

    def undo(self, text: str) -> str:
        """Undo the pre-tokenizer, if there is one."""
        if self.protection is not None:
            return self.protection.undo(text)
        return text if self.pre is None else self.pre.undo(text)

    @classmethod
    def learn(cls, config: TokenizerConfig, chunks: Iterable[list[str]] = (), seed: int = 1) -> "Tokenizer":
        """Learn a tokenizer from text. The same text, config and seed give the same tokenizer.

        Args:
            config: Its `Config`.
            chunks: Lists of raw lines, read at most once and only as far as needed.
            seed: Seed of the random sample, if the tokenizer learns from one.

        Raises:
            LearningError: no tokenizer can be learned from this text with these settings.
            UserError: a file that the config names is missing or invalid, or the pre-tokenizer does not go with it.
        """
        seen = view(config)
        return cls._learn(config, map(seen, chunks), seed)

    @classmethod
    @abstractmethod
    def _learn(cls, config: Any, chunks: Iterable[list[str]], seed: int) -> "Tokenizer":
        """As `learn`, for lines that are normalised and rewritten."""

    @abstractmethod
    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Integer ids [sum of lengths] of all lines, and the number of ids of each line [lines]. The lines are
        normalised and rewritten."""

    @abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """The text of ids, none of which is PAD, BOS, EOS or reserved."""

    def _texts(self, line: str) -> list[str]:
        """The text of each token of a normalised and rewritten line, also of those that the vocabulary lacks."""
        raise NotImplementedError

    def _joined(self, texts: list[str]) -> str:
        """The line of the texts of tokens."""
        raise NotImplementedError

    def texts(self, line: str) -> list[str]:
        """The text of each token of a line, also of unknown ones; for a tokenizer with `unknown`."""
        return self._texts(*self.rewrite(self.normalise([line])))

    def joined(self, texts: list[str]) -> str:
        """The line of the texts of tokens; for a tokenizer with `unknown`."""
        return self.undo(self._joined(texts))

    def word_marks(self) -> tuple[np.ndarray | None, int | None]:
        """How ids mark words: either bool [vocabulary], whether a symbol begins a word, and None; or None and the id of
        the symbol between two words (None: there is none)."""
        return np.array([symbol.startswith("\u2581") for symbol in self.vocabulary.symbols]), None

    def word_starts(self) -> tuple[int, ...]:
        """Ids of the symbols that begin a word. A symbol between two words counts as the beginning of the second."""
        begins, separator = self.word_marks()
        if begins is not None:
            return tuple(np.flatnonzero(begins).tolist())
        return () if separator in (None, UNK) else (separator,)

    def normalise(self, lines: list[str]) -> list[str]:
        """Normalise and lower-case lines as configured."""
        return _seen(lines, self.config, self.protection)

    def rewrite(self, lines: list[str]) -> list[str]:
        """Apply the pre-tokenizer, if there is one, to normalised lines."""
        return lines if self.pre is None else [(self.protection or self.pre).apply(line) for line in lines]

    def encode_flat(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of many lines, concatenated, without BOS and EOS. A blank line has none.

        Returns:
            ids: Integers [sum of lengths].
            lengths: Integers [number of lines], number of tokens of each line.
        """
        lines = self.normalise(lines)
        return without_blank("".join(lines), lines, *self._encode(self.rewrite(lines)))

    def encode_text(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_flat`, for a text whose lines are separated by line feeds. This is fastest for many lines."""
        lines = self._normalised(text).split("\n")
        return without_blank(text, lines, *self._encode(self.rewrite(lines)))

    def _normalised(self, text: str) -> str:
        if self.protection is not None:
            return "\n".join(self.normalise(text.split("\n")))
        return _normalised(text, self.config.normalization, self.config.lowercase)

    @property
    def sampling(self) -> float:
        """How much `sample` differs from `encode_flat`, in units of the algorithm; 0: not at all."""
        return 0.0

    def sample(self, lines: list[str], seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_flat`, with a random segmentation of each line if `sampling` is not 0.

        The ids of a line depend only on the line and its seed, not on thread, batch or order.

        Args:
            lines: Raw lines.
            seeds: uint64 [lines].
        """
        return self.encode_flat(lines)

    def encode_lines(self, lines: list[str]) -> list[np.ndarray]:
        """Ids of each line, without BOS and EOS, as integer arrays. One call for many lines is faster than many."""
        if not lines:
            return []
        ids, lengths = self.encode_flat(lines)
        return np.split(ids, np.cumsum(lengths[:-1]))

    def encode(self, line: str) -> list[int]:
        """Ids of one line, without BOS and EOS."""
        return self.encode_flat([line])[0].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. PAD, BOS, EOS and reserved symbols are skipped; ids outside the vocabulary count as
        unknown."""
        size = len(self.vocabulary)
        shown = size - len(self.vocabulary.reserved)
        kept = (i for i in map(int, ids) if i == UNK or EOS < i < shown or i >= size)
        return self.undo(self._decode([i if i < size else UNK for i in kept]))

    def save(self, folder: Path, name: str) -> None:
        """Write the tokenizer into files `name.*` in `folder`, which `load_tokenizer` reads."""
        folder = Path(folder)
        facts = self.facts()
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        write(folder / f"{name}.tokenizer.json", text + "\n")
        self.vocabulary.save(folder / f"{name}.vocabulary.txt")
        if self.pre is not None:
            self.pre.save(folder, name)

    def facts(self) -> dict[str, Any]:
        """The config as it is saved. Newer options are left out if they have no effect, so that the digests of older
        stores do not change."""
        facts = dataclasses.asdict(self.config)
        return {key: value for key, value in facts.items() if value or key not in LATER}

    @classmethod
    def load(cls, folder: Path, name: str) -> "Tokenizer":
        """Read what `save` wrote. Raises UserError, which names the file that is missing or invalid."""
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
    """Read the tokenizer, of any type, that was saved under a name ("source", "target") in a folder.

    Raises:
        UserError: a file is missing or invalid; the message names it.
    """
    path = Path(folder) / f"{name}.tokenizer.json"
    kind = _read_config(path)["type"]
    if kind not in registry.names("tokenizer"):
        known = registry.nearest(kind, registry.names("tokenizer"))
        raise UserError(f"{path}: no tokenizer is called {shown(kind)}; {known}")
    return registry.find("tokenizer", kind).load(folder, name)


def view(config: TokenizerConfig) -> Callable[[list[str]], list[str]]:
    """A function that normalises and rewrites lines as a tokenizer with this config does."""
    pre = _pre(config)
    protection = Protection(config.protect, pre) if config.protect else None

    def seen(lines: list[str]) -> list[str]:
        lines = _seen(lines, config, protection)
        return lines if pre is None else [(protection or pre).apply(line) for line in lines]

    return seen


def _seen(lines: list[str], config: TokenizerConfig, protection: Protection | None) -> list[str]:
    """Normalised lines."""
    plain = partial(normalise, form=config.normalization, lowercase=config.lowercase)
    return plain(lines) if protection is None else protection.normalise(lines, plain)


def _pre(config: TokenizerConfig) -> PreTokenizer | None:
    """The pre-tokenizer of a config. Raises UserError if it does not go with `normalization`."""
    if config.pre is None:
        return None
    kind = registry.find("pretokenizer", config.pre.type)
    if config.normalization not in kind.forms:
        needed = " or ".join(kind.forms)
        raise UserError(f"pre={config.pre.type} requires normalization={needed}, not {config.normalization}")
    return kind(config.pre)


def check_output(config: TokenizerConfig, where: str) -> None:
    """Raise UserError if the pre-tokenizer of a target has no inverse. `where`: key of the tokenizer."""
    if config.pre is not None and not registry.find("pretokenizer", config.pre.type).reverses(config.pre):
        raise UserError(f"{where}.pre={config.pre.type} cannot be undone with these options, so a target cannot have "
                        "it; source_tokenizer.pre is for the source alone")  # fmt: skip


def is_blank(line: str) -> bool:
    """Whether a line has no visible character: only white space (`str.isspace`) and characters of no width."""
    return not line.translate(NO_WIDTH).strip()


def without_blank(text: str, lines: list[str], ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove the ids of blank lines from ids and lengths as in `encode_flat`. `text`: all lines together."""
    blank = is_blank if any(map(text.__contains__, map(chr, NO_WIDTH))) else str.isspace
    drop = np.fromiter(map(blank, lines), bool, len(lines))
    if not drop.any():
        return ids, lengths
    return ids[np.repeat(~drop, lengths)], np.where(drop, 0, lengths)


def check_given(config: TokenizerConfig, file: str, learning: Iterable[str]) -> None:
    """Check that options of learning have their defaults if a file is given instead.

    Args:
        config: The config.
        file: Name of the option with the file.
        learning: Names of the options of learning.

    Raises:
        LearningError: an option of learning is set, which would have no effect.
    """
    for field in dataclasses.fields(config):
        if field.name in learning and (value := getattr(config, field.name)) != field.default:
            raise LearningError(f"{field.name}={value}: does nothing beside {file}={getattr(config, file)}")


def normalise(lines: list[str], form: str, lowercase: bool) -> list[str]:
    """Convert lines to a Unicode normal form ("none", "nfc", "nfkc"), and lower-case them if asked.

    All lines are treated as one text, since no character composes or changes case across a line feed. So text that is
    already normal, as nearly all text is, costs a single check.
    """
    text = "\n".join(lines)
    result = _normalised(text, form, lowercase)
    if result == text:
        return lines
    split = result.split("\n")
    if len(split) != len(lines):  # some lines contain line feeds; those of a corpus do not
        return ["\n".join(normalise(line.split("\n"), form, lowercase)) for line in lines]
    return split


def _normalised(text: str, form: str, lowercase: bool) -> str:
    """As `normalise`, for a text whose lines are separated by line feeds; their number does not change."""
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
