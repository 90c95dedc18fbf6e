"""One forward pass of a model over a batch, shared by all terms of the loss: each output is computed when it is first
asked for.

Shapes: B rows, T target positions, P real target positions of all rows, D width.
"""

import functools

import torch
from torch import Tensor

from s2s.data.batch import Batch
from s2s.models.contract import DecoderOutput, Memory
from s2s.models.encoder_decoder import EncoderDecoder


class Run:
    """A pass of a model over a batch.

    Args:
        model: The model.
        batch: On the model's device.

    Attributes:
        passes: All passes over this batch, with other dropout, in their order; this one is among them.
    """

    def __init__(self, model: EncoderDecoder, batch: Batch):
        self.model, self.batch = model, batch
        self.passes = [self]

    @classmethod
    def several(cls, model: EncoderDecoder, batch: Batch, number: int) -> list["Run"]:
        """So many passes over a batch."""
        passes = [cls(model, batch) for _ in range(number)]
        for run in passes:
            run.passes = passes
        return passes

    @functools.cached_property
    def memory(self) -> Memory:
        """What the encoder hands to the decoder: states, lengths, and further outputs by name (`auxiliary`)."""
        return self.model.encode(self.batch.sources, self.batch.tags)

    @functools.cached_property
    def output(self) -> DecoderOutput:
        """What the decoder has for each target position, given those before it."""
        return self.model.decode(self.memory, self.batch.decoder_input, self.batch.target_packing)

    @functools.cached_property
    def positions(self) -> Tensor:
        """Where the P target tokens lie in the rows of `batch.target`, one row after the other: int64 [P]. The host
        does not wait for the device, as it would to learn how many are true in a mask."""
        lengths, count, device = self.batch.target_lengths, self.batch.counts.target, self.batch.target.device
        shift = torch.arange(len(lengths), device=device) * self.batch.target.size(1) - (lengths.cumsum(0) - lengths)
        return torch.arange(count, device=device) + shift.repeat_interleave(lengths, output_size=count)

    def real(self, values: Tensor) -> Tensor:
        """What a tensor [B, T, ...] has at the real target positions: [P, ...]."""
        return values.flatten(0, 1).index_select(0, self.positions)

    @property
    def target(self) -> Tensor:
        """The target tokens at the real positions: int64 [P]."""
        return self.batch.target.flatten()[self.positions]

    @property
    def states(self) -> Tensor:
        """The decoder's last states at the real target positions: [P, D]."""
        return self.real(self.output.states)
