"""Every metric against counts made by hand, and the edit distance against the obvious recurrence."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s import registry, scoring
from s2s.errors import UserError
from s2s.scoring.edits import edits


def counts(score):
    names = ("substitutions", "deletions", "insertions", "reference_length", "lines_wrong", "lines")
    return tuple(score.counts[name] for name in names)


def test_word_errors_counted_by_hand():
    reference = ["the cat sat on the mat", "a b c", "d", "right"]
    hypothesis = ["the cat sit on mat", "a b b c", "", "right"]
    # line 1: sat -> sit (S), the second "the" is missing (D); line 2: one b too many (I); line 3: d is missing (D).
    score = scoring.score("wer", hypothesis, [reference])
    assert counts(score) == (1, 2, 1, 11, 3, 4)
    assert score.value == pytest.approx(100 * 4 / 11)
    assert scoring.score("ser", hypothesis, [reference]).value == 75.0
    assert scoring.score("exact_match", hypothesis, [reference]).value == 25.0
    assert not score.higher_is_better


def test_phoneme_errors_counted_by_hand():
    # HH AH L OW vs HH EH L OW L: one substitution, one insertion.
    score = scoring.score("per", ["HH EH L OW L"], [["HH AH L OW"]])
    assert counts(score) == (1, 0, 1, 4, 1, 1)
    assert score.value == 50.0
    assert score.name == "PER"


def test_character_errors_counted_by_hand():
    # kitten -> sitting: k/s, e/i, +g; "a b" -> "ab": the space is a character and is missing.
    score = scoring.score("cer", ["sitting", "ab"], [["kitten", "a b"]])
    assert counts(score) == (2, 1, 1, 9, 2, 2)
    assert score.value == pytest.approx(100 * 4 / 9)


def test_hypothesis_and_reference_are_not_swapped():
    missing = scoring.score("wer", ["a"], [["a b"]])
    superfluous = scoring.score("wer", ["a b"], [["a"]])
    assert (missing.counts["deletions"], missing.counts["insertions"], missing.value) == (1, 0, 50.0)
    assert (superfluous.counts["deletions"], superfluous.counts["insertions"], superfluous.value) == (0, 1, 100.0)


def test_error_rate_is_of_the_corpus_not_a_mean_of_lines():
    assert scoring.score("wer", ["x", "a b c"], [["a", "a b c"]]).value == 25.0


def test_each_line_takes_the_reference_with_the_fewest_edits():
    first, second = ["a b c", "d e"], ["a x", "d f g"]
    score = scoring.score("wer", ["a x", "d e"], [first, second])
    assert counts(score) == (0, 0, 0, 4, 0, 2)  # line 1 against the second, line 2 against the first
    assert "nrefs:2" in score.signature
    # With a tie the first reference counts: one edit of two words, not one of one.
    assert scoring.score("wer", ["a"], [["a b"], ["c"]]).counts["reference_length"] == 2
    assert scoring.score("exact_match", ["c", "a"], [["a", "a"], ["b", "c"]]).value == 50.0


@pytest.mark.parametrize(("hypothesis", "value"), [("", 0.0), ("a b", 100.0)])
@pytest.mark.parametrize("name", ["wer", "per", "cer"])
def test_empty_reference(name, hypothesis, value):
    assert scoring.score(name, [hypothesis], [[""]]).value == value


def test_token_accuracy_counted_by_hand():
    # 2 of 3 right; 1 of 2 (one is missing); 1 of 2 (one too many); an empty pair has no places.
    score = scoring.score("token_accuracy", ["a b x", "a", "a b", ""], [["a b c", "a b", "a", ""]])
    assert (score.counts["tokens_right"], score.counts["tokens"]) == (4, 7)
    assert score.value == pytest.approx(100 * 4 / 7)
    assert scoring.score("token_accuracy", ["a b"], [["b a"], ["a c"]]).value == 50.0
    assert scoring.score("token_accuracy", [""], [[""]]).value == 100.0


def test_lowercase_changes_the_value_and_the_signature():
    for name in ("wer", "cer", "per", "ser", "exact_match", "token_accuracy", "bleu", "chrf", "chrf++"):
        kept = scoring.score(name, ["The cat sat on it"], [["the cat sat on it"]])
        lowered = scoring.score(name, ["The cat sat on it"], [["the cat sat on it"]], lowercase=True)
        assert kept.value != lowered.value
        assert "case:mixed" in kept.signature
        assert "case:lc" in lowered.signature
        assert lowered.value == pytest.approx(100.0 if lowered.higher_is_better else 0.0)
    ter = scoring.score("ter", ["The cat"], [["the cat"]])
    assert (ter.value, ter.higher_is_better) == (0.0, False)
    assert "case:lc" in ter.signature


def test_error_rates_are_better_lower_and_the_others_higher():
    lower = {name for name in registry.names("metric") if not scoring.higher_is_better(name)}
    assert lower == {"ter", "wer", "cer", "per", "ser", "ned"}
    for name in set(registry.names("metric")) - {"comet", "bleurt"}:
        score = scoring.score(name, ["a b c d"], [["a b c d"]], inputs={"language": "en"})
        assert score.higher_is_better == scoring.higher_is_better(name)


def test_bleu_tokenizer_is_in_the_signature():
    assert "tok:char" in scoring.score("bleu", ["a b c d"], [["a b c d"]], tokenizer="char").signature


def test_sacrebleu_knows_our_tokenizers():
    from sacrebleu.metrics import BLEU

    assert set(scoring.TOKENIZERS) <= set(BLEU.TOKENIZERS)


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'bleu'"):
        scoring.score("blue", ["a"], [["a"]])


@pytest.mark.parametrize(("hypotheses", "references"), [([], [[]]), (["a"], []), (["a"], [["a", "b"]])])
def test_nothing_to_score_and_unequal_lengths_raise(hypotheses, references):
    with pytest.raises(ValueError, match="hypotheses against"):
        scoring.score("wer", hypotheses, references)


def distance(a: str, b: str) -> int:
    """Levenshtein's recurrence, as it is written in every textbook."""

    @cache
    def to(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(to(i - 1, j) + 1, to(i, j - 1) + 1, to(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return to(len(a), len(b))


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edits_are_the_fewest_and_consistent(reference, hypothesis):
    for pair in ((reference, hypothesis), (list(reference), list(hypothesis))):
        found = edits(*pair)
        assert found.total == distance(reference, hypothesis)
        assert found.insertions - found.deletions == len(hypothesis) - len(reference)
        assert found.lines_wrong == (reference != hypothesis)
