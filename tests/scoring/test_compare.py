"""Comparisons of systems: both paired tests against obvious loops and against sacrebleu's, and s2s-score with several
files."""

import json
import random

import pytest
from sacrebleu.dataset import DATASETS
from sacrebleu.metrics import BLEU, TER
from sacrebleu.metrics.base import Score
from sacrebleu.significance import PairedTest

from s2s import scoring
from s2s.scoring import compare
from s2s.scoring.metric import SEED


def system(references, errors, seed):
    """Lines in which a share of the words is wrong."""
    rng = random.Random(seed)
    return [" ".join("x" if rng.random() < errors else word for word in line.split()) for line in references]


@pytest.fixture(scope="module")
def references():
    rng = random.Random(0)
    return [" ".join(rng.choice("abcdefgh") * 2 for _ in range(rng.randint(3, 12))) for _ in range(60)]


class Adapter:
    """A metric of this toolkit in the shape that sacrebleu's PairedTest reads."""

    def __init__(self, name):
        self.name = name

    def _extract_corpus_statistics(self, hypotheses, references):
        return scoring.score(self.name, hypotheses, references).parts

    def _compute_score_from_stats(self, sums):
        return self._aggregate_and_compute([sums])

    def _aggregate_and_compute(self, rows):
        part, whole = (sum(column) for column in zip(*rows, strict=True))
        return Score(self.name, float(100 * part / whole))

    def get_signature(self):
        bleu = BLEU()
        bleu.corpus_score(["a"], [["a"]])
        return bleu.get_signature()


@pytest.mark.parametrize("name", ["wer", "cer", "per", "ser", "exact_match", "token_accuracy"])
def test_paired_bootstrap_is_sacrebleus(references, name):
    systems = {"a": system(references, 0.10, 1), "b": system(references, 0.14, 2), "c": system(references, 0.3, 3)}
    mine = compare.compare(name, systems, [references], 500, 0)
    _, table = PairedTest(list(systems.items()), {name: Adapter(name)}, [references], "bs", 500)()
    theirs = next(cells for key, cells in table.items() if key != "System")
    rows = list(mine.systems.values())
    assert [row.value for row in rows] == pytest.approx([cell.score for cell in theirs])
    assert rows[0].bootstrap is None
    assert [row.bootstrap for row in rows[1:]] == pytest.approx([cell.p_value for cell in theirs[1:]], abs=1e-9)
    assert rows[2].bootstrap < 0.01 < rows[1].bootstrap
    assert f"|bs:500|seed:{SEED}|" in mine.signature


def exchange_slowly(a, b, trials):
    """Paired approximate randomisation, line by line with random numbers of its own."""
    rng = random.Random(7)

    def value(parts):
        return sum(part for part, _ in parts) / sum(whole for _, whole in parts)

    real, reached = abs(value(a) - value(b)), 0
    for _ in range(trials):
        pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in zip(a, b, strict=True)]
        reached += abs(value([one for one, _ in pairs]) - value([other for _, other in pairs])) >= real - 1e-12
    return (reached + 1) / (trials + 1)


@pytest.mark.parametrize("name", ["wer", "exact_match"])
def test_paired_randomisation_is_the_slow_one(references, name):
    a, b = (scoring.score(name, system(references, rate, seed), [references]).parts for rate, seed in
            ((0.10, 1), (0.14, 2)))  # fmt: skip
    slow, fast = exchange_slowly(a, b, 4000), compare.paired_randomisation(a, b, 4000)
    assert fast == pytest.approx(slow, abs=4 * (slow * (1 - slow) / 4000) ** 0.5 * 2**0.5)  # four standard errors
    assert 0.02 < fast < 0.9


def test_all_exchanges_of_few_lines_give_the_exact_p_value():
    # Of the 16 exchanges of 4 lines, the absolute difference is 4/4 in 2 and smaller in the others.
    right, wrong = [(1, 1)] * 4, [(0, 1)] * 4
    assert compare.paired_randomisation(right, wrong, 40_000) == pytest.approx(2 / 16, abs=0.01)


def test_draws_in_pieces_are_the_same(references, monkeypatch):
    a, b = (scoring.score("wer", system(references, 0.1, seed), [references]).parts for seed in (1, 2))
    whole = compare.paired_bootstrap(a, b, 300)
    monkeypatch.setattr(compare, "AT_A_TIME", 700)
    assert compare.paired_bootstrap(a, b, 300) == whole


@pytest.mark.parametrize("name", ["bleu", "wer"])
def test_equal_systems_do_not_differ(references, name):
    lines = system(references, 0.2, 1)
    compared = compare.compare(name, {"a": lines, "b": list(lines)}, [references], 100, 100)
    assert (compared.systems["b"].bootstrap, compared.systems["b"].randomisation) == (1, 1)


