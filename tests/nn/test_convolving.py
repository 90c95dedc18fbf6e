"""Convolutions in place of self-attention, against sums over single positions."""

import pytest
import torch
from torch.nn import functional

from s2s.errors import UserError
from s2s.nn.gated_convolution import GatedConvolution
from s2s.nn.light_convolution import LightConvolution

D, H, T = 8, 2, 7


def visible(kind):
    """bool [B, 1, 1 or T, T]: rows of 7 and 4 positions, or of two examples each."""
    if kind == "padded":
        return (torch.arange(T) < torch.tensor([T, 4])[:, None])[:, None, None]
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]])
    return (segments[:, :, None] == segments[:, None])[:, None]


def slow(block, x, mask):
    """One position after the other: [B, T, D]."""
    out = torch.zeros_like(x)
    values = functional.glu(block.inner(x), -1) if isinstance(block, LightConvolution) else x
    for b in range(len(x)):
        for t in range(T):
            window = []
            for j in range(block.kernel):
                s = t + j - block.before
                there = 0 <= s < T and (mask is None or bool(mask[b, 0, min(t, mask.size(2) - 1), s]))
                window.append(values[b, s] if there else torch.zeros(D))
            if isinstance(block, GatedConvolution):
                a, g = block.output(torch.cat(window)).chunk(2)
                out[b, t] = a * g.sigmoid()
                continue
            kernels = block.weight if block.kernels is None else block.kernels(values[b, t]).view(H, -1)
            for h in range(H):
                part = slice(h * D // H, (h + 1) * D // H)
                weights = kernels[h].softmax(0)
                out[b, t, part] = sum(weight * value[part] for weight, value in zip(weights, window, strict=True))
    return out if isinstance(block, GatedConvolution) else block.output(out)


BLOCKS = {
    "fconv": lambda kernel, causal: GatedConvolution(D, kernel, causal),
    "light": lambda kernel, causal: LightConvolution(D, H, kernel, causal, False, 0.0),
    "dynamic": lambda kernel, causal: LightConvolution(D, H, kernel, causal, True, 0.0),
}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize(("kernel", "causal"), [(3, False), (9, False), (1, True), (4, True), (11, True)])
@pytest.mark.parametrize("seen", ["everything", "padded", "packed"])
def test_a_convolution_is_the_sum_over_its_window(kind, kernel, causal, seen):
    torch.manual_seed(0)
    block, x = BLOCKS[kind](kernel, causal), torch.randn(2, T, D)
    mask = None if seen == "everything" else visible(seen)
    with torch.no_grad():
        actual, expected = block(x, mask), slow(block, x, mask)
    real = torch.ones(2, T, dtype=torch.bool) if seen != "padded" else visible(seen)[:, 0, 0]
    torch.testing.assert_close(actual[real], expected[real], rtol=1e-4, atol=1e-5)


def test_an_even_window_has_no_middle():
    with pytest.raises(UserError, match=r"model\.encoder.layer.kernel=4"):
        GatedConvolution(D, 4, causal=False)
