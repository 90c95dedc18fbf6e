"""The token-budget plan, on hand-made and random lengths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from s2s.data.plan import token_budget

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=200)


@given(lengths, st.integers(1, 300), st.integers(0, 2**31))
def test_every_example_once_and_no_batch_over_budget_unless_alone(pairs, budget, seed):
    source, target = np.array(pairs).T
    plan = token_budget(source, target, budget, np.random.default_rng(seed))
    assert sorted(i for batch in plan.batches for i in batch) == list(range(len(pairs)))
    for batch in plan.batches:
        cost = len(batch) * max(source[batch].max(), target[batch].max())
        assert cost <= budget or len(batch) == 1
    assert plan.oversized == sum(max(pair) > budget for pair in pairs)


@given(lengths, st.integers(1, 300), st.integers(0, 2**31))
def test_padding_shares_are_those_of_the_batches(pairs, budget, seed):
    source, target = np.array(pairs).T
    plan = token_budget(source, target, budget, np.random.default_rng(seed))
    for side, share in ((source, plan.source_padding), (target, plan.target_padding)):
        size = sum(len(batch) * side[batch].max() for batch in plan.batches)
        assert np.isclose(share, (size - side.sum()) / size)


def test_same_seed_same_plan_and_membership_changes_with_the_epoch():
    rng = np.random.default_rng(0)
    source, target = rng.integers(5, 40, (2, 3000))

    def plan(seed, epoch):
        batches = token_budget(source, target, 500, np.random.default_rng([seed, epoch])).batches
        return [tuple(batch) for batch in batches]

    assert plan(1, 1) == plan(1, 1)
    shared = {frozenset(batch) for batch in plan(1, 1)} & {frozenset(batch) for batch in plan(1, 2)}
    assert len(shared) < 0.2 * len(plan(1, 1))


def test_sorting_keeps_padding_low():
    rng = np.random.default_rng(0)
    source = np.maximum(1, rng.lognormal(3, 0.5, 20_000)).astype(int)
    target = np.maximum(1, source * rng.lognormal(0, 0.15, 20_000)).astype(int)
    plan = token_budget(source, target, 4096, rng)
    assert plan.target_padding < 0.02
    assert plan.source_padding < 0.15


def test_without_randomness_batches_go_from_short_to_long():
    source = target = np.array([5, 1, 4, 2, 3])
    plan = token_budget(source, target, 6, None)
    assert [list(batch) for batch in plan.batches] == [[1, 3], [4], [2], [0]]
