"""Pre-tokenizers: what is rewritten comes back, in every tokenizer, from files too, and what cannot is refused."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s import registry
from s2s.config import compose
from s2s.data.store import Store
from s2s.errors import UserError
from s2s.text.pretokenizers.bytes import Bytes, BytesConfig
from s2s.text.pretokenizers.jamo import Jamo, JamoConfig
from s2s.text.pretokenizers.prefix import Prefix, PrefixConfig
from s2s.text.tokenizer import check_output, is_blank, load_tokenizer
from s2s.text.vocabulary import UNK

KOREAN = ["한국어를 배우고 있다", "각 가 나", "ab 값 ㄱ", "뷁 훠 ᄀ x"] * 10
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=30)
hangul = st.text(st.sampled_from("한국각가나값뷁ᄀᆨᅡㄱ ab\u0301"), max_size=30)


def learn(kind: str, lines: list[str], pre, **options):
    tokenizer = registry.find("tokenizer", kind)
    return tokenizer.learn(tokenizer.Config(pre=pre, **options), [lines])


KINDS = {
    "characters": {},
    "bytes": {},
    "words": {},
    "sentencepiece": {"vocab_size": 50, "algorithm": "bpe"},
}


def test_syllables_are_letters_and_letters_are_syllables():
    jamo = Jamo(JamoConfig())
    assert jamo.apply("한a ㄱ") == "\u1112\u1161\u11aba ㄱ"
    assert jamo.undo("\u1112\u1161\u11aba \u1100") == "한a \u1100"
    every = "".join(map(chr, range(0xAC00, 0xD7A4)))
    assert len(set(jamo.apply(every))) == 19 + 21 + 27
    assert jamo.undo(jamo.apply(every)) == every


@settings(max_examples=500, deadline=None)
@given(line=anything | hangul)
def test_jamo_give_any_normal_line_back(line):
    jamo, line = Jamo(JamoConfig()), unicodedata.normalize("NFC", line)
    assert jamo.undo(jamo.apply(line)) == line
    assert is_blank(jamo.apply(line)) == is_blank(line)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_read_before_each_line_and_never_written(tmp_path, kind):
    options = {"vocab_size": 13} if kind == "sentencepiece" else {}
    tokenizer = learn(kind, ["ab c", "ab", ""] * 5, PrefixConfig(text="to en: "), **options)
    plain = learn(kind, ["to en: ab c", "to en: ab", ""] * 5, None, **options)
    assert tokenizer.vocabulary.symbols == plain.vocabulary.symbols
    tokenizer.save(tmp_path, "source")
    for made in (tokenizer, load_tokenizer(tmp_path, "source")):
        assert made.encode("ab c") == plain.encode("to en: ab c")
        assert made.decode(made.encode("ab c")) == "ab c"
        assert made.encode("") == made.encode("  ") == []


def test_a_target_has_no_prefix():
    """Prefixes and constraints of a search would have it too."""
    with pytest.raises(UserError, match=r"source_tokenizer\.pre is for the source alone"):
        check_output(registry.find("tokenizer", "words").Config(pre=PrefixConfig(text="x ")), "tokenizer")


@pytest.mark.parametrize("text", ["", "  ", "to\nen"])
def test_a_prefix_without_words_is_an_error(text):
    with pytest.raises(UserError, match="needs a text without line feeds"):
        Prefix(PrefixConfig(text=text))


@pytest.mark.parametrize("kind", KINDS)
def test_every_tokenizer_learns_encodes_and_decodes_rewritten_lines(tmp_path, kind):
    tokenizer = learn(kind, KOREAN, JamoConfig(), **KINDS[kind])
    plain = registry.find("tokenizer", kind)
    letters = [Jamo(JamoConfig()).apply(line) for line in KOREAN]
    plain = plain.learn(plain.Config(normalization="none", **KINDS[kind]), [letters])
    assert tokenizer.vocabulary.symbols == plain.vocabulary.symbols
    assert not any("가" <= character <= "힣" for symbol in tokenizer.vocabulary.symbols for character in symbol)
    tokenizer.save(tmp_path, "source")
    loaded = load_tokenizer(tmp_path, "source")
    for line in KOREAN[:4]:
        ids = tokenizer.encode(line)
        assert UNK not in ids
        assert tokenizer.decode(ids) == loaded.decode(ids) == line
        assert loaded.encode(line) == ids
        assert loaded.encode_text(f"{line}\n{line}")[0].tolist() == ids + ids
        assert loaded.sample([line], np.ones(1, np.uint64))[0].tolist() == ids
    blank = ["\u3000", "한", ""]
    assert [bool(len(ids)) for ids in loaded.encode_lines(blank)] == [False, True, False]


def test_a_sampled_segmentation_sees_rewritten_lines():
    tokenizer = learn("sentencepiece", KOREAN, JamoConfig(), vocab_size=34, sampling=0.5)
    ids, lengths = tokenizer.sample(KOREAN[:4], np.arange(4, dtype=np.uint64))
    assert [tokenizer.decode(row) for row in np.split(ids, np.cumsum(lengths)[:-1])] == KOREAN[:4]


def test_a_given_vocabulary_is_rewritten_as_lines_are(tmp_path):
    (tmp_path / "symbols").write_text("한국\n나\n")
    tokenizer = learn("words", [], JamoConfig(), vocabulary=str(tmp_path / "symbols"))
    assert tokenizer.encode("나 한국") == [5, 4]
    with pytest.raises(UserError, match="symbols:1: tokenizer=characters makes 6 symbols"):
        learn("characters", [], JamoConfig(), vocabulary=str(tmp_path / "symbols"))


def test_it_needs_the_normal_form_that_makes_it_exact():
    with pytest.raises(UserError, match="pre=nfkd_jamo requires normalization=nfc or nfkc, not none"):
        learn("characters", KOREAN, JamoConfig(), normalization="none")


def test_files_name_the_pre_tokenizer_and_are_as_before_without_one(tmp_path):
    learn("characters", KOREAN, JamoConfig()).save(tmp_path, "a")
    learn("characters", KOREAN, None).save(tmp_path, "b")
    facts = json.loads((tmp_path / "a.tokenizer.json").read_text())
    assert facts["pre"] == {"type": "nfkd_jamo"}
    assert "pre" not in json.loads((tmp_path / "b.tokenizer.json").read_text())
    (tmp_path / "a.tokenizer.json").write_text(json.dumps(facts | {"pre": {"type": "nfkd_jamu"}}))
    with pytest.raises(UserError, match=r"a.tokenizer.json: pre: no pretokenizer is called 'nfkd_jamu'"):
        load_tokenizer(tmp_path, "a")


def test_a_store_and_its_task_know_it(tmp_path, s2s):
    for name, lines in (("train", KOREAN), ("valid", KOREAN[:4])):
        for side in ("ko", "en"):
            (tmp_path / f"{name}.{side}").write_text("".join(f"{line}\n" for line in lines))
    s2s("preprocess", "source=ko", "target=en", f"train={tmp_path / 'train'}", f"valid={tmp_path / 'valid'}",
        "tokenizer=characters", "tokenizer.pre=nfkd_jamo", f"store={tmp_path / 'store'}", "workers=1")  # fmt: skip
    store = Store(tmp_path / "store")
    tokenizer = store.tokenizers()["target"]
    ids, _ = store.split("valid").gather("target.tokens", np.array([0]))
    assert ids.tolist() == tokenizer.encode(KOREAN[0])
    assert store.split("valid").lines("target.text", np.array([0])) == KOREAN[:1]
    assert tokenizer.decode(ids) == KOREAN[0]


def bbpe(**options):
    return learn("sentencepiece", ["grüne Häuser € 😀", "über über Straße", "das 한국"] * 20, BytesConfig(),
                 algorithm="bpe", **options)  # fmt: skip


@pytest.fixture(scope="module")
def byte_pieces():
    return bbpe(vocab_size=280)


@settings(max_examples=300, deadline=None)
@given(line=anything)
def test_byte_pieces_give_any_line_back_but_for_extra_spaces(byte_pieces, line):
    line = unicodedata.normalize("NFC", line)
    ids = byte_pieces.encode(line)
    assert UNK not in ids
    assert byte_pieces.decode(ids) == ("" if is_blank(line) else " ".join(filter(None, line.split(" "))))


def test_byte_pieces_join_bytes_and_write_every_byte(byte_pieces):
    assert len(byte_pieces.vocabulary) == 280
    symbols = byte_pieces.vocabulary.symbols
    assert {chr(0x100 + byte) for byte in range(0x80, 0x100)} <= set(symbols)
    two = "\u01c3\u01bc"  # the bytes of ü
    assert any(two in symbol for symbol in symbols)
    assert len(byte_pieces.encode("über")) < 5


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([c.encode() for c in "aé€😀"] + [b"\xe2\x82", b"\x80", b"\xff", b"\xed\xa0\x80"]))
       .map(b"".join))  # fmt: skip
def test_of_broken_bytes_as_many_characters_as_possible_are_kept(data):
    written = "".join(Bytes(BytesConfig()).apply(chr(b)) if b < 0x80 else chr(0x100 + b) for b in data)
    best = [""]
    for end in range(1, len(data) + 1):
        choices = [best[end - 1]]
        for start in range(max(0, end - 4), end):
            character = data[start:end].decode(errors="ignore")
            if len(character) == 1 and character.encode() == data[start:end]:
                choices.append(best[start] + character)
        best.append(max(choices, key=len))
    assert Bytes(BytesConfig()).undo(written) == best[-1]


def test_bbpe_is_a_preset():
    config = compose.preset("tokenizer", "bbpe_2k")
    assert (config.type, config.algorithm, config.vocab_size, config.pre) == ("sentencepiece", "bpe", 2048,
                                                                              BytesConfig())  # fmt: skip
