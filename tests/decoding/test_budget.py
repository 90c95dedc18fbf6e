"""`decode.batch_tokens` bounds what decoding holds, whoever is decoded beside whom: counted, and measured."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ctc import tiny_joint
from slow_search import sides, tiny_model

from s2s.backends.native import LANES
from s2s.backends.prepare import is_native
from s2s.decoding import engine
from s2s.decoding.budget import TARGETS, room, together
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.sentence import Sentence

V = 9


class Held:
    """The most that an engine has held at a time: positions of sources, places of targets, steps that are remembered,
    positions encoded ahead."""

    def __init__(self, monkeypatch, found):
        self.source = self.target = self.steps = self.ahead = 0
        scorer, prepare, add = found.scorer, found.prepare, engine.Trellis.add
        model = getattr(scorer, "models", scorer).model

        def step(*args):
            result = type(scorer).step(scorer, *args)
            state = getattr(scorer, "models", scorer).state
            slots = len(state.steps) * state.rows
            # Kernels round a source up to whole vectors.
            size = state.values.size(3) + 1 - LANES if is_native(model) else state.key_values.size(4)
            self.source = max(self.source, slots * size)
            self.target = max(self.target, slots * state.cache.size(4))
            return result

        def remembered(trellis, *args):
            add(trellis, *args)
            self.steps = max(self.steps, trellis.tokens.numel())

        def encode(sources):
            self.ahead = max(self.ahead, len(sources) * found.config.rows * (max(map(len, sources)) + 1))
            return prepare(sources)

        monkeypatch.setattr(scorer, "step", step)
        monkeypatch.setattr(found, "prepare", encode)
        monkeypatch.setattr(engine.Trellis, "add", remembered)


@pytest.mark.parametrize("kind", ["eager", "native", "joint", "sample"])
@given(st.lists(st.integers(1, 12) | st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 3),
       st.sampled_from([1, 60, 300, 900]), st.booleans(), st.sampled_from([0.0, 1.5]), st.integers(0, 30))  # fmt: skip
@settings(max_examples=10)
def test_what_is_held_is_within_the_budget(kind, lengths, rows, budget, falling, a, b):
    lengths = sorted(lengths, reverse=True) if falling else lengths
    sentences = [Sentence(i, [4 + (i + j) % 5 for j in range(n)], []) for i, n in enumerate(lengths)]
    backend, search = "native" if kind == "native" else "eager", "sample" if kind == "sample" else "beam"
    size = {} if kind == "sample" else {"beam_size": rows}
    config = DecodeConfig(**size, n_best=rows, search=search, ctc_weight=0.3 if kind == "joint" else None,
                          backend=backend, batch_tokens=budget, max_length_a=a, max_length_b=b)  # fmt: skip
    model = tiny_joint(1, V) if kind == "joint" else tiny_model(1, V, scale=1.2)
    found = Generator([model.float() if kind == "native" else model], config, sides).engine.engine
    with pytest.MonkeyPatch.context() as monkeypatch:
        held = Held(monkeypatch, found)
        results = {number: n_best for some in found.run(sentences) for number, n_best in some}
    assert sorted(results) == list(range(len(lengths)))
    longest = rows * (max(lengths) + 1)
    assert held.source <= max(budget, longest)
    assert held.ahead <= max(budget, longest)
    # What is held of targets doubles as it grows, from 32 on.
    most = 2 * max(TARGETS * budget, rows * (int(a * max(lengths)) + b + 1), 16 * rows)
    assert held.target <= most
    assert held.steps <= most
    for number in {0, int(np.argmax(lengths)), len(lengths) - 1}:
        (alone,) = (n_best for some in found.run([sentences[number]]) for _, n_best in some)
        assert [one.ids for one in results[number]] == [one.ids for one in alone]


def test_room():
    config = DecodeConfig(batch_tokens=600, beam_size=2)
    assert room(config, 30, 1) == 10  # 600 = 10 x 2 x 30
    assert room(config, 30, 480) == 5  # 8 x 600 = 5 x 2 x 480
    assert room(config, 301, 1) == room(config, 1, 4801) == 1
    assert room(DecodeConfig(batch_tokens=600, beam_size=2, slots=4), 30, 1) == 4
    sources = np.array([30, 30, 60, 20, 20, 20])
    assert together(config, np.stack([sources, sources])) == 5  # 600 = 5 x 2 x 60
    assert together(config, np.array([[30, 30, 30], [10, 10, 2401]])) == 2  # with the third there is room for one


PROCESS = """
import resource, sys
sys.path.insert(0, "tests/decoding")
from slow_search import collate, tiny_model, sides
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator

def lengths(sources):
    found = Generator([model], DecodeConfig(max_length_a=0.0, max_length_b=20), sides).generate(sources)
    return [len(n_best[0].ids) for n_best in found]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

model = tiny_model(1, 9, scale=1.2).float()
sources = [[4 + i % 5] * (1 + i % 5) for i in range(1000)]
expected, start = lengths(sources), peak()
found = lengths([*sources[:500], [4, 5, 6, 7] * 2500, *sources[500:]])
assert found[:500] + found[501:] == expected
print(peak() - start)
"""


def test_a_long_line_beside_short_ones_costs_what_it_costs_alone():
    """Were the keys of all slots as long as the longest, it would be 1.8 GB."""
    done = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KiB
