"""decode.temperature and decode.eos_scale in beam search: held to the slow searches."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ctc import joint_beam_search, tiny_joint
from slow_search import beam_search, sides, tiny_model
from test_beam_search import assert_same, configs, ragged

from s2s.backends.prepare import is_native
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError

V = 9
plain, joint = cache(tiny_model), cache(tiny_joint)
rates = st.sampled_from([(0.5, 1.0), (1.0, 0.6), (2.0, 0.8)])


def generate(config, sources, *models):
    return list(Generator(list(models), config, sides).generate(sources))


@given(configs(), rates, st.integers(0, 5), st.sampled_from(["linear", "log_linear", "joint"]))
@settings(max_examples=15)
def test_beam_search_agrees_with_the_slow_reference(config, rate, seed, kind):
    config = replace(config, temperature=rate[0], eos_scale=rate[1], ctc_weight=0.0 if kind != "joint" else 0.4)
    models = [joint(seed, V)] if kind == "joint" else [plain(seed, V), plain(seed + 1, V)][: 1 + seed % 2]
    config = replace(config, ensemble=kind if len(models) > 1 else "linear")
    slow = replace(config, stopping="exhaustive" if config.stopping == "best_possible" else config.stopping)
    sources = [source for source in ragged(3, seed=seed) if source]
    search = joint_beam_search if kind == "joint" else beam_search
    for n_best, source in zip(generate(config, sources, *models), sources, strict=True):
        assert_same(n_best, search(models, source, slow))


@pytest.mark.parametrize("rate", [{"temperature": 2.0}, {"eos_scale": 0.5}])
def test_the_kernels_do_the_same(rate):
    single, sources, found = tiny_model(2, 40).float(), [source for source in ragged(12, seed=3) if source], {}
    for backend in ("eager", "native"):
        config = DecodeConfig(n_best=5, backend=backend, slots=3, max_length_a=1, max_length_b=3, **rate)
        generator = Generator([single], config, sides)
        assert is_native(generator.model) == (backend == "native")
        found[backend] = list(generator.generate(sources))
    for mine, other in zip(found["native"], found["eager"], strict=True):
        assert [one.ids for one in mine] == [one.ids for one in other]
        for one, same in zip(mine, other, strict=True):
            assert one.token_log_probabilities == pytest.approx(same.token_log_probabilities, abs=1e-4)
    before = generate(DecodeConfig(n_best=5, max_length_a=1, max_length_b=3), sources, single)
    assert any(one[0].ids != other[0].ids for one, other in zip(before, found["native"], strict=True))


def test_hypotheses_end_earlier():
    lengths = [
        sum(len(n_best[0].ids) for n_best in generate(DecodeConfig(eos_scale=scale), ragged(20)[1:], plain(1, V)))
        for scale in (1.0, 0.7, 0.4, 0.1)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 4


@pytest.mark.parametrize("kind", ["one", "ensemble", "joint"])
def test_given_targets_are_rated_as_in_the_search(kind):
    models = {"one": [plain(1, V)], "ensemble": [plain(1, V), plain(2, V)], "joint": [joint(1, V)]}[kind]
    config = DecodeConfig(temperature=1.7, eos_scale=0.6, ctc_weight=0.3 if kind == "joint" else 0.0)
    sources = ragged(6)[1:]
    best = [n_best[0] for n_best in generate(config, sources, *models)]
    again = Generator(models, config, sides).score(sources, [one.ids for one in best])
    for one, other in zip(again, best, strict=True):
        assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"eos_scale": 0.5, "search": "sample", "ctc_weight": 0.0},
            r"eos_scale=0.5: does nothing with decode.search=sample; it goes with decode.search=beam",
        ),
        (
            {"temperature": 2.0, "speculative": "input", "beam_size": 1},
            "decode.temperature=2: does nothing with decode.speculative=input",
        ),
        ({"eos_scale": 0.5, "ctc_weight": 1.0}, "decode.eos_scale=0.5: does nothing with CTC alone"),
        ({"temperature": 2.0, "ctc_weight": 1.0}, "decode.temperature=2: does nothing with CTC alone"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        Generator([joint(1, V)], DecodeConfig(**options), sides)
