"""What stands behind a score: intervals, groups, aligned lines, punctuation."""

import json
import subprocess
import sys

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s import registry, scoring
from s2s.scoring import details
from s2s.scoring.edits import WordErrorRate, edits
from s2s.scoring.metric import interval, without_punctuation

REFERENCE = ["u m n y h six", "yes", "go to the shop", "one two three"]
HYPOTHESIS = ["u n n a y h", "yes", "go the the shop now", "one two three"]
WORDS = st.lists(st.sampled_from(["a", "b", "cc", "d"]), min_size=1, max_size=8).map(" ".join)


def test_a_line_is_aligned_word_by_word():
    found = list(details.aligned(HYPOTHESIS, REFERENCE, str.split, ["an1", "an2", "an3", "an4"]))
    assert [one.line for one in found] == [1, 3]
    assert str(found[1]) == (
        "line 3 (an3): (S = 1 D = 0 I = 1 ref_len = 4 wrong_lines = 1/1)\n"
        "REF: go to  the shop ***\n"
        "HYP: go the the shop now\n"
        "        S            I"
    )
    assert [mark for _, _, mark in found[0].columns].count("D") == found[0].edits.deletions == 1


def test_wide_characters_keep_their_columns():
    (found,) = details.aligned(["山 b"], ["山田 c"], str.split)
    assert str(found).splitlines()[1:] == ["REF: 山田 c", "HYP: 山   b", "     S    S"]


@given(WORDS, WORDS)
def test_an_alignment_holds_both_lines_and_the_edits_of_the_rate(reference, hypothesis):
    one = details.align(reference.split(), hypothesis.split(), 1)
    marks = [mark for _, _, mark in one.columns]
    assert [ref for ref, _, mark in one.columns if mark != "I"] == reference.split()
    assert [hyp for _, hyp, mark in one.columns if mark != "D"] == hypothesis.split()
    assert len([mark for mark in marks if mark]) == edits(reference.split(), hypothesis.split()).total
    assert all(ref == hyp for ref, hyp, mark in one.columns if not mark)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_word_error_rate_is_jiwers(pairs):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    score = scoring.score("wer", hypotheses, [references])
    theirs = jiwer.process_words(references, hypotheses)
    assert score.value == pytest.approx(100 * theirs.wer)
    kinds = [score.counts[kind] for kind in ("substitutions", "deletions", "insertions")]
    assert sum(kinds) == theirs.substitutions + theirs.deletions + theirs.insertions
    assert kinds[2] - kinds[1] == theirs.insertions - theirs.deletions
    characters = scoring.score("cer", hypotheses, [references])
    assert characters.value == pytest.approx(100 * jiwer.cer(references, hypotheses))


def test_the_worst_lines_and_what_is_confused_most():
    found = list(details.aligned([*HYPOTHESIS, "a"], [*REFERENCE, "x y z"], str.split))
    assert [one.line for one in details.worst(found, 2)] == [5, 1]  # three edits in three words, then in six
    assert details.confused(list(details.aligned(["b b c"], ["a a a"], str.split)), 5) == [("a", "b", 2), ("a", "c", 1)]


@pytest.mark.parametrize(
    ("line", "bare"),
    [
        ("Well, don't -- stop!", "Well don't stop"),
        ("well-known 'quoted' words.", "well-known quoted words"),
        ("¿Qué? «sí»", "Qué sí"),
        ("हिन्दी है।", "हिन्दी है"),
        ("3 + 4 = 7 $", "3 + 4 = 7 $"),
        ("", ""),
    ],
)
def test_punctuation_goes_but_inside_words(line, bare):
    assert without_punctuation(line) == bare


def test_without_punctuation_the_signature_says_so():
    plain, bare = (scoring.score("wer", ["well done"], [["Well, done!"]], True, remove_punctuation=r) for r in (0, 1))
    assert (plain.value, bare.value) == (100, 0)
    assert bare.signature == f"{plain.signature}|punctuation:removed"


@pytest.mark.parametrize("metric", ["bleu", "chrf", "chrf++", "ter"])
def test_an_interval_may_have_resamples_without_a_match(metric):
    low, high = scoring.score(metric, ["a b c d", "x", "y"], [["a b c d", "m", "n"]], resamples=200).interval
    assert low < high


def test_the_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 9, 300)
    wrong = rng.binomial(lengths, 0.2)
    low, high = interval(wrong, lengths, 4000)
    rates = []
    for _ in range(4000):  # the definition, with other random numbers
        rows = rng.integers(300, size=300)
        rates.append(100 * wrong[rows].sum() / lengths[rows].sum())
    assert (low, high) == pytest.approx(np.percentile(rates, [2.5, 97.5]), abs=0.25)
    assert interval(wrong, lengths, 4000) == (low, high)  # the same each time
    assert interval(wrong, lengths, 0) is None


# A reference and a wrong hypothesis, for metrics of lines of one kind.
KINDS = {"slot_f1": ("O B-a", "O O"), "rhyme_precision": ("a cat", "a dog"),
         "language_accuracy": ("The dog runs through the garden.", "Der Hund läuft durch den Garten.")}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in registry.names("metric") if name not in ("comet", "bleurt")])
