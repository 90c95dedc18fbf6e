"""Losses of a model's distribution at each target position, computed in chunks of positions that are not padding.

The logits of a whole batch never exist at once. If the output layer is linear, losses and gradients of a chunk are
computed together, so memory is needed for the logits of one chunk only, forward and backward. Other output layers take
the general path: chunks are computed once more in the backward pass.

torch.nn.functional.linear_cross_entropy is no substitute: with label smoothing torch 2.13 makes all logits at once, and
it gives neither the accuracy nor the logits that further losses share.

Shapes: B rows, T target positions, P target positions of all rows that are not padding, N = P * passes, D width,
V width of the logits.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from s2s.criterions.forward import Run
from s2s.models.contract import DecoderOutput

CHUNK = 512  # rows whose logits exist at once; even, so that both passes over a position share a chunk
# On a GPU, where each chunk costs launches and reads and writes the gradient of the whole matrix, as many rows as have
# so many bytes of fp32 logits, if these are more.
CHUNK_BYTES = 2**29
LEAST = -1e30  # logits of at most this value belong to impossible symbols


class Chunked(Protocol):
    """A loss that shares the logits of the cross-entropy.

    Attributes:
        weight: Its factor in the loss.
    """

    weight: float

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Compute the loss and its gradient at some positions.

        Args:
            logits: [n, passes, V].
            first: Index of the first of these positions, from 0 to P - 1.

        Returns:
            A scalar, in nats: the sum over positions and mean over passes, without the weight; and the gradient of
            weight * this scalar, [n, passes, V].
        """
        ...


class Rows:
    """The inputs of the output layer at the target positions that are not padding, from one or several passes. Row
    passes * i + k is pass k over position i.

    Args:
        passes: One or several passes over the same batch.
        outputs: For each pass the decoder's output, or one of its heads.

    Attributes:
        weight, bias: [V, D], and [V] or None, if the output layer is linear; otherwise both are None.
    """

    def __init__(self, passes: Sequence[Run], outputs: Sequence[DecoderOutput]):
        first = outputs[0]
        self.number, self.output = len(outputs), first.output
        self.weight, self.bias = first.weight, first.bias
        pairs = list(zip(passes, outputs, strict=True))
        self.states = _interleaved([run.unpadded(output.states) for run, output in pairs])
        contexts = zip(*(map(run.unpadded, output.context) for run, output in pairs), strict=True)
        self.context = [_interleaved(values) for values in contexts]
        device = self.states.device.type
        if self.weight is not None and torch.is_autocast_enabled(device):
            self.states = self.states.to(torch.get_autocast_dtype(device))

    def chunk(self, first: int, last: int) -> list[Tensor]:
        """States and further inputs of the output layer of the rows first ... last - 1."""
        return [tensor[first:last] for tensor in (self.states, *self.context)]

    def logits(self, first: int, last: int) -> Tensor:
        """Logits of the rows first ... last - 1, [n, V]."""
        if self.weight is None:
            return self.output(*self.chunk(first, last))
        dtype = self.states.dtype
        weight, bias = (None if tensor is None else tensor.to(dtype) for tensor in (self.weight, self.bias))
        return torch.nn.functional.linear(self.states[first:last], weight, bias)


