"""tokenizer.protect and tokenizer.symbols: placeholders and tags stay as they are, in every tokenizer."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s import registry
from s2s.config import compose
from s2s.errors import UserError
from s2s.text.pretokenizers.bytes import BytesConfig
from s2s.text.pretokenizers.jamo import JamoConfig
from s2s.text.pretokenizers.prefix import PrefixConfig
from s2s.text.protection import MARKS
from s2s.text.tokenizer import load_tokenizer
from s2s.text.vocabulary import UNK

PATTERNS = ["<[^>]*>", r"\{\w+\}"]
LINES = ["<B>Ein Haus</B> für {NAME}", "Der <i>HUND</i> läuft {X} { }", "한국 <가나> 각", f"a{MARKS}b"] * 8
KINDS = {
    "characters": {},
    "bytes": {},
    "words": {},
    "sentencepiece": {"vocab_size": 90, "algorithm": "bpe", "byte_fallback": False},
    "wordpiece": {"vocab_size": 90},
}
PRES = {"none": None, "bytes": BytesConfig(), "jamo": JamoConfig(), "prefix": PrefixConfig(text="To: ")}


def learn(kind: str, lines: list[str] = LINES, **options):
    tokenizer = registry.find("tokenizer", kind)
    return tokenizer.learn(tokenizer.Config(**{**KINDS.get(kind, {}), **options}), [lines])


def expected(line: str) -> str:
    """The line in NFC and lower case, except for what the patterns match."""
    texts = re.split(f"({'|'.join(PATTERNS)}|[{MARKS}])", line)
    texts[::2] = [unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()) for text in texts[::2]]
    return "".join(texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pre", [name if name in ("none", "bytes") else pytest.param(name, marks=pytest.mark.slow)
                                 for name in PRES])  # fmt: skip
def test_protected_parts_come_back_from_every_tokenizer(tmp_path, kind, pre):
    options = {"vocab_size": 360} if pre == "bytes" and kind in ("sentencepiece", "wordpiece") else {}
    tokenizer = learn(kind, lowercase=True, protect=PATTERNS, pre=PRES[pre], **options)
    tokenizer.save(tmp_path, "t")
    for one in (tokenizer, load_tokenizer(tmp_path, "t")):
        for line in LINES[:4]:
            assert one.decode(one.encode(line)) == expected(line)
        ids, lengths = one.encode_text("\n".join(LINES))
        assert ids.tolist() == [i for line in LINES for i in one.encode(line)]
        assert UNK not in ids
        assert lengths.tolist() == [len(one.encode(line)) for line in LINES]
    plain = learn(kind, lowercase=True, pre=PRES[pre], **options)
    assert plain.decode(plain.encode(LINES[0])) == LINES[0].lower()


PLAIN = {kind: {pre: learn(kind, protect=PATTERNS, pre=config, normalization="nfc")
                for pre, config in PRES.items()} for kind in ("bytes",)}  # fmt: skip
pieces = st.sampled_from(["<", ">", "<b>", "{x}", "{", "}", " ", "  ", "Ä", "한", "\u1112", "\u0301", "a", *MARKS])


@settings(max_examples=300)
@given(texts=st.lists(pieces | st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=12))
def test_decoding_is_the_exact_inverse(texts):
    """Of any line whose other parts are in the normal form, here with every pre-tokenizer over bytes."""
    line = "".join(texts)
    found = re.split(f"({'|'.join(PATTERNS)}|[{MARKS}])", line)
    found[::2] = [unicodedata.normalize("NFC", text) for text in found[::2]]
    # Text that the normal form joins to a further part is none of this property's lines.
    line = "".join(found)
    for tokenizer in PLAIN["bytes"].values():
        again = tokenizer.decode(tokenizer.encode(line))
        assert again == (line if tokenizer.encode(line) else "")


def test_moses_leaves_protected_parts_to_both_kinds_of_protection():
    pytest.importorskip("sacremoses")
    moses = compose.preset("pretokenizer", "moses")
    tokenizer = learn("words", ["Hello, <a href='x, y'>World!</a> {NAME}."], protect=PATTERNS, pre=moses)
    line = "Hello, <a href='x, y'>World!</a> {NAME}."
    assert tokenizer.decode(tokenizer.encode(line)) == line


def test_symbols_are_one_piece_wherever_they_stand(tmp_path):
    lines = ["der Hund <b>läuft</b> im Wald", "das Haus {n}ist grün"] * 20
    tokenizer = learn("sentencepiece", lines, vocab_size=40, symbols=["<b>", "</b>", "{n}", "{rare}"])
    for line in ("<b>im</b> Wald", "das{n}Haus {rare}", "{rare}{rare}ist"):
        ids = tokenizer.encode(line)
        assert tokenizer.decode(ids) == line
        names = [tokenizer.vocabulary.symbols[i] for i in ids]
        for symbol in ("<b>", "</b>", "{n}", "{rare}"):
            assert names.count(symbol) == line.count(symbol)
    tokenizer.save(tmp_path, "t")
    assert load_tokenizer(tmp_path, "t").encode(line) == ids
    given_model = learn("sentencepiece", [], **{key: registry.find("tokenizer", "sentencepiece").Config().__dict__[key]
                                               for key in ("vocab_size", "algorithm")},
                        model=str(tmp_path / "t.spm.model"), symbols=["<i>", "{n}"])  # fmt: skip
    names = [given_model.vocabulary.symbols[i] for i in given_model.encode("im<i>Haus{n}")]
    assert (names.count("<i>"), names.count("{n}")) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protect": ["<["]}, "protect=<\\[: not a regular expression"),
        ({"symbols": ["a b"]}, "symbols: 'a b': a text without spaces, and none"),
        ({"symbols": [""]}, "symbols: ''"),
        ({"symbols": ["<unk>"]}, "symbols: '<unk>'"),
    ],
)
def test_what_cannot_be_protected_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        learn("sentencepiece", **options)