def test_every_metric_has_an_interval_around_its_value(name):
    references = [f"{'a b c d e f g'[: 1 + i % 12]} end" for i in range(60)]
    hypotheses = [line if i % 3 else line.replace("a", "x") for i, line in enumerate(references)]
    if name in KINDS:
        references, hypotheses = [KINDS[name][0]] * 60, [KINDS[name][not i % 3] for i in range(60)]
    score = scoring.score(name, hypotheses, [references], resamples=200, inputs={"language": "en"})
    low, high = score.interval
    assert low < score.value < high
    assert "bs:200|seed:12345" in score.signature
    assert f"= {score.value:.2f} [{low:.2f}, {high:.2f}]" in str(score)


def test_the_interval_of_bleu_is_that_of_sacrebleus_command(tmp_path):
    lines = [f"this is line {i} of a text that is long enough" for i in range(40)]
    (tmp_path / "ref").write_text("\n".join(lines) + "\n")
    hypotheses = [line.replace("text", "book") if i % 4 else line for i, line in enumerate(lines)]
    (tmp_path / "hyp").write_text("\n".join(hypotheses) + "\n")
    command = ["-m", "sacrebleu", tmp_path / "ref", "-i", tmp_path / "hyp", "--confidence", "--confidence-n", "300",
               "-w", "6"]  # fmt: skip
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    score = scoring.score("bleu", hypotheses, [lines], resamples=300)
    low, high = score.interval
    assert theirs["confidence_mean"] == pytest.approx((low + high) / 2, abs=1e-4)
    assert theirs["confidence_var"] == pytest.approx((high - low) / 2, abs=1e-4)


def test_groups_are_scored_apart_and_add_up():
    groups = ["ann", "bob", "ann", "bob"]
    metric = WordErrorRate(False, "")
    found = details.by_group(groups, HYPOTHESIS, [REFERENCE], metric.score)
    assert list(found) == ["ann", "bob"]
    whole = metric.score(HYPOTHESIS, [REFERENCE])
    assert {key: sum(one.counts[key] for one in found.values()) for key in whole.counts} == whole.counts
    assert found["bob"].value == 0


@pytest.fixture
def files(tmp_path):
    for name, lines in {"hyp": HYPOTHESIS, "ref": REFERENCE, "who": ["ann", "bob", "ann", "bob"]}.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


def test_the_command_prints_groups_and_the_worst_lines(s2s, files, capsys):
    words = [f"hypothesis={files}/hyp", f"reference={files}/ref", "metrics=[wer,cer]", f"groups={files}/who"]
    assert s2s("score", *words, "worst=1", "bootstrap=200", f"errors={files}/errors") == 0
    printed = capsys.readouterr().out
    assert "group  lines  WER" in printed
    assert "ann    2      50.00 (2 S, 1 D, 2 I of 10)" in printed
    assert "line 1: (S = " in printed
    assert "line 3" not in printed
    assert (files / "errors").read_text().count("REF: ") == 2
    assert s2s("score", *words, "worst=1", "format=json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["groups"]["wer"]["bob"]["value"] == 0
    assert content["worst"][0]["line"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bootstrap=20"], "bootstrap=20: an interval needs at least 100"),
        (["groups=speaker"], "groups=speaker requires store="),
        (["store=nowhere"], "reference= and store= exclude each other"),
        (["worst=3", "reference=[{0}/ref,{0}/ref]"], "there are several"),
        (["errors={0}/hyp"], "errors={0}/hyp is also an input"),
        (["groups={0}/short"], "hyp has 4 lines and groups={0}/short has 1"),
    ],
)
def test_contradictions_are_told(s2s, files, capsys, words, message):
    (files / "short").write_text("ann\n")
    words = [word.format(files) for word in words]
    before = [] if any(word.startswith("reference=") for word in words) else [f"reference={files}/ref"]
    assert s2s("score", f"hypothesis={files}/hyp", "metrics=wer", *before, *words) == 2
    assert message.format(files) in capsys.readouterr().err


def test_a_store_is_its_own_reference(s2s, store, tmp_path, capsys):
    from s2s.data.store import Store

    (tmp_path / "hyp").write_text("".join(f"{line}\n" for line in Store(store).split("test").lines("target.text")))
    words = [f"hypothesis={tmp_path}/hyp", f"store={store}", "metrics=ser"]
    assert s2s("score", *words) == 0
    assert " = 0.00 " in capsys.readouterr().out
    assert s2s("score", *words, "groups=speaker") == 2
    assert "does not know the speaker of its lines" in capsys.readouterr().err


def test_an_input_that_no_metric_needs_is_refused(s2s, tmp_path, capsys):
    (tmp_path / "a").write_text("a b\n")
    for word in ("source=nofile", "language=de", "model=xyz"):
        assert s2s("score", f"hypothesis={tmp_path}/a", f"reference={tmp_path}/a", "metrics=[wer]", word) == 2
        key = word.partition("=")[0]
        assert f"{key}= does nothing: none of metrics=[wer] needs it" in capsys.readouterr().err
