"""Scorers in addition to the models: of every token, of some tokens, or of finished hypotheses.

The log-probability of a hypothesis is the sum over its tokens of share x log p by the models, and of weight x value by
each scorer. `share` is 1 minus the weights of the scorers that declare `shares`. Values need not be log-probabilities.

Shapes: B sentences, K rows per sentence, R = B*K rows, V vocabulary, C candidates per row, T target positions.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from s2s.data.batch import Inputs
from s2s.decoding.component import Component
from s2s.models.contract import Memory


class Scorer(Component):
    """A scorer of tokens. It keeps its state of each row by the methods of a DecoderState.

    Attributes:
        weight: Factor of its values.
        shares: Whether its weight is subtracted from the models' share.
        falls: Whether weight x value is never above 0, so that scores can only fall. If not, `best_possible` stopping
            searches exhaustively.
    """

    feature = "scorers"
    weight: float = 1.0
    shares: ClassVar[bool] = False
    falls: bool = False

    def prepare(self, inputs: Inputs, memories: list[Memory], rows: int) -> Any:
        """Make the initial state of sentences, before their first token; `admit` takes it.

        Args:
            inputs: Sources, as the models' input.
            memories: The encoder output of each model.
            rows: K.
        """

    def admit(self, slots: Tensor, prepared: Any, which: Tensor, size: int) -> None:
        """Put the prepared sentences `which` into these slots; both [n] int64. There are `size` slots in all."""

    def reorder(self, parents: Tensor) -> None:
        """Row r continues row parents[r] of the same sentence; parents: [R] int64."""

    def free(self, slots: Tensor) -> None:
        """Mark these slots as free."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64, ascending, become the first ones."""

    def close(self) -> None:
        """Forget all sentences."""

    @property
    def nbytes(self) -> int:
        """Bytes of its state."""
        return 0

    def score(self, inputs: Inputs, memories: list[Memory], decoder_input: Tensor,
              target: Tensor) -> Tensor:  # fmt: skip
        """Values [B, T] of given targets; decoder_input and target: [B, T] int64, padded with EOS."""
        raise NotImplementedError


class FullScorer(Scorer):
    """Scores every token. Unless it overrides `score`, given targets are scored step by step."""

    def step(self, tokens: Tensor) -> Tensor:
        """Values [R, V] of every next token; tokens: [R] int64, the last token of each row, BOS at first."""
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
    """Scores only some candidates of each row, for scorers that are too slow for all tokens."""

    def rate(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Values of each row's candidates, [B, K, C], and of EOS, [B, K]; tokens: [B, K, C] int64."""
        raise NotImplementedError

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        """Row k of a sentence becomes row parents[:, k], extended by tokens[:, k]; both [B, K] int64. This replaces
        `reorder`."""
        raise NotImplementedError


class FinalScorer(Component):
    """Scores finished hypotheses; all hypotheses of a search are then ranked again.

    Attributes:
        weight: Factor of its values.
        attends: Whether it reads attention weights.
    """

    feature = "final_scorers"
    weight: float = 1.0
    attends: ClassVar[bool] = False

    def rate(self, finished: Any) -> list[float]:
        """A value for each hypothesis of a batch; weight x value is added to its score.

        Args:
            finished: A batch of hypotheses, `s2s.decoding.finishing.Finished`.
        """
        raise NotImplementedError
