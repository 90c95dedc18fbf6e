"""Beam search is held to a slow reference and to brute force, on random ragged inputs; and to its own invariances."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_search import beam_search, collate, every_hypothesis, next_log_probabilities, normalised, sides, tiny_model

from s2s.decoding import engine
from s2s.decoding.budget import plan
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.scorers.ensemble import EnsembleScorer
from s2s.errors import UserError
from s2s.text.vocabulary import BOS, EOS, PAD, UNK

V = 9
model = cache(tiny_model)
tokens = st.integers(4, V - 1)


def generate(models, config, sources, prefixes=None, **options):
    return list(Generator(models, config, sides).generate(sources, prefixes, **options))


def assert_same(found, expected):
    """The same hypotheses, scores to rounding."""
    assert [hypothesis.ids for hypothesis in found] == [ids for ids, _, _ in expected]
    for hypothesis, (_, score, values) in zip(found, expected, strict=True):
        assert hypothesis.score == pytest.approx(score, abs=1e-9)
        assert hypothesis.token_log_probabilities == pytest.approx(values, abs=1e-9)
        assert hypothesis.log_probability == pytest.approx(sum(values), abs=1e-9)


@st.composite
def configs(draw):
    beam_size = draw(st.integers(1, 6))
    return DecodeConfig(
        beam_size=beam_size,
        n_best=draw(st.integers(1, beam_size)),
        length_penalty=draw(st.sampled_from([-0.5, 0.0, 0.6, 1.0, 2.0])),
        length_normalization=draw(st.sampled_from(["power", "gnmt"])),
        word_reward=draw(st.sampled_from([0.0, 0.4, -0.3, 2.0])),
        min_length_a=draw(st.sampled_from([0.0, 0.5])),
        min_length_b=draw(st.integers(0, 3)),
        max_length_a=draw(st.sampled_from([0.0, 1.0, 1.3])),
        max_length_b=draw(st.integers(0, 5)),
        stopping=draw(st.sampled_from(["first_finished", "best_possible", "worst_finished", "exhaustive"])),
        allow_unknown=draw(st.booleans()),
        batch_tokens=draw(st.sampled_from([1, 60, 1000])),
    )


@given(configs(), st.integers(0, 9), st.lists(st.tuples(st.lists(tokens, min_size=1, max_size=6),
       st.lists(st.integers(4, V - 1) | st.just(UNK), max_size=3)), min_size=1, max_size=4))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_beam_search_agrees_with_the_slow_reference(config, seed, pairs):
    models = [model(seed, V)]
    sources, prefixes = [source for source, _ in pairs], [prefix for _, prefix in pairs]
    found = generate(models, config, sources, prefixes)
    for n_best, source, prefix in zip(found, sources, prefixes, strict=True):
        # What `best_possible` promises is the result of the exhaustive search.
        rule = "exhaustive" if config.stopping == "best_possible" else config.stopping
        assert_same(n_best, beam_search(models, source, replace(config, stopping=rule), prefix))


@pytest.mark.parametrize("kind", [{"positions": "rotary"}, {"positions": "learned"}, {"kv_heads": 1}])
def test_beam_search_agrees_with_the_slow_reference_for_other_models(kind):
    models = [tiny_model(3, V, **kind)]
    config = DecodeConfig(n_best=5, max_length_a=1, max_length_b=3)
    sources = [[4, 5, 6], [8], [7, 7, 4, 5, 6]]
    for n_best, source in zip(generate(models, config, sources), sources, strict=True):
        assert_same(n_best, beam_search(models, source, config))


def test_a_word_reward_makes_hypotheses_longer():
    lengths = []
    for reward in (-3.0, 0.0, 3.0):
        config = DecodeConfig(word_reward=reward, stopping="best_possible", max_length_a=0, max_length_b=8)
        lengths.append(sum(len(n_best[0].ids) for n_best in generate([model(2, V)], config, ragged(20))))
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("normalization", ["power", "gnmt"])
@pytest.mark.parametrize("stopping", ["best_possible", "exhaustive"])
def test_a_beam_that_covers_everything_finds_what_brute_force_finds(stopping, normalization, alpha):
    models = [model(1, 7)]
    # 3 ordinary tokens and at most 3 of them: 27 live rows, 27 + 9 + 3 + 1 hypotheses.
    config = DecodeConfig(beam_size=60, n_best=40, length_penalty=alpha, length_normalization=normalization,
                          stopping=stopping, min_length_b=0, max_length_a=0, max_length_b=3)  # fmt: skip
    expected = every_hypothesis(models, [4, 6], config)
    assert len(expected) == 40
    assert_same(generate(models, config, [[4, 6]])[0], expected)


def ragged(count, seed=0, longest=9):
    numbers = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (count,), generator=numbers).tolist()
    return [torch.randint(4, V, (length,), generator=numbers).tolist() for length in lengths]


@pytest.mark.parametrize("stopping", ["first_finished", "best_possible", "exhaustive"])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_sentence_has_the_same_result_alone_in_any_batch_and_in_any_order(beam_size, stopping):
    config = DecodeConfig(beam_size=beam_size, n_best=beam_size, stopping=stopping, max_length_a=1, max_length_b=4)
    sources = ragged(40)
    alone = [generate([model(2, V)], config, [source])[0] for source in sources]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5)).tolist()
    for batch_tokens in (1, 90, 10**6):
        config = replace(config, batch_tokens=batch_tokens)
        together = generate([model(2, V)], config, sources)
        shuffled = dict(zip(order, generate([model(2, V)], config, [sources[i] for i in order]), strict=True))
        for i in range(40):
            expected = [(h.ids, h.score, h.token_log_probabilities) for h in alone[i]]
            assert_same(together[i], expected)
            assert_same(shuffled[i], expected)


@pytest.mark.parametrize("options", [{}, {"stopping": "best_possible"}, {"search": "sample"}], ids=str)
def test_slots_and_refilling_change_nothing(options, monkeypatch):
    """One sentence at a time, few slots that are refilled, as many slots as sentences, slots that grow in number."""
    config = DecodeConfig(n_best=3, max_length_a=1, max_length_b=6, **options)
    sources = ragged(40, longest=20)
    prefixes = [source[: i % 3] for i, source in enumerate(sources)]
    results = []
    for slots, share in ((1, 0.1), (2, 0.1), (3, 0.5), (7, 0.01), (100, 0.1), (None, 0.1)):
        monkeypatch.setattr(engine, "REFILL_SHARE", share)
        tokens = 200 if slots is None else 100_000
        generator = Generator([model(2, V)], replace(config, slots=slots, batch_tokens=tokens), sides)
        results.append([[(h.ids, round(h.score, 9)) for h in n] for n in generator.generate(sources, prefixes)])
    assert all(result == results[0] for result in results)


def test_finished_sentences_leave_whenever_they_finish(monkeypatch):
    config = DecodeConfig(n_best=5, max_length_a=1, max_length_b=4)
    sources = ragged(30)
    results = []
    for share, poll, delay in ((0.0, 1, 0), (0.1, 1, 0), (1.0, 1, 0), (0.3, 3, 1), (0.1, 20, 2)):
        monkeypatch.setattr(engine, "REFILL_SHARE", share)
        monkeypatch.setitem(engine.POLL_STEPS, "cpu", poll)
        monkeypatch.setitem(engine.POLL_DELAY, "cpu", delay)
        results.append([[h.ids for h in n_best] for n_best in generate([model(2, V)], config, sources)])
    assert all(result == results[0] for result in results)


def test_greedy_takes_the_most_probable_token_each_time():
    models, source = [model(6, V)], [5, 4, 8]
    config = DecodeConfig(beam_size=1, max_length_a=0, max_length_b=7)
    (hypothesis,) = generate(models, config, [source])[0]
    ids = []
    while len(ids) < 7:
        row = next_log_probabilities(models, source, [ids])[0]
        token = max((t for t in range(V) if t > UNK and t != BOS and (ids or t != EOS)), key=row.__getitem__)
        if token == EOS:
            break
        ids.append(token)
    assert hypothesis.ids == ids


def test_the_length_in_a_score_counts_eos_by_hand():
    source = [4, 5]
    for alpha, normalization, factor in ((1.0, "power", 4), (0.5, "power", 2), (1.0, "gnmt", 1.5), (0.0, "gnmt", 1)):
        config = DecodeConfig(length_penalty=alpha, length_normalization=normalization,
                              min_length_b=3, max_length_a=0, max_length_b=3)  # fmt: skip
        (best,) = generate([model(0, V)], config, [source])[0]
        assert len(best.ids) == 3
        assert len(best.token_log_probabilities) == 4  # three tokens and EOS
        assert best.score == pytest.approx(best.log_probability / factor)
        assert best.score == pytest.approx(normalised(best.log_probability, 3, config))
        assert best.truncated


def test_limits_follow_the_source_length_rounded_down():
    sources = [[4] * 3, [5] * 6]
    config = DecodeConfig(min_length_a=0.5, min_length_b=1, max_length_a=0.5, max_length_b=1)
    assert [len(n_best[0].ids) for n_best in generate([model(0, V)], config, sources)] == [2, 4]
    config = DecodeConfig(min_length_b=8, max_length_a=0, max_length_b=2)  # the maximum wins
    assert [len(n_best[0].ids) for n_best in generate([model(0, V)], config, sources)] == [2, 2]


def test_special_symbols_are_never_generated_and_unknown_only_if_allowed():
    loud = tiny_model(4, V)
    with torch.no_grad():
        loud.output.weight[[PAD, UNK, BOS]] = loud.output.weight[5] * 3
    seen = set()
    for allow in (False, True):
        config = DecodeConfig(n_best=5, allow_unknown=allow, max_length_a=0, max_length_b=6)
        ids = {i for n_best in generate([loud], config, ragged(20)) for h in n_best for i in h.ids}
        assert not ids & {PAD, BOS, EOS}
        seen.add(UNK in ids)
    assert seen == {False, True}


def test_a_prefix_is_kept_whole_and_counts_in_the_score():
    models, source, prefix = [model(5, V)], [4, 8, 8], [7, UNK, 7, 7]
    config = DecodeConfig(n_best=3, max_length_a=0, max_length_b=2)
    (only,) = generate(models, config, [source], [prefix])[0]  # the prefix is over the maximum: one hypothesis exists
    assert only.ids == prefix
    assert only.log_probability == pytest.approx(sum(next_log_probabilities(models, source, [[*prefix, EOS][:i]])[0][t]
                                                     for i, t in enumerate([*prefix, EOS])))  # fmt: skip


def test_an_empty_source_gives_an_empty_hypothesis_without_the_model():
    class Untouched(torch.nn.Module):
        max_length, max_source, has_decoder, has_ctc = None, None, True, False

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

    (n_best,) = generate([Untouched()], DecodeConfig(n_best=3), [[]])
    assert [(h.ids, h.score, h.token_log_probabilities) for h in n_best] == [([], 0.0, [])]
    assert generate([Untouched()], DecodeConfig(), []) == []


def test_best_possible_stops_before_exhaustive():
    class Counting:
        def __init__(self, inner):
            self.inner, self.steps = inner, 0

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def step(self, tokens, state):
            self.steps += 1
            return self.inner.step(tokens, state)

    steps = {}
    for stopping in ("first_finished", "best_possible", "exhaustive"):
        counting = Counting(model(7, V))
        config = DecodeConfig(stopping=stopping, length_penalty=0.6, max_length_a=0, max_length_b=40)
        generate([counting], config, [[4, 5, 6]])
        steps[stopping] = counting.steps
    assert steps["best_possible"] < steps["exhaustive"] == 41


def test_an_ensemble_of_one_model_twice_is_the_model():
    config = DecodeConfig(n_best=4, max_length_a=1, max_length_b=4)
    sources = ragged(10)
    once, twice = (generate([model(2, V)] * count, config, sources) for count in (1, 2))
    for one, two in zip(once, twice, strict=True):
        assert_same(two, [(h.ids, h.score, h.token_log_probabilities) for h in one])


def test_an_ensemble_averages_probabilities():
    models = [model(2, V), model(3, V), model(4, V)]
    config = DecodeConfig(n_best=4, max_length_a=1, max_length_b=3)
    sources = [[4, 5], [8, 7, 6]]
    for n_best, source in zip(generate(models, config, sources), sources, strict=True):
        assert_same(n_best, beam_search(models, source, config))


@pytest.mark.parametrize("kind", ["linear", "log_linear"])
@pytest.mark.parametrize("weights", [[], [3.0, 1.0, 0.5]])
def test_an_ensemble_is_a_weighted_average_of_either_kind(kind, weights):
    models = [model(2, V), model(3, V), model(4, V)]
    config = DecodeConfig(n_best=4, max_length_a=1, max_length_b=3, ensemble=kind, ensemble_weights=weights)
    sources = [[4, 5], [8, 7, 6]]
    generator = Generator(models, config, sides)
    for n_best, source in zip(generator.generate(sources), sources, strict=True):
        assert_same(n_best, beam_search(models, source, config))
        scored = list(generator.score([source] * 4, [h.ids for h in n_best]))
        assert_same(scored, [(h.ids, h.score, h.token_log_probabilities) for h in n_best])


def test_the_average_of_log_probabilities_is_normalised():
    scorer = EnsembleScorer([model(2, V), model(3, V)], "log_linear", [1.0, 2.0])
    values = scorer.score(collate([[4, 5]] * V), torch.full((V, 1), BOS), torch.arange(V)[:, None])
    assert values.exp().sum().item() == pytest.approx(1)


def test_ensemble_weights_are_one_positive_number_for_each_model():
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(UserError, match=r"decode.ensemble_weights=.*each of 2 models"):
            Generator([model(0, V)] * 2, DecodeConfig(ensemble_weights=weights), sides)


def test_an_ensemble_of_different_vocabularies_is_a_users_mistake():
    with pytest.raises(UserError, match="must share a target vocabulary"):
        Generator([model(0, 9), model(0, 7)], DecodeConfig(), sides)


def test_more_n_best_than_beams_is_a_users_mistake():
    with pytest.raises(UserError, match=r"decode.n_best=6: must be at most decode.beam_size=5"):
        Generator([model(0, V)], DecodeConfig(n_best=6), sides)


def test_progress_counts_every_sentence():
    counts = []
    generate([model(0, V)], DecodeConfig(batch_tokens=60), ragged(20), progress=counts.append)
    assert sum(counts) == 20
    assert len(counts) > 2


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 8), st.integers(1, 900))
def test_plan_holds_each_sentence_once_within_the_budget(lengths, rows, budget):
    batches = plan(lengths, rows, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        cost = len(batch) * rows * max(lengths[i] for i in batch)
        assert cost <= budget or len(batch) == 1


@given(st.lists(st.lists(tokens, max_size=5), min_size=1, max_size=6), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_scoring_its_own_hypotheses_gives_the_scores_of_the_search(sources, seed):
    generator = Generator([model(seed, V), model(seed + 1, V)], DecodeConfig(max_length_b=5, max_length_a=0), sides)
    found = [n_best[0] for n_best in generator.generate(sources)]
    scored = list(generator.score(sources, [hypothesis.ids for hypothesis in found]))
    for one, two in zip(found, scored, strict=True):
        assert_same([two], [(one.ids, one.score, one.token_log_probabilities)])