@pytest.mark.parametrize(("name", "theirs"), [("bleu", BLEU()), ("ter", TER())])
def test_metrics_of_sacrebleu_have_its_own_tests(references, name, theirs):
    systems = {"a": system(references, 0.10, 1), "b": system(references, 0.16, 2)}
    compared = compare.compare(name, systems, [references], 200, 300)
    for kind, trials, key in (("bs", 200, "bootstrap"), ("ar", 300, "randomisation")):
        _, table = PairedTest(list(systems.items()), {"m": theirs}, [references], kind, trials)()
        cell = next(cells for title, cells in table.items() if title != "System")[1]
        assert getattr(compared.systems["b"], key) == cell.p_value
        assert compared.systems["b"].value == cell.score
    assert "bs:200" in compared.signature
    assert "ar:300" in compared.signature


@pytest.fixture
def run(s2s, capsys, tmp_path, monkeypatch, references):
    """Runs s2s-score in a folder with the outputs of three systems; returns (exit code, output, error)."""
    monkeypatch.chdir(tmp_path)
    lines = {"ref": references, "old": system(references, 0.3, 1), "new": system(references, 0.1, 2),
             "same": system(references, 0.3, 1)}  # fmt: skip
    for name, text in lines.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in text))
    return lambda *words: (s2s("score", *words), *capsys.readouterr())


def test_a_table_has_a_row_for_each_system(run):
    code, out, err = run(
        "hypothesis=[new,old,same]", "baseline=old", "reference=ref", "metrics=[wer,bleu]", "trials=200"
    )
    assert (code, err) == (0, "")
    head, old, new, same, signature, empty, *_ = out.splitlines()
    assert head.split("  ")[0] == "system"
    assert head.endswith("WER    95% interval    p (bootstrap)  p (randomisation)")
    assert old.startswith("old (baseline)")
    assert new.split()[-2:] == ["0.0010*", "0.0050*"]  # 1 of 1001 resamples, 1 of 201 trials
    assert same.split()[-2:] == ["1.0000", "1.0000"]
    assert signature.startswith(f"WER|nrefs:1|bs:1000|seed:{SEED}|")
    assert "|ar:200" in signature
    assert not empty
    assert out.endswith("* differs from the baseline with p < 0.05\n")


def test_a_comparison_as_json(run):
    _, out, _ = run("hypothesis=[old,new]", "reference=ref", "metrics=[exact_match]", "format=json", "bootstrap=0")
    content = json.loads(out)["exact_match"]
    assert list(content["systems"]) == ["old", "new"]
    assert content["systems"]["new"]["bootstrap"] is content["systems"]["new"]["interval"] is None
    assert content["systems"]["new"]["randomisation"] < 0.05
    assert content["higher_is_better"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hypothesis=[old,new]", "baseline=ref"], "baseline=ref is none of the files of hypothesis=: old, new"),
        (["hypothesis=old", "baseline=old"], "baseline= compares systems and requires several files"),
        (["hypothesis=[old,new]", "worst=3"], "worst= requires a single file of hypotheses; there are 2"),
        (["hypothesis=[old,old]"], "hypothesis: old is given twice"),
        (["hypothesis=[old,new]", "trials=5"], "trials=5: a p-value needs at least 100 trials"),
        (["hypothesis=[old,new]", "test_set=wmt20"], "reference= and test_set= exclude each other"),
        (["hypothesis=[old,new]", "langpair=en-de"], "langpair"),
    ],
)
def test_options_that_do_not_go_together(run, words, message):
    code, out, err = run(*words, "reference=ref")
    assert (code, out) == (2, "")
    assert message in err


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of sacrebleu, on a machine without network."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(folder))
    for name in ("wmt20", "wmt19/google/ar"):
        monkeypatch.setattr(DATASETS[name], "_outdir", str(folder / name))
        monkeypatch.setattr(DATASETS[name], "_rawdir", str(folder / name / "raw"))

    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    return folder


def test_the_worst_lines_of_a_test_set_of_several_references_are_refused(run, monkeypatch, tmp_path):
    files = [tmp_path / "ref", tmp_path / "old"]
    monkeypatch.setattr("s2s.scoring.test_sets.files", lambda *_: (tmp_path / "ref", files))
    for words in (["test_set=wmt20"], ["reference=[ref,old]"]):
        code, _, err = run("hypothesis=old", *words, "metrics=[wer]", "worst=1")
        assert (code, "worst= and errors= require a single reference; there are several" in err) == (2, True)


def test_a_test_set_by_name(run, cache, references):
    code, _, err = run("hypothesis=old", "test_set=wmt20", "langpair=en-de", "metrics=[wer]")
    assert code == 2
    assert f"test_set=wmt20 langpair=en-de: not in sacrebleu's cache, {cache}, and it cannot be downloaded: Name" in err
    for field in DATASETS["wmt20"].fieldnames("en-de"):
        (cache / "wmt20" / f"wmt20.en-de.{field}").write_text("".join(f"{line}\n" for line in references))
    by_name = run("hypothesis=old", "test_set=wmt20", "langpair=en-de", "metrics=[wer]")
    assert by_name == run("hypothesis=old", "reference=ref", "metrics=[wer]")
    assert (
        run("hypothesis=old", "test_set=wmt20/de")[2]
        .strip()
        .endswith("sacrebleu has no such test set; did you mean 'wmt20/dev'?")
    )
    assert "needs langpair=, one of its language pairs: cs-en, de-en" in run("hypothesis=old", "test_set=wmt20")[2]
