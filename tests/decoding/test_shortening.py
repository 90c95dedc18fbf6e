"""Text of which the front-end makes fewer states: options of length count its tokens, alignments, coverage and memory
its states."""

import math
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from slow_search import beam_search, collate, sides, tiny_model
from test_alignment import coverage_by_hand, weights_by_hand
from test_beam_search import assert_same

from s2s.config.compose import preset
from s2s.decoding.alignment import position_symbols
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.limits import needs
from s2s.decoding.sentence import Sentence
from s2s.decoding.setting import Setting, Sides
from s2s.errors import UserError
from s2s.tasks.multi_source import Several
from s2s.text.vocabulary import EOS

SOURCES = [[4, 5, 6, 7, 8, 4, 5], [6], [], [8, 8, 4, 5]]


@cache
def model(stride=3, seed=0, **options):
    frontend = preset("frontend", "gbst")
    frontend.block, frontend.stride, frontend.kernel = 2, stride, 3
    return tiny_model(seed, frontend=frontend, **options)


def of(config, sources=SOURCES, models=None, **options):
    generator = Generator(models or [model()], config, sides, **options)
    return [n_best for source, n_best in zip(sources, generator.generate(sources), strict=True) if source]


def endless(**options):
    """A model that does not write EOS of its own accord."""
    one = model(seed=1, tie_embeddings="none", **options)
    with torch.no_grad():
        one.decoder.norm.bias.zero_()
        one.decoder.norm.bias[0] = 9
        one.output.weight[:, 0], one.output.weight[EOS, 0] = 0, -9
    return one


@pytest.mark.parametrize("batch_tokens", [1, 60])
def test_the_search_is_the_slow_one(batch_tokens):
    config = DecodeConfig(beam_size=3, n_best=2, max_length_a=1.0, max_length_b=1, min_length_a=0.5, min_length_b=0,
                          batch_tokens=batch_tokens)  # fmt: skip
    for models in ([model()], [model(), model(2, 1)]):
        expected = [beam_search(models, source, config) for source in SOURCES if source]
        for n_best, slow in zip(of(config, models=models), expected, strict=True):
            assert_same(n_best, slow)


def test_options_of_length_count_tokens():
    most = DecodeConfig(max_length_a=1.0, max_length_b=0, beam_size=1)
    assert [len(one.ids) for (one,) in of(most, models=[endless()])] == [7, 1, 4]
    least = DecodeConfig(min_length_a=1.0, min_length_b=0, beam_size=1)
    assert all(len(one.ids) >= n for (one,), n in zip(of(least), [7, 1, 4], strict=True))


def test_max_source_counts_tokens():
    cut = DecodeConfig(max_source=5, max_length_b=6)
    found = of(cut)
    assert [one.source_truncated for one, *_ in found] == [True, False, False]
    (alone,) = of(DecodeConfig(max_length_b=6), [SOURCES[0][:5]])
    assert found[0][0].ids == alone[0].ids
    refused = of(DecodeConfig(max_source=5, long_source="refuse"))
    assert str(refused[0][0].error).startswith("source of 7 tokens; at most 5 are allowed")


@pytest.mark.parametrize("stride", [2, 3])
def test_alignments_and_coverage_are_over_states(stride):
    """7 tokens and EOS are 4 states of two, the last one with a token, or 3 of three; 4 and EOS are 3, the last one EOS
    alone, or 2."""
    models = [model(stride)]
    plain = DecodeConfig(beam_size=3, n_best=3, max_length_b=3, batch_tokens=60)
    covered = DecodeConfig(beam_size=3, n_best=3, max_length_b=3, batch_tokens=60, coverage_penalty=1.0)
    sources = [source for source in SOURCES if source]
    for source, before, after in zip(sources, of(plain, models=models, alignment=True), of(covered, models=models),
                                     strict=True):  # fmt: skip
        scores = []
        for one in before:
            weights = torch.tensor(weights_by_hand(models[0], source, one.ids, 0)).mean(dim=0)  # the last but one
            assert weights.size(1) == math.ceil((len(source) + 1) / stride)
            assert one.alignment == weights.argmax(dim=1).tolist()
            scores.append(one.score + coverage_by_hand(weights[:, : math.ceil(len(source) / stride)].tolist()))
        assert [one.score for one in after] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)


def test_states_are_called_by_their_tokens():
    task = SimpleNamespace(source_symbols=lambda source, size: [*source, "</s>"])
    assert position_symbols(task, model(3), "abcde", 2) == ["abc", "de</s>"]
    assert position_symbols(task, model(1), "ab", 3) == ["a", "b", "</s>"]
    assert position_symbols(task, SimpleNamespace(frontend=SimpleNamespace(stride=None)), "abc", 2) == ["1/2", "2/2"]


def test_models_of_different_strides_have_no_common_alignment():
    with pytest.raises(UserError, match="the models make memories of different lengths of a source"):
        of(DecodeConfig(max_length_b=3), models=[model(2), model(3)], alignment=True)


def test_memory_is_planned_in_states():
    sentences = [Sentence(0, [5] * 7, [], []), Sentence(1, [5] * 8, [], [])]
    config = DecodeConfig(max_length_a=2.0, max_length_b=1)
    found = partial(Setting, sides=sides, prepare=lambda one: one)
    assert needs(sentences, config, found([model(2)]), None).tolist() == [[4, 5], [16, 18]]
    assert needs(sentences, config, found([model(4), model(3)]), None).tolist() == [[3, 3], [16, 18]]
    assert needs(sentences, config, found([model(1)]), None).tolist() == [[8, 9], [16, 18]]


def test_several_sources_count_together():
    several = Sides(collate, lengths=lambda source: list(map(len, source.parts)))
    setting = Setting([model(2)], several, lambda one: one)
    assert setting.positions(Several([[5] * 7, [5] * 4])) == 4 + 3
    assert setting.length(Several([[5] * 7, [5] * 4])) == 7


def test_drafts_copy_tokens():
    greedy = DecodeConfig(beam_size=1, max_length_b=8)
    copied = DecodeConfig(beam_size=1, max_length_b=8, speculative="copy", search="speculative")
    for (one,), (other,) in zip(of(greedy), of(copied), strict=True):
        assert one.ids == other.ids
        assert one.score == pytest.approx(other.score)
