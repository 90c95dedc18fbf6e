"""A language model beside attention, CTC and both is held to slow references."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ctc import ctc_frames, joint_beam_search, tiny_joint, totals
from slow_search import score, sides, tiny_model
from test_beam_search import assert_same, configs, ragged

from s2s.backends.prepare import _report
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.scorers.language_model import LanguageModelScorerConfig
from s2s.errors import UserError
from s2s.models.language_model import LanguageModel, LanguageModelConfig
from tests.specs import target_spec

V = 9
tokens = st.integers(4, V - 1)
model = cache(tiny_joint)


@cache
def language_model(seed=0, vocabulary=V):
    torch.manual_seed(seed)
    config = LanguageModelConfig()
    config.decoder.layers, config.decoder.width, config.decoder.heads, config.decoder.ffn_width = 2, 16, 2, 32
    found = LanguageModel(config, target_spec(vocabulary)).double().eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(1.6)
    return found


def generate(config, sources, models=None, **options):
    options = {"loaded": {"language_model": language_model()}, **options}
    return list(Generator(models or [model(1)], config, sides, **options).generate(sources))


@given(configs(), st.sampled_from([0.0, 0.4]), st.floats(-1.5, 1), st.integers(0, 5),
       st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=4))  # fmt: skip
@settings(max_examples=15)
def test_a_search_with_a_language_model_agrees_with_the_slow_reference(config, w, weight, seed, sources):
    config = replace(config, ctc_weight=w, language_model_weight=weight)
    found = generate(config, sources, [model(seed)])
    rule = "exhaustive" if config.stopping == "best_possible" else config.stopping
    slow = replace(config, stopping=rule)
    for n_best, source in zip(found, sources, strict=True):
        assert_same(n_best, joint_beam_search([model(seed)], source, slow, lm=language_model()))


@given(st.lists(st.lists(tokens, min_size=1, max_size=2), min_size=1, max_size=3), st.integers(0, 9), st.floats(-2, 2),
       st.sampled_from([0.0, 1.5]))  # fmt: skip
@settings(max_examples=10)
def test_ctc_alone_with_a_language_model_finds_the_best_of_all(sources, seed, weight, reward):
    config = DecodeConfig(ctc_weight=1.0, beam_size=300, n_best=4, language_model_weight=weight, word_reward=reward)
    for source, n_best in zip(sources, generate(config, sources, [model(seed)]), strict=True):
        x = ctc_frames(model(seed), source)
        possible = {ids: v for ids, v in totals(x, (0, *range(4, V))).items()}
        for ids in possible:
            possible[ids] += weight * sum(score([language_model()], source, list(ids))) + reward * len(ids)
        assert [tuple(h.ids) for h in n_best] == sorted(possible, key=lambda ids: -possible[ids])[:4]
        for one in n_best:
            assert one.score == pytest.approx(possible[tuple(one.ids)], abs=1e-9)


@pytest.mark.parametrize("w", [0.0, 0.4, 1.0])
def test_a_sentence_has_the_same_result_alone_and_in_any_batch(w):
    config = DecodeConfig(beam_size=3, n_best=3, max_length_a=1, max_length_b=4, ctc_weight=w)
    sources = ragged(20)
    alone = [generate(config, [source])[0] for source in sources]
    for slots in (2, 7):
        for some, one in zip(generate(replace(config, slots=slots), sources), alone, strict=True):
            assert_same(some, [(h.ids, h.score, h.token_log_probabilities) for h in one])


def test_with_and_without_kernels():
    results = {}
    one, other = tiny_joint(2, 40).float(), language_model(1, 40).float()
    for backend in ("eager", "native"):
        config = DecodeConfig(backend=backend, n_best=5, slots=3, ctc_weight=0.4, max_length_b=3, max_length_a=1)
        results[backend] = generate(config, ragged(20, seed=3), [one], loaded={"language_model": other})
    for mine, expected in zip(results["native"], results["eager"], strict=True):
        assert [h.ids for h in mine] == [h.ids for h in expected]
        for one, other in zip(mine, expected, strict=True):
            assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-4)


def test_that_further_scorers_need_the_plain_encoder_is_said(capsys):
    _report.cache_clear()
    plain = tiny_model(1, 40).float()
    for loaded in ({}, {"language_model": language_model(1, 40).float()}):
        assert capsys.readouterr().err == ""
        Generator([plain], DecodeConfig(backend="native"), sides, loaded=loaded)
    assert capsys.readouterr().err == ("decode.backend=native: encoding is slower, without compiled kernels: further "
                                       "scorers read the states of the encoder\n")  # fmt: skip


@pytest.mark.parametrize("w", [0.0, 0.4, 1.0])
def test_given_targets_are_scored(w):
    sources, targets = [[4, 5, 6, 7], [8, 8, 4]], [[4, 5], [6]]
    config = DecodeConfig(ctc_weight=w, language_model_weight=0.7)
    generator = Generator([model(1)], config, sides, loaded={"language_model": language_model()})
    for source, target, one in zip(sources, targets, generator.score(sources, targets), strict=True):
        attention, ctc = sum(score([model(1)], source, target)), totals(ctc_frames(model(1), source), range(V))
        expected = (1 - w) * attention + w * ctc[tuple(target)] + 0.7 * sum(score([language_model()], source, target))
        assert one.log_probability == pytest.approx(expected, abs=1e-9)


def test_an_ensemble_and_a_model_of_text_have_a_language_model_too():
    plain = tiny_model(1, V)
    once = generate(DecodeConfig(n_best=5), ragged(9), [plain])
    twice = generate(DecodeConfig(n_best=5), ragged(9), [plain, plain])
    assert [[h.ids for h in n_best] for n_best in once] == [[h.ids for h in n_best] for n_best in twice]
    without = generate(DecodeConfig(n_best=5), ragged(9), [plain], loaded={})
    assert [[h.ids for h in n_best] for n_best in once] != [[h.ids for h in n_best] for n_best in without]


@pytest.mark.parametrize("weight", [-1.0, -0.5])
def test_the_best_possible_is_not_missed_where_a_score_may_rise(weight):
    """log p(y|x) - l log p(y): what a language model finds unlikely adds to a score, which then has no bound."""
    config = DecodeConfig(beam_size=4, language_model_weight=weight, length_penalty=0.0, max_length_a=0,
                          max_length_b=10)  # fmt: skip
    models = [tiny_model(5, V)]
    best, whole = (
        generate(replace(config, stopping=rule), ragged(25), models) for rule in ("best_possible", "exhaustive")
    )
    assert [[(h.ids, h.score) for h in some] for some in best] == [[(h.ids, h.score) for h in some] for some in whole]
    assert any(h.log_probability > 0 for some in whole for h in some)


def test_several_language_models_by_name():
    """`decode.scorers=[general,own]`, each of type language_model."""
    scorers = {"general": LanguageModelScorerConfig(weight=0.4), "own": LanguageModelScorerConfig(weight=-0.3)}
    loaded = {"general": language_model(0), "own": language_model(1)}
    sources, targets = [[4, 5, 6, 7], [8, 8, 4]], [[4, 5], [6]]
    generator = Generator([tiny_model(1, V)], DecodeConfig(scorers=scorers), sides, loaded=loaded)
    for source, target, one in zip(sources, targets, generator.score(sources, targets), strict=True):
        parts = [sum(score([model], source, target)) for model in (tiny_model(1, V), *loaded.values())]
        assert one.log_probability == pytest.approx(parts[0] + 0.4 * parts[1] - 0.3 * parts[2], abs=1e-9)
    for (best, *_), source in zip(generator.generate(sources), sources, strict=True):
        (again,) = generator.score([source], [best.ids])
        assert best.score == pytest.approx(again.score, abs=1e-9)


def test_what_does_not_go_together():
    for options in ({"search": "sample"}, {"speculative": "input", "beam_size": 1}, {"shortlist": "a"}):
        with pytest.raises(UserError, match=r"decode.language_model=run"):
            DecodeConfig(language_model="run", **options).check()
    two = {name: LanguageModelScorerConfig() for name in ("one", "other")}
    with pytest.raises(UserError, match="goes with one language model, not with several"):
        generate(DecodeConfig(ctc_weight=1.0, scorers=two), [[4]], loaded=dict.fromkeys(two, language_model()))
    with pytest.raises(UserError, match="has 12 symbols, the model 9"):
        generate(DecodeConfig(), [[4]], loaded={"language_model": language_model(0, 12)})
