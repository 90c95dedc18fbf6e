"""What the model sees: a dataclass of tensors on one device. Lengths are the truth; no mask is made from pad ids."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor


class Source(NamedTuple):
    """One source of a batch: right-padded token ids [B, S] int64 and their lengths [B] int64 (EOS included)."""

    ids: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str) -> "Source":
        return Source(self.ids.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True))


class Counts(NamedTuple):
    """Host-side sizes of a batch: real tokens of each side, EOS included, and the padded positions of each side."""

    sentences: int
    source: int
    target: int
    source_padding: int
    target_padding: int


@dataclasses.dataclass
class Batch:
    """A batch of training or validation pairs.

    Attributes:
        ids: [B] int64, position of each example in its split (on the host).
        sources: One Source for each source of the task.
        decoder_input: [B, T] int64, BOS + target.
        target: [B, T] int64, target + EOS.
        target_lengths: [B] int64.
        tags: [B] int64 or None: language, corpus or task of each example.
        counts: Host-side sizes.
    """

    ids: Tensor
    sources: tuple[Source, ...]
    decoder_input: Tensor
    target: Tensor
    target_lengths: Tensor
    counts: Counts
    tags: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return dataclasses.replace(
            self,
            sources=tuple(source.to(device) for source in self.sources),
            decoder_input=move(self.decoder_input),
            target=move(self.target),
            target_lengths=move(self.target_lengths),
            tags=None if self.tags is None else move(self.tags),
        )

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, so that copies to a GPU are asynchronous."""
        return dataclasses.replace(
            self,
            sources=tuple(Source(s.ids.pin_memory(), s.lengths.pin_memory()) for s in self.sources),
            decoder_input=self.decoder_input.pin_memory(),
            target=self.target.pin_memory(),
            target_lengths=self.target_lengths.pin_memory(),
            tags=None if self.tags is None else self.tags.pin_memory(),
        )
