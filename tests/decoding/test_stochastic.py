"""Stochastic beam search draws without replacement, and depends on nothing but seed, sentence and hypothesis."""

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from slow_search import next_log_probabilities, sides, tiny_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.text.vocabulary import BOS, EOS, PAD, UNK

V = 7
model = cache(tiny_model)


def generate(config, sources, prefixes=None, seed=1, first=0):
    return list(Generator([model(7, V, scale=1.1)], config, sides, seed).generate(sources, prefixes, first=first))


def distribution(source, config, most):
    """Probability of every hypothesis under sampling: brute force."""
    found, live = {}, {(): 1.0}
    for length in range(most + 1):
        grown = {}
        for ids, probability in live.items():
            row = torch.tensor(next_log_probabilities([model(7, V, scale=1.1)], source, [list(ids)])[0])
            row[[PAD, UNK, BOS]] = float("-inf")
            if length < config.min_length_b:
                row[EOS] = float("-inf")
            row = (row / config.temperature).softmax(0) if length < most else torch.eye(V)[EOS]
            if config.top_k and length < most:
                row[row < row.topk(config.top_k).values[-1]] = 0
                row /= row.sum()
            for token in row.nonzero().flatten().tolist():
                where = found if token == EOS else grown
                where[ids if token == EOS else (*ids, token)] = probability * row[token].item()
        live = grown
    return found


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0}, {"top_k": 2}, {"min_length_b": 0}], ids=str)
def test_the_first_two_draws_are_without_replacement(options):
    config = DecodeConfig(search="stochastic_beam", beam_size=3, n_best=2, max_length_a=0, max_length_b=2,
                          batch_tokens=10**6, **options)  # fmt: skip
    n, source = 6000, [4, 6]
    p = distribution(source, config, 2)
    assert sum(p.values()) == pytest.approx(1)
    pairs = Counter(tuple(tuple(h.ids) for h in n_best) for n_best in generate(config, [source] * n))
    assert all(a != b and a in p and b in p for a, b in pairs)
    first = Counter(a for (a, _), count in pairs.items() for _ in range(count))
    for expected, counts in ((p, first), ({(a, b): p[a] * p[b] / (1 - p[a]) for a in p for b in p if a != b}, pairs)):
        cells = {key: n * q for key, q in expected.items() if n * q > 5}
        chi_square = sum((counts[key] - value) ** 2 / value for key, value in cells.items())
        assert chi_square < len(cells) + 5 * (2 * len(cells)) ** 0.5


def test_draws_do_not_depend_on_the_batch_but_on_seed_and_sentence():
    config = DecodeConfig(search="stochastic_beam", beam_size=4, n_best=3, max_length_a=1, max_length_b=4)
    sources = [[4, 5, 6], [5], [], [6, 6, 4, 4, 5, 5], [4, 5, 6]] * 5
    prefixes = [source[: i % 3] for i, source in enumerate(sources)]

    def ids(config, **options):
        return [[h.ids for h in n_best] for n_best in generate(config, sources, prefixes, **options)]

    together = ids(config)
    for slots in (1, 2, 7, None):
        assert ids(replace(config, slots=slots, batch_tokens=100)) == together
    for i, (source, prefix) in enumerate(zip(sources, prefixes, strict=True)):
        assert [h.ids for h in generate(config, [source], [prefix], first=i)[0]] == together[i]
        assert all(path[: len(prefix)] == prefix for path in together[i])
        assert len({tuple(path) for path in together[i]}) == (3 if source else 1)
    assert together[0] != together[20]
    assert ids(config, seed=2) != together


def test_reported_scores_are_the_models():
    config = DecodeConfig(search="stochastic_beam", temperature=3.0, n_best=5, max_length_b=4, word_reward=0.2)
    generator = Generator([model(7, V, scale=1.1)], config, sides)
    (n_best,) = generator.generate([[4, 5]])
    assert len(n_best) == 5
    for h in n_best:
        (scored,) = generator.score([[4, 5]], [h.ids])
        assert h.token_log_probabilities == pytest.approx(scored.token_log_probabilities, abs=1e-9)
        assert h.score == pytest.approx(scored.score, abs=1e-9)


def test_a_beam_that_covers_everything_returns_everything():
    config = DecodeConfig(search="stochastic_beam", beam_size=60, n_best=60, max_length_a=0, max_length_b=3)
    (n_best,) = generate(config, [[4]])
    assert sorted(tuple(h.ids) for h in n_best) == sorted(distribution([4], config, 3))
