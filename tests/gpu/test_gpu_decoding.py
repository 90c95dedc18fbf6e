"""Decoding on the stand-in for a GPU: no device mismatch, the hypotheses of the CPU, and a host that waits once in 8
steps. Components are those of the registry, so a new one is tried as soon as it has a name."""

import json

import pytest

from s2s import registry
from tests.golden.cases import DECODINGS, TEXT

SHORT = ["decode.max_length_a=1", "decode.max_length_b=3"]
# Options that a component needs beside its name; without an entry it gets its name only.
NAMED = {
    ("searcher", "speculative"): ["decode.speculative=input", "decode.beam_size=1"],
    ("searcher", "ctc"): None,  # "prefix beam" of the golden tests
    ("scorer", "language_model"): None,  # "language model"
    ("scorer", "coverage"): ["decode.coverage_penalty=0.2"],
    ("rule", "no_repeat_ngram"): ["decode.no_repeat_ngram=2"],
    ("rule", "forbidden"): ["decode.forbidden={folder}/forbidden.txt"],
    ("rule", "allowed"): ["decode.allowed={folder}/allowed.txt"],
}
OPTION = {"searcher": "decode.search={}", "scorer": "decode.scorers=[{}]", "rule": "decode.rules=[{}]"}
CASES = {name: words for name, words in DECODINGS.items() if "int8" not in name and name != "bf16"}
for kind, option in OPTION.items():
    for name in registry.COMPONENTS[kind]:
        words = NAMED.get((kind, name), [option.format(name)])
        if words and not any(set(words) <= set(others) for others in CASES.values()):
            CASES[f"{kind} {name}"] = [*TEXT, *words]
CASES |= {
    "split keys": [*TEXT, "decode.split_keys=4"],
    "base": ["checkpoint={folder}/base", *TEXT[1:]],
    "base slots": ["checkpoint={folder}/base", *TEXT[1:], "decode.slots=5"],
}


# Decodings that differ from others in nothing that a GPU sees; they are tried with the slow tests.
ALIKE = {"eager", "best possible", "exhaustive", "fairseq", "searcher beam", "bytes", "learned positions", "mbr",
         "ensemble log-linear", "scores", "attention alone", "exit layer", "packed", "grouped heads", "split keys",
         "auxiliary heads", "joint scores"}  # fmt: skip
# Case -> the most operators of a step, with two decoder layers; `base` has six.
# "split keys" has 18 operators for each part of the keys in each of two layers, so its most are those of its last step.
# Finished sentences are looked for one step after the eighth, so that the host does not wait: the longest search here
# has 17 steps, and the last of them a fifth part of 4 keys.
OPERATORS = {"greedy": 78, "beam": 83, "slots": 88, "diverse": 144, "sampling": 102, "stochastic beam": 125,
             "no repeats": 93, "forbidden": 99, "allowed": 110, "constraints": 183, "prefix": 92, "shortlist": 85,
             "ensemble": 140, "language model": 123, "coverage and alignment": 83, "joint": 123, "base": 147,
             "base slots": 152,
             "grouped heads": 85, "auxiliary heads": 88, "split keys": 401}  # fmt: skip
FIRST = 20  # further operators of the first step, which makes the tables of the search
# Searches whose steps are not those of the engine.
OWN_STEPS = {
    "copied draft",
    "model draft",
    "scores",
    "joint scores",
    "best path",
    "prefix beam",
    "exit layer",
    "chunks",
}


def rows(output) -> tuple[list, list]:
    """The hypotheses of an output, and their numbers."""
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [(line["index"], line.get("hypothesis"), line.get("alignment"), line.get("words")) for line in lines], [
        [line["score"], *line["token_log_probabilities"]] for line in lines
    ]


def short(words: list[str]) -> list[str]:
    """Words of a decoding, with limits of length if the search takes them."""
    unlimited = any(word.startswith(("decode.allowed", "checkpoint={folder}/ctc", "mode=score")) for word in words)
    return [*words, *([] if unlimited else SHORT)]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in CASES])
def test_a_decoding_has_the_hypotheses_of_the_cpu_and_does_not_wait(gpu_runs, tmp_path, name):
    words = short(CASES[name])
    gpu_runs.generate(words, tmp_path / "cpu", "cpu", "decode.backend=eager")
    ended = gpu_runs.generate(words, tmp_path / "gpu", "cuda", "decode.dtype=fp32")
    (found, scores), (expected, expected_scores) = rows(tmp_path / "gpu"), rows(tmp_path / "cpu")
    assert found == expected
    for one, other in zip(scores, expected_scores, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert bool(ended.each) == (name not in OWN_STEPS)
    for number, step in enumerate(ended.each):
        assert not step.waits
        assert step.started <= OPERATORS.get(name, 1000) + (0 if number else FIRST), step.operators
    assert not any("blocking" in kind for step in ended.each[1:] for kind in step.copies)
    # To look for finished sentences costs one wait; what is finished is read with a few more.
    assert len(ended.polls) * 8 <= len(ended.each)
    assert all(poll.synchronizations <= 10 for poll in ended.polls)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(("checkpoint", "words"), [("text", CASES["beam"]), ("joint", CASES["joint"]),
                                                   ("ctc", CASES["prefix beam"])])  # fmt: skip
def test_half_precision_rates_almost_alike(gpu_runs, tmp_path, dtype, checkpoint, words):
    scored = [*(word for word in words if not word.startswith("decode.n_best")), "mode=score"]
    words = scored if checkpoint != "ctc" else short(words)
    for kind in ("fp32", dtype):
        gpu_runs.generate(words, tmp_path / kind, "cuda", f"decode.dtype={kind}")
    scores = [[row[0] for row in rows(tmp_path / kind)[1]] for kind in ("fp32", dtype)]
    assert scores[0] == pytest.approx(scores[1], rel=0.03, abs=0.03)


def test_every_component_is_tried():
    known = {(kind, name) for kind in OPTION for name in registry.COMPONENTS[kind]}
    assert NAMED.keys() <= known
