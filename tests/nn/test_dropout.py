"""Dropout keeps the expectation, zeroes the right share, and passes the same mask backward."""

import pytest
import torch

from s2s.nn.dropout import dropout


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_of_zeros_scale_and_gradient(probability, dtype):
    torch.manual_seed(0)
    x = torch.ones(1001, 301, dtype=dtype, requires_grad=True)
    y = dropout(x, probability, training=True)
    y.sum().backward()
    zeros = (y == 0).float().mean().item()
    assert zeros == pytest.approx(probability, abs=5 * (probability * (1 - probability) / x.numel()) ** 0.5)
    assert torch.equal(x.grad, y.detach())
    assert y.max().item() == pytest.approx(1 / (1 - probability), rel=1e-2 if dtype == torch.bfloat16 else 1e-4)


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400_000), 0.5, training=True) == 0).float().view(-1, 4)
    correlation = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02


def test_nothing_happens_in_evaluation_or_at_zero():
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x


def test_the_seed_decides():
    torch.manual_seed(3)
    first = dropout(torch.ones(999), 0.5, training=True)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(torch.ones(999), 0.5, training=True))
