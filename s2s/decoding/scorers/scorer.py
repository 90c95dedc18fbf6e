"""What rates hypotheses beside the models: every token, some tokens, or hypotheses that have finished.

A hypothesis's log-probability is the sum over its tokens of share x log p by the models and weight x value by each
scorer; share is 1 where no scorer takes a part of it. Values need be no log-probabilities.

Shapes: B sentences, K rows a sentence, R = B*K rows, V vocabulary, C candidates of a row, T target positions.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from s2s.data.batch import Inputs
from s2s.decoding.component import Component
from s2s.models.contract import Memory


class Scorer(Component):
    """A scorer of tokens, with the verbs of a DecoderState for what it keeps of each row.

    Attributes:
        weight: What its values are multiplied by.
        shares: Whether its weight is taken from the models' share.
        falls: Whether weight x value is never above 0, so that a score can only fall. Where it is not known, a search
            goes on until no live hypothesis could rise above those that have finished.
    """

    feature = "scorers"
    weight: float = 1.0
    shares: ClassVar[bool] = False
    falls: bool = False

    def prepare(self, inputs: Inputs, memories: list[Memory], rows: int) -> Any:
        """What it knows of sentences before their first token.

        Args:
            inputs: Of their sources.
            memories: Of each of the models.
            rows: K.
        """

    def admit(self, slots: Tensor, prepared: Any, which: Tensor, size: int) -> None:
        """Sentences `which` of prepared ones take these slots, of `size` in all; both [n] int64."""

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r] of the same sentence; parents: [R] int64."""

    def free(self, slots: Tensor) -> None:
        """These slots are free."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones; keep: [B'] int64, ascending."""

    def close(self) -> None:
        """Forget all sentences."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0

    def score(self, inputs: Inputs, memories: list[Memory], decoder_input: Tensor,
              target: Tensor) -> Tensor:  # fmt: skip
        """Values [B, T] of given targets; decoder_input and target: [B, T] int64, padded with EOS."""
        raise NotImplementedError


class FullScorer(Scorer):
    """Rates every token. Without a `score` of its own, given targets are rated step by step."""

    def step(self, tokens: Tensor) -> Tensor:
        """Values [R, V] of every token after the one that each row has got; tokens: [R] int64, BOS first."""
        raise NotImplementedError

    def score(self, inputs: Inputs, memories: list[Memory], decoder_input: Tensor,
              target: Tensor) -> Tensor:  # fmt: skip
        slots = torch.arange(len(target), device=target.device)
        self.close()
        self.admit(slots, self.prepare(inputs, memories, 1), slots, len(target))
        values = [
            self.step(given).gather(1, wanted[:, None]) for given, wanted in zip(decoder_input.T, target.T, strict=True)
        ]
        self.close()
        return torch.cat(values, dim=1)


class PartialScorer(Scorer):
    """Rates some candidates of each row, which costs less than to rate all tokens."""

    def rate(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Values of each row's candidates, tokens [B, K, C] int64, and of EOS: [B, K, C] and [B, K]."""
        raise NotImplementedError

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        """Each row goes on from a row of its sentence by a token; both [B, K] int64. In place of `reorder`."""
        raise NotImplementedError


class FinalScorer(Component):
    """Rates hypotheses that have finished, of which all that a search has found are ranked anew.

    Attributes:
        weight: What its values are multiplied by.
        attends: Whether it reads weights of attention.
    """

    feature = "final_scorers"
    weight: float = 1.0
    attends: ClassVar[bool] = False

    def rate(self, finished: Any) -> list[float]:
        """A value of each hypothesis of a batch, which is added to its score, `weight` times; finished: as
        `s2s.decoding.finishing.Finished`."""
        raise NotImplementedError
