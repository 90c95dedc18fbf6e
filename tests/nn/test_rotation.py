"""Rotary positions: the tables are made once, and serve all layers, searches and trainings."""

import math

import pytest
import torch

from s2s.nn import positions
from s2s.nn.positions import rotate


def slow(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rotary positions by complex numbers; x: [B, H, T, d], places: [B, T]."""
    half = x.size(-1) // 2
    angles = places[:, None, :, None].double() * torch.tensor([math.pow(10000, -j / half) for j in range(half)])
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


@pytest.fixture
def calls(monkeypatch):
    """The calls that compute angles, from an empty table."""
    calls, plain = [], positions.turns
    monkeypatch.setattr(positions, "_tables", {})
    monkeypatch.setattr(positions, "turns", lambda places, width: calls.append(places.shape) or plain(places, width))
    return calls


def test_tables_are_made_once(calls):
    x = torch.randn(2, 3, 600, 8)
    for length in (5, 600, 17, 600):
        places = torch.arange(length).expand(2, -1)
        torch.testing.assert_close(
            rotate(x[:, :, :length]), slow(x[:, :, :length], places).float(), rtol=1e-4, atol=1e-4
        )
    assert calls == [(512,), (1024,)]
    places = torch.tensor([[4, 0], [900, 3]])
    for _ in range(3):
        torch.testing.assert_close(rotate(x[:, :, :2], places), slow(x[:, :, :2], places).float(), rtol=1e-4, atol=1e-4)
    assert len(calls) == 3


def test_a_training_after_a_search(calls):
    with torch.inference_mode():
        rotate(torch.randn(1, 1, 4, 8))
    x = torch.randn(1, 2, 4, 8, dtype=torch.double, requires_grad=True)
    with torch.inference_mode():
        rotate(x)
    assert torch.autograd.gradcheck(rotate, (x,))
    places = torch.tensor([[3, 1, 0, 9]])
    assert torch.autograd.gradcheck(lambda y: rotate(y, places), (x,))
    assert len(calls) == 3  # tables of fp32 and fp64, and these places


def test_bf16_has_tables_of_its_own(calls):
    x = torch.randn(1, 2, 4, 8)
    assert rotate(x.bfloat16()).dtype == torch.bfloat16
    assert rotate(x).dtype == torch.float32
    assert len(calls) == 2
