"""Text that a vocabulary does not know: when it is told, and what is said of the reason."""

import numpy as np
import pytest

from s2s import registry
from s2s.data.report import unknown_tokens
from s2s.data.unknown import LINES, check_unknown, unknown_lines
from s2s.errors import UserError
from s2s.text.vocabulary import UNK

TEXT = ["the cat runs , and the dog barks .", "a caf\u00e9 is over there", "\ufb01ne : the house is green ."]


def words(text, **options):
    tokenizer = registry.find("tokenizer", "words")
    return tokenizer.learn(tokenizer.Config(**options), [text])


def said(tokenizer, text, capsys, other=None, training=False):
    ids, lengths = tokenizer.encode_flat(text)
    counts = {"tokens": len(ids), "unknown": int((ids == UNK).sum())}
    kept = unknown_lines("\n".join(text), unknown_tokens(ids, lengths), lengths)
    check_unknown("train, en", tokenizer, other, counts, kept, training)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("vocabulary", "options", "text", "shown", "reason"),
    [
        (TEXT, {}, [line.upper() for line in TEXT], "'THE', 'CAT', 'RUNS'", "in lower case (tokenizer.lowercase=true)"),
        ([line.upper() for line in TEXT], {}, TEXT, "'the', 'cat', 'runs'", "in upper case"),
        (["caf\u00e9"], {"normalization": "none"}, ["cafe\u0301"], "'cafe\u0301'", "tokenizer.normalization=nfc"),
        (["fine"], {}, ["\ufb01ne"], "'\ufb01ne'", "tokenizer.normalization=nfkc"),
        (TEXT, {}, ["cat, dog, green. there"], "'cat,', 'dog,', 'green.'", "with punctuation separated"),
        (["the@@ y o@@ ver ca@@"], {}, TEXT, "'the', 'cat', 'runs'", "consists of word pieces, with @@"),
        (["\u2581the \u2581cat s"], {}, TEXT, "'the', 'cat', 'runs'", "consists of word pieces, with \u2581"),
        (["der Hund"], {}, TEXT, "'the', 'cat', 'runs'", "too small, of another language"),
        (TEXT, {"vocab_size": 6}, TEXT, "'cat', 'runs', ','", "too small, of another language, or"),
    ],
)
def test_the_reason_is_named(capsys, vocabulary, options, text, shown, reason):
    error = said(words(vocabulary, **options), text, capsys)
    assert error.startswith("warning: train, en: ")
    assert f"% of the tokens are unknown, such as {shown}: " in error
    assert reason in error


def test_sides_that_are_swapped_are_told(capsys):
    german = words(["der Hund bellt"])
    assert "source and target may be swapped" in said(words(["the dog barks"]), ["der Hund"], capsys, german)


def test_a_fifth_may_be_unknown_and_no_more(capsys):
    tokenizer = words(["a"])
    assert said(tokenizer, ["a a a a b"], capsys) == ""
    assert "25% of the tokens" in said(tokenizer, ["a a a b"], capsys)
    assert said(tokenizer, [""], capsys, training=True) == ""


def test_nothing_is_learned_from_unknown_text_alone(capsys):
    tokenizer = words(["a"])
    assert "100% of the tokens" in said(tokenizer, ["b"], capsys)
    with pytest.raises(
        UserError, match=r"train, en: 100% of the tokens are unknown, such as 'b': .*cannot learn anything"
    ):
        said(tokenizer, ["b"], capsys, training=True)


def test_few_lines_are_kept_for_the_reason():
    lines = ["b" * 5000] * (LINES + 5)
    ones = np.ones(len(lines), np.int64)
    assert unknown_lines("\n".join(lines), ones, ones) == ["b" * 1000] * LINES
    assert unknown_lines("\n".join(lines), ones, 5 * ones) == []
