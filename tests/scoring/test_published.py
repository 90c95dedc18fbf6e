"""Scores that others published, reproduced from their outputs. Skipped where those are not beside the project."""

import csv
from pathlib import Path

import pytest

from s2s import scoring
from s2s.scoring.lines import read_lines

DATA = Path(__file__).parents[2].parent / "shared" / "data"
WMT21 = DATA / "score_wmt21"
G2P = DATA / "g2p_fairseq_outputs"


@pytest.mark.skipif(not WMT21.is_dir(), reason="needs the WMT21 system outputs in ../shared/data/score_wmt21")
@pytest.mark.parametrize("metric", ["bleu", pytest.param("chrf", marks=pytest.mark.slow)])
def test_wmt21_english_hausa(metric):
    with open(WMT21 / "published_scores.tsv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["metric"].startswith(f"{metric}-")]
    assert len({row["system"] for row in rows}) == 14
    folder = WMT21 / "en-ha"
    references = [read_lines(folder / "newstest2021.en-ha.ref.A.ha")]
    ours = {}
    for row in rows:  # `-A` and `-all` are the same here: reference A is all there is
        if row["system"] not in ours:
            hypotheses = read_lines(folder / f"newstest2021.en-ha.hyp.{row['system']}.ha")
            ours[row["system"]] = scoring.score(metric, hypotheses, references).value
        assert ours[row["system"]] == pytest.approx(float(row["score"]), abs=1e-9), row


@pytest.mark.skipif(not G2P.is_dir(), reason="needs fairseq's outputs in ../shared/data/g2p_fairseq_outputs")
def test_word_error_rate_of_fairseq_grapheme_to_phoneme():
    """What the shared task calls word error rate is the share of words with any error: a line is a word here."""
    files = sorted(G2P.glob("*/*/test.tsv"))
    assert len(files) == 10
    for file in files:
        published = (file.parent / "test.res").read_text().removeprefix("WER:").strip()
        references, hypotheses = zip(*(line.split("\t") for line in read_lines(file)), strict=True)
        assert f"{scoring.score('ser', hypotheses, [references]).value:.2f}" == published, file
        assert f"{100 - scoring.score('exact_match', hypotheses, [references]).value:.2f}" == published, file
        wrong = scoring.score("per", hypotheses, [references]).counts["lines_wrong"]
        assert wrong == round(float(published) * 10), file
