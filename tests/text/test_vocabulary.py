"""Symbols, their numbers, their files."""

import pytest

from s2s.errors import UserError
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


@pytest.mark.parametrize("text", ["a\nb\n", "<pad>\n<unk>\n<s>\n</s>\na\nb", "a\r\nb\r\n"])
def test_a_users_list_needs_no_special_symbols(tmp_path, text):
    (tmp_path / "v").write_bytes(text.encode())
    assert Vocabulary.from_user(tmp_path / "v").symbols == [*SPECIALS, "a", "b"]


@pytest.mark.parametrize(
    ("text", "where"), [("a\nb\na\n", ":3: symbol 'a' is there twice"), ("a\n\nb\n", ":2: empty line")]
)
def test_a_users_list_with_a_mistake_is_an_error_with_its_line(tmp_path, text, where):
    (tmp_path / "v").write_text(text)
    with pytest.raises(UserError, match=where):
        Vocabulary.from_user(tmp_path / "v")
