"""Schedules at points worked out by hand and against PyTorch's own."""

import pytest
import torch

from s2s import registry
from s2s.optim.schedule import learning_rate


@pytest.mark.parametrize("schedule", registry.names("schedule"))
def test_warmup_rises_linearly_to_the_peak(schedule):
    assert learning_rate(schedule, 1, 0.4, 4, 100) == pytest.approx(0.1)
    assert learning_rate(schedule, 3, 0.4, 4, 100) == pytest.approx(0.3)
    assert learning_rate(schedule, 4, 0.4, 4, 100) == pytest.approx(0.4)


def test_inverse_square_root_is_the_paper_formula():
    # Vaswani et al. 2017: d^-0.5 * min(u^-0.5, u * W^-1.5), whose peak is d^-0.5 * W^-0.5
    d, w = 512, 4000
    for update in (1, 100, 4000, 4001, 50_000):
        paper = d**-0.5 * min(update**-0.5, update * w**-1.5)
        assert learning_rate("inverse_sqrt", update, (d * w) ** -0.5, w, 10**6) == pytest.approx(paper)


def test_cosine_equals_pytorch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.1)
    for update in range(10, 101):
        assert learning_rate("cosine", update, 0.5, 10, 100, 0.1) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_linear_and_constant_by_hand():
    assert learning_rate("linear", 55, 1.0, 10, 100) == pytest.approx(0.5)
    assert learning_rate("linear", 55, 1.0, 10, 100, 0.2) == pytest.approx(0.6)
    assert learning_rate("linear", 200, 1.0, 10, 100, 0.2) == pytest.approx(0.2)
    assert learning_rate("constant", 10**6, 0.3, 0, 1) == 0.3
