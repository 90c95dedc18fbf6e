"""Tokenizers whose pieces and symbols are given by files of other toolkits."""

import numpy as np
import pytest
import sentencepiece

from s2s.errors import UserError
from s2s.text.pieces import PiecesConfig, PiecesTokenizer
from s2s.text.tokenizer import load_tokenizer
from s2s.text.tokenizer_json import TokenizerJsonConfig, TokenizerJsonTokenizer, byte_pairs
from s2s.text.vocabulary import UNK

LINES = ["ab cd", "abcd ab", "cd"]


@pytest.fixture
def model(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 9), model_prefix=str(tmp_path / "m"), vocab_size=12, minloglevel=4,
        hard_vocab_limit=False)  # fmt: skip
    return str(tmp_path / "m.model")


@pytest.mark.parametrize("text", ["{}\n", "{} 7736\n", "{}\t-3.25\n"])
def test_pieces_with_symbols_of_their_own(model, tmp_path, text):
    spm = sentencepiece.SentencePieceProcessor(model_file=model)
    pieces = [spm.id_to_piece(i) for i in range(len(spm) - 1, 2, -1)]
    names = [*pieces[:-1], ">>fra<<", "q"]  # without one piece of the model
    (tmp_path / "dict.txt").write_text("".join(text.format(name) for name in names))
    config = PiecesConfig(model=model, vocabulary=str(tmp_path / "dict.txt"), codes=True)
    made = PiecesTokenizer.learn(config)
    made.save(tmp_path, "source")
    tokenizer = load_tokenizer(tmp_path, "source")
    assert tokenizer.vocabulary.symbols[4:] == names
    place = {name: 4 + i for i, name in enumerate(names)}
    for line in ["ab cd", "dcba", "a z q"]:
        cut = [place.get(piece, UNK) for piece in spm.encode(line, out_type=str)]
        assert tokenizer.encode(line) == cut
        assert tokenizer.encode(f">>fra<<{line}") == [place[">>fra<<"], *cut]
    assert place["q"] in tokenizer.encode("q")  # a symbol that is no piece of the model
    assert tokenizer.encode(">>deu<<ab")[0] == UNK
    known = [i for i in tokenizer.encode("ab cd") if i != UNK]
    assert tokenizer.decode(known) == spm.decode([tokenizer.vocabulary.symbols[i] for i in known])
    assert np.array_equal(tokenizer.encode_flat(["", " "])[1], [0, 0])


def test_pieces_need_both_files(model):
    with pytest.raises(UserError, match="requires model=FILE"):
        PiecesTokenizer.learn(PiecesConfig(model=model))


def test_a_tokenizer_json(tmp_path):
    pytest.importorskip("tokenizers")
    letters = {name: i for i, name in enumerate(["<unk>", "a", "b", "ab", "\u0120", "c"])}
    (tmp_path / "tokenizer.json").write_bytes(byte_pairs(letters, [("a", "b")]))
    made = TokenizerJsonTokenizer.learn(TokenizerJsonConfig(model=str(tmp_path / "tokenizer.json")))
    made.save(tmp_path, "target")
    tokenizer = load_tokenizer(tmp_path, "target")
    symbols = tokenizer.vocabulary.symbols
    assert symbols[4:] == ["a", "b", "ab", "\u0120", "c"]
    assert [symbols[i] for i in tokenizer.encode("ab ba")] == ["ab", "\u0120", "b", "a"]
    assert tokenizer.decode(tokenizer.encode("ab ba c")) == "ab ba c"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        TokenizerJsonTokenizer.learn(TokenizerJsonConfig(model=str(tmp_path / "tokenizer.json")))
