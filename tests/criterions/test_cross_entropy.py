"""The chunked loss against torch.nn.functional.cross_entropy, values and gradients."""

import pytest
import torch

from s2s.criterions import positions
from s2s.criterions.positions import SmoothedCrossEntropy
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.data.batch import Batch, Counts, Source
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from tests.specs import criterion_of, text_spec


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_plain_formula_forward_and_backward(smoothing, with_bias, monkeypatch):
    monkeypatch.setattr(positions, "CHUNK", 7)
    torch.manual_seed(0)
    states = torch.randn(30, 16, dtype=torch.double, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.double, requires_grad=True)
    bias = torch.randn(50, dtype=torch.double, requires_grad=True) if with_bias else None
    target = torch.randint(0, 50, (30,))
    loss, nll, correct = SmoothedCrossEntropy.apply(states, weight, bias, target, smoothing)
    (2 * loss).backward()
    leaves = [states, weight, *([bias] if with_bias else [])]
    gradients = [p.grad.clone() for p in leaves]
    for p in leaves:
        p.grad = None
    logits = torch.nn.functional.linear(states, weight, bias)
    plain = torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum")
    (2 * plain).backward()
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        nll, torch.nn.functional.cross_entropy(logits, target, reduction="sum"), rtol=1e-12, atol=0
    )
    assert correct == (logits.argmax(1) == target).sum()
    for ours, p in zip(gradients, leaves, strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=1e-10, atol=1e-12)


def test_extreme_logits_stay_finite():
    states = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    loss, *_ = SmoothedCrossEntropy.apply(states, torch.tensor([[1.0], [-1.0]]), None, torch.tensor([0, 1]), 0.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(states.grad).all()


def test_only_real_target_positions_count():
    torch.manual_seed(0)
    stack = EncoderConfig(1, 8, 2, None, 16)
    model = Transformer(TransformerConfig(encoder=stack, decoder=stack), text_spec(12, 12)).eval()
    source = Source(torch.randint(4, 12, (2, 3)), torch.tensor([3, 2]))
    target, inputs = torch.randint(4, 12, (2, 4)), torch.randint(4, 12, (2, 4))
    lengths = torch.tensor([4, 2])
    batch = Batch(torch.arange(2), (source,), inputs, target, lengths, Counts(2, 5, 6, 1, 2))
    loss = criterion_of(CrossEntropyConfig(label_smoothing=0.1))(model, batch)
    logits = model.decode(model.encode((source,)), inputs).logits()
    expected = sum(
        torch.nn.functional.cross_entropy(logits[i, :n], target[i, :n], label_smoothing=0.1, reduction="sum")
        for i, n in enumerate(lengths)
    )
    torch.testing.assert_close(loss.sum, expected, rtol=1e-6, atol=0)
    assert loss.count == 6
