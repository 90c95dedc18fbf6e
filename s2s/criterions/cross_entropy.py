"""Label-smoothed cross-entropy, computed from the last states in chunks of real target positions.

The logits of a whole batch never exist: each chunk's logits are turned into its loss and its gradients at once, so the
memory is that of one chunk, forward and backward.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.criterions.r_drop import RDrop
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.contract import DecoderOutput, Memory
from s2s.models.encoder_decoder import EncoderDecoder

CHUNK = 512  # rows whose logits exist at a time; even, so that both passes over a position share a chunk


class Term(Protocol):
    """A term of the loss beside the cross-entropy.

    Attributes:
        name: What its value is called.
        weight: Its factor in the loss.
    """

    name: str
    weight: float

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Its sum over some positions, in nats, without its weight, and the gradient of the weighted sum.

        Args:
            logits: [n, passes, V].
            first: The number of the first of these positions.

        Returns:
            A scalar: over passes it is the mean. The gradient [n, passes, V].
        """
        ...


@dataclasses.dataclass
class CrossEntropyConfig:
    """Options of the cross-entropy."""

    type: str = option("cross_entropy", "component")
    label_smoothing: float = option(
        0.1, "share of the target probability spread evenly over the vocabulary", at_least=0, below=1
    )
    auxiliary: float = option(
        0.3, "share of model.auxiliary_heads in the loss, where there are any", at_least=0, at_most=1,
        needs="model.auxiliary_heads",
    )  # fmt: skip
    r_drop: float = option(
        0.0, "weight of R-Drop: two passes with other dropout should agree; 5 is the paper's; 0: one pass", at_least=0
    )


@dataclasses.dataclass
class Loss:
    """A criterion's value on a batch.

    Attributes:
        sum: Scalar tensor, what is minimised, summed over target tokens; backward starts here. It is a weighted sum of
            what the metrics say, and no number of nats by itself.
        count: Number of target tokens, EOS included.
        metrics: What `names` of the criterion says, detached scalar tensors by name. Sums over the same tokens: `nll`
            in nats, perhaps `correct` tokens, terms in nats without their weights; of examples, those of the
            criterion's `counted`.
    """

    sum: Tensor
    count: int
    metrics: dict[str, Tensor]


class CrossEntropy:
    """(1 - e) * -log p(target) + e * mean over the vocabulary of -log p (Szegedy et al. 2016), in nats.

    The same as `torch.nn.functional.cross_entropy(..., label_smoothing=e, reduction="sum")` over real positions. With
    R-Drop, a model in training runs twice: the mean of both passes' cross-entropy, and the term of `RDrop`.
    """

    Config = CrossEntropyConfig
    counted: tuple[str, ...] = ()  # metrics that are numbers of examples

    def __init__(self, config: CrossEntropyConfig):
        self.config = config

    def check(self, model: EncoderDecoder) -> None:
        """Whether it trains all of a model. Raises UserError."""
        if not model.has_decoder:
            raise UserError("criterion=cross_entropy is for a decoder, and model.decoder.layers=0: there is none")
        if model.has_ctc:
            raise UserError("model.ctc=true needs criterion=ctc_attention, which trains it")
        self._check_heads(model)

    def _check_heads(self, model: EncoderDecoder) -> None:
        if model.auxiliary_heads and not self.config.auxiliary:
            raise UserError("criterion.auxiliary=0 does not train model.auxiliary_heads; leave them out")

    def names(self, model: EncoderDecoder) -> list[str]:
        """Names of the metrics of a Loss, of a model in training or not."""
        return [*self._plain_names(model), *(["r_drop"] if model.training and self.config.r_drop else [])]

    def _plain_names(self, model: EncoderDecoder) -> list[str]:
        return ["nll", "correct", *(f"auxiliary_{number}" for number in model.auxiliary_heads)]

    def __call__(self, model: EncoderDecoder, batch: Batch) -> Loss:
        """Run the model on a batch; returns the Loss. Other terms than the cross-entropy count in training only, so
        that a validation has the same measure with and without them."""
        passes = 2 if model.training and self.config.r_drop else 1
        memories = (model.encode(batch.sources, batch.tags) for _ in range(passes))
        return self.of(model, batch, memories, [RDrop(self.config.r_drop)] if passes == 2 else [])

    def of(
        self, model: EncoderDecoder, batch: Batch, memories: Iterable[Memory], agreement: Sequence[Term] = ()
    ) -> Loss:
        """The Loss of passes over a batch, from the memory of each; `agreement`: the terms of several passes."""
        config = self.config
        terms, share = self.terms(batch) if model.training else ([], 1.0)
        states, output = zip(*(last_states(model, batch, memory) for memory in memories), strict=True)
        passes = len(states)
        target = batch.target.flatten()[real_positions(batch)].repeat_interleave(passes)

        def smoothed(states: Sequence[Tensor], share: float, terms: Sequence[Term] = ()) -> tuple[Tensor, ...]:
            # Row passes * i + k is pass k over position i.
            rows = states[0] if passes == 1 else torch.stack(states, 1).flatten(0, 1)
            weight, bias = output[0].weight, output[0].bias
            return SmoothedCrossEntropy.apply(
                rows, weight, bias, target, config.label_smoothing, share / passes, terms, passes
            )

        terms = [*terms, *agreement]
        loss, nll, correct, *values = smoothed(states, share, terms)
        metrics, heads = {"nll": nll / passes, "correct": correct / passes}, []
        metrics |= {term.name: value for term, value in zip(terms, values, strict=True)}
        for number in output[0].heads:
            value, head_nll, *_ = smoothed([real_states(each.heads[number], batch) for each in output], 1.0)
            heads.append(value)
            metrics[f"auxiliary_{number}"] = head_nll / passes
        if heads and model.training:
            loss = (1 - config.auxiliary) * loss + config.auxiliary * sum(heads) / len(heads)
        return Loss(loss, batch.counts.target, metrics)

    def terms(self, batch: Batch) -> tuple[list[Term], float]:
        """Further terms on a batch in training, and the weight of the cross-entropy beside them."""
        return [], 1.0


