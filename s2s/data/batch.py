"""Batches: the tensors that a model reads. Masks are made from lengths, never from padding ids."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

ALONE = "alone"  # the column of a mixture of tasks that tells lines without translations from pairs


class Packing(NamedTuple):
    """The places of examples in packed rows. Examples that share a row do not attend to each other.

    Attributes:
        segments: [B, T] int64, number of the example within its row, from 0. Padding has the number of the row's last
            example, so that every query has a key.
        positions: [B, T] int64, position within the example, from 0; 0 at padding.
    """

    segments: Tensor
    positions: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Packing":
        """Apply `function` to every tensor."""
        return Packing(*map(function, self))


class Source(NamedTuple):
    """One source of a batch, right-padded.

    Attributes:
        values: Token ids [B, S] int64, or features [B, S, F] float32.
        lengths: [B] int64, positions of each row without padding (EOS included).
        packing: Packing of rows with several examples; the length of a row is then that of all its examples. None: each
            row is one example.
        tags: Values of tags by name, as in Batch, which `EncoderDecoder.encode` passes on to a front-end.
    """

    values: Tensor
    lengths: Tensor
    packing: Packing | None = None
    tags: Mapping[str, Tensor] = MappingProxyType({})

    def map(self, function: Callable[[Tensor], Tensor]) -> "Source":
        """Apply `function` to every tensor."""
        tags = {name: function(tag) for name, tag in self.tags.items()} if self.tags else self.tags
        return Source(function(self.values), function(self.lengths), self.packing and self.packing.map(function), tags)

    def to(self, device: torch.device | str) -> "Source":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class Inputs(NamedTuple):
    """The arguments of a model's `encode`.

    Attributes:
        sources: One Source for each source of the task.
        tags: Name of each tag -> the numbers of its values, [B] int64.
    """

    sources: tuple[Source, ...]
    tags: Mapping[str, Tensor] = MappingProxyType({})


def tag_of_positions(tag: Tensor, packing: Packing | None) -> Tensor:
    """The value of a tag at each position: int64 [B, S] for packed rows, otherwise [B, 1], for all positions of a row.

    Args:
        tag: One value for each example, int64 [examples], in the order of rows and segments.
        packing: Packing of the rows; None: each row is one example.
    """
    if packing is None:
        return tag[:, None]
    counts = packing.segments[:, -1:] + 1  # padding repeats the last segment
    return tag[counts.cumsum(0) - counts + packing.segments]


class Counts(NamedTuple):
    """Sizes of a batch, as integers on the host: sentences, tokens of each side without padding (EOS included), and
    positions of padding of each side."""

    sentences: int
    source: int
    target: int
    source_padding: int
    target_padding: int


@dataclasses.dataclass
class Batch:
    """A batch of training or validation pairs.

    Attributes:
        ids: [B] int64 on the host, the number of each example in its split.
        sources: One Source for each source of the task.
        decoder_input: [B, T] int64, BOS + target.
        target: [B, T] int64, target + EOS.
        target_lengths: [B] int64.
        tags: For each tag that the model reads, the number of each example's value in `Spec.tags`, int64 [examples].
            For packed rows see `tag_of_positions`.
        counts: Sizes on the host.
        target_packing: Packing of `decoder_input` and `target` if rows have several examples: segment k of a target row
            belongs to segment k of the source row. `ids` then has more entries than there are rows. None: each row is
            one example.
        columns: Further columns of the store, which the task names (`TextTask.columns`), in the order of `ids`: numbers
            [examples]; token ids [examples, L], padded with PAD; arrays [examples, L, width] (no last dimension if
            width is 1), padded with 0. Floating-point values are float32, integers int64.
    """

    ids: Tensor
    sources: tuple[Source, ...]
    decoder_input: Tensor
    target: Tensor
    target_lengths: Tensor
    counts: Counts
    tags: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    target_packing: Packing | None = None
    columns: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device; `ids` and `counts` stay on the host."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, so that copies to a GPU are asynchronous."""
        return self._map(Tensor.pin_memory)

    def halves(self) -> list["Batch"] | None:
        """Split the batch (on the host) in two: by rows, or a single packed row by its examples. None: the batch is a
        single example."""
        if len(self.ids) == 1:
            return None
        rows, packing = len(self.target), self.target_packing
        cut: Callable[..., list[Source]] = _segments if rows == 1 else _rows
        middle = len(self.ids) // 2 if rows == 1 else rows // 2
        if rows > 1 and packing is not None:
            middle = int((packing.segments[:middle, -1] + 1).sum())  # examples, not rows
        sources = zip(*(cut(*source[:3]) for source in self.sources), strict=True)
        inputs = cut(self.decoder_input, self.target_lengths, packing)
        targets = cut(self.target, self.target_lengths, packing)
        halves = []
        for place, source, shown, target in zip(
            (slice(middle), slice(middle, None)), sources, inputs, targets, strict=True
        ):
            ids, tags = self.ids[place], {name: tag[place] for name, tag in self.tags.items()}
            sums = [_sizes(source), _sizes([target])]
            counts = Counts(len(ids), *(tokens for tokens, _ in sums), *(padding for _, padding in sums))
            columns = {name: values[place] for name, values in self.columns.items()}
            halves.append(
                Batch(ids, source, shown.values, target.values, target.lengths, counts, tags, target.packing, columns)
            )
        return halves

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        return dataclasses.replace(
            self,
            sources=tuple(source.map(function) for source in self.sources),
            decoder_input=function(self.decoder_input),
            target=function(self.target),
            target_lengths=function(self.target_lengths),
            tags={name: function(tag) for name, tag in self.tags.items()},
            target_packing=self.target_packing and self.target_packing.map(function),
            columns={name: function(values) for name, values in self.columns.items()},
        )


def _sizes(sides: Iterable[Source]) -> tuple[int, int]:
    """Tokens without padding, and positions of padding, of sources or targets."""
    total = sum(int(side.lengths.sum()) for side in sides)
    return total, sum(side.values.size(0) * side.values.size(1) for side in sides) - total


def _rows(values: Tensor, lengths: Tensor, packing: Packing | None) -> list[Source]:
    """The upper and the lower half of the rows of one side, with unneeded padding removed."""
    middle, halves = len(values) // 2, []
    for rows in (slice(middle), slice(middle, None)):
        places = rows, slice(int(lengths[rows].max()))
        cut = packing and Packing(*(tensor[places] for tensor in packing))
        halves.append(Source(values[places], lengths[rows], cut))
    return halves


def _segments(values: Tensor, lengths: Tensor, packing: Packing) -> list[Source]:
    """The first and the second half of the examples of a single packed row, each as a row."""
    end, middle = int(lengths[0]), (int(packing.segments[0, -1]) + 1) // 2
    border = int((packing.segments[0, :end] < middle).sum())
    return [
        Source(
            values[:, first:last],
            lengths.new_tensor([last - first]),
            Packing(packing.segments[:, first:last] - before, packing.positions[:, first:last]),
        )
        for first, last, before in ((0, border, 0), (border, end, middle))
    ]
