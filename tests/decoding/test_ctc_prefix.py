"""CTC's prefix scores, with and without kernels, are held to the textbook recursion and to PyTorch's loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ctc import empty, ended, extended
from test_ctc import SYMBOLS, frames, loss

from s2s.decoding.hypothesis import NEVER
from s2s.decoding.scorers.ctc_prefix import PrefixScores, token_log_probabilities

LABELS = SYMBOLS[1:]
ways = pytest.mark.parametrize("native", [False, True])
lengths = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def close(found, expected, native):
    if expected == NEVER:
        assert found == NEVER
    else:
        assert found == pytest.approx(expected, abs=2e-4 if native else 1e-9)


class Reference:
    """One row."""

    def __init__(self, x):
        self.x, self.ids, self.psi, self.state = x, [], 0.0, empty(x)

    def score(self, label):
        return extended(self.x, self.state, self.ids, label)[1] - self.psi

    def end(self):
        return ended(self.state) - self.psi

    def then(self, label):
        new = Reference(self.x)
        new.state, new.psi = extended(self.x, self.state, self.ids, label)
        new.ids = [*self.ids, label]
        return new


@ways
@given(lengths, st.integers(0, 1000), st.sampled_from([0.5, 3.0, 30.0]), st.data())
@settings(max_examples=60)
def test_the_textbook_recursion(native, lengths, seed, scale, data):
    K = 3
    x, sizes = frames(*lengths, seed=seed, scale=scale)
    state = PrefixScores(x, sizes, K, native)
    rows = [[Reference(row[:length].tolist())] * K for row, length in zip(x, lengths, strict=True)]
    for _ in range(data.draw(st.integers(1, 8))):
        tokens = torch.tensor([[data.draw(st.permutations(LABELS)) for _ in range(K)] for _ in lengths])
        values, ends = state.score(tokens)
        chosen = []
        for b, mine in enumerate(rows):
            possible = []
            for k, row in enumerate(mine):
                if row.psi == NEVER:  # a row that is not live
                    continue
                close(ends[b, k], row.end(), native)
                for c, label in enumerate(tokens[b, k].tolist()):
                    close(values[b, k, c], row.score(label), native)
                    if values[b, k, c] > -100:
                        possible.append((k, label))
            chosen.append([data.draw(st.sampled_from(possible or [(0, 4)])) for _ in range(K)])
            rows[b] = [mine[k].then(label) for k, label in chosen[b]]
        state.advance(*torch.tensor(chosen).unbind(2))


@ways
@given(st.lists(st.lists(st.sampled_from(LABELS), max_size=9), min_size=1, max_size=4), st.integers(0, 1000))
@settings(max_examples=60)
def test_whole_hypotheses_have_the_loss_of_pytorch(native, targets, seed):
    sizes = [2 * len(ids) + 3 for ids in targets]
    x, lengths = frames(*sizes, seed=seed)
    alone = [[ids] for ids in targets]
    two = [[ids, ids[::-1]] for ids in targets]
    for some in (alone, two):
        found = token_log_probabilities(PrefixScores(x, lengths, len(some[0]), native), some)
        for row, length, mine, values in zip(x, sizes, some, found, strict=True):
            for ids, each in zip(mine, values, strict=True):
                assert len(each) == len(ids) + 1
                assert sum(each) == pytest.approx(loss(row, length, ids), abs=1e-4)


@ways
def test_labels_that_do_not_fit_into_the_frames(native):
    x, sizes = frames(2, 1)
    state = PrefixScores(x, sizes, 1, native)
    state.advance(torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[4], [4]]))
    values, ends = state.score(torch.tensor([[[4, 5]], [[4, 5]]]))
    assert values[0, 0, 0] == values[1, 0, 0] == values[1, 0, 1] == NEVER  # the same label again needs a third frame
    assert values[0, 0, 1] > NEVER
    assert (ends > NEVER).all()


@ways
@given(st.lists(st.sampled_from(["advance", "reorder", "admit", "release"]), min_size=1, max_size=20),
       st.integers(0, 1000))  # fmt: skip
@settings(max_examples=50)
def test_sentences_that_come_and_go_have_the_scores_that_they_have_alone(native, events, seed):
    random, K, V = torch.Generator().manual_seed(seed), 2, 9
    draw = lambda *shape: torch.randint(4, V, shape, generator=random)  # noqa: E731

    def fresh(number, slots=None):
        sizes = [1 + (number * 7) % 11, 3, 5 + number % 3]
        x, lengths = frames(*sizes, seed=number, vocabulary=V)
        if slots is None:
            return PrefixScores(x, lengths, K, native)
        return PrefixScores(x[slots : slots + 1, : sizes[slots]], lengths[slots : slots + 1], K, native)

    state = fresh(0).empty(3)
    state.admit(torch.arange(3), fresh(1), torch.tensor([2, 0, 1]))
    alone = [fresh(1, 2), fresh(1, 0), fresh(1, 1)]
    for event in events:
        size = len(alone)
        if event == "advance":
            parents, tokens = torch.randint(K, (size, K), generator=random), draw(size, K)
            state.advance(parents, tokens)
            for b, one in enumerate(alone):
                one.advance(parents[b : b + 1], tokens[b : b + 1])
        elif event == "reorder":
            parents = torch.randint(K, (size, K), generator=random)
            state.reorder((parents + K * torch.arange(size)[:, None]).flatten())
            for b, one in enumerate(alone):
                one.reorder(parents[b])
        elif event == "admit":
            number, slot = int(torch.randint(30, (), generator=random)), int(torch.randint(size, (), generator=random))
            state.admit(torch.tensor([slot]), fresh(number), torch.tensor([0]))
            alone[slot] = fresh(number, 0)
        else:
            keep = torch.randperm(size, generator=random)[: max(1, size - 1)].sort().values
            state.release(keep, len(keep))
            alone = [alone[i] for i in keep.tolist()]
        tokens = draw(len(alone), K, 3)
        values, ends = state.score(tokens)
        for b, one in enumerate(alone):
            mine, end = one.score(tokens[b : b + 1])
            tolerance = 0 if native else 1e-12  # the kernels: in every bit
            torch.testing.assert_close(values[b], mine[0], atol=tolerance, rtol=tolerance)
            live = one.psi[0] > -1e20
            torch.testing.assert_close(ends[b][live], end[0][live], atol=tolerance, rtol=tolerance)


def test_a_long_recording_keeps_its_precision():
    x, sizes = frames(3000, scale=8.0)
    ids = [4, 5, 6, 6, 4] * 40
    found = [sum(token_log_probabilities(PrefixScores(x, sizes, 1, native), [[ids]])[0][0]) for native in (True, False)]
    assert found[1] == pytest.approx(loss(x[0], 3000, ids), rel=1e-9)
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert math.isfinite(found[0])
