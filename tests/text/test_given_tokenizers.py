"""Tokenizers whose pieces and symbols are given by files of other toolkits."""

import json

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
    own = json.loads((tmp_path / "tokenizer.json").read_text())
    own["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    own["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                      "pad_type_id": 0, "pad_token": "<unk>"}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(own))
    made = TokenizerJsonTokenizer.learn(TokenizerJsonConfig(model=str(tmp_path / "tokenizer.json")))
    assert made.encode("ab ba c") == tokenizer.encode("ab ba c")  # neither cut nor padded
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        TokenizerJsonTokenizer.learn(TokenizerJsonConfig(model=str(tmp_path / "tokenizer.json")))


def test_reserved_symbols_of_a_tokenizer_json_are_not_read_in_text():
    tokenizers = pytest.importorskip("tokenizers")
    library = tokenizers.Tokenizer.from_str(byte_pairs({"<unk>": 0, "a": 1, "b": 2}, []).decode())
    library.add_special_tokens(["<x>"])
    tokenizer = TokenizerJsonTokenizer(TokenizerJsonConfig(reserved=["<x>"]), library.to_str().encode())
    symbols = tokenizer.vocabulary.symbols
    assert symbols[4:] == ["a", "b", "<x>"]
    assert [symbols[i] for i in tokenizer.encode("a<x>b")] == ["a", "<unk>", "b"]
