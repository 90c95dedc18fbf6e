"""Log-probabilities of whole texts under the model, with their gradient, and columns of several texts an example.

Shapes: B examples, K texts of each, T their longest with EOS, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s2s.criterions.forward import Run, positions_of
from s2s.criterions.positions import CHUNK, LEAST
from s2s.text.vocabulary import EOS, PAD


def column(texts: Sequence[Sequence[Sequence[int]]], fill: float = PAD) -> Tensor:
    """Numbers [B, K, T] of rows of any lengths, padded with `fill`, int64; in each example as many as K."""
    longest = max((len(row) for several in texts for row in several), default=0)
    width = max(map(len, texts), default=0)
    padded = torch.full((len(texts), width, longest), fill, dtype=torch.int64)
    for i, several in enumerate(texts):
        for k, row in enumerate(several):
            padded[i, k, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded


def ended(texts: Sequence[Sequence[Sequence[int]]]) -> dict[str, Tensor]:
    """Columns of texts: `ids` [B, K, T] with EOS, and `lengths` [B, K] with EOS; 0: the example has fewer than K."""
    rows = [[[*row, EOS] for row in several] for several in texts]
    width = max(map(len, rows), default=0)
    lengths = [[*map(len, several), *[0] * (width - len(several))] for several in rows]
    return {"ids": column(rows), "lengths": torch.tensor(lengths, dtype=torch.int64)}


def rewritten(run: Run, shown: Tensor, target: Tensor, lengths: Tensor, count: int) -> Run:
    """Another pass over the examples of a batch, whose decoder reads or writes something else; the memory is shared.

    Args:
        run: A pass.
        shown: int64 [B, T], what the decoder reads.
        target: int64 [B, T], with EOS.
        lengths: int64 [B], of the targets.
        count: Their sum.
    """
    counts = run.batch.counts._replace(target=count)
    batch = dataclasses.replace(run.batch, decoder_input=shown, target=target, target_lengths=lengths, counts=counts)
    other = Run(run.model, batch)
    other.__dict__["memory"] = run.memory  # the value of the cached property
    return other


def log_probabilities(run: Run, ids: Tensor, lengths: Tensor) -> Tensor:
    """log p(text | source) of several texts for each example, [B, K] with a gradient, in float32 or wider. The host
    waits for the device once.

    Args:
        run: A pass over the examples; its memory is used.
        ids: int64 [B, K, T], with EOS.
        lengths: int64 [B, K], with EOS; the log-probability of a text of length 0 is 0.
    """
    sizes = torch.stack([lengths.sum(0), lengths.amax(0)], 1).tolist()
    return torch.stack([_of_one(run, ids[:, k], lengths[:, k], *size) for k, size in enumerate(sizes)], 1)


def _of_one(run: Run, ids: Tensor, lengths: Tensor, count: int, longest: int) -> Tensor:
    """As log_probabilities, of one text for each example, [B]; `count` and `longest` are of the lengths."""
    ids = ids[:, :longest]
    shown = torch.cat([run.batch.decoder_input[:, :1], ids], 1)[:, :-1] if longest else ids
    if not count:
        return run.memory.lengths.new_zeros(len(ids), dtype=torch.float32)
    output = run.model.decode(run.memory, shown)
    places = positions_of(lengths, longest, count)
    inputs = [tensor.flatten(0, 1).index_select(0, places) for tensor in (output.states, *output.context)]
    target = ids.flatten()[places]

    def chosen(target: Tensor, *inputs: Tensor) -> Tensor:
        logits = output.output(*inputs)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).clamp_min(LEAST)
        return logits.log_softmax(1).gather(1, target[:, None])[:, 0]

    values = torch.cat([
        checkpoint(chosen, target[i : i + CHUNK], *(tensor[i : i + CHUNK] for tensor in inputs), use_reentrant=False)
        for i in range(0, count, CHUNK)
    ])  # fmt: skip
    rows = torch.arange(len(ids), device=ids.device).repeat_interleave(lengths, output_size=count)
    return values.new_zeros(len(ids)).index_add(0, rows, values)
