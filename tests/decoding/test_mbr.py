"""Minimum Bayes risk: utilities are sacrebleu's sentence scores, the choice is the plain double loop's."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from slow_search import collate, sides, tiny_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.mbr import most_like_all, utilities
from s2s.decoding.setting import Sides
from s2s.errors import UserError

METRICS = {"chrf": CHRF(), "bleu": BLEU(effective_order=True)}
word = st.sampled_from(["a", "b", "the", "cat,", "it's", "ab", "ba", "über", "1.5", "-", "&quot;"])
text = st.lists(word, max_size=8).map(" ".join)


@given(st.sampled_from(["chrf", "bleu"]), st.lists(text, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_utilities_are_sacrebleus_sentence_scores(utility, texts):
    expected = [[METRICS[utility].sentence_score(one, [other]).score for other in texts] for one in texts]
    assert utilities(texts, utility) == pytest.approx(np.array(expected), abs=1e-9)


@given(st.sampled_from(["chrf", "bleu"]), st.lists(text, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_earliest_of_the_greatest_mean_utility(utility, texts):
    means = [round(sum(METRICS[utility].sentence_score(a, [b]).score for b in texts) / len(texts), 7) for a in texts]
    chosen = most_like_all(texts, utility)
    assert means[chosen] == pytest.approx(max(means), abs=1e-6)
    assert all(mean < max(means) - 1e-8 or other == texts[chosen] or round(max(means) - mean, 6) == 0
               for other, mean in zip(texts[:chosen], means[:chosen], strict=True))  # fmt: skip


def test_a_choice_by_hand():
    # Only its own score speaks for xy; ab shares a character with ac, and is there twice.
    assert most_like_all(["x y", "a c", "a b", "a b"], "chrf") == 2
    assert most_like_all(["p q", "r s", "r s"], "bleu") == 1  # twice the same outvotes the first
    assert most_like_all(["p q", "r s"], "bleu") == 0  # a tie is the earlier's


VOCABULARY = 9


def detokenize(ids):
    return " ".join("abcdefgh"[i - 4] * 2 for i in ids)


@pytest.mark.parametrize("options", [{"search": "sample", "n_best": 20}, {"beam_size": 8, "n_best": 8},
                                     {"search": "stochastic_beam", "beam_size": 8, "n_best": 6}])  # fmt: skip
@pytest.mark.parametrize("utility", ["chrf", "bleu"])
def test_the_generator_yields_the_choice_alone(options, utility):
    models, sources = [tiny_model(3, VOCABULARY)], [[4, 5, 6], [8, 7], [], [5, 5, 5, 5]]
    config = DecodeConfig(max_length_b=4, **options)
    lists = list(Generator(models, config, sides).generate(sources))
    chosen = list(
        Generator(models, replace(config, mbr=utility), Sides(collate, lambda ids, source: detokenize(ids))).generate(
            sources
        )
    )
    assert [len(n_best) for n_best in chosen] == [1] * 4
    for n_best, (one,) in zip(lists, chosen, strict=True):
        assert one.ids == n_best[most_like_all([detokenize(h.ids) for h in n_best], utility)].ids
    assert any(one.ids != n_best[0].ids for n_best, (one,) in zip(lists, chosen, strict=True))


def test_one_hypothesis_leaves_nothing_to_choose():
    with pytest.raises(UserError, match=r"decode.mbr=chrf: requires decode.n_best of at least 2"):
        DecodeConfig(mbr="chrf").check()
