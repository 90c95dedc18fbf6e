"""What all tokenizers promise: text comes back, batches equal single lines, saving loses nothing, learning repeats."""

import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s import registry
from s2s.errors import UserError
from s2s.text.tokenizer import LearningError, is_blank, load_tokenizer, normalise
from s2s.text.vocabulary import BOS, EOS, PAD, SPECIALS, UNK

TYPES = ("sentencepiece", "characters", "bytes", "words", "wordpiece")
WORDS = [
    "der",
    "das",
    "Hund",
    "Häuser",
    "läuft",
    "über",
    "grüne",
    "Wiesen",
    ".",
    ",",
    "Straße",
    "ein",
    "Junge",
    "İstanbul",
]
WORDS += ["ΣΑΣ", "œuvre", "ﬁn"]
ALPHABET = sorted(set("".join(WORDS)) | {" "})


def text(lines: int = 400) -> list[str]:
    rng = random.Random(5)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(1, 12))) for _ in range(lines)]


def learn(kind: str, lines: list[str] | None = None, **options):
    if kind == "sentencepiece":
        options = {"vocab_size": 45} | options
    tokenizer = registry.find("tokenizer", kind)
    return tokenizer.learn(tokenizer.Config(**options), [lines if lines is not None else text()])


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: learn(kind) for kind in TYPES} | {
        "fallback": learn("sentencepiece", vocab_size=300, byte_fallback=True)
    }


def nfc(line: str) -> str:
    return unicodedata.normalize("NFC", line)


def without_extra_spaces(line: str) -> str:
    return " ".join(filter(None, line.split(" ")))


known = st.text(st.sampled_from(ALPHABET), max_size=40)
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=40)


@settings(max_examples=1000, deadline=None)
@given(line=anything)
def test_bytes_give_any_text_back(tokenizers, line):
    assert tokenizers["bytes"].decode(tokenizers["bytes"].encode(line)) == ("" if is_blank(line) else nfc(line))


@settings(max_examples=1000, deadline=None)
@given(line=known)
def test_characters_give_known_text_back(tokenizers, line):
    ids = tokenizers["characters"].encode(line)
    assert tokenizers["characters"].decode(ids) == ("" if is_blank(line) else nfc(line))
    assert len(ids) == (0 if is_blank(line) else len(nfc(line)))


@settings(max_examples=1000, deadline=None)
@given(line=st.lists(st.sampled_from([*WORDS, " ", "\t", "\u3000"]), max_size=20).map(" ".join))
def test_words_give_known_text_back_but_for_whitespace(tokenizers, line):
    assert tokenizers["words"].decode(tokenizers["words"].encode(line)) == " ".join(line.split())


@settings(max_examples=1000, deadline=None)
@given(line=known)
def test_sentencepiece_gives_known_text_back_but_for_extra_spaces(tokenizers, line):
    assert tokenizers["sentencepiece"].decode(tokenizers["sentencepiece"].encode(line)) == without_extra_spaces(
        nfc(line)
    )


@settings(max_examples=1000, deadline=None)
@given(line=anything.filter(lambda line: "\u2581" not in line))  # SentencePiece's own sign for a space
def test_sentencepiece_with_byte_fallback_gives_any_text_back_but_for_extra_spaces(tokenizers, line):
    ids = tokenizers["fallback"].encode(line)
    assert UNK not in ids
    assert tokenizers["fallback"].decode(ids) == ("" if is_blank(line) else without_extra_spaces(nfc(line)))


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(st.one_of(anything, known), max_size=8))
@pytest.mark.parametrize("kind", [*TYPES, "fallback"])
def test_a_batch_of_lines_equals_its_lines_one_by_one(tokenizers, kind, lines):
    tokenizer = tokenizers[kind]
    one_by_one = [tokenizer.encode(line) for line in lines]
    assert [ids.tolist() for ids in tokenizer.encode_lines(lines)] == one_by_one
    ids, lengths = tokenizer.encode_text("\n".join(lines or [""]))
    assert [row.tolist() for row in np.split(ids, np.cumsum(lengths)[:-1])] == (one_by_one or [[]])


