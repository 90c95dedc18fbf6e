"""Metrics of summaries, slots, rhymes and languages: against counts by hand, slow loops, or the library."""

import random
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s import scoring
from s2s.errors import UserError
from s2s.scoring.structure import slots


def value(name, hypotheses, *references, **inputs):
    return scoring.score(name, hypotheses, references, inputs=inputs).value


def ngrams(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def longest_common(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def rouge_slowly(name, hypothesis, reference):
    """ROUGE of a line by its definition: twice what both have, divided by what each has."""
    mine, theirs = hypothesis.split(), reference.split()
    if name == "rougeL":
        common, total = longest_common(mine, theirs), len(mine) + len(theirs)
    else:
        a, b = ngrams(mine, int(name[-1])), ngrams(theirs, int(name[-1]))
        common, total = sum(min(a.count(gram), b.count(gram)) for gram in set(a)), len(a) + len(b)
    return 2 * common / total if total and common else 0.0


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_mean_of_lines_and_of_the_best_reference(name):
    rng = random.Random(0)
    lines, first, second = ([" ".join(rng.choice("abcd") for _ in range(rng.randint(0, 7))) for _ in range(30)]
                            for _ in range(3))  # fmt: skip
    slow = [max(rouge_slowly(name, h, r) for r in rs) for h, *rs in zip(lines, first, second, strict=True)]
    assert value(name, lines, first, second) == pytest.approx(100 * sum(slow) / 30)
    signature = scoring.score(name, lines, [first]).signature
    assert "|case:lc|tok:rouge|stem:no|rouge-score:" in signature
    with pytest.raises(UserError, match="no reference has a letter a to z"):
        value(name, ["кот"], ["кот"])


def test_keyphrases_are_compared_by_stems_and_once():
    # Two of three predictions are right (the plural has the same stem, the repetition counts once), of four phrases.
    found, wanted = "Neural Networks; translation; translation; cats", "neural network; translations; dogs; birds"
    assert value("keyphrase_f1", [found], [wanted]) == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert value("keyphrase_f1", [found, "", "a"], [wanted, " ; ", ""]) == pytest.approx((400 / 7 + 100 + 0) / 3)
    assert value("keyphrase_f1", ["a; b"], ["c"], ["b; a"]) == 100


def distance_slowly(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(distance_slowly(a[1:], b) + 1, distance_slowly(a, b[1:]) + 1,
               distance_slowly(a[1:], b[1:]) + (a[0] != b[0]))  # fmt: skip


@given(st.lists(st.tuples(st.text("ab", max_size=5), st.text("abc", max_size=5)), min_size=1, max_size=4))
def test_normalised_edit_distance_is_a_mean_over_lines(pairs):
    each = [distance_slowly(a, b) / max(len(a), len(b), 1) for a, b in pairs]
    score = scoring.score("ned", [a for a, _ in pairs], [[b for _, b in pairs]])
    assert score.value == pytest.approx(100 * sum(each) / len(each))
    assert not score.higher_is_better


def slots_slowly(tags):
    """By each beginning: the slot goes on as long as tags say so."""
    spans = set()
    for first, tag in enumerate(tags):
        label = tag[2:]
        if tag == "O" or (tag[0] == "I" and first and tags[first - 1][2:] == label):
            continue
        last = first
        while last + 1 < len(tags) and tags[last + 1] == f"I-{label}":
            last += 1
        spans.add((label, first, last))
    return spans


@given(st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"]), max_size=8))
def test_slots_of_tags(tags):
    assert slots(tags) == slots_slowly(tags)


def test_slot_f1_counts_whole_slots_of_the_corpus():
    # Right: x at 1-2 of line 1. Wrong: y is one word short; line 2 has one too many. 2 * 1 / (3 + 2).
    hypotheses, references = ["O B-x I-x B-y", "B-x"], ["O B-x I-x B-y I-y", "O"]
    assert value("slot_f1", hypotheses, references) == pytest.approx(100 * 2 * 1 / (3 + 2))
    assert value("slot_f1", ["O O"], ["O O"]) == 100


def test_a_line_rhymes_by_its_sounds_and_not_by_its_letters():
    references = ["the old cat", "a love", "it will move", "an orange zzyzx", "tomato!"]
    # hat rhymes with cat; love and move do not rhyme, move rhymes with itself; zzyzx is unknown and left out; a word
    # that is not there does not rhyme.
    score = scoring.score("rhyme_precision", ["my Hat.", "to move", "move", "cat", ""], [references])
    assert score.counts == {"sum": 2, "lines with a known last word": 4}
    assert score.value == 50
    assert value("rhyme_precision", ["behave", "b"], ["a cat", "tree"], ["a wave", "x"]) == 100


def test_language_accuracy_is_the_share_of_lines_in_a_language():
    lines = ["Der Hund läuft durch den Garten und sucht seinen Ball.", "The dog is running through the garden today."]
    assert value("language_accuracy", lines, lines, language="de") == 50
    assert (
        "|lang:de|py3langid:" in scoring.score("language_accuracy", lines, [lines], inputs={"language": "de"}).signature
    )
    with pytest.raises(UserError, match=r"language=xx: py3langid does not know it; it knows .*de, "):
        value("language_accuracy", lines, lines, language="xx")
    with pytest.raises(UserError, match="'language_accuracy' needs language= of s2s-score"):
        value("language_accuracy", lines, lines)


def test_such_metrics_have_intervals_and_are_compared(s2s, capsys, tmp_path):
    (tmp_path / "ref").write_text("the cat\nthe dog\n" * 30)
    (tmp_path / "a").write_text("the cat\na dog\n" * 30)
    (tmp_path / "b").write_text("a hat\na fog\n" * 30)
    words = [f"reference={tmp_path}/ref", "metrics=[rouge1,ned,rhyme_precision]", "trials=100"]
    assert s2s("score", f"hypothesis=[{tmp_path}/a,{tmp_path}/b]", *words) == 0
    out = capsys.readouterr().out
    assert out.count("(baseline)") == 3
    assert "0.0099*" in out


@pytest.mark.parametrize(
    ("metric", "module", "message"),
    [
        ("rouge1", "rouge_score", "metric 'rouge1' needs the package rouge_score: pip install"),
        ("comet", "comet", "metric 'comet' needs the package comet: pip install unbabel-comet"),
        ("bleurt", "bleurt", "metric 'bleurt' needs the package bleurt: pip install git"),
    ],
)
def test_a_missing_package_is_named_with_the_command(metric, module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError) as error:
        scoring.metric(metric)
    assert message in str(error.value)


def test_comet_gets_sources_and_the_mean_of_its_scores(monkeypatch):
    """A stand-in for the package, with the interface of unbabel-comet 2.2."""
    calls = []

    def predict(rows, batch_size, gpus, progress_bar):
        calls.extend(rows)
        return types.SimpleNamespace(scores=[0.5, 0.75])

    comet = types.ModuleType("comet")
    comet.download_model = lambda name: f"/models/{name}"
    comet.load_from_checkpoint = lambda path: calls.append(path) or types.SimpleNamespace(predict=predict)
    monkeypatch.setitem(sys.modules, "comet", comet)
    score = scoring.score("comet", ["a", "b"], [["c", "d"]], inputs={"source": ["e", "f"]}, resamples=100)
    assert (score.value, score.parts) == (62.5, [(0.5, 1), (0.75, 1)])
    assert calls[0] == "/models/Unbabel/wmt22-comet-da"
    assert calls[1] == {"src": "e", "mt": "a", "ref": "c"}
    assert "|model:Unbabel/wmt22-comet-da|" in score.signature
    with pytest.raises(UserError, match="'comet' needs source= of s2s-score"):
        scoring.score("comet", ["a"], [["c"]])
    with pytest.raises(UserError, match="takes a single reference; there are 2"):
        scoring.score("comet", ["a"], [["c"], ["d"]], inputs={"source": ["e"]})


def test_bleurt_gets_its_checkpoint(monkeypatch):
    """A stand-in for the package, with the interface of bleurt."""

    class Scorer:
        def __init__(self, folder):
            if folder != "BLEURT-20":
                raise AssertionError("Could not find BLEURT checkpoint")

        def score(self, references, candidates):
            return [float(len(r) - len(c)) for r, c in zip(references, candidates, strict=True)]

    module = types.ModuleType("bleurt.score")
    module.BleurtScorer = Scorer
    monkeypatch.setitem(sys.modules, "bleurt", types.ModuleType("bleurt"))
    monkeypatch.setitem(sys.modules, "bleurt.score", module)
    assert value("bleurt", ["a", "b"], ["aa", "bbb"], model="BLEURT-20") == 150
    with pytest.raises(UserError, match="model=there: bleurt cannot load it: Could not find"):
        value("bleurt", ["a"], ["a"], model="there")
    with pytest.raises(UserError, match="'bleurt' needs model= of s2s-score"):
        value("bleurt", ["a"], ["a"])
