"""T-FREE, the output's side: a state predicts which hashed trigrams the next word has, and a dictionary names the word.

Paper: Deiseroth, Brack, Schramowski, Kersting and Weinbach, "T-FREE: Subword Tokenizer-Free Generative LLMs via Sparse
Representations for Memory-Efficient Embeddings", EMNLP 2024, https://arxiv.org/abs/2406.19223.

A word has a pattern: the rows of its boundary-padded trigrams, each hashed `hashes` times into `rows` rows. A linear
map turns a state [B, T, D] into one logit for each row, [B, T, rows]. The term `multilabel` trains them by binary
cross-entropy with the pattern of the target. The dictionary is the target vocabulary. The logit of a word is the sum
of the logits of its rows, [B, T, V], which is the log-likelihood of its pattern up to a constant. So a softmax over the
vocabulary compares the likelihoods of all patterns, and any search works. The size of the matrix does not depend on V.

Use: tokenizer=words model.output=multilabel model.tie_embeddings=none criterion=multilabel

Left out: another dictionary for decoding than the vocabulary. Rows of the lower-cased word are not added. Uncertain:
the score of a word; the paper may take the mean of sigmoids over its rows.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import Spec
from s2s.errors import UserError
from s2s.nn.trigrams import trigram_rows

LETTERS = 6  # of a word, for the initial bias


@dataclasses.dataclass
class MultilabelConfig:
    """Options of the output."""

    type: str = option("multilabel", "component")
    rows: int = option(2000, "rows into which trigrams are hashed", at_least=1, at_most=10_000_000)
    hashes: int = option(8, "rows of a trigram", at_least=1, at_most=1000)


class Multilabel(nn.Module):
    """States [..., D] to logits of words [..., V].

    Args:
        config: The options.
        width: D.
        size: V.
    """

    Config = MultilabelConfig
    patterns: Tensor

    def __init__(self, config: MultilabelConfig, width: int, size: int):
        super().__init__()
        self.config, self.size = config, size
        self.row_weight = nn.Parameter(torch.empty(config.rows, width))
        nn.init.xavier_uniform_(self.row_weight)
        share = min(LETTERS * config.hashes / config.rows, 0.5)  # of the rows that a word has
        self.row_bias = nn.Parameter(torch.full((config.rows,), math.log(share / (1 - share))))
        self.register_buffer("patterns", None, persistent=False)  # int64 [V, A], as trigram_rows returns them

    def see(self, spec: Spec) -> None:
        """Read the spelling of the target's symbols. Raises UserError: the task does not tell it."""
        if len(spec.target_symbols) != self.size:
            raise UserError("model.output=multilabel: needs target symbols that have spellings")
        self.patterns = trigram_rows(spec.target_symbols, self.config.rows, self.config.hashes)

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., V]"""
        weight, bias = self._words(self.row_weight), self._words(self.row_bias[:, None])[:, 0]
        return nn.functional.linear(states.to(weight.dtype), weight, bias)

    def _words(self, rows: Tensor) -> Tensor:
        """The sum over the rows of each word: [rows, n] -> [V, n]."""
        padded = nn.functional.pad(rows, (0, 0, 0, 1))  # `patterns` are filled with the number after the last row
        return nn.functional.embedding_bag(self.patterns, padded, mode="sum")

    def loss(self, states: Tensor, target: Tensor) -> Tensor:
        """The binary cross-entropy of the patterns, summed over rows and positions; states: [P, D]; target: [P]."""
        labels = nn.functional.linear(states.to(self.row_weight.dtype), self.row_weight, self.row_bias).float()
        wanted = labels.new_zeros(len(labels), self.config.rows + 1)
        wanted.scatter_(1, self.patterns[target], 1.0)
        return nn.functional.binary_cross_entropy_with_logits(labels, wanted[:, :-1], reduction="sum")
