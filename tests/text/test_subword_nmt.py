"""Codes of subword-nmt and fastBPE split words as those programs do."""

import io
import random

import pytest

from s2s.errors import UserError
from s2s.text.subword_nmt import Codes, SubwordNmtConfig, SubwordNmtTokenizer
from s2s.text.tokenizer import load_tokenizer
from s2s.text.vocabulary import UNK

WORDS = ["der", "das", "Hund", "Häuser", "läuft", "über", "grüne", "Wiesen", ".", "Straße", "ein", "Junge", "low"]
WORDS += ["lower", "lowest", "newer", "wider", "aaaa"]


@pytest.fixture(scope="module")
def codes():
    """Learned by subword-nmt from random lines."""
    learn_bpe = pytest.importorskip("subword_nmt.learn_bpe")
    random.seed(2)
    text, out = io.StringIO("\n".join(" ".join(random.choices(WORDS, k=9)) for _ in range(99))), io.StringIO()
    learn_bpe.learn_bpe(text, out, 60)
    return out.getvalue()


def test_same_pieces_as_subword_nmt(codes):
    apply_bpe = pytest.importorskip("subword_nmt.apply_bpe")
    words = [*WORDS, *("".join(random.choices("".join(WORDS), k=random.randrange(1, 9))) for _ in range(300))]
    for content in (codes, codes.partition("\n")[2]):  # without its first line, the codes are of version 0.1
        theirs, ours = apply_bpe.BPE(io.StringIO(content)), Codes(content.encode())
        for word in words:
            assert " ".join(ours.cut(word)) == theirs.process_line(word), word


def test_codes_of_fastbpe_have_counts_and_the_same_pieces(codes):
    counted = "".join(f"{line} 5\n" for line in codes.splitlines()[1:])
    for word in WORDS:
        assert Codes(counted.encode()).cut(word) == Codes(codes.encode()).cut(word)


def test_words_there_and_back_and_saved(codes, tmp_path):
    (tmp_path / "codes").write_text(codes)
    pieces = sorted({piece for word in WORDS for piece in Codes(codes.encode()).cut(word)})
    (tmp_path / "dict.txt").write_text("".join(f"{piece} 3\n" for piece in pieces))
    config = SubwordNmtConfig(codes=str(tmp_path / "codes"), vocabulary=str(tmp_path / "dict.txt"))
    tokenizer = SubwordNmtTokenizer.learn(config)
    line = "der Junge läuft über grüne Wiesen ."
    assert tokenizer.decode(tokenizer.encode(line)) == line
    assert UNK in tokenizer.encode("q")
    tokenizer.save(tmp_path, "source")
    assert load_tokenizer(tmp_path, "source").encode_lines([line, "", "x y"])[0].tolist() == tokenizer.encode(line)


@pytest.mark.parametrize("content", ["", "a b c d\n", "#version: 0.9\na b\n", "a\n"])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "codes").write_text(content)
    (tmp_path / "dict.txt").write_text("a 3\n")
    config = SubwordNmtConfig(codes=str(tmp_path / "codes"), vocabulary=str(tmp_path / "dict.txt"))
    with pytest.raises(UserError, match="not a file of codes of subword-nmt or fastBPE"):
        SubwordNmtTokenizer.learn(config)
