"""Plans of every strategy, on hand-made and random lengths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s import registry
from s2s.data.plan import STRATEGIES, PlanConfig, batch_cost, kept_together, plan

lengths = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=200)
configs = st.builds(
    PlanConfig,
    batching=st.sampled_from(STRATEGIES),
    batch_tokens=st.integers(1, 400),
    cost=st.sampled_from(registry.names("cost")),
    quadratic=st.none() | st.floats(1, 500),
    batch_sentences=st.none() | st.integers(1, 20),
    batch_multiple=st.sampled_from([1, 1, 2, 8]),
    row_tokens=st.none() | st.integers(1, 100),
)
seeds = st.integers(0, 2**31)


def rows_of(plan, number):
    """The rows of a batch, each as an array of examples."""
    batch = plan.batches[number]
    sizes = np.ones(len(batch), int) if plan.rows is None else plan.rows[number]
    return np.split(batch, np.cumsum(sizes)[:-1]) if len(batch) else []


@given(lengths, configs, seeds, st.integers(1, 5), st.booleans())
def test_every_example_once_and_no_batch_over_budget_unless_alone(pairs, config, seed, group, shuffled):
    source, target = np.array(pairs).T
    rng = np.random.default_rng(seed) if shuffled else None
    made = plan(source, target, config, rng, group)
    assert sorted(i for batch in made.batches for i in batch) == list(range(len(pairs)))
    for number, batch in enumerate(made.batches):
        rows = rows_of(made, number)
        if not rows:
            assert group > 1
            assert len(pairs) < 3 * group * 20
            continue
        longest = [max(int(side[row].sum()) for row in rows) for side in (source, target)]
        assert len(rows) * batch_cost(config, *longest) <= config.batch_tokens or len(batch) == 1
        assert config.batch_sentences is None or len(rows) <= config.batch_sentences
    assert made.oversized == sum(batch_cost(config, *pair) > config.batch_tokens for pair in pairs)
    assert made.empty == sum(min(pair) == 0 for pair in pairs)


@given(lengths, configs, seeds)
def test_padding_is_that_of_the_batches(pairs, config, seed):
    sides = np.array(pairs).T
    made = plan(*sides, config, np.random.default_rng(seed))
    for side, (real, padding), share in zip(
        sides, (made.source, made.target), (made.source_padding, made.target_padding), strict=True
    ):
        size = 0
        for number in range(len(made.batches)):
            sums = [int(side[row].sum()) for row in rows_of(made, number)]
            size += len(sums) * max(sums)
        assert (real, padding) == (side.sum(), size - side.sum())
        assert np.isclose(share, padding / max(1, size))


@given(lengths, configs, seeds, st.integers(2, 5))
def test_batches_of_a_group_are_alike(pairs, config, seed, group):
    """A step of several ranks: as many batches as ranks, and as many rows in each, but for one."""
    source, target = np.array(pairs).T
    made = plan(source, target, config, np.random.default_rng(seed), group)
    assert len(made.batches) % group == 0
    counts = np.array([len(rows_of(made, number)) for number in range(len(made.batches))]).reshape(-1, group)
    assert (counts.max(1) - counts.min(1) <= 1).all()
    if made.rows is None and len(pairs) >= 40 * group:
        assert counts.min() > 0


@given(lengths, configs, seeds, st.integers(1, 4))
def test_a_group_has_one_tag(pairs, config, seed, group):
    source, target = np.array(pairs).T
    tags = np.random.default_rng(seed).integers(0, 3, len(pairs))
    made = plan(source, target, config, np.random.default_rng(seed), group, tags)
    assert sorted(i for batch in made.batches for i in batch) == list(range(len(pairs)))
    for start in range(0, len(made.batches), group):
        assert len({int(tag) for batch in made.batches[start : start + group] for tag in tags[batch]}) == 1


@pytest.mark.parametrize("batching", STRATEGIES)
def test_same_seed_same_plan_and_membership_changes_with_the_epoch(batching):
    rng = np.random.default_rng(0)
    source, target = rng.integers(5, 40, (2, 3000))

    def of(seed, epoch):
        return plan(source, target, PlanConfig(batching, 500), np.random.default_rng([seed, epoch]))

    first, again, second = of(1, 1), of(1, 1), of(1, 2)
    assert [b.tolist() for b in first.batches] == [b.tolist() for b in again.batches]
    assert kept_together(first, second) < 0.65


def test_kept_together_counts_pairs():
    def made(*batches):
        return plan(np.ones(6), np.ones(6), PlanConfig(batch_tokens=3), None).__class__(
            [np.array(batch) for batch in batches], None, (6, 0), (6, 0), 0, 0
        )

    first = made([0, 1, 2], [3, 4, 5])
    assert kept_together(first, first) == 1
    assert kept_together(first, made([0, 3], [1, 4], [2, 5])) == 0
    assert kept_together(first, made([2, 1, 3], [5, 4, 0])) == 2 / 6  # 1 with 2, and 4 with 5


@pytest.mark.parametrize("deviation", [0.3, 0.6, 1.0])
def test_packing_leaves_hardly_any_padding(deviation):
    rng = np.random.default_rng(0)
    source = 1 + np.maximum(1, rng.lognormal(3, deviation, 50_000)).astype(int)
    target = np.maximum(2, source * rng.lognormal(0, 0.15, 50_000)).astype(int)
    for budget, limit in ((4096, 0.01), (16384, 0.02)):
        made = plan(source, target, PlanConfig("packed", budget), rng)
        assert max(made.source_padding, made.target_padding) < limit


def test_sorting_keeps_padding_low():
    rng = np.random.default_rng(0)
    source = np.maximum(1, rng.lognormal(3, 0.5, 20_000)).astype(int)
    target = np.maximum(1, source * rng.lognormal(0, 0.15, 20_000)).astype(int)
    made = plan(source, target, PlanConfig(), rng)
    assert made.target_padding < 0.1
    assert made.source_padding < 0.1


def test_more_buckets_leave_less_padding():
    rng = np.random.default_rng(0)
    source, target = rng.integers(1, 60, (2, 50_000))

    def padding(batching, *buckets):
        made = plan(source, target, PlanConfig(batching, 1024, buckets=list(buckets)), np.random.default_rng(1))
        return made.source_padding + made.target_padding

    assert padding("bucket_1d", 30) < padding("bucket_1d", 3)
    assert padding("bucket_2d", 12, 12) < padding("bucket_2d", 3, 3)
    assert padding("bucket_2d", 6, 6) < padding("bucket_1d", 36)  # both sides are random here


def test_a_bucket_has_one_batch_size():
    rng = np.random.default_rng(0)
    source, target = rng.integers(1, 41, (2, 10_000))
    made = plan(source, target, PlanConfig("bucket_1d", 400, buckets=[4]), rng)
    _sizes, counts = np.unique([len(batch) for batch in made.batches], return_counts=True)
    assert sum(sorted(counts)[-4:]) >= 0.98 * counts.sum()  # all but those at the edges


def test_costs_by_hand():
    def sizes(**options):
        made = plan(np.array([4] * 12), np.array([6] * 12), PlanConfig(batch_tokens=48, **options), None)
        return [len(batch) for batch in made.batches]

    assert sizes(cost="max") == [8, 4]
    assert sizes(cost="source") == [12]
    assert sizes(cost="target") == [8, 4]
    assert sizes(cost="sum") == [4, 4, 4]
    assert sizes(cost="product") == [2] * 6
    assert sizes(cost="max", quadratic=6.0) == [4, 4, 4]  # 6 + 36/6 = 12
    assert sizes(cost="max", batch_sentences=5) == [5, 5, 2]
    assert sizes(cost="max", batch_multiple=3) == [6, 6]


def test_packed_rows_by_hand():
    """First-fit decreasing, equal sides: 7+3, 6+4, 5+5."""
    side = np.array([3, 7, 4, 6, 5, 5])
    made = plan(side, side, PlanConfig("packed", 10, row_tokens=10), None)
    rows = [sorted(side[row].tolist()) for number in range(len(made.batches)) for row in rows_of(made, number)]
    assert sorted(rows) == [[3, 7], [4, 6], [5, 5]]


def test_a_longer_example_doubles_its_row():
    side = np.array([15, 5, 4, 4, 2, 30])
    made = plan(side, side, PlanConfig("packed", 40, row_tokens=10), None)
    rows = [sorted(side[row].tolist()) for number in range(len(made.batches)) for row in rows_of(made, number)]
    assert sorted(rows) == [[2], [4, 5, 30], [4, 15]]


def test_without_randomness_batches_go_from_short_to_long():
    source = target = np.array([5, 1, 4, 2, 3])
    made = plan(source, target, PlanConfig(batch_tokens=6), None)
    assert [list(batch) for batch in made.batches] == [[1, 3], [4], [2], [0]]


def test_a_negative_length_is_an_error():
    with pytest.raises(ValueError, match="negative"):
        plan(np.array([1, -1]), np.array([1, 1]), PlanConfig(), None)
