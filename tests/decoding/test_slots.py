"""Slots that grow, shrink and are filled again: the kernels beside the eager backend, the host beside the device."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_search import sides, tiny_model

from s2s.decoding import engine
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.limits import Limits
from s2s.decoding.shortlist import Shortlist
from s2s.text.vocabulary import EOS

V, LONGEST = 24, 30
KINDS = [{}, {"positions": "rotary"}, {"positions": "learned", "max_positions": LONGEST + 1}, {"kv_heads": 1}]
random = np.random.default_rng(1)
SHORTLIST = Shortlist(random.integers(4, V, (V, 3)), np.array([4, 5]), ("source", "target"), V)


@cache
def model(seed, kind):
    return tiny_model(seed, V, **KINDS[kind]).float()


# A few long sentences and many short ones, so that slots come and go.
tokens = st.integers(4, V - 1)
lengths = st.one_of(st.integers(1, 4), st.integers(1, LONGEST))
sources = st.lists(lengths.flatmap(lambda n: st.lists(tokens, min_size=n, max_size=n)), min_size=1, max_size=14)


@given(sources, st.integers(0, 3), st.integers(0, len(KINDS) - 1), st.integers(1, 4), st.sampled_from([1, 30, 70, 300]),
       st.sampled_from([0.5, 1.0]), st.sampled_from(["first_finished", "best_possible"]), st.booleans(),
       st.booleans())  # fmt: skip
@settings(max_examples=60)
def test_slots_that_come_and_go_change_nothing(sources, seed, kind, beam_size, tokens, most, stopping, forced, short):
    config = {"beam_size": beam_size, "n_best": beam_size, "stopping": stopping, "batch_tokens": tokens,
              "min_length_a": most / 2, "min_length_b": 0, "max_length_a": most, "max_length_b": 0}  # fmt: skip
    prefixes = [source[: len(source) % 3] if forced else [] for source in sources]
    shortlist = SHORTLIST if short else None
    eager, native = (
        list(Generator([model(seed, kind)], DecodeConfig(backend=backend, **config), sides,
                       loaded={"shortlist": shortlist}).generate(sources, prefixes))
        for backend in ("eager", "native")
    )  # fmt: skip
    for mine, expected in zip(native, eager, strict=True):
        assert [h.ids for h in mine] == [h.ids for h in expected]
        for one, other in zip(mine, expected, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-3)


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("search", ["beam", "stochastic_beam"])
@pytest.mark.parametrize(("poll", "delay"), [(1, 0), (8, 1)])  # of a CPU and of a GPU
def test_free_slots_and_finished_sentences_do_not_count_past_the_learned_positions(
    monkeypatch, backend, search, poll, delay
):  # fmt: skip
    monkeypatch.setitem(engine.POLL_STEPS, "cpu", poll)
    monkeypatch.setitem(engine.POLL_DELAY, "cpu", delay)
    sources = [[4 + (i * j) % 20 for j in range(n)] for i, n in enumerate([LONGEST] * 2 + [18] * 31 + [16] * 31)]
    config = DecodeConfig(backend=backend, search=search, beam_size=2, slots=33, min_length_a=1.0, min_length_b=0,
                          max_length_a=1.0, max_length_b=0)  # fmt: skip
    generator = Generator([model(0, 2)], config, sides)
    found = [best.ids for best, *_ in generator.generate(sources)]
    assert [len(ids) for ids in found] == [len(source) for source in sources]
    if search == "beam":
        assert found[:3] == [next(generator.generate([source]))[0].ids for source in sources[:3]]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, 6)), max_size=12))
@settings(max_examples=60)
def test_limits_are_the_same_on_the_host_and_on_the_device(events):
    """Each event: sentences come, a step is done, one slot is free, and there are more or fewer slots."""
    config = DecodeConfig(max_length_a=2, min_length_a=1)
    waiting = [SimpleNamespace(source=[4] * (i % 7), prefix=[5] * (i % 3)) for i in range(100)]
    limits, slots, busy = Limits(config, 3, waiting, "cpu"), 3, []
    for come, leave, size in events:
        mine = np.setdiff1d(np.arange(slots), busy)[:come]
        if len(mine):
            sentences, waiting = waiting[: len(mine)], waiting[len(mine) :]
            limits.admit(torch.from_numpy(mine), mine, sentences)
            busy = sorted([*busy, *mine])
        limits.advance()
        if gone := busy[leave : leave + 1]:
            limits.free(torch.tensor(gone), np.array(gone))
            busy.remove(gone[0])
        slots = max(size, len(busy))
        limits.release(torch.tensor(busy, dtype=torch.int64), np.array(busy, np.int64), slots)
        busy = list(range(len(busy)))
        device = torch.stack([limits.done[:, 0], limits.shortest, limits.longest, limits.prefix_lengths]).numpy()
        assert limits.host.shape == (4, slots)
        assert limits.host.flags.c_contiguous
        assert limits.host[:, busy].tolist() == device[:, busy].tolist()
        free = np.setdiff1d(np.arange(slots), busy)
        assert limits.host[1:, free].tolist() == device[1:, free].tolist()
        assert limits.prefix.is_contiguous()


def test_two_long_lines_and_a_short_one():
    long, short = [4, 5, 6] * 150, [7, 8]
    for sources, beam_size in (([long, long, short], 5), ([short, [9] * 1000, [10, 11]], 1)):
        found = {}
        for backend in ("eager", "native"):
            config = DecodeConfig(backend=backend, beam_size=beam_size, max_length_a=0, max_length_b=40)
            found[backend] = list(Generator([model(1, 0)], config, sides).generate(sources, [[9], [], [10]]))
        assert [n[0].ids for n in found["native"]] == [n[0].ids for n in found["eager"]]
        assert all(EOS not in n[0].ids for n in found["native"])
