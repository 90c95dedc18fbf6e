"""Sampling follows the filtered softmax and depends on nothing but seed, sentence, sample number and step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from slow_search import next_log_probabilities, sides, tiny_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.limits import Limits
from s2s.decoding.noise import mix, uniform
from s2s.decoding.search.sampling import draw
from s2s.decoding.sentence import Sentence
from s2s.text.vocabulary import BOS, EOS, PAD, UNK

V = 11


@pytest.fixture(scope="module")
def model():
    return tiny_model(7, V, scale=1.3)


def generate(model, config, sources, seed=1, **options):
    return list(Generator([model], config, sides, seed).generate(sources, **options))


def filtered(row, temperature=1.0, top_k=0, top_p=1.0, epsilon=0.0):
    """Probabilities of the first token by the definition: mask, temperature, top-k, top-p, epsilon, renormalised."""
    order = sorted((t for t in range(V) if t not in (PAD, UNK, BOS, EOS)), key=lambda t: -row[t])
    order = order[: top_k or None]
    weights = {t: torch.tensor(row[t] / temperature).exp().item() for t in order}
    total, kept, mass = sum(weights.values()), [], 0.0
    for t in order:
        if mass < top_p or not kept:
            kept.append(t)
        mass += weights[t] / total
    total = sum(weights[k] for k in kept)
    kept = [t for t in kept if weights[t] / total >= epsilon] or kept[:1]
    return {t: weights[t] / sum(weights[k] for k in kept) for t in kept}


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.6},
                {"top_k": 5, "top_p": 0.8, "temperature": 1.5}, {"top_k": 1}, {"top_p": 0.0},
                {"epsilon": 0.1}, {"epsilon": 0.99}, {"top_p": 0.9, "epsilon": 0.15, "temperature": 2.0}]
)  # fmt: skip
def test_the_first_token_follows_the_filtered_softmax(model, options):
    n = 4000
    config = DecodeConfig(search="sample", n_best=n, max_length_a=0, max_length_b=1, batch_tokens=10**6, **options)
    counts = torch.zeros(V)
    for hypothesis in generate(model, config, [[4, 9]])[0]:
        counts[hypothesis.ids[0]] += 1
    expected = filtered(next_log_probabilities([model], [4, 9], [[]])[0], **options)
    assert set(counts.nonzero().flatten().tolist()) <= set(expected)
    chi_square = sum((counts[t].item() - n * p) ** 2 / (n * p) for t, p in expected.items())
    assert chi_square < 30  # 6 degrees of freedom at most: one in 25,000, were the seed not fixed


def test_later_tokens_follow_the_softmax_too(model):
    config = DecodeConfig(search="sample", n_best=6000, max_length_a=0, max_length_b=2, batch_tokens=10**6)
    seconds = [h.ids[1] if len(h.ids) > 1 else EOS for h in generate(model, config, [[4, 9]])[0] if h.ids[0] == 5]
    row = torch.tensor(next_log_probabilities([model], [4, 9], [[5]])[0])
    row[[PAD, UNK, BOS]] = float("-inf")
    expected = row.softmax(0)
    counts = torch.bincount(torch.tensor(seconds), minlength=V)
    assert len(seconds) > 300
    possible = expected > 0
    chi_square = ((counts - len(seconds) * expected) ** 2 / (len(seconds) * expected))[possible].sum()
    assert chi_square < 32


def test_samples_do_not_depend_on_the_batch_but_on_seed_sentence_and_number(model):
    sources = [[4, 5, 6], [7], [], [8, 8, 9, 10, 4, 4]] * 6
    config = DecodeConfig(search="sample", n_best=3, max_length_a=1, max_length_b=5)

    def ids(results):
        return [[h.ids for h in n_best] for n_best in results]

    together = ids(generate(model, config, sources))
    for i, source in enumerate(sources):
        assert ids(generate(model, config, [source], first=i)) == [together[i]]
    assert ids(generate(model, replace(config, batch_tokens=50), sources)) == together
    fewer = ids(generate(model, replace(config, n_best=2), sources))
    assert fewer == [n_best[:2] for n_best in together]
    assert together[0] != together[4]  # the same source elsewhere
    assert ids(generate(model, config, sources, seed=2)) != together
    drawn = [tuple(path) for n_best in together for path in n_best if path]
    assert len(set(drawn)) > len(drawn) / 2


def test_samples_keep_limits_and_report_the_models_own_probabilities(model):
    sources = [[4, 5, 6], [7], [8, 8, 9, 10]]
    config = DecodeConfig(search="sample", n_best=20, temperature=3.0, top_k=6, min_length_b=2, max_length_a=0.5,
                          max_length_b=2)  # fmt: skip
    generator = Generator([model], config, sides)
    for source, n_best in zip(sources, generator.generate(sources, [[], [6], []]), strict=True):
        assert len(n_best) == 20
        for hypothesis in n_best:
            assert 2 <= len(hypothesis.ids) <= 2 + len(source) // 2
            assert not set(hypothesis.ids) & {PAD, UNK, BOS, EOS}
            assert source != [7] or hypothesis.ids[0] == 6
            (scored,) = generator.score([source], [hypothesis.ids])
            assert hypothesis.token_log_probabilities == pytest.approx(scored.token_log_probabilities, abs=1e-9)
            assert hypothesis.score == pytest.approx(scored.score, abs=1e-9)


def test_a_draw_is_the_inverse_of_the_cumulative_distribution_by_hand():
    logits = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.25]).log().expand(6, 5)
    numbers = torch.tensor([1e-9, 0.2, 0.3, 0.74, 0.76, 1 - 1e-9], dtype=torch.float64)
    assert draw(logits, numbers).tolist() == [1, 1, 2, 2, 4, 4]


def test_hashed_numbers_are_uniform_and_independent():
    keys = mix(mix(torch.zeros(200, dtype=torch.int64), 3), torch.arange(200))
    numbers = uniform(torch.stack([mix(keys, step) for step in range(500)]))
    assert numbers.min() > 0
    assert numbers.max() < 1
    counts = torch.histc(numbers.float(), 50, 0, 1)
    assert ((counts - 2000) ** 2 / 2000).sum() < 100  # 49 degrees of freedom
    assert numbers.flatten().unique().numel() > 99_990
    for other in (numbers.roll(1, 0), numbers.roll(1, 1)):
        assert torch.corrcoef(torch.stack([numbers.flatten(), other.flatten()]))[0, 1].abs() < 0.015


def test_the_hash_is_splitmix64():
    # First outputs of the published generator with seed 1234567.
    state = torch.tensor([1234567])
    found = [int(mix(state, step)) % 2**64 for step in range(3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_limits_of_slots():
    config = DecodeConfig(min_length_a=0.5, min_length_b=1, max_length_a=1.5, max_length_b=2)
    sentences = [Sentence(0, [9] * 3, [5, 6]), Sentence(1, [9] * 10, [])]
    limits = Limits(config, 3, sentences, "cpu")
    assert (limits.steps, limits.early(), limits.late(), limits.forced()) == (18, None, None, None)
    limits.admit(torch.tensor([2, 0]), np.array([2, 0]), sentences)
    assert limits.shortest.tolist() == [6, 0, 2]
    assert limits.longest.tolist() == [17, 18, 6]
    forced, token = limits.forced()
    assert forced.squeeze(1).tolist() == [False, False, True]
    assert int(token[2]) == 5
    for _ in range(6):
        limits.advance()
    assert limits.forced() is None
    assert limits.early() is None
    assert limits.late().squeeze(1).tolist() == [False, False, True]
    limits.free(torch.tensor([2]), np.array([2]))
    limits.release(torch.tensor([0]), np.array([0]), 2)
    assert limits.late() is None
    assert limits.longest.tolist() == [17, 18]
