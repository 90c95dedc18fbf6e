"""Tokenizer into words at whitespace, for text that is already tokenized, and for phonemes."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain, repeat

import numpy as np

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.text.tokenizer import LearningError, Tokenizer, TokenizerConfig, check_given, view
from s2s.text.vocabulary import NEEDED, SPECIALS, UNK, Vocabulary, read_symbols


@dataclasses.dataclass
class CountedConfig(TokenizerConfig):
    """Options of tokenizers that count the symbols of their vocabulary."""

    joint: bool = option(False, "one vocabulary for both sides; false: one for each side")
    vocab_size: int | None = option(
        None, "most symbols in the vocabulary, including the 4 special symbols; null: no limit", at_least=5
    )
    min_count: int = option(1, "symbols that occur less often are unknown", at_least=1)
    vocabulary: str | None = option(None, "file of symbols, one per line, to use instead of counting")


@dataclasses.dataclass
class WordConfig(CountedConfig):
    """Options of the word tokenizer."""

    type: str = option("words", "component")


class WordTokenizer(Tokenizer):
    """Splits lines into words at whitespace. Decoding puts one space between words."""

    Config = WordConfig
    widens = True
    unknown = SPECIALS[UNK]

    @classmethod
    def _learn(cls, config: WordConfig, chunks: Iterable[list[str]], seed: int) -> "WordTokenizer":
        if config.vocabulary is not None:
            return cls(config, given_vocabulary(config, str.split))
        counts: Counter[str] = Counter()
        for lines in chunks:
            counts.update(" ".join(lines).split())
        return cls(config, counted_vocabulary(counts, config))

    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        words = [line.split() for line in lines]
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        ids = map(self._ids.get, chain.from_iterable(words), repeat(UNK))
        return np.fromiter(ids, np.int32, lengths.sum()), lengths

    def word_marks(self) -> tuple[np.ndarray | None, int | None]:
        return np.ones(len(self.vocabulary), bool), None

    def _decode(self, ids: list[int]) -> str:
        return " ".join(self.vocabulary.symbols[i] for i in ids)

    def _texts(self, line: str) -> list[str]:
        return line.split()

    def _joined(self, texts: list[str]) -> str:
        return " ".join(texts)

    def __init__(self, config: WordConfig, vocabulary: Vocabulary):
        super().__init__(config, vocabulary)
        # A word spelled like a special symbol is not that symbol.
        self._ids = {word: i for i, word in enumerate(vocabulary.symbols) if i >= len(SPECIALS)}


def counted_vocabulary(counts: dict[str, int], config: CountedConfig) -> Vocabulary:
    """The vocabulary of counted symbols, most frequent first, with ties in the order of code points. Raises
    LearningError: there are no symbols."""
    beside = {*SPECIALS, *config.reserved}
    kept = [symbol for symbol, count in counts.items() if count >= config.min_count and symbol not in beside]
    if not kept:
        often = f" that is there min_count={config.min_count} times" * (config.min_count > 1)
        raise LearningError(f"the training text has no symbol{often}")
    kept.sort(key=lambda symbol: (-counts[symbol], symbol))
    size = None if config.vocab_size is None else config.vocab_size - len(SPECIALS)
    return Vocabulary([*SPECIALS, *kept[:size]])


def given_vocabulary(config: CountedConfig, symbols_of: Callable[[str], list[str]]) -> Vocabulary:
    """The vocabulary of the file `config.vocabulary`. Its symbols are normalised like lines, so that each of them can
    occur in a line.

    Args:
        config: The options of the tokenizer.
        symbols_of: Splits a normalised line into symbols.

    Raises:
        LearningError: options that have no effect beside the file.
        UserError: a line that is not one symbol of this tokenizer, or a duplicate; names the file and the line.
    """
    check_given(config, "vocabulary", ("vocab_size", "min_count"))
    path, seen, see = config.vocabulary, {}, view(config)
    for number, written in read_symbols(path):
        symbols = symbols_of(*see([written]))
        if len(symbols) != 1:
            content = f"{len(symbols)} symbols, {symbols}" if symbols else "no symbol"
            raise UserError(f"{path}:{number}: tokenizer={config.type} makes {content} of {written!r}; {NEEDED}")
        (symbol,) = symbols
        if symbol in seen:
            other, spelled = seen[symbol]
            same = "" if spelled == written else f", as {spelled!r}; lines have {symbol!r} for both"
            raise UserError(f"{path}:{number}: symbol {written!r} appears twice (also in line {other}{same})")
        seen[symbol] = number, written
    seen = {symbol: place for symbol, place in seen.items() if symbol not in (*SPECIALS, *config.reserved)}
    if not seen:
        raise UserError(f"{path}: no symbols in it; {NEEDED}")
    return Vocabulary([*SPECIALS, *seen])
