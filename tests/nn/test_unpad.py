"""Taking the padding out and putting it back, values and gradients."""

import pytest
import torch

from s2s.nn import unpad
from s2s.nn.attention import SelfAttention, length_mask
from s2s.nn.unpad import RealTokens, Sequences


def test_real_tokens_leave_their_rows_and_return_to_them():
    real = RealTokens(torch.tensor([[True, True, False], [True, False, False], [True, True, True]]))
    x = torch.arange(18.0).view(3, 3, 2).requires_grad_()
    tokens = real.unpad(x)
    assert tokens[:, 0].tolist() == [0, 2, 6, 12, 14, 16]
    tokens.retain_grad()
    rows = real.pad(tokens)
    assert rows[:, :, 1].tolist() == [[1, 3, 0], [7, 0, 0], [13, 15, 17]]
    rows.backward(torch.full_like(rows, 2.0))
    assert tokens.grad.tolist() == [[2, 2]] * 6
    assert x.grad[:, :, 0].tolist() == [[2, 2, 0], [2, 0, 0], [2, 2, 2]]


def slow_varlen(query, key, value, starts, key_starts, longest, key_longest, *, enable_gqa=False):
    """torch.nn.attention.varlen.varlen_attn by its documentation, for each sequence and head alone."""
    assert starts is key_starts
    assert starts.dtype == torch.int32
    assert longest == key_longest == int(starts.diff().max())
    group = query.size(1) // key.size(1)
    assert enable_gqa == (group > 1)
    result = torch.empty_like(query)
    for first, last in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        for head in range(query.size(1)):
            keys, values = key[first:last, head // group], value[first:last, head // group]
            weights = (query[first:last, head] @ keys.T / query.size(2) ** 0.5).softmax(1)
            result[first:last, head] = weights @ values
    return result


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("rotary", "scaled"), [(False, True), (True, False)])
def test_attention_without_padding_in_groups_and_at_once(monkeypatch, kv_heads, rotary, scaled):
    """A GPU's attention at once has a stand-in here."""
    torch.manual_seed(0)
    attention = SelfAttention(32, 4, kv_heads, 0.1, False, rotary, scaled).eval()
    lengths = torch.tensor([3, 7, 1, 3, 6])
    x, mask = torch.randn(5, 7, 32), length_mask(lengths, 7)
    expected = RealTokens(mask[:, 0, 0]).unpad(attention(x, mask))
    real = Sequences(mask[:, 0, 0])
    assert real.groups == [(1, 1), (2, 3), (1, 6), (1, 7)]
    tokens = real.unpad(x)
    torch.testing.assert_close(attention(tokens, mask, real), expected, rtol=1e-5, atol=1e-6)
    calls = []
    monkeypatch.setattr(unpad, "varlen_attention", lambda qkv, attention: calls.append(1) or slow_varlen)
    torch.testing.assert_close(attention(tokens, mask, real), expected, rtol=1e-5, atol=1e-6)
    assert calls == [1]


def test_pytorchs_attention_at_once_takes_these_arguments(monkeypatch):
    """On a device without memory, where an operator only checks them."""
    varlen = pytest.importorskip("torch.nn.attention.varlen").varlen_attn
    attention = SelfAttention(32, 4, 2, 0.1, False, True).eval().bfloat16().to("meta")
    real = Sequences(torch.ones(2, 5, dtype=torch.bool))
    real.lengths, real.ends = real.lengths.to("meta"), real.ends.to("meta")
    monkeypatch.setattr(unpad, "varlen_attention", lambda qkv, attention: varlen)
    result = attention(torch.empty(10, 32, dtype=torch.bfloat16, device="meta"), None, real)
    assert result.shape == (10, 32)


class Queries:
    """What `varlen_attention` asks of queries, keys and values."""

    def __init__(self, device, dtype):
        self.device, self.dtype = torch.device(device), dtype


def test_attention_at_once_is_for_a_gpu_in_half_precision_without_dropout():
    pytest.importorskip("torch.nn.attention.varlen")
    attention = SelfAttention(32, 4, 4, 0.1, False, False)
    half, single = Queries("cuda", torch.bfloat16), Queries("cuda", torch.float32)
    assert unpad.varlen_attention(half, attention) is None
    attention.eval()
    assert unpad.varlen_attention(half, attention) is not None
    assert unpad.varlen_attention(single, attention) is None
    assert unpad.varlen_attention(Queries("cpu", torch.bfloat16), attention) is None
    assert unpad.varlen_attention(half, SelfAttention(12, 2, 2, 0.0, False, False)) is None
