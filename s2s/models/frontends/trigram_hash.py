"""T-FREE: a word is the sum of rows of a table, selected by hashes of its trigrams.

Paper: Deiseroth, Brack, Schramowski, Kersting and Weinbach, "T-FREE: Subword Tokenizer-Free Generative LLMs via Sparse
Representations for Memory-Efficient Embeddings", EMNLP 2024, https://arxiv.org/abs/2406.19223.

A source [S] is split into words [S'] at the symbol that begins words (the space of bytes or characters); EOS is a word.
A word of n symbols has n trigrams, with a boundary symbol before and after it. Each of `hashes` hash functions maps a
trigram to one of `rows` rows of a table [rows, D], and the word is the sum of all these rows: [B, S', D]. Words of
similar spelling have similar vectors, and the size of the table is free. A word without symbols, between two spaces, is
0.

Use: tokenizer=bytes model.frontend=trigram_hash model.frontend.rows=2000

Left out: the multi-label output over the rows of a word is `model.output=multilabel`, of words; with bytes the decoder
writes symbols. Digits and punctuation are not separate words, because symbols are plain numbers here. Hashes of the
lower-cased word are not added. Uncertain: nothing else of the embedding.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend, real_of
from s2s.text.vocabulary import EOS, PAD

MULTIPLIERS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)  # odd factors, one for each symbol of a trigram
STEP = 0x27D4EB2F  # difference between two hash functions


@dataclasses.dataclass
class TrigramHashConfig:
    """Options of the front-end."""

    type: str = option("trigram_hash", "component")
    rows: int = option(8000, "rows of the table", at_least=1, at_most=100_000_000)
    hashes: int = option(8, "rows of a trigram", at_least=1, at_most=1000)


class TrigramHashFrontend(TextFrontend):
    """Hashed embeddings of words: ids [B, S] to states [B, S', D], one for each word.

    Args:
        config: The options.
        source: Gives the vocabulary size, and the symbols that begin words.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: no symbol begins a word, or more than one does.
    """

    Config = TrigramHashConfig
    by_id = True  # hashes depend on the numbers of symbols
    stride = None

    def __init__(self, config: TrigramHashConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, None)
        if len(source.word_starts) != 1:
            raise UserError("model.frontend=trigram_hash: one symbol must stand between words, the space of "
                            "tokenizer=bytes or characters")  # fmt: skip
        (self.space,) = source.word_starts
        self.hashes = config.hashes
        self.rows = nn.Embedding(config.rows, width)

    def most(self, length: int) -> int:
        """As in TextFrontend: each symbol may be a space."""
        return length

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        real = real_of(ids, lengths)[:, :, 0]
        begins = ((ids == self.space) | (ids == EOS)) & real
        begins[:, 0] = True
        word = begins.cumsum(1) - 1  # [B, S]
        counts = word.gather(1, (lengths - 1)[:, None])[:, 0] + 1
        x = self._sums(self._trigrams(ids, begins, real))
        held = (ids != self.space) & real  # a space does not count as a symbol of its word
        numbers = torch.arange(int(counts.max()), device=ids.device)[:, None]
        return ((word[:, None] == numbers) & held[:, None]).to(x.dtype) @ x, counts

    def _trigrams(self, ids: Tensor, begins: Tensor, real: Tensor) -> Tensor:
        """The number of the trigram around each symbol within its word, [B, S] int64."""
        edge = torch.full_like(ids[:, :1], PAD)
        before = torch.cat([edge, ids[:, :-1]], dim=1).masked_fill(begins, PAD)
        before = before.masked_fill(before == self.space, PAD)
        after = ids.masked_fill(begins | ~real, PAD)
        after = torch.cat([after[:, 1:], edge], dim=1)
        return sum(symbol * factor for symbol, factor in zip((before, ids, after), MULTIPLIERS, strict=True))

    def _sums(self, trigrams: Tensor) -> Tensor:
        """The sum of the rows of each trigram, [B, S, D]."""
        x = 0
        for number in range(1, self.hashes + 1):
            code = (trigrams + number * STEP) * MULTIPLIERS[number % 3]
            x = x + self.rows(((code ^ (code >> 29)) * MULTIPLIERS[0] >> 13) % self.rows.num_embeddings)
        return x * (self.width / self.hashes) ** 0.5
