"""CTC decoding is held to every alignment by brute force, and to PyTorch's loss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ctc import alignments, collapsed, totals

from s2s.decoding.ctc import BLANK, align, best_path, prefix_beam_search
from s2s.text.vocabulary import BOS, EOS, UNK

V = 7
SYMBOLS = (BLANK, 4, 5, 6)


def frames(*lengths, seed=0, scale=2.0, vocabulary=V):
    """Random log-probabilities [B, S, V] in which BOS, EOS and the unknown symbol have none."""
    x = scale * torch.randn(len(lengths), max(lengths), vocabulary, generator=torch.Generator().manual_seed(seed))
    x = x.double().index_fill(2, torch.tensor([UNK, BOS, EOS]), -math.inf).log_softmax(2)
    return x, torch.tensor(lengths)


def loss(x, length, ids):
    """PyTorch's log-probability of one hypothesis."""
    target = torch.tensor([ids], dtype=torch.int64).view(1, len(ids))
    sizes = torch.tensor([length]), torch.tensor([len(ids)])
    return -float(torch.nn.functional.ctc_loss(x[:length, None], target, *sizes, blank=BLANK, reduction="sum"))


falling = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(lambda lengths: sorted(lengths, reverse=True))


@given(falling, st.integers(0, 1000), st.sampled_from([0.5, 2.0, 8.0]))
@settings(max_examples=60)
def test_a_beam_that_holds_every_prefix_finds_what_brute_force_finds(lengths, seed, scale):
    x, sizes = frames(*lengths, seed=seed, scale=scale)
    for row, length, found in zip(x, lengths, prefix_beam_search(x, sizes, 400), strict=True):
        expected = totals(row[:length].tolist(), SYMBOLS)
        assert [ids for ids, _, _ in found[:5]] == [list(i) for i in sorted(expected, key=lambda i: -expected[i])[:5]]
        assert {tuple(ids): score for ids, score, _ in found} == pytest.approx(expected, abs=1e-9)
        for ids, score, _ in found[:3]:
            assert score == pytest.approx(loss(row, length, ids), abs=1e-6)


def one_by_one(x, beam_size):
    """Prefix beam search with a dictionary, of one sentence; as in Hannun et al. (2014), with all labels tried."""
    beam = {(): (0.0, -math.inf)}
    for frame in x.tolist():
        found = {}

        def add(ids, blank, label, found=found):
            old = found.get(ids, (-math.inf, -math.inf))
            found[ids] = np.logaddexp(old[0], blank), np.logaddexp(old[1], label)

        for ids, (blank, label) in beam.items():
            total = np.logaddexp(blank, label)
            add(ids, total + frame[BLANK], -math.inf)
            for symbol in SYMBOLS[1:]:
                if ids and ids[-1] == symbol:
                    add(ids, -math.inf, label + frame[symbol])
                    add((*ids, symbol), -math.inf, blank + frame[symbol])
                else:
                    add((*ids, symbol), -math.inf, total + frame[symbol])
        best = sorted(found, key=lambda ids: -np.logaddexp(*found[ids]))[:beam_size]
        beam = {ids: found[ids] for ids in best}
    return [(list(ids), float(np.logaddexp(*both))) for ids, both in beam.items()]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4).map(lambda lengths: sorted(lengths, reverse=True)),
       st.integers(0, 1000), st.integers(1, 6))  # fmt: skip
@settings(max_examples=60)
def test_a_narrow_beam_agrees_with_a_dictionary_of_prefixes(lengths, seed, beam_size):
    x, sizes = frames(*lengths, seed=seed)
    for row, length, found in zip(x, lengths, prefix_beam_search(x, sizes, beam_size), strict=True):
        expected = one_by_one(row[:length], beam_size)
        assert [ids for ids, _, _ in found] == [ids for ids, _ in expected]
        assert [score for _, score, _ in found] == pytest.approx([score for _, score in expected], abs=1e-9)


@given(falling, st.integers(0, 1000))
@settings(max_examples=60)
def test_the_best_path(lengths, seed):
    x, sizes = frames(*lengths, seed=seed)
    for row, length, found in zip(x, lengths, best_path(x, sizes), strict=True):
        labels, value = max(alignments(row[:length].tolist(), SYMBOLS), key=lambda pair: pair[1])
        assert tuple(found.ids) == collapsed(labels)
        assert found.score == found.log_probability == pytest.approx(value, abs=1e-9)
        assert sum(found.token_log_probabilities) == pytest.approx(value, abs=1e-9)
        assert len(found.token_log_probabilities) == len(found.ids) + 1


def test_a_token_of_the_best_path_has_the_frames_until_it_begins():
    x = torch.full((1, 6, V), -9.0)
    for t, (label, value) in enumerate([(BLANK, -1), (5, -2), (5, -3), (BLANK, -4), (6, -5), (BLANK, -6)]):
        x[0, t, label] = value
    (found,) = best_path(x, torch.tensor([6]))
    assert found.ids == [5, 6]
    assert found.token_log_probabilities == [-3, -12, -6]


def test_labels_that_are_none():
    x = torch.full((1, 2, V), -9.0)
    x[0, :, UNK], x[0, :, EOS], x[0, :, 4] = 0, 0, -1
    assert best_path(x, torch.tensor([2]))[0].ids == [4]
    assert best_path(x, torch.tensor([2]), unknown=True)[0].ids == [UNK]
    assert prefix_beam_search(x, torch.tensor([2]), 2)[0][0][0] == [4]
    assert prefix_beam_search(x, torch.tensor([2]), 2, unknown=True)[0][0][0] == [UNK]


def test_a_reward_makes_hypotheses_longer():
    x, sizes = frames(*[30] * 5)
    found = [sum(len(n_best[0][0]) for n_best in prefix_beam_search(x, sizes, 4, reward=r)) for r in (-3, 0, 3)]
    assert found[0] < found[1] < found[2]


@given(falling, st.integers(0, 1000), st.data())
@settings(max_examples=100)
def test_the_most_probable_alignment_of_a_target(lengths, seed, data):
    x, sizes = frames(*lengths, seed=seed)
    targets = [data.draw(st.lists(st.sampled_from(SYMBOLS[1:]), max_size=4)) for _ in lengths]
    for row, length, ids, found in zip(x, lengths, targets, align(x, sizes, targets), strict=True):
        ways = [way for way in alignments(row[:length].tolist(), SYMBOLS) if collapsed(way[0]) == tuple(ids)]
        if not ways:
            assert found is None
            continue
        labels = np.array(max(ways, key=lambda way: way[1])[0])
        begins = np.flatnonzero((labels != BLANK) & (labels != np.append(BLANK, labels[:-1])))
        ends = np.flatnonzero((labels != BLANK) & (labels != np.append(labels[1:], BLANK))) + 1
        assert found.tolist() == np.stack([begins, ends], axis=1).tolist()
