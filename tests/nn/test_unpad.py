"""Taking the padding out and putting it back, values and gradients."""

import torch

from s2s.nn.unpad import RealTokens


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
