"""Vocabulary extension: unknown characters get pieces, and nothing else changes."""

import numpy as np
import pytest

from s2s.errors import UserError
from s2s.text.sentencepiece import SentencePieceConfig, SentencePieceTokenizer
from s2s.text.tokenizer import load_tokenizer
from s2s.text.vocabulary import UNK

TEXT = ["abc cab", "bca abc a b", "cab cab bac"] * 10


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_characters_that_are_lacking_get_pieces_after_the_others(tmp_path, algorithm):
    (tmp_path / "characters").write_text("ä 한a\n  ä\u2003\nç̧\n")
    options = {"algorithm": algorithm, "vocab_size": 11}
    plain = SentencePieceTokenizer.learn(SentencePieceConfig(**options), [TEXT])
    config = SentencePieceConfig(**options, extend=str(tmp_path / "characters"), sampling=0.5)
    more = SentencePieceTokenizer.learn(config, [TEXT])
    added = ["ä", "한", "ç", "\u0327"]
    assert more.vocabulary.symbols == [*plain.vocabulary.symbols, *added]
    for line in TEXT[:3]:
        assert more.encode(line) == plain.encode(line)
    assert UNK in plain.encode("bä ä한")
    assert UNK not in more.encode("bä ä한")
    assert more.decode(more.encode("bä ä한")) == "bä ä한"
    ids, _ = more.sample(["bä 한"], np.ones(1, np.uint64))
    assert more.decode(ids) == "bä 한"
    more.save(tmp_path, "source")
    (tmp_path / "characters").unlink()
    loaded = load_tokenizer(tmp_path, "source")
    assert loaded.vocabulary.symbols == more.vocabulary.symbols
    given = SentencePieceConfig(model=str(tmp_path / "source.spm.model"))
    assert SentencePieceTokenizer.learn(given, []).encode("bä") == more.encode("bä")
    with pytest.raises(UserError, match="no such file"):
        SentencePieceTokenizer.learn(config, [TEXT])


def test_bytes_that_spelled_a_character_are_one_piece(tmp_path):
    (tmp_path / "characters").write_text("ä▁")
    options = {"vocab_size": 267, "byte_fallback": True}
    plain = SentencePieceTokenizer.learn(SentencePieceConfig(**options), [TEXT])
    more = SentencePieceTokenizer.learn(SentencePieceConfig(**options, extend=str(tmp_path / "characters")), [TEXT])
    assert more.vocabulary.symbols == [*plain.vocabulary.symbols, "ä"]
    assert len(more.encode("bä")) == len(plain.encode("bä")) - 1
    assert more.decode(more.encode("bä é")) == "bä é"


def test_a_model_that_is_given_is_extended(tmp_path):
    (tmp_path / "m").write_bytes(SentencePieceTokenizer.learn(SentencePieceConfig(vocab_size=11), [TEXT]).model)
    (tmp_path / "characters").write_text("é")
    config = SentencePieceConfig(model=str(tmp_path / "m"), extend=str(tmp_path / "characters"))
    assert SentencePieceTokenizer.learn(config, []).vocabulary.symbols[-1] == "é"
    (tmp_path / "characters").write_bytes(b"a\xff")
    with pytest.raises(UserError, match="invalid UTF-8 at byte 1"):
        SentencePieceTokenizer.learn(config, [])
