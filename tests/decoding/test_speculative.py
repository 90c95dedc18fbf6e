"""Speculative decoding: the hypotheses of greedy search, whatever is guessed, and in fewer passes by good guesses."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.search.speculative import Copying
from s2s.decoding.translator import load
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS, EOS
from tests.decoding.slow_search import collate, sides, tiny_model
from tests.decoding.test_translator import learned, lines, run, trained  # noqa: F401 (fixtures)
from tests.specs import text_spec

V = 9


def decoded(models, sources, prefixes=None, draft=None, **options):
    config = DecodeConfig(beam_size=1, **options)
    return [one for (one,) in Generator(models, config, sides, loaded={"draft": draft}).generate(sources, prefixes)]


def agree(found, expected):
    assert [one.ids for one in found] == [one.ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score)
        assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-9)
        assert one.truncated == other.truncated


@st.composite
def problems(draw):
    """Ragged sources, prefixes for some of them, and options."""
    tokens = st.integers(4, V - 1)
    sources = draw(st.lists(st.lists(tokens, max_size=8), min_size=1, max_size=6))
    prefixes = [draw(st.lists(tokens, max_size=3)) for _ in sources]
    options = {
        "max_length_a": draw(st.sampled_from([0.0, 1.0, 2.0])),
        "max_length_b": draw(st.integers(0, 12)),
        "min_length_b": draw(st.integers(0, 6)),
        "allow_unknown": draw(st.booleans()),
        "slots": draw(st.sampled_from([None, 2, 6])),
    }
    return sources, draw(st.sampled_from([None, prefixes])), options


@settings(max_examples=60)
@given(problems(), st.integers(0, 99), st.integers(1, 6), st.sampled_from(["input", "other", "same"]),
       st.sampled_from(["sinusoidal", "rotary", "learned"]), st.sampled_from([None, 1]))  # fmt: skip
def test_hypotheses_are_those_of_greedy_search(problem, seed, k, guesses, positions, kv_heads):
    sources, prefixes, options = problem
    model = tiny_model(seed, V, positions, kv_heads)
    expected = decoded([model], sources, prefixes, **options)
    draft = {"input": None, "other": tiny_model(seed + 1, V, positions), "same": model}[guesses]
    speculative = "input" if guesses == "input" else "draft"
    found = decoded([model], sources, prefixes, draft, speculative=speculative, speculative_tokens=k, **options)
    agree(found, expected)
    for source, one in zip(sources, found, strict=True):
        if source:
            least = math.ceil((len(one.ids) + 1) / (k + 1))
            assert least <= one.passes <= len(one.ids) + 1
            if guesses == "same" and not options["min_length_b"]:
                assert one.passes == least


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 5), st.sampled_from(["input", "draft"]))
def test_nothing_is_beyond_the_last_position(seed, k, speculative):
    """Learned positions: guesses stop where the model does."""
    torch.manual_seed(seed)
    config = Transformer.Config(positions="learned", max_positions=9)
    for stack in (config.encoder, config.decoder):
        stack.layers, stack.width, stack.heads, stack.ffn_width = 1, 8, 2, 16
    model, draft = (Transformer(config, text_spec(V)).double().eval() for _ in range(2))
    sources = [[4, 5, 6, 7], [8] * 8, [5]]
    expected = decoded([model], sources, min_length_b=7)
    found = decoded([model], sources, None, draft if speculative == "draft" else None, speculative=speculative,
                    speculative_tokens=k, min_length_b=7, slots=3)  # fmt: skip
    agree(found, expected)
    assert all(len(one.ids) >= 7 for one in found)


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
@pytest.mark.parametrize("kv_heads", [None, 1])
def test_blocks_give_the_logits_of_teacher_forcing(positions, kv_heads):
    """Blocks of any width, with positions taken back, at another position in each sentence."""
    torch.manual_seed(1)
    model = tiny_model(3, V, positions, kv_heads)
    numbers = np.random.default_rng(0)
    sources = [[4, 5, 6, 7, 8], [5], [6, 4, 4]]
    with torch.no_grad():
        memory = model.encode(*collate(sources))
        targets = torch.randint(4, V, (3, 60))
        targets[:, 0] = BOS
        expected = model.decode(memory, targets).logits()
        state = model.start_blocks(memory)
        done = np.zeros(3, np.int64)
        while done.max() < 50:
            width = int(numbers.integers(1, 6))
            block = torch.stack([row[at : at + width] for row, at in zip(targets, done, strict=True)])
            right = numbers.integers(1, width + 1, 3)
            for row, good in zip(block, right, strict=True):
                row[good:] = 4  # wrong, and taken back
            logits = model.step_block(block, state)
            for i in range(3):
                mine = expected[i, done[i] : done[i] + right[i]]
                torch.testing.assert_close(logits[i, : right[i]], mine)
            state.rewind(torch.from_numpy(width - right))
            done += right
            assert (state.steps == done).all()


def test_copying_follows_the_last_match():
    def guess(source, tokens, k=3, left_off=None):
        copying = Copying([source])
        copying.next[:] = left_off or copying.next
        return copying.guess(np.array([[BOS, *tokens]]), np.array([1 + len(tokens)]), k, None)[0].tolist()

    source = [4, 5, 6, 4, 5, 7, 8]
    assert guess(source, []) == [4, 5, 6]
    assert guess(source, [4, 5]) == [6, 4, 5]  # the match with the beginning is longer
    assert guess(source, [8, 6, 4, 5]) == [7, 8, EOS]  # the longest one
    assert guess(source, [8, 5]) == [6, 4, 5]  # of two the nearest to where the last guess left off, the beginning
    assert guess(source, [8, 5], left_off=6) == [7, 8, EOS]
    assert guess(source, [4, 9], left_off=2) == [5, 6, 4]  # none: it goes on where it left off
    assert guess(source, [7, 8], k=4) == [EOS] * 4


def test_a_source_that_is_copied_takes_few_passes():
    """A model that repeats its source, by hand: the gain is as it should be."""

    class Copier(torch.nn.Module):
        target_vocabulary_size, max_length, max_source, attention_shape = V, None, None, (1, 1)
        has_decoder, has_ctc = True, False

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def encode(self, sources, tags):
            return sources[0]

        def memory_length(self, length):
            return length

        def start_blocks(self, memory):
            copier = self

            class State:
                source = memory.values
                done = torch.zeros(len(memory.values), dtype=torch.int64)

                def rewind(self, counts):
                    self.done -= counts

                def release(self, keep, slots):
                    self.source, self.done = self.source[keep], self.done[keep]

            assert copier
            return State()

        def step_block(self, tokens, state):
            places = state.done[:, None] + torch.arange(tokens.size(1))
            wanted = state.source.gather(1, places.clamp(max=state.source.size(1) - 1))
            state.done = state.done + tokens.size(1)
            return torch.nn.functional.one_hot(wanted, V).double()

    sources = [[4, 5, 6, 7, 8, 4, 6, 8, 5, 7, 4], [5, 6, 7]]
    found = decoded([Copier()], sources, speculative="input", speculative_tokens=3, slots=2, backend="eager")
    assert [one.ids for one in found] == sources
    assert [one.passes for one in found] == [3, 1]


def test_what_does_not_go_together():
    model = tiny_model(0)
    for options, message in (
        ({"beam_size": 2}, "requires greedy search"),
        ({"search": "sample"}, "each chooses a search"),
        ({"stopping": "exhaustive"}, "decode.stopping=exhaustive: does nothing"),
        ({"no_repeat_ngram": 2}, "does not go with"),
        ({"speculative": "draft"}, "requires draft=CHECKPOINT"),
    ):
        with pytest.raises(UserError, match=message):
            Generator([model], DecodeConfig(**{"speculative": "input", "beam_size": 1, **options}), sides)
    config = DecodeConfig(speculative="draft", beam_size=1)
    with pytest.raises(UserError, match=r"checkpoint= of several models: does not go with decode.speculative=draft"):
        Generator([model, model], config, sides, loaded={"draft": model})
    with pytest.raises(UserError, match="has 7 target symbols"):
        Generator([model], config, sides, loaded={"draft": tiny_model(0, 7)})
    with pytest.raises(UserError, match="draft: takes at most 1024"):
        Generator([model], config, sides, loaded={"draft": tiny_model(0, V, "learned")})


def test_trained_models_by_the_command(s2s, capsys, run, learned, lines, tmp_path):  # noqa: F811
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in [*lines, ""]))
    words = f"checkpoint={run}", f"input={tmp_path / 'text'}", "device=cpu", "decode.beam_size=1"

    def generate(*more):
        capsys.readouterr()
        code = s2s("generate", *words, *more)
        return code, *capsys.readouterr()

    _, plain, error = generate()
    assert "proposed" not in error
    for more in (
        ["decode.speculative=input"],
        [f"draft={run}"],
        ["decode.speculative=input", "decode.dtype=int8", "decode.slots=9"],
    ):
        expected = generate("decode.dtype=int8")[1] if "decode.dtype=int8" in more else plain
        code, printed, error = generate(*more)
        assert (code, printed) == (0, expected)
        accepted = float(re.search(r"; ([\d.]+) proposed tokens accepted per step", error)[1])
        assert accepted > 1 if "draft" in more[0] else accepted >= 0
    for more, message in (
        (["decode.speculative=draft"], "decode.speculative=draft requires draft=CHECKPOINT"),
        (["decode.speculative=input", f"draft={run}"], "does not go with decode.speculative=input"),
        ([f"draft={run}", "decode.beam_size=3"], "requires greedy search"),
        ([f"draft={learned}"], "draft: takes at most 12 tokens"),
        (["draft=absent"], "absent: no such folder"),
    ):
        code, printed, error = generate(*more)
        assert (code, printed) == (2, "")
        assert message in error
    translator = load(run, "cpu", draft=run)
    texts = list(translator.translate(lines, beam_size=1, speculative="draft", speculative_tokens=3))
    assert texts == plain.splitlines()[:-1]
