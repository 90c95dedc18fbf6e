"""Lists of symbols of other makers: what is read, what is refused, and that a line has every symbol that is read."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s import registry
from s2s.errors import UserError
from s2s.text.tokenizer import LearningError
from s2s.text.vocabulary import SPECIALS, UNK

NFC, NFD = "caf\u00e9", "cafe\u0301"


def learn(kind, path, content=None, **options):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tokenizer = registry.find("tokenizer", kind)
    return tokenizer.learn(tokenizer.Config(vocabulary=str(path), **options), [])


@pytest.mark.parametrize("kind", ["words", "characters"])
@pytest.mark.parametrize(
    "content",
    [
        "b\na\n",
        "b\na",
        "b\r\na\r\n",
        b"\xef\xbb\xbfb\na\n",
        "<pad>\n<unk>\n<s>\n</s>\nb\na\n",
        "<unk>\n<s>\n</s>\nb\na\n",
        "b 12\na 3\n",  # fairseq's dict.txt
        "<s> 99 #fairseq:overwrite\nb 12\na 3\n",
        "b 0\na 1\n<s> 2\n</s> 3\n",  # Kaldi's words.txt
        "<unk>\t0\n<s>\t0\n</s>\t0\nb\t-2.75\na\t-3.1e-05\n",  # SentencePiece's .vocab
    ],
)
def test_a_list_gives_its_symbols_in_their_order(tmp_path, kind, content):
    tokenizer = learn(kind, tmp_path / "v", content)
    assert tokenizer.vocabulary.symbols == [*SPECIALS, "b", "a"]
    assert tokenizer.encode("a") == [5]


def test_numbers_and_spaces_may_be_symbols(tmp_path):
    assert learn("words", tmp_path / "v", "12\n3\n-0.5\n").vocabulary.symbols[4:] == ["12", "3", "-0.5"]
    assert learn("characters", tmp_path / "v", "1\n \n\u3000\n\t\n").vocabulary.symbols[4:] == [
        "1",
        " ",
        "\u3000",
        "\t",
    ]
    assert learn("characters", tmp_path / "v", "  7\n1 5\n").vocabulary.symbols[4:] == [" ", "1"]
    assert learn("characters", tmp_path / "v", "[\n]\n{\n").vocabulary.symbols[4:] == ["[", "]", "{"]


@pytest.mark.parametrize(
    ("kind", "content", "options", "symbols", "line"),
    [
        ("words", f"the\n{NFD}\n", {}, ["the", NFC], f"the {NFD}"),
        ("words", f"the\n{NFC}\n", {}, ["the", NFC], f"the {NFD}"),
        ("words", f"the\n{NFD}\n", {"normalization": "none"}, ["the", NFD], f"the {NFD}"),
        ("words", "The\nCat\n", {"lowercase": True}, ["the", "cat"], "THE CAT"),
        ("words", "\ufb01n \n", {"normalization": "nfkc"}, ["fin"], "\ufb01n"),
        ("words", "\u2581The 3\n\u2581the 2\n", {}, ["\u2581The", "\u2581the"], "\u2581the \u2581The"),
        ("characters", "e\u0301\nA\n", {"lowercase": True}, ["\u00e9", "a"], "AE\u0301a"),
    ],
)
def test_symbols_are_normalised_as_lines_are(tmp_path, kind, content, options, symbols, line):
    tokenizer = learn(kind, tmp_path / "v", content, **options)
    assert tokenizer.vocabulary.symbols[4:] == symbols
    assert UNK not in tokenizer.encode(line)


@pytest.mark.parametrize(
    ("kind", "content", "options", "message"),
    [
        ("words", "a\nb\na\n", {}, "v:3: symbol 'a' appears twice (also in line 1)"),
        ("words", "A\na\n", {"lowercase": True},
         "v:2: symbol 'a' appears twice (also in line 1, as 'A'; lines have 'a' for both)"),
        ("words", "a\n\nb\n", {}, "v:2: empty line; one symbol a line is needed"),
        ("words", "", {}, "v:1: empty line"),
        ("words", "<pad>\n<unk>\n", {}, "v: no symbols in it"),
        ("words", "the 3\nthe cat\n", {}, "v:1: tokenizer=words makes 2 symbols, ['the', '3'] of 'the 3'; one symbol"),
        ("words", "cat\n\u00a0\n", {}, "v:2: tokenizer=words makes no symbol of '\\xa0'"),
        ("characters", "b\nab\n", {}, "v:2: tokenizer=characters makes 2 symbols, ['a', 'b'] of 'ab'"),
        ("characters", "\ufb01\n", {"normalization": "nfkc"}, "makes 2 symbols, ['f', 'i']"),
        ("words", json.dumps({"the": 0, "cat": 1}), {}, "v:1: is JSON; one symbol a line is needed"),
        ("words", json.dumps(["the", "cat"], indent=1), {}, "v:1: is JSON"),
        ("words", "the: 0\ncat: 1\n", {}, "v:1: is YAML, a number for each symbol; one symbol"),
        ("words", b"a\nb\xff\n", {}, "v:2: invalid UTF-8 at byte 3"),
        ("words", "a\n".encode("utf-16"), {}, "v:1: invalid UTF-8 at byte 0"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_symbols_is_refused_with_its_line(tmp_path, kind, content, options, message):
    with pytest.raises(UserError) as error:
        learn(kind, tmp_path / "v", content, **options)
    assert str(error.value).startswith(str(tmp_path))
    assert message in str(error.value)


def test_a_list_that_is_not_there_is_told(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="no such vocabulary file"):
            learn("words", path)


@pytest.mark.parametrize(("kind", "file", "option"), [
    ("words", "vocabulary", {"vocab_size": 100}), ("characters", "vocabulary", {"min_count": 2}),
    ("sentencepiece", "model", {"vocab_size": 100}), ("sentencepiece", "model", {"algorithm": "bpe"}),
    ("sentencepiece", "model", {"byte_fallback": True}),
])  # fmt: skip
def test_options_of_learning_beside_a_given_file_are_refused(kind, file, option):
    tokenizer = registry.find("tokenizer", kind)
    ((name, value),) = option.items()
    with pytest.raises(LearningError, match=f"{name}={value}: does nothing beside {file}=FILE"):
        tokenizer.learn(tokenizer.Config(**option, **{file: "FILE"}), [])


odd = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n")
    | st.sampled_from("aAbB 3\t\u0301\u3000\u00a0\ufb01\u03a3\u0130\ufeff\u200b"),
    max_size=3,
)


@given(
    symbols=st.lists(odd, max_size=5),
    counts=st.booleans(),
    normalization=st.sampled_from(["none", "nfc", "nfkc"]),
    lowercase=st.booleans(),
)
@pytest.mark.parametrize("kind", ["words", "characters"])
def test_a_line_has_every_symbol_of_a_list_that_is_accepted(
    tmp_path_factory, kind, symbols, counts, normalization, lowercase
):
    path = tmp_path_factory.getbasetemp() / "list"
    content = "".join(f"{symbol} {number}\n" if counts else f"{symbol}\n" for number, symbol in enumerate(symbols))
    try:
        tokenizer = learn(kind, path, content, normalization=normalization, lowercase=lowercase)
    except UserError as error:
        assert str(error).startswith(f"{path}:")  # noqa: PT017 (either outcome is right)
        return
    for number, symbol in enumerate(tokenizer.vocabulary.symbols[len(SPECIALS) :], len(SPECIALS)):
        assert number in tokenizer.encode(f"\u2603 {symbol}" if kind == "words" else f"\u2603{symbol}")
    for symbol in symbols:
        if symbol.strip() and symbol not in SPECIALS and "\r" not in symbol:
            assert UNK not in tokenizer.encode(symbol)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_a_line_has_every_symbol_that_is_learned(kind):
    tokenizer = registry.find("tokenizer", kind)
    if kind == "bytes":
        every = tokenizer.learn(tokenizer.Config(), [])
        points = [*range(0x0A), *range(0x0B, 0x800), *range(0x800, 0xD800, 0x40), *range(0xE000, 0x110000, 0x40)]
        lines = ["".join(map(chr, points))]
        never = {0x0A, 0xC0, 0xC1, *range(0xF5, 0x100)}  # no line of UTF-8 holds these bytes
        assert {int(number) - 4 for number in np.unique(every.encode_flat(lines)[0])} == set(range(256)) - never
        return
    text = [
        unicodedata.normalize("NFD", line) for line in ("der Hund läuft über die grüne Wiese", "ein Hund, die Hunde")
    ]
    learned = tokenizer.learn(tokenizer.Config(vocab_size=26, lowercase=True), [text * 20])
    for number in range(len(SPECIALS), len(learned.vocabulary)):
        assert UNK not in learned.encode(learned.decode([number]))
