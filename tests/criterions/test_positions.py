"""Distillation and R-Drop, chunk by chunk, against plain formulas and autograd."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from s2s.criterions import positions
from s2s.criterions.forward import Run
from s2s.criterions.positions import Rows, SmoothedCrossEntropy
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.distillation import DistillationConfig, Teaching
from s2s.criterions.terms.r_drop import Divergence, RDropConfig
from s2s.data.batch import Batch, Counts, Source
from s2s.models.contract import DecoderOutput
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from tests.specs import criterion_of, text_spec

V, D = 50, 16
VOCABULARY = 13  # of the models


def leaves(positions: int, passes: int, with_bias: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(positions * passes, D), (V, D), *([(V,)] if with_bias else [])]
    return [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]


def taught(positions: int, widths: list[int]) -> list[tuple[torch.Tensor, DecoderOutput]]:
    outputs = [torch.nn.Linear(width, V, bias=width != widths[0], dtype=torch.double) for width in widths]
    states = [torch.randn(positions, width, dtype=torch.double) for width in widths]
    return [(x, DecoderOutput(x, output)) for x, output in zip(states, outputs, strict=True)]


def rows_of(states: torch.Tensor, output: DecoderOutput) -> Rows:
    """Rows of a batch in which all positions [B, T] of states [B, T, D] are real."""
    rows, size = states.shape[:2]
    ids, lengths = torch.zeros(rows, size, dtype=torch.int64), torch.full([rows], size)
    run = Run(None, Batch(torch.arange(rows), (), ids, ids, lengths, Counts(rows, 0, rows * size, 0, 0)))
    return Rows([run], [DecoderOutput(states, output.output)])


def held_to(plain: torch.Tensor, ours: torch.Tensor, parameters: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
    expected = torch.autograd.grad(3 * plain, parameters)
    for gradient, other in zip(torch.autograd.grad(3 * ours, parameters), expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("widths", [[16], [16, 8, 24]])
@pytest.mark.parametrize("passes", [1, 2])
def test_distillation_equals_the_plain_formula(with_bias, widths, passes, monkeypatch):
    monkeypatch.setattr(positions, "CHUNK", 6)
    parameters = leaves(23, passes, with_bias)
    target = torch.randint(0, V, (23,))
    teachers, weight, temperature = taught(23, widths), 0.3, 2.0
    terms = [Teaching([rows_of(x[None], output) for x, output in teachers], weight, temperature)]
    each = target.repeat_interleave(passes)
    bias = parameters[2] if with_bias else None
    ours, nll, _, taught_nats = SmoothedCrossEntropy.apply(
        *parameters[:2], bias, each, 0.1, (1 - weight) / passes, terms, passes
    )
    logits = torch.nn.functional.linear(parameters[0], parameters[1], bias)
    with torch.no_grad():
        q = torch.stack([(output.output(x) / temperature).softmax(1) for x, output in teachers]).mean(0)
    smoothed = torch.nn.functional.cross_entropy(logits, each, label_smoothing=0.1, reduction="sum")
    soft = torch.nn.functional.cross_entropy(logits / temperature, q.repeat_interleave(passes, 0), reduction="sum")
    held_to(((1 - weight) * smoothed + weight * temperature**2 * soft) / passes, ours, parameters)
    torch.testing.assert_close(nll, torch.nn.functional.cross_entropy(logits, each, reduction="sum"))
    torch.testing.assert_close(taught_nats, soft / passes)


@pytest.mark.parametrize("with_bias", [False, True])
def test_r_drop_equals_the_plain_formula(with_bias, monkeypatch):
    monkeypatch.setattr(positions, "CHUNK", 6)
    parameters = leaves(23, 2, with_bias)
    target = torch.randint(0, V, (23,)).repeat_interleave(2)
    bias = parameters[2] if with_bias else None
    ours, _, _, nats = SmoothedCrossEntropy.apply(*parameters[:2], bias, target, 0.1, 0.5, [Divergence(2.5)], 2)
    logits = torch.nn.functional.linear(parameters[0], parameters[1], bias)
    p, q = logits.log_softmax(1).unflatten(0, (-1, 2)).unbind(1)
    kl = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
    kl = kl + torch.nn.functional.kl_div(p, q, reduction="sum", log_target=True)
    smoothed = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1, reduction="sum")
    held_to((smoothed + 5.0 * kl / 2) / 2, ours, parameters)
    torch.testing.assert_close(nats, kl / 2)


def test_no_gradient_is_computed_for_a_frozen_output_matrix():
    states, weight = leaves(5, 1, False)
    loss, *_ = SmoothedCrossEntropy.apply(states, weight.detach(), None, torch.arange(5), 0.1)
    (gradient,) = torch.autograd.grad(loss, [states])
    full, *_ = SmoothedCrossEntropy.apply(states, weight, None, torch.arange(5), 0.1)
    torch.testing.assert_close(gradient, torch.autograd.grad(full, [states])[0], rtol=0, atol=0)


def small(seed: int, dropout: float) -> Transformer:
    torch.manual_seed(seed)
    stack = EncoderConfig(1, 16, 2, None, 32)
    return Transformer(TransformerConfig(encoder=stack, decoder=stack, dropout=dropout), text_spec(12, VOCABULARY))


def batch_of(size: int = 6) -> Batch:
    torch.manual_seed(1)
    source = Source(torch.randint(4, 12, (size, 3)), torch.tensor([3, 2] * (size // 2)))
    lengths = torch.tensor([4, 2] * (size // 2))
    count = int(lengths.sum())
    inputs, target = torch.randint(4, 12, (2, size, 4))
    return Batch(torch.arange(size), (source,), inputs, target, lengths, Counts(size, 5, count, 1, 2))


def distilling(teachers: list[Transformer], *more, weight: float = 0.5, temperature: float = 1.0):
    """Distillation beside the cross-entropy."""
    names = [str(number) for number in range(len(teachers))]
    criterion = criterion_of(
        CrossEntropyConfig(weight=1 - weight),
        DistillationConfig(teachers=names, weight=weight, temperature=temperature), *more,
    )  # fmt: skip
    criterion.terms[1].teachers = teachers
    return criterion


def disagreement(model: Transformer, batch: Batch) -> float:
    """Mean KL divergence between passes with other dropout."""
    model.train()
    with torch.no_grad():
        log = [
            model.decode(model.encode(batch.sources), batch.decoder_input).logits().log_softmax(-1) for _ in range(8)
        ]
    pairs = [(log[i].exp() * (log[i] - log[i + 1])).sum(-1).mean() for i in range(7)]
    return float(sum(pairs) / len(pairs))


def fitted(criterion, model: Transformer, batch: Batch, updates: int = 60) -> Transformer:
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(updates):
        optimizer.zero_grad()
        loss = criterion(model, batch)
        (loss.sum / loss.count).backward()
        optimizer.step()
    return model


TERMS = [[CrossEntropyConfig()], [CrossEntropyConfig(), RDropConfig()]]


def test_r_drop_makes_passes_agree_and_validates_with_one():
    batch = batch_of()
    plain, consistent = (fitted(criterion_of(*terms), small(0, 0.2), batch) for terms in TERMS)
    assert disagreement(consistent, batch) < 0.5 * disagreement(plain, batch)
    model, calls = consistent.eval(), []
    model.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    found = [criterion_of(*terms)(model, batch) for terms in TERMS]
    assert found[0].sum == found[1].sum
    assert found[0].metrics == found[1].metrics


def test_a_pupil_becomes_like_the_mean_of_its_teachers():
    """Targets are random; what a pupil can learn of its teachers' distribution it learns from the teachers alone."""
    batch = batch_of()
    teachers = [fitted(criterion_of(CrossEntropyConfig()), small(seed, 0.0), batch_of(), 10).eval() for seed in (5, 6)]

    def log_probabilities(model: Transformer) -> torch.Tensor:
        return model.decode(model.encode(batch.sources), batch.decoder_input).logits().log_softmax(-1)

    def distance(model: Transformer) -> float:
        with torch.no_grad():
            q = torch.stack([log_probabilities(teacher).exp() for teacher in teachers]).mean(0)
            return float((q * (q.log() - log_probabilities(model.eval()))).sum(-1).mean())

    distances = {}
    for weight in (0.0, 0.5, 1.0):
        criterion = distilling(teachers, weight=weight)
        distances[weight] = distance(fitted(criterion, small(0, 0.0), batch))
    assert distances[1.0] < 0.1 * distances[0.0]
    assert distances[1.0] < distances[0.5] < distances[0.0]


def test_no_more_logits_than_those_of_a_chunk_exist(monkeypatch):
    monkeypatch.setattr(positions, "CHUNK", 4)
    criterion = distilling([small(seed, 0.0).eval() for seed in (5, 6)], RDropConfig())
    batch, model = batch_of(12), small(0, 0.1)
    with Largest() as largest:
        criterion(model, batch).sum.backward()
    assert largest.rows == 4 < batch.counts.target


class Largest(TorchDispatchMode):
    """Notes the most rows that a tensor made in the meantime has whose last dimension is the vocabulary."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            is_matrix = isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape != (D, VOCABULARY)
            if is_matrix and tensor.size(-1) == VOCABULARY:  # and not the output matrix, transposed
                self.rows = max(self.rows, tensor.numel() // VOCABULARY)
        return result