@pytest.mark.parametrize("kind", TYPES)
def test_no_special_symbol_but_unknown_comes_out_of_text(tokenizers, kind):
    for line in ("<pad>", "<s> </s>", "<unk>", "a <s>", "\x00", "😀"):
        assert not {PAD, BOS, EOS} & set(tokenizers[kind].encode(line))


@pytest.mark.parametrize("kind", TYPES)
def test_decoding_passes_over_special_symbols_and_takes_numpy_and_any_id(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("grüne Wiesen")
    assert tokenizer.decode(np.array([BOS, *ids, EOS, PAD])) == "grüne Wiesen"
    assert isinstance(tokenizer.decode([len(tokenizer.vocabulary) + 7, UNK]), str)
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("kind", TYPES)
def test_an_empty_line_has_no_tokens(tokenizers, kind):
    assert tokenizers[kind].encode("") == []
    assert tokenizers[kind].encode_lines([]) == []
    assert [len(ids) for ids in tokenizers[kind].encode_lines(["", "der", ""])][::2] == [0, 0]


BLANK = [" ", "\t \t", "\u00a0", "\u3000\u3000", "\u2028", "\u200b", "\ufeff \u2060", "\u200b\u3000\u200b"]


@pytest.mark.parametrize("kind", [*TYPES, "fallback", "sampled"])
def test_a_line_that_shows_nothing_is_an_empty_line(tokenizers, kind):
    """The model would make up a text for it. Such characters within a line stay what they are."""
    learned = [*text(), "a\u00a0b\u3000c\u200bd"]
    tokenizer = tokenizers.get(kind) or learn("sentencepiece", learned, sampling=0.1)
    lines = ["der", *BLANK, "der\u00a0der", "", "\u200bder"]
    empty = [False, *[True] * len(BLANK), False, True, False]
    assert [is_blank(line) for line in lines] == empty
    for _, lengths in (
        tokenizer.encode_flat(lines),
        tokenizer.encode_text("\n".join(lines)),
        tokenizer.sample(lines, np.arange(len(lines), dtype=np.uint64)),
    ):
        assert (lengths == 0).tolist() == empty
    one_by_one = [tokenizer.encode(line) for line in lines]
    assert [ids.tolist() for ids in tokenizer.encode_lines(lines)] == one_by_one
    assert [not ids for ids in one_by_one] == empty


@pytest.mark.parametrize("kind", TYPES)
def test_a_saved_tokenizer_needs_only_its_folder_and_is_the_same(tmp_path, kind):
    tokenizer = learn(kind, lowercase=True, normalization="nfkc")
    tokenizer.save(tmp_path, "source")
    loaded = load_tokenizer(tmp_path, "source")
    lines = [*text(50), "unbekannt ☃ ﬁn"]
    assert loaded.config == tokenizer.config
    assert loaded.vocabulary.digest == tokenizer.vocabulary.digest
    assert [a.tolist() for a in loaded.encode_lines(lines)] == [a.tolist() for a in tokenizer.encode_lines(lines)]


@pytest.mark.parametrize("kind", TYPES)
def test_saving_a_loaded_tokenizer_writes_the_same_bytes(tmp_path, kind):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    learn(kind).save(tmp_path / "a", "x")
    load_tokenizer(tmp_path / "a", "x").save(tmp_path / "b", "x")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@pytest.mark.parametrize("damage", ["missing", "not json", '{"type": "words", "colour": 3}', '{"type": "wrods"}', "[]"])
def test_a_damaged_config_is_an_error_that_names_it(tmp_path, damage):
    learn("words").save(tmp_path, "source")
    path = tmp_path / "source.tokenizer.json"
    path.unlink() if damage == "missing" else path.write_text(damage)
    with pytest.raises(UserError, match=r"source.tokenizer.json|did you mean 'words'"):
        load_tokenizer(tmp_path, "source")


@pytest.mark.parametrize("kind", TYPES)
def test_learning_twice_gives_the_same(kind):
    assert learn(kind).vocabulary.symbols == learn(kind).vocabulary.symbols


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_limits_keep_the_most_frequent_symbols_ties_in_code_point_order(kind):
    lines = ["b b b", "a a a", "c c", "d"]
    symbols = ["a", "b", "c", "d"] if kind == "words" else [" ", "a", "b", "c", "d"]
    assert learn(kind, lines).vocabulary.symbols == [*SPECIALS, *symbols]
    assert "d" not in learn(kind, lines, min_count=2).vocabulary.symbols
    assert len(learn(kind, lines, vocab_size=6).vocabulary) == 6
    assert learn(kind, lines, vocab_size=6).vocabulary.symbols[-1] == ("b" if kind == "words" else "a")


@pytest.mark.parametrize("kind", ["words", "characters", "sentencepiece"])
def test_nothing_is_learned_from_nothing(kind):
    with pytest.raises(LearningError, match="training text"):
        learn(kind, ["", ""])


def test_invalid_utf8_from_the_byte_tokenizer_is_left_out():
    tokenizer = learn("bytes")
    ids = tokenizer.encode("aä")
    assert tokenizer.decode(ids[:-1]) == "a"
    assert tokenizer.decode([*ids, UNK]) == "aä\ufffd"
    assert len(tokenizer.vocabulary) == 260


def test_unknown_words_and_characters_are_visible():
    assert learn("words").decode([UNK]) == "<unk>"
    assert learn("characters").decode([UNK]) == "\ufffd"


def most_characters(data):
    """Of bytes: f(k) = max over t of f(k - t) + whether the last t of the first k bytes are a character."""
    best = [""]
    for end in range(1, len(data) + 1):
        found = [best[end - 1]]
        for start in range(max(0, end - 4), end):
            try:
                character = data[start:end].decode()
            except UnicodeDecodeError:
                continue
            if len(character) == 1:
                found.append(best[start] + character)
        best.append(max(found, key=len))
    return best[-1]


# Characters of one to four bytes; characters cut off, a lone continuation, a surrogate, an overlong form, no UTF-8.
PIECES = [character.encode() for character in "aé€😀"]
BROKEN = [b"\xe2\x82", b"\xf0\x9f\x98", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xff"]


@given(st.lists(st.sampled_from(PIECES + BROKEN) | st.binary(max_size=3)).map(b"".join))
def test_as_many_characters_as_possible_are_recovered_from_bytes(data):
    assert learn("bytes").decode([byte + len(SPECIALS) for byte in data]) == most_characters(data)


@pytest.mark.parametrize("form", ["none", "nfc", "nfkc"])
@pytest.mark.parametrize("lowercase", [False, True])
@settings(max_examples=300, deadline=None)
@given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=6))
def test_normalising_many_lines_at_once_equals_one_by_one(form, lowercase, lines):
    def slowly(line: str) -> str:
        def compose(line: str) -> str:
            return line if form == "none" else unicodedata.normalize(form.upper(), line)

        line = compose(line)
        return compose(line.lower()) if lowercase else line

    # A line of these tests may hold line feeds; str.lower sees a word's end at each of them.
    assert normalise(lines, form, lowercase) == [slowly(line) for line in lines]


def test_normalisation_examples():
    assert normalise(["A\u0308 ﬁ", "İ"], "none", False) == ["A\u0308 ﬁ", "İ"]
    assert normalise(["A\u0308 ﬁ"], "nfc", False) == ["Ä ﬁ"]
    assert normalise(["A\u0308 ﬁ ℌ"], "nfkc", True) == ["ä fi h"]  # noqa: RUF001
    assert normalise(["ΣΑΣ", "Σ", "ΟΔΟΣ x"], "nfc", True) == ["σας", "σ", "οδος x"]  # noqa: RUF001


def test_text_needs_no_torch():
    code = f"import sys, {', '.join(f's2s.text.{kind}' for kind in TYPES)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
