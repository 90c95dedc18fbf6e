"""Symbols, their numbers, their files."""

import pytest

from s2s.text.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary


def test_special_symbols_come_first_and_absent_ones_are_unknown():
    vocabulary = Vocabulary([*SPECIALS, "a", "b"])
    assert [vocabulary.index(s) for s in ("<pad>", "<unk>", "<s>", "</s>", "b", "c")] == [PAD, UNK, BOS, EOS, 5, UNK]
    assert len(vocabulary) == 6


@pytest.mark.parametrize("symbols", [["a", *SPECIALS], [*SPECIALS, "a", "a"], [*SPECIALS, "a\nb"]])
def test_other_first_symbols_repeated_ones_and_line_feeds_are_refused(symbols):
    with pytest.raises(ValueError):  # noqa: PT011 (three messages)
        Vocabulary(symbols)


def test_saved_and_loaded_symbols_are_the_same_even_odd_ones(tmp_path):
    vocabulary = Vocabulary([*SPECIALS, " ", "\r", "\u2028", "\x85", "\t", "ä", "\u0301", "\x00"])
    vocabulary.save(tmp_path / "v")
    loaded = Vocabulary.load(tmp_path / "v")
    assert loaded.symbols == vocabulary.symbols
    assert loaded.digest == vocabulary.digest


def test_digest_changes_with_order():
    assert Vocabulary([*SPECIALS, "a", "b"]).digest != Vocabulary([*SPECIALS, "b", "a"]).digest
