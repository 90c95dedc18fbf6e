"""Outputs that are as wide as their source: symbols are its positions, as of a pointer network."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_search import beam_search, sides, tiny_model
from test_beam_search import ragged

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.hypothesis import NEVER
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import SPECIALS

V = 24


class Pointing(Transformer):
    """The special symbols, and one for each token of a source; the output of a batch is as wide as its longest."""

    def _cut(self, logits, mask, rows):
        widths = (mask.flatten(1).sum(1) - 1 + len(SPECIALS)).repeat_interleave(rows)
        logits = logits[..., : int(widths.max())]
        beyond = torch.arange(logits.size(-1)) >= widths.view(-1, *[1] * (logits.dim() - 1))
        return logits.masked_fill(beyond, NEVER)

    def step(self, tokens, state, output=None):
        return self._cut(super().step(tokens, state), state.mask, state.rows)

    def decode(self, memory, decoder_input, packing=None):
        logits = self._cut(super().decode(memory, decoder_input, packing).logits(), memory.mask, 1)
        return SimpleNamespace(logits=lambda: logits)


def pointing(seed=1):
    model = tiny_model(seed, V)
    model.__class__ = Pointing
    return model


SOURCES = [source for source in ragged(16) if source]
CONFIG = DecodeConfig(beam_size=3, n_best=3, max_length_a=0.5, max_length_b=3)


def generate(config, sources, prefixes=None, constraints=None, **loaded):
    generator = Generator([pointing()], config, sides, loaded=loaded)
    return list(generator.generate(sources, prefixes, constraints=constraints))


@given(st.integers(1, 4), st.sampled_from([0, 1, 2]), st.sampled_from([1, 2, None]),
       st.lists(st.lists(st.integers(4, V - 1), min_size=1, max_size=2), max_size=3))  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_beam_search_agrees_with_the_slow_reference(rows, ngram, slots, forbidden):
    config = replace(CONFIG, beam_size=rows, n_best=rows, no_repeat_ngram=ngram, slots=slots)
    for n_best, source in zip(generate(config, SOURCES, forbidden=forbidden), SOURCES, strict=True):
        expected = beam_search([pointing()], source, config, forbidden=forbidden)
        assert [one.ids for one in n_best] == [ids for ids, _, _ in expected]
        for one, (_, score, _) in zip(n_best, expected, strict=True):
            assert one.score == pytest.approx(score, abs=1e-9)
            assert max(one.ids, default=0) < len(SPECIALS) + len(source)


@pytest.mark.parametrize(
    "options",
    [
        {"search": "sample", "beam_size": 5, "top_p": 0.9},
        {"search": "stochastic_beam"},
        {"diverse_groups": 3},
        {"constraints": True},
        {"allowed": [[4], [5, 6], [7, 4, V - 1], [V - 2]]},
    ],
)
def test_a_sentence_is_decoded_as_it_is_alone(options):
    options, given = dict(options), {}
    allowed, constrained = options.pop("allowed", None), options.pop("constraints", None)
    config = replace(CONFIG, **options)
    found = {}
    for slots in (1, 5):
        if constrained:  # one that there is, and one that there may be
            given["constraints"] = [[[4], [V - 1]] for _ in SOURCES]
        loaded = {"allowed": allowed} if allowed else {}
        found[slots] = generate(replace(config, slots=slots), SOURCES, **given, **loaded)
    for source, one, other in zip(SOURCES, found[1], found[5], strict=True):
        assert [h.ids for h in one] == [h.ids for h in other]
        assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-9)
        if one[0].error is None:
            assert max(max(h.ids, default=0) for h in one) < len(SPECIALS) + len(source)


def test_a_prefix_beyond_the_source_fails_alone():
    sources = [[4] * 9, [4], [5, 5]]
    found = generate(replace(CONFIG, no_repeat_ngram=2), sources, [[], [len(SPECIALS) + 5], [5]])
    assert [bool(n_best[0].error) for n_best in found] == [False, True, False]
    assert found[2][0].ids[0] == 5


def test_given_targets_are_scored_within_their_sources():
    generator = Generator([pointing()], CONFIG, sides)
    targets = [[len(SPECIALS) + len(source) - 1] for source in SOURCES]
    batch = list(generator.score(SOURCES, targets))
    for source, target, one in zip(SOURCES, targets, batch, strict=True):
        (alone,) = generator.score([source], [target])
        assert one.score == pytest.approx(alone.score, abs=1e-9)
        assert one.log_probability > -100
    for sources in ([[4, 5]], [[4, 5], [4] * 30]):  # beyond the source, and beyond all sources
        one, *_ = generator.score(sources, [[len(SPECIALS) + 2]] + [[4]] * (len(sources) - 1))
        assert one.log_probability == NEVER
