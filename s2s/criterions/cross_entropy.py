"""Label-smoothed cross-entropy, computed from the last states in chunks of real target positions.

The logits of a whole batch never exist: each chunk's logits are turned into its loss and its gradients at once, so the
memory is that of one chunk, forward and backward.
"""

import dataclasses

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.data.batch import Batch
from s2s.models.model import EncoderDecoder

CHUNK = 512  # positions whose logits exist at a time


@dataclasses.dataclass
class CrossEntropyConfig:
    """Options of the cross-entropy."""

    type: str = option("cross_entropy", "component")
    label_smoothing: float = option(
        0.1, "share of the target probability spread evenly over the vocabulary", at_least=0, below=1
    )


@dataclasses.dataclass
class Loss:
    """A criterion's value on a batch.

    Attributes:
        sum: Scalar tensor, the loss summed over target tokens; backward starts here.
        count: Number of target tokens, EOS included.
        metrics: Further sums over the same tokens, detached scalar tensors by name: `nll` in nats, `correct` tokens.
    """

    sum: Tensor
    count: int
    metrics: dict[str, Tensor]


class CrossEntropy:
    """(1 - e) * -log p(target) + e * mean over the vocabulary of -log p (Szegedy et al. 2016), in nats.

    The same as `torch.nn.functional.cross_entropy(..., label_smoothing=e, reduction="sum")` over real positions.
    """

    Config = CrossEntropyConfig

    def __init__(self, config: CrossEntropyConfig):
        self.label_smoothing = config.label_smoothing

    def __call__(self, model: EncoderDecoder, batch: Batch) -> Loss:
        """Run the model on a batch; returns the Loss."""
        memory = model.encode(batch.sources, batch.tags)
        output = model.decode(memory, batch.decoder_input, batch.target_packing)
        real = torch.arange(batch.target.size(1), device=batch.target.device) < batch.target_lengths[:, None]
        states, target = output.states[real], batch.target[real]
        if torch.is_autocast_enabled(states.device.type):
            states = states.to(torch.get_autocast_dtype(states.device.type))
        loss, nll, correct = SmoothedCrossEntropy.apply(
            states, output.weight, output.bias, target, self.label_smoothing
        )
        return Loss(loss, batch.counts.target, {"nll": nll, "correct": correct})


class SmoothedCrossEntropy(torch.autograd.Function):
    """Sum over positions of the label-smoothed cross-entropy of `states @ weight.T + bias`.

    The gradients are computed in the forward pass, chunk by chunk, because that is when the logits exist.
    """

    @staticmethod
    def forward(
        ctx, states: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            states: [P, D] states of P real positions, any floating type.
            weight: [V, D] output matrix.
            bias: [V] or None.
            target: [P] int64.
            smoothing: e.

        Returns:
            Scalars in the type of `weight`: the loss; the sum of -log p(target); the number of positions whose most
            probable token is the target. Only the first has a gradient.
        """
        need = any(ctx.needs_input_grad[:3])
        matrix = weight.to(states.dtype)
        vocabulary = weight.size(0)
        loss, nll = weight.new_zeros(()), weight.new_zeros(())
        correct = torch.zeros((), dtype=torch.int64, device=weight.device)
        grad_states = torch.empty_like(states) if need else None
        grad_weight = torch.zeros_like(weight) if need else None
        grad_bias = torch.zeros_like(bias) if need and bias is not None else None
        for start in range(0, len(states), CHUNK):
            x, y = states[start : start + CHUNK], target[start : start + CHUNK, None]
            logits = torch.nn.functional.linear(x, matrix, None if bias is None else bias.to(x.dtype))
            logits = logits.to(weight.dtype)
            top, guess = logits.max(1, keepdim=True)
            correct += (guess == y).sum()
            chosen, total = logits.gather(1, y), logits.sum() if smoothing else 0.0
            exponentials = logits.sub_(top).exp_()  # in place: the logits are needed no more
            normaliser = exponentials.sum(1, keepdim=True)
            log_normaliser = normaliser.log() + top
            chunk = (log_normaliser - chosen).sum()
            nll += chunk
            loss += (1 - smoothing) * chunk
            if smoothing:
                loss += smoothing * (log_normaliser.sum() - total / vocabulary)
            if need:
                gradient = exponentials.div_(normaliser)
                if smoothing:
                    gradient -= smoothing / vocabulary
                gradient.scatter_add_(1, y, gradient.new_full(y.shape, smoothing - 1))
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                gradient = gradient.to(states.dtype)
                torch.mm(gradient, matrix, out=grad_states[start : start + CHUNK])
                if states.dtype == weight.dtype:
                    grad_weight.addmm_(gradient.t(), x)
                else:
                    grad_weight += gradient.t() @ x
        if need:
            ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll, correct)
        return loss, nll, correct

    @staticmethod
    def backward(ctx, grad_loss: Tensor, *_):
        states, weight, bias = ctx.saved_tensors
        return states * grad_loss, weight * grad_loss, None if bias is None else bias * grad_loss, None, None
