"""The compiled kernels are held to PyTorch's operators: state, choice, linear maps and whole searches."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from s2s.backends import prepare as backend
from s2s.backends.native import NativeLinear, native
from s2s.backends.prepacked import prepacked
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.search.beam import Beam, NativeBeam
from s2s.errors import UserError
from s2s.native import library
from tests.decoding.slow_search import collate, sides, tiny_model

V = 40
KINDS = [{}, {"positions": "rotary"}, {"positions": "learned"}, {"kv_heads": 1}, {"norm": "post"},
         {"activation": "gelu"}, {"activation": "swiglu"}]  # fmt: skip


def model(seed: int, **options):
    return tiny_model(seed, V, **options).float()


@st.composite
def situations(draw):
    """Logits, scores and limits of some slots in the middle of a search."""
    slots, rows, size = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.sampled_from([5, 9, 40, 300]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    scores = -10 * torch.rand(slots, rows, generator=random)
    scores[torch.rand(slots, rows, generator=random) < draw(st.sampled_from([0, 0.3, 1]))] = NEVER
    logits = 5 * torch.randn(slots * rows, size, generator=random)
    number = st.integers(0, 4)
    sentences = [SimpleNamespace(source=[4] * draw(number), prefix=draw(st.lists(st.integers(4, size - 1), max_size=2)))
                 for _ in range(slots)]  # fmt: skip
    config = DecodeConfig(allow_unknown=draw(st.booleans()), min_length_a=0.5, max_length_a=1,
                          min_length_b=draw(number), max_length_b=draw(number))  # fmt: skip
    limits = Limits(config, slots, sentences, "cpu")
    limits.admit(torch.arange(slots), np.arange(slots), sentences)
    done = torch.tensor([draw(number) for _ in range(slots)])
    limits.done[:, 0], limits.host[0] = done, done
    return config, limits, logits, scores


@given(situations())
@settings(max_examples=200)
def test_the_choice_of_a_step(situation):
    config, limits, logits, scores = situation
    normalizer = logits.logsumexp(1, keepdim=True)
    expected = Beam(config, "cpu")(logits.clone(), normalizer, scores, limits)
    found = NativeBeam(config, "cpu")(logits, None, scores, limits)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)
    live = expected.scores > NEVER
    assert torch.equal(found.tokens[live], expected.tokens[live])
    torch.testing.assert_close(found.log_probabilities[live], expected.log_probabilities[live], atol=1e-5, rtol=0)
    if expected.parents is not None:
        assert torch.equal(found.parents[live], expected.parents[live])
    torch.testing.assert_close(found.end_scores, expected.end_scores, atol=1e-5, rtol=0)
    ended = expected.end_scores > NEVER
    torch.testing.assert_close(
        found.end_log_probabilities[ended], expected.end_log_probabilities[ended], atol=1e-5, rtol=0
    )


@st.composite
def histories(draw):
    """What happens to a state: sentences come and go, and rows go on from each other."""
    slots, rows = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    one = st.one_of(
        st.just(("step",)),
        st.just(("step",)),
        st.tuples(st.just("admit"), st.integers(0, slots - 1)),
        st.tuples(st.just("release"), st.integers(1, slots)),
    )
    return slots, rows, draw(st.lists(one, min_size=1, max_size=40)), draw(st.integers(0, 1000))


# In int8 a number between two codes may be rounded otherwise.
@given(histories(), st.sampled_from(KINDS), st.sampled_from([("fp32", 2e-4), ("int8", 0.3)]))
@settings(max_examples=80)
def test_a_state_whose_sentences_come_and_go(history, kind, precision):
    slots, rows, events, seed = history
    random = torch.Generator().manual_seed(seed)
    dtype, tolerance = precision
    plain = model(seed % 3, **kind)
    models = [prepacked(plain, dtype), native(plain, dtype)]

    def fresh(model, number):
        sources = torch.randint(4, V, (3, 6), generator=torch.Generator().manual_seed(number))
        collated = collate([sources[0].tolist(), sources[1, : 1 + number % 5].tolist(), sources[2, :4].tolist()])
        return model.start(model.encode(*collated), rows)

    with torch.inference_mode():
        states = [fresh(one, 0).empty(slots) for one in models]
        for slot in range(slots):  # every slot has a sentence
            for one, state in zip(models, states, strict=True):
                state.admit(torch.tensor([slot]), fresh(one, slot), torch.tensor([1]))
        for name, *argument in events:
            size = len(states[0].steps)
            if name == "step":
                tokens = torch.randint(4, V, (size * rows,), generator=random)
                parents = torch.randint(rows, (size, rows), generator=random) + rows * torch.arange(size)[:, None]
                logits = [one.step(tokens, state) for one, state in zip(models, states, strict=True)]
                torch.testing.assert_close(*logits, atol=tolerance, rtol=tolerance / 2)
                for state in states:
                    state.reorder(parents.flatten())
            elif name == "admit":
                number = int(torch.randint(100, (), generator=random))
                for one, state in zip(models, states, strict=True):
                    state.admit(torch.tensor([argument[0] % size]), fresh(one, number), torch.tensor([2]))
            else:
                keep = torch.randperm(size, generator=random)[: argument[0]].sort().values
                for state in states:
                    state.release(keep, len(keep))


@given(st.integers(1, 20), st.integers(1, 90), st.integers(1, 70), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=80)
def test_a_linear_map(rows, inputs, outputs, bias, relu, int8):
    torch.manual_seed(rows)
    plain = nn.Linear(inputs, outputs, bias)
    x = torch.randn(rows, inputs) * 10 ** torch.randn(rows, 1)
    x[torch.rand(rows) < 0.2] = 0
    found = NativeLinear(plain, relu, int8=int8)(x)
    if not int8:
        expected = plain(x)
    else:  # exact sums of rounded weights and inputs
        one = 127 if torch.cpu._is_vnni_supported() else 63
        scales = plain.weight.abs().amax(1) / 127, x.abs().amax(1) / one
        codes = (
            (plain.weight / scales[0][:, None]).round().double(),
            (x / scales[1][:, None]).nan_to_num().round().double(),
        )
        expected = (codes[1] @ codes[0].T).float() * scales[0] * scales[1][:, None] + (plain.bias if bias else 0)
    expected = expected.relu() if relu else expected
    # A code may be the next one where a number lies between two.
    largest = float(x.abs().max())
    torch.testing.assert_close(found, expected.detach(), atol=1e-5 + (0.03 if int8 else 1e-6) * largest, rtol=1e-4)
    alone = NativeLinear(plain, relu, int8=int8)
    assert torch.equal(torch.cat([alone(row[None]) for row in x]), found)  # in every bit
    x[0, -1] = float("nan")
    assert alone(x)[0].isnan().all()


READ = [*KINDS, {"norm_epsilon": 0.5}, {"bias": False}, {"embedding_norm": True}, {"scale_embeddings": False},
        {"log_length_scale": True}, {"norm": "post", "norm_epsilon": 0.5, "embedding_norm": True}]  # fmt: skip


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.booleans(), st.sampled_from(READ),
       st.sampled_from([("fp32", 1e-4), ("int8", 0.3)]))  # fmt: skip
@settings(max_examples=30)
def test_what_the_encoder_gives(lengths, long, kind, precision):
    dtype, tolerance = precision
    options = {"max_positions": 700} if kind.get("positions") == "learned" else {}
    light = native(model(1, scale=1.2, **kind, **options), dtype)
    random = torch.Generator().manual_seed(len(lengths))
    # A source that is longer than what the encoder computes together, beside short ones.
    sources = [torch.randint(4, V, (size,), generator=random).tolist() for size in [*lengths, *[600] * long]]
    with torch.inference_mode():
        state, expected = light.reader(collate(sources), 2), light.start(light.encode(*collate(sources)), 2)
        for i, source in enumerate(sources):
            length = len(source) + 1
            assert int(state.lengths[i]) == length
            torch.testing.assert_close(state.keys[:, i, ..., :length], expected.keys[:, i, ..., :length],
                                       atol=tolerance, rtol=tolerance)  # fmt: skip
            values = state.values[:, i, :, :length]
            torch.testing.assert_close(values, expected.values[:, i, :, :length], atol=tolerance, rtol=tolerance)
            if long and i == 0:
                assert torch.equal(light.reader(collate([source]), 2).values[:, 0, :, :length], values)  # in every bit


def test_a_source_that_has_no_position_is_refused_as_without_kernels():
    light = native(model(1, positions="learned", max_positions=8), "fp32")
    for encode in (lambda: light.reader(collate([[5] * 8]), 1), lambda: light.encode(*collate([[5] * 8]))):
        with pytest.raises(UserError, match=r"a sequence of 9 tokens is over model\.max_positions=8"):
            encode()


def found(config, sources, seed, prefixes=None, **options):
    return list(Generator([model(seed, **options)], config, sides).generate(sources, prefixes))


sentences = st.lists(st.lists(st.integers(4, V - 1), min_size=1, max_size=9), min_size=1, max_size=12)


@given(sentences, st.integers(0, 5), st.integers(1, 5), st.sampled_from([None, 1, 3]),
       st.sampled_from(["first_finished", "best_possible"]),
       st.sampled_from(KINDS))  # fmt: skip
@settings(max_examples=40)
def test_a_search_with_and_without_kernels(sources, seed, beam_size, slots, stopping, kind):
    prefixes = [source[: len(source) % 3] for source in sources]
    results = {}
    for name in ("eager", "native"):
        config = DecodeConfig(backend=name, beam_size=beam_size, n_best=beam_size, slots=slots, stopping=stopping,
                              max_length_b=6, max_length_a=0.5)  # fmt: skip
        results[name] = found(config, sources, seed, prefixes, **kind)
    for mine, expected in zip(results["native"], results["eager"], strict=True):
        assert [h.ids for h in mine] == [h.ids for h in expected]
        for one, other in zip(mine, expected, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-4)


@pytest.mark.parametrize("search", [{"beam_size": 3}, {"search": "sample", "n_best": 3}])
def test_a_sentence_has_the_same_result_alone_and_with_others(search):
    numbers = torch.Generator().manual_seed(1)
    sources = [torch.randint(4, V, (length,), generator=numbers).tolist() for length in (3, 9, 1, 5, 7, 2, 8)]
    options = {"backend": "native", "max_length_b": 9, **search}
    generator = Generator([model(1)], DecodeConfig(**options), sides)
    alone = [next(generator.generate([source], first=i)) for i, source in enumerate(sources)]
    for slots in (2, 7):
        together = found(DecodeConfig(slots=slots, **options), sources, 1)
        for some, one in zip(together, alone, strict=True):
            assert [h.ids for h in some] == [h.ids for h in one]
            assert [h.score for h in some] == pytest.approx([h.score for h in one], abs=1e-5)


def test_sentences_that_are_done_need_no_room():
    light = native(model(1), "fp32")
    state = light.start(light.encode(*collate([[4, 5], [6]])), 1).empty(2)
    scores, tokens = torch.tensor([[0.0], [NEVER]]), torch.tensor([4, 4])
    for slot in range(2):
        state.admit(torch.tensor([slot]), light.start(light.encode(*collate([[4, 5], [6]])), 1), torch.tensor([slot]))
    with torch.inference_mode():
        for step in range(200):
            if step % 30 == 0:  # one sentence after the other in the first slot, while the second is free
                state.admit(torch.tensor([0]), light.start(light.encode(*collate([[4, 5]])), 1), torch.tensor([0]))
            light.step(tokens, state, scores=scores)
    assert state.history.size(2) == 32


def test_without_a_compiler(monkeypatch, capsys, tmp_path):
    backend._report.cache_clear()
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    monkeypatch.setattr("s2s.backends.native.library", library.library)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"decode.backend=native: the C\+\+ compiler no-such-compiler does not run"):
        Generator([model(1)], DecodeConfig(backend="native"), sides)
    for _ in range(2):
        assert Generator([model(1)], DecodeConfig(), sides).setting.scorer.native is False
    assert capsys.readouterr().err.count("decode.backend=auto: decoding is slower") == 1
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UserError, match="does not run"):
        Generator([model(1)], DecodeConfig(backend="native"), sides)


COMPILE = "from s2s.native.library import library; print(library()._name)"


@pytest.mark.slow
def test_the_kernels_are_compiled_once_by_however_many_processes(tmp_path):
    command = [sys.executable, "-c", COMPILE]
    environment = {**os.environ, "S2S_CACHE": str(tmp_path / "cache")}
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    names = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(names) == 1
    assert [str(path) for path in (tmp_path / "cache").iterdir()] == list(names)  # and nothing beside it
    again = subprocess.run(command, **{**options, "stdout": None})
    assert "compiling" not in again.stderr


@pytest.mark.parametrize("kind", ["fp64", "another"])
def test_what_the_kernels_are_not_for(kind):
    one = tiny_model(1, V) if kind == "fp64" else SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]))
    expected = "float64" if kind == "fp64" else "a SimpleNamespace"
    with pytest.raises(library.Unavailable, match=expected):
        native(one, "fp32")