def real_positions(batch: Batch) -> Tensor:
    """Where the P target tokens of a batch lie in its rows one after the other, int64 [P]. The host does not wait for
    the device, as it would to learn how many are true in a mask."""
    lengths, count, device = batch.target_lengths, batch.counts.target, batch.target.device
    shift = torch.arange(len(lengths), device=device) * batch.target.size(1) - (lengths.cumsum(0) - lengths)
    return torch.arange(count, device=device) + shift.repeat_interleave(lengths, output_size=count)


def real_states(states: Tensor, batch: Batch) -> Tensor:
    """States [B, T, D] at the P real target positions of a batch, [P, D] in the type of its matrix products."""
    states = states.flatten(0, 1).index_select(0, real_positions(batch))
    if torch.is_autocast_enabled(states.device.type):
        states = states.to(torch.get_autocast_dtype(states.device.type))
    return states


def last_states(model: EncoderDecoder, batch: Batch, memory: Memory | None = None) -> tuple[Tensor, DecoderOutput]:
    """A model's last states at the real target positions of a batch, as `real_states`, and the whole output."""
    memory = model.encode(batch.sources, batch.tags) if memory is None else memory
    output = model.decode(memory, batch.decoder_input, batch.target_packing)
    return real_states(output.states, batch), output


class SmoothedCrossEntropy(torch.autograd.Function):
    """Sum over positions of the label-smoothed cross-entropy of `states @ weight.T + bias`.

    The gradients are computed in the forward pass, chunk by chunk, because that is when the logits exist.
    """

    @staticmethod
    def forward(
        ctx, states: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float, share: float = 1.0,
        terms: Sequence[Term] = (), passes: int = 1
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """
        Args:
            states: [P, D] states of P rows, any floating type.
            weight: [V, D] output matrix.
            bias: [V] or None.
            target: [P] int64.
            smoothing: e.
            share: Weight of the cross-entropy in the loss.
            terms: Further terms of the loss.
            passes: Rows of each position, one after the other.

        Returns:
            Scalars in the type of `weight`: the loss; the sum of -log p(target); the number of rows whose most
            probable token is the target; the sum of each term. Only the first has a gradient.
        """
        need = any(ctx.needs_input_grad[:3])
        matrix = weight.to(states.dtype)
        vocabulary = weight.size(0)
        loss, nll = weight.new_zeros(()), weight.new_zeros(())
        correct = torch.zeros((), dtype=torch.int64, device=weight.device)
        values = [weight.new_zeros(()) for _ in terms]
        grad_states = torch.empty_like(states) if need else None
        grad_weight = torch.zeros_like(weight) if need and ctx.needs_input_grad[1] else None  # None: it is frozen
        grad_bias = torch.zeros_like(bias) if need and bias is not None else None
        # One room for the logits of all chunks: a CPU takes long to get a new one each time.
        room = states.new_empty(min(CHUNK, len(states)), vocabulary)
        wide = room if states.dtype == weight.dtype else weight.new_empty(room.shape)
        for start in range(0, len(states), CHUNK):
            x, y = states[start : start + CHUNK], target[start : start + CHUNK, None]
            products = torch.mm(x, matrix.t(), out=room[: len(x)])
            if bias is not None:
                products += bias.to(x.dtype)
            logits = products if wide is room else wide[: len(x)].copy_(products)
            others = [term(logits.unflatten(0, (-1, passes)), start // passes) for term in terms]
            top, guess = logits.max(1, keepdim=True)
            correct += (guess == y).sum()
            chosen, total = logits.gather(1, y), logits.sum() if smoothing else 0.0
            exponentials = logits.sub_(top).exp_()  # in place: the logits are needed no more
            normaliser = exponentials.sum(1, keepdim=True)
            log_normaliser = normaliser.log() + top
            chunk = (log_normaliser - chosen).sum()
            nll += chunk
            loss += share * (1 - smoothing) * chunk
            if smoothing:
                loss += share * smoothing * (log_normaliser.sum() - total / vocabulary)
            for term, sum_, (value, _) in zip(terms, values, others, strict=True):
                sum_ += value
                loss += term.weight * value
            if need:
                gradient = exponentials.div_(normaliser)
                if smoothing:
                    gradient -= smoothing / vocabulary
                gradient.scatter_add_(1, y, gradient.new_full(y.shape, smoothing - 1))
                if share != 1:
                    gradient *= share
                for _, other in others:
                    gradient += other.flatten(0, 1)
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                if wide is not room:
                    gradient = products.copy_(gradient)
                torch.mm(gradient, matrix, out=grad_states[start : start + CHUNK])
                if grad_weight is None:
                    continue
                if states.dtype == weight.dtype:
                    grad_weight.addmm_(gradient.t(), x)
                else:
                    grad_weight += gradient.t() @ x
        if need:
            ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll, correct, *values)
        return loss, nll, correct, *values

    @staticmethod
    def backward(ctx, grad_loss: Tensor, *_):
        states, weight, bias = ctx.saved_tensors
        scaled = [None if gradient is None else gradient * grad_loss for gradient in (states, weight, bias)]
        return *scaled, None, None, None, None, None
