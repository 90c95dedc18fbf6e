"""Every option of decoding changes something in every search, or is refused there."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from slow_ctc import tiny_joint
from slow_search import sides
from test_beam_search import ragged
from test_fusion import language_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.shortlist import Shortlist
from s2s.errors import UserError
from s2s.text.vocabulary import UNK

V = 9
SOURCES = [source for source in ragged(6) if len(source) > 1]


@cache
def model(seed):
    """One whose unknown symbol is likely, both by its decoder and by CTC."""
    found = tiny_joint(seed, V)
    with torch.no_grad():
        found.output.weight[UNK] = found.output.weight[6] * 1.05
        found.ctc.bias[UNK] += 2
    return found


OUTPUTS = [[a, *rest] for a in range(4, V) for rest in ([], [6], [4, 8], [UNK])]
BASE = {"max_length_a": 1.0, "max_length_b": 3, "ctc_weight": 0.0}
SEARCHES = {  # name -> options, and what else the search is given
    "beam": ({"beam_size": 4, "n_best": 3}, {}),
    "greedy": ({"beam_size": 1}, {}),
    "diverse": ({"beam_size": 4, "n_best": 3, "diverse_groups": 2}, {}),
    "joint": ({"beam_size": 4, "n_best": 3, "ctc_weight": 0.4}, {}),
    "constrained": ({"beam_size": 4, "n_best": 3}, {"constraints": [5]}),
    "allowed": ({"beam_size": 4, "n_best": 3}, {"allowed": OUTPUTS}),
    "ensemble": ({"beam_size": 4, "n_best": 3}, {"models": 2}),
    "shortlist": ({"beam_size": 4, "n_best": 3}, {"shortlist": [[6, 5], [6, 7]]}),
    "sample": ({"search": "sample", "n_best": 3}, {}),
    "stochastic beam": ({"search": "stochastic_beam", "beam_size": 4, "n_best": 3}, {}),
    "speculative": ({"speculative": "input", "beam_size": 1}, {}),
    "ctc": ({"ctc_weight": 1.0, "beam_size": 4, "n_best": 3}, {}),
    "ctc, best path": ({"ctc_weight": 1.0, "beam_size": 1}, {}),
}
CHANGES = {  # option -> another value, and what else it needs
    "beam_size": (1, {"n_best": 1}),
    "n_best": (2, {}),
    "diverse_groups": (4, {"beam_size": 4}),
    "diverse_strength": (2.0, {"diverse_groups": 2}),
    "length_penalty": (0.0, {}),
    "length_normalization": ("gnmt", {}),
    "word_reward": (1.5, {}),
    "min_length_a": (1.0, {}),
    "min_length_b": (4, {}),
    "max_length_a": (0.0, {}),
    "max_length_b": (1, {"max_length_a": 0.0}),
    "stopping": ("exhaustive", {}),
    "allow_unknown": (True, {}),
    "no_repeat_ngram": (1, {}),
    "forbidden": ("file", {}),
    "allowed": ("file", {}),
    "temperature": (3.0, {}),
    "eos_scale": (0.1, {}),
    "top_k": (1, {}),
    "top_p": (0.1, {}),
    "epsilon": (0.3, {}),
    "ctc_weight": (0.7, {}),
    "auxiliary_weights": ([0.5], {}),
    "encoder_layer": (1, {}),
    "subnet": ("0.5", {}),
    "exit_layer": (1, {}),
    "exit_confidence": (0.5, {}),
    "encoder_exit_similarity": (0.4, {}),
    "decoder_exit_similarity": (0.6, {"backend": "eager"}),
    "chunk_seconds": (2.0, {}),
    "encoder_chunk": (2, {}),
    "encoder_chunk_overlap": (0, {"encoder_chunk": 2}),
    "cross_attention_k": (1, {}),
    "language_model": ("run", {}),
    "ensemble": ("log_linear", {}),
    "ensemble_weights": ([0.9, 0.1], {}),
    "mbr": ("chrf", {}),
    "shortlist": ("file", {}),
    "coverage_penalty": (3.0, {}),
    "alignment_layer": (2, {"coverage_penalty": 3.0}),
    "alignment_head": (1, {"coverage_penalty": 3.0}),
    "speculative": ("input", {}),
    "speculative_tokens": (1, {}),
    "draft_subnet": ("0.5", {"speculative": "self"}),
    "long_source": ("refuse", {"max_source": 3}),
    "max_source": (2, {}),
}
# What changes how hypotheses are computed and not which they are, or is beside the search; it has tests of its own.
ELSEWHERE = {"pack_source", "split_keys", "batch_tokens", "slots", "buffer", "on_error", "backend", "dtype",
             "chunk_overlap", "language_model_weight", "search", "scorers", "rules",
             "replace_unknown", "unknown_dictionary", "free_beginning", "uncounted"}  # fmt: skip
# A limit that all hypotheses keep anyway changes nothing, and is kept.
KEPT = {("allowed", "max_length_a")}
LOADED = {"forbidden": [[6]], "allowed": OUTPUTS}


def shortlist(words):
    return Shortlist(np.array(words * V, np.int32)[:V], np.array([8], np.int32), ("", ""), V)


def found(options, given):
    """What a search finds for some sources; an option that names a file has read it."""
    loaded = {key: value for key, value in LOADED.items() if key in options or key in given}
    if "language_model" in options:
        loaded["language_model"] = language_model()
    if "shortlist" in options or "shortlist" in given:
        loaded["shortlist"] = shortlist(given.get("shortlist", [[4], [5]]))
    models = [model(seed) for seed in (15, 36)[: given.get("models", 1)]]
    text = dataclasses.replace(sides, text=lambda ids, source: " ".join(map(str, ids)))
    generator = Generator(models, DecodeConfig(**options), text, loaded=loaded)
    phrases = [[given["constraints"]] for _ in SOURCES] if "constraints" in given else None
    results = list(generator.generate(SOURCES, constraints=phrases))
    return [[(str(one.error), one.ids, one.score, one.passes, one.source_truncated) for one in some]
            for some in results]  # fmt: skip


@pytest.mark.parametrize("search", SEARCHES)
def test_an_option_changes_something_or_is_refused(search):
    options, given = SEARCHES[search]
    silent, plainly = [], cache(lambda words: found(dict(words), given))
    for key, (value, needed) in CHANGES.items():
        if options.get(key) == value or key in given:
            continue
        plain = {**BASE, **options, **needed}
        try:
            changed, unchanged = found({**plain, key: value}, given), plainly(tuple(plain.items()))
        except UserError:
            continue
        if (changed == unchanged) != ((search, key) in KEPT):
            silent.append(key)
    assert not silent


def test_every_option_is_tried():
    assert CHANGES.keys() | ELSEWHERE == {field.name for field in dataclasses.fields(DecodeConfig)}


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (
            {"ctc_weight": 1.0, "max_length_b": 3, "max_length_a": 0.5},
            {},
            "decode.max_length_a=0.5: does nothing with CTC alone",
        ),
        ({"max_length_a": 1.0, "max_length_b": 2}, {"allowed": OUTPUTS}, "decode.allowed: the outputs have 1 to 3"),
        ({"min_length_b": 2}, {"allowed": OUTPUTS}, "decode.allowed: the outputs have 1 to 3"),
        ({"ensemble": "log_linear"}, {}, "decode.ensemble=log_linear: does nothing with one model"),
        ({"ensemble_weights": [1.0]}, {}, r"decode.ensemble_weights=\[1.0\]: does nothing with one model"),
    ],
)
def test_the_refusal_says_why(options, given, message):
    with pytest.raises(UserError, match=message):
        found({"ctc_weight": 0.0, **options}, given)


def test_a_greatest_length_that_ctc_keeps_anyway_is_no_error():
    """As that of decode=speech."""
    plain = found({"ctc_weight": 1.0}, {})
    assert found({"ctc_weight": 1.0, "max_length_a": 1.0, "max_length_b": 10}, {}) == plain


def test_a_greedy_search_by_ctc_has_its_reward():
    plain, rewarded = (found({"ctc_weight": 1.0, "beam_size": 1, "word_reward": r}, {}) for r in (0.0, 1.5))
    longer = [len(other[0][1]) - len(one[0][1]) for one, other in zip(plain, rewarded, strict=True)]
    assert sum(longer) > 0
