"""Streams in place of the files that s2s-preprocess is given: vocabularies, models, manifests."""

import pytest

from s2s.data.manifest import read_manifest
from s2s.errors import UserError
from s2s.text.characters import CharacterConfig, CharacterTokenizer
from s2s.text.sentencepiece import SentencePieceConfig, SentencePieceTokenizer


def test_a_vocabulary_and_a_model_come_through_pipes(pipe):
    tokenizer = CharacterTokenizer.learn(CharacterConfig(vocabulary=str(pipe("a\nä\n \n".encode()))))
    assert tokenizer.vocabulary.symbols[4:] == ["a", "ä", " "]
    model = SentencePieceTokenizer.learn(SentencePieceConfig(vocab_size=11), [["ab ba cab", "abc bca"]]).model
    tokenizer = SentencePieceTokenizer.learn(SentencePieceConfig(model=str(pipe(model))))
    assert tokenizer.model == model


def test_a_manifest_comes_through_a_pipe(pipe, standard_input, tmp_path):
    text = b"audio\ttext\na.wav\tone\n" + b"x" * 1_000_001 + b"\n\xff\tthree\nb.wav\ttwo"
    standard_input(text)
    for name, said in ((str(pipe(text)), None), ("-", "standard input")):
        manifest = read_manifest(name, str(tmp_path))
        said = said or name
        assert [(one.where, one.audio, one.text) for one in manifest.entries] == [
            (f"{said}:2", tmp_path / "a.wav", "one"), (f"{said}:5", tmp_path / "b.wav", "two")
        ]  # fmt: skip
        assert [(one.where, one.why[:29]) for one in manifest.broken] == [
            (f"{said}:3", "longer than 1,000,000 bytes"), (f"{said}:4", "invalid UTF-8: byte 0xff at b")
        ]  # fmt: skip


def test_what_would_be_read_twice_is_refused(s2s, pipe, tmp_path, capsys):
    for side in ("a", "b"):
        (tmp_path / f"train.{side}").write_text("x y\n")
    vocabulary = pipe(b"x\ny\n")
    words = f"train={tmp_path}/train", "source=a", "target=b", "tokenizer=words", f"tokenizer.vocabulary={vocabulary}"
    assert s2s("preprocess", *words, f"store={tmp_path}/store", "workers=1") == 2
    message = f"{vocabulary}: would be read twice, and a stream can be read only once"
    assert capsys.readouterr().err == f"s2s-preprocess: error: {message}\n"
    assert s2s("preprocess", *words, "tokenizer.joint=true", f"store={tmp_path}/store", "workers=1") == 0
    capsys.readouterr()
    words = "task=speech_to_text", f"train={vocabulary}", "tokenizer=words", f"tokenizer.vocabulary={vocabulary}"
    assert s2s("preprocess", *words, f"store={tmp_path}/other", "workers=1") == 2
    assert message in capsys.readouterr().err


def test_a_folder_is_no_vocabulary(tmp_path):
    with pytest.raises(UserError, match="no such vocabulary file"):
        CharacterTokenizer.learn(CharacterConfig(vocabulary=str(tmp_path)))