def chunk_size(states: Tensor, width: int) -> int:
    """Number of rows of a chunk, an even number; width: V of their logits."""
    return CHUNK if states.device.type == "cpu" else max(CHUNK, CHUNK_BYTES // (8 * width) * 2)


def _interleaved(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(list(values), 1).flatten(0, 1)


def losses(rows: Rows, target: Tensor, smoothing: float, share: float, others: Sequence[Chunked] = ()) -> tuple:
    """The weighted sum of a label-smoothed cross-entropy and of further losses, and their values.

    Args:
        rows: N rows.
        target: [P] int64.
        smoothing: e of (1 - e) * -log p(target) + e * mean of -log p, the mean being over all possible symbols.
        share: Weight of the cross-entropy.
        others: Further losses.

    Returns:
        Scalars, averaged over passes: the loss; the sum of -log p(target); the number of positions whose most probable
        token is the target; the sum of each further loss. Only the first has a gradient.
    """
    passes = rows.number
    options = (target.repeat_interleave(passes), smoothing, share / passes, others, passes)
    if rows.weight is not None:
        loss, nll, correct, *values = SmoothedCrossEntropy.apply(rows.states, rows.weight, rows.bias, *options)
    else:
        loss, nll, correct, *values = _general(rows, *options)
    return loss, nll / passes, correct / passes, *values


class _Totals:
    """Sums over chunks of rows.

    Args:
        like: A tensor of the dtype and device of the losses.
        target: [N] int64.
        smoothing, share, others, passes: As in SmoothedCrossEntropy.
    """

    def __init__(self, like: Tensor, target: Tensor, smoothing: float, share: float, others: Sequence[Chunked],
                 passes: int):  # fmt: skip
        self.target, self.smoothing, self.share, self.others, self.passes = target, smoothing, share, others, passes
        self.loss, self.nll = like.new_zeros(()), like.new_zeros(())
        self.correct = torch.zeros((), dtype=torch.int64, device=like.device)
        self.values = [like.new_zeros(()) for _ in others]

    def add(self, logits: Tensor, start: int, need: bool, impossible: Tensor | None = None) -> Tensor | None:
        """Add the losses of a chunk.

        Args:
            logits: [n, V], in the dtype of the losses; they are overwritten.
            start: Index of the first row.
            need: Whether the gradient is needed.
            impossible: Bool [n, V], true for symbols that the target cannot be; None: all symbols are possible.

        Returns:
            The gradient of the loss [n, V], in the memory of the logits; or None.
        """
        smoothing, share = self.smoothing, self.share
        y = self.target[start : start + len(logits), None]
        others = [other(logits.unflatten(0, (-1, self.passes)), start // self.passes) for other in self.others]
        top, guess = logits.max(1, keepdim=True)
        self.correct += (guess == y).sum()
        chosen, possible = logits.gather(1, y), logits.size(1)
        if impossible is not None:
            chosen = chosen.masked_fill(impossible.gather(1, y), -torch.inf)
            possible = (~impossible).sum(1, keepdim=True).to(logits.dtype)
        if not smoothing:
            mean = 0.0
        elif impossible is None:
            mean = logits.sum() / possible
        else:
            mean = (logits.masked_fill(impossible, 0) / possible).sum()
        exponentials = logits.sub_(top).exp_()  # in place: the logits are not needed any more
        normaliser = exponentials.sum(1, keepdim=True)
        log_normaliser = normaliser.log() + top
        chunk = (log_normaliser - chosen).sum()
        self.nll += chunk
        self.loss += share * (1 - smoothing) * chunk
        if smoothing:
            self.loss += share * smoothing * (log_normaliser.sum() - mean)
        for other, sum_, (value, _) in zip(self.others, self.values, others, strict=True):
            sum_ += value
            self.loss += other.weight * value
        if not need:
            return None
        gradient = exponentials.div_(normaliser)
        if smoothing:
            even = smoothing / possible
            gradient -= even if impossible is None else even * ~impossible
        gradient.scatter_add_(1, y, gradient.new_full(y.shape, smoothing - 1))
        if share != 1:
            gradient *= share
        for _, other in others:
            gradient += other.flatten(0, 1)
        return gradient

    @property
    def sums(self) -> tuple[Tensor, ...]:
        return self.loss, self.nll, self.correct, *self.values


class SmoothedCrossEntropy(torch.autograd.Function):
    """The losses of a linear output layer and their gradients, computed chunk by chunk."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float,
                share: float = 1.0, others: Sequence[Chunked] = (), passes: int = 1):  # fmt: skip
        """
        Args:
            states: [N, D], in fp32, or in the half precision of the matrix products.
            weight: [V, D].
            bias: [V] or None.
            target: [N] int64.
            smoothing: e.
            share: Weight of the cross-entropy of a row.
            others: Further losses.
            passes: Number of rows of each position; they follow each other.

        Returns:
            Scalars in the dtype of `weight`: the loss; the sum of -log p(target); the number of rows whose most
            probable token is the target; the sum of each further loss. Only the first has a gradient.
        """
        need = any(ctx.needs_input_grad[:3])
        matrix = weight.to(states.dtype)
        totals = _Totals(weight, target, smoothing, share, others, passes)
        grad_states = torch.empty_like(states) if need else None
        grad_weight = torch.zeros_like(weight) if need and ctx.needs_input_grad[1] else None  # None: it is frozen
        grad_bias = torch.zeros_like(bias) if need and bias is not None else None
        # One buffer for the logits of all chunks: to allocate one for each chunk is slow on a CPU.
        size = chunk_size(states, weight.size(0))
        buffer = states.new_empty(min(size, len(states)), weight.size(0))
        wide = buffer if states.dtype == weight.dtype else weight.new_empty(buffer.shape)
        for start in range(0, len(states), size):
            x = states[start : start + size]
            products = torch.mm(x, matrix.t(), out=buffer[: len(x)])
            if bias is not None:
                products += bias.to(x.dtype)
            logits = products if wide is buffer else wide[: len(x)].copy_(products)
            gradient = totals.add(logits, start, need)
            if gradient is not None:
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                if wide is not buffer:
                    gradient = products.copy_(gradient)
                torch.mm(gradient, matrix, out=grad_states[start : start + size])
                if grad_weight is None:
                    continue
                if states.dtype == weight.dtype:
                    grad_weight.addmm_(gradient.t(), x)
                else:
                    grad_weight += gradient.t() @ x
        if need:
            ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        ctx.mark_non_differentiable(*totals.sums[1:])
        return totals.sums

    @staticmethod
    def backward(ctx, grad_loss: Tensor, *_):
        states, weight, bias = ctx.saved_tensors
        scaled = [None if gradient is None else gradient * grad_loss for gradient in (states, weight, bias)]
        return *scaled, None, None, None, None, None


class _OfLogits(torch.autograd.Function):
    """The losses of the logits of a chunk, and their gradient."""

    @staticmethod
    def forward(ctx, logits: Tensor, start: int, *options):
        totals = _Totals(logits, *options)
        need = ctx.needs_input_grad[0]
        gradient = totals.add(logits.clone(), start, need, logits <= LEAST)
        if need:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(*totals.sums[1:])
        return totals.sums

    @staticmethod
    def backward(ctx, grad_loss: Tensor, *_):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss, *[None] * 6


def _general(rows: Rows, *options) -> list[Tensor]:
    """As SmoothedCrossEntropy, for any output layer: a module that returns logits or log-probabilities, perhaps -inf
    for impossible symbols."""

    def chunk(start: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits = rows.output(*inputs)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return _OfLogits.apply(logits.clamp_min(LEAST), start, *options)

    sums = []
    for start in range(0, len(rows.states), CHUNK):
        inputs = rows.chunk(start, start + CHUNK)
        if torch.is_grad_enabled():
            sums.append(checkpoint(chunk, start, *inputs, use_reentrant=False))
        else:
            sums.append(chunk(start, *inputs))
    return [sum(column) for column in zip(*sums, strict=True)]
