"""One forward pass of a model over a batch, which all terms of the loss share. Each output is computed when a term
first reads it.

Shapes: B rows, T target positions, P target positions of all rows that are not padding, D width.
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
        passes: All passes over this batch, in order, this one among them; they differ in their dropout masks.
    """

    def __init__(self, model: EncoderDecoder, batch: Batch):
        self.model, self.batch = model, batch
        self.passes = [self]

    @classmethod
    def several(cls, model: EncoderDecoder, batch: Batch, number: int) -> list["Run"]:
        """Make `number` passes over a batch."""
        passes = [cls(model, batch) for _ in range(number)]
        for run in passes:
            run.passes = passes
        return passes

    @functools.cached_property
    def memory(self) -> Memory:
        """The output of the encoder: states, lengths, and further outputs by name (`auxiliary`)."""
        return self.model.encode(self.batch.sources, self.batch.tags)

    @functools.cached_property
    def output(self) -> DecoderOutput:
        """The output of the decoder at each target position, given the target tokens before it."""
        return self.model.decode(self.memory, self.batch.decoder_input, self.batch.target_packing)

    @functools.cached_property
    def host_lengths(self) -> tuple[list[int], list[int]]:
        """Lengths of the memory and of the targets, [B] each, for kernels that read them on the host. All terms share
        one copy, for which the host waits."""
        memory, target = torch.stack([self.memory.lengths, self.batch.target_lengths]).tolist()
        return memory, target

    @functools.cached_property
    def positions(self) -> Tensor:
        """The indices of the P target tokens in the flattened `batch.target`, int64 [P]."""
        return positions_of(self.batch.target_lengths, self.batch.target.size(1), self.batch.counts.target)

    def unpadded(self, values: Tensor) -> Tensor:
        """The values [P, ...] of a tensor [B, T, ...] at the target positions that are not padding."""
        return values.flatten(0, 1).index_select(0, self.positions)

    @property
    def target(self) -> Tensor:
        """The target tokens without padding, int64 [P]."""
        return self.batch.target.flatten()[self.positions]

    @property
    def states(self) -> Tensor:
        """The decoder's last states at the target positions that are not padding, [P, D]."""
        return self.unpadded(self.output.states)


def positions_of(lengths: Tensor, width: int, count: int) -> Tensor:
    """The indices of what is no padding in flattened rows, int64 [count].

    The host does not wait for the device here, as it would to count the true elements of a mask.

    Args:
        lengths: int64 [B], of each row without padding.
        width: Of the rows.
        count: The sum of the lengths.
    """
    shift = torch.arange(len(lengths), device=lengths.device) * width - (lengths.cumsum(0) - lengths)
    return torch.arange(count, device=lengths.device) + shift.repeat_interleave(lengths, output_size=count)
