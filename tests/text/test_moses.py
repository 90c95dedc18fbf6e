"""The pre-tokenizer of Moses gives the words of sacremoses, and is saved with its tokenizer."""

import importlib.util

import pytest

from s2s.errors import UserError
from s2s.text.pretokenizers.moses import Moses, MosesConfig
from s2s.text.tokenizer import load_tokenizer
from s2s.text.words import WordConfig, WordTokenizer

sacremoses = pytest.importorskip("sacremoses")

LINES = [
    "Hello, it's A & B's 3.5% (test).",
    "Das ist z.B. ein High-End-Gerät!",
    "a|b [c] \u201cquoted\u201d",
    "  two  spaces ",
    "\x01",
]


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_the_words_are_those_of_the_package(language):
    theirs, back = sacremoses.MosesTokenizer(language), sacremoses.MosesDetokenizer(language)
    moses = Moses(MosesConfig(language=language))
    for line in LINES[:-1]:
        words = theirs.tokenize(line)
        assert moses.apply(line).split(" ") == words
        assert moses.undo(" ".join(words)) == back.detokenize(words)
    assert moses.apply(LINES[-1]) == LINES[-1]  # never blank where the line is not
    split = Moses(MosesConfig(language=language, dashes=True, punctuation=True, escape=False))
    assert split.apply("a high-speed \u201cx\u201d & y") in ('a high @-@ speed " x " & y', 'a high @-@ speed " x " & y')


def test_what_is_protected_comes_back():
    line = 'See <b class="x"> __NUM_1__ </b>, http://a.b/c?d=e,f or <br/>.'
    moses = Moses(MosesConfig(protect=[r"<[^>]*>", r"__\w+__", r"https?://\S+[^\s.,]"]))
    words = moses.apply(line)
    assert "__NUM_1__" in words.split()
    assert "&lt;br/&gt;" in words.split()
    for kept in ('<b class="x">', "__NUM_1__", "</b>", "<br/>", "http://a.b/c?d=e,f"):
        assert kept in moses.undo(words)


def test_truecasing_is_saved_with_the_tokenizer(tmp_path):
    (tmp_path / "model").write_text("das (3/3)\nHaus (2/2)\nHans (3/3)\n")
    pre = MosesConfig(language="de", truecase=str(tmp_path / "model"))
    tokenizer = WordTokenizer.learn(WordConfig(pre=pre), [["Das Haus.", "Hans, das Haus!"]])
    tokenizer.save(tmp_path, "source")
    (tmp_path / "model").unlink()
    loaded = load_tokenizer(tmp_path, "source")
    assert loaded.texts("Das Haus.") == ["das", "Haus", "."]
    assert loaded.texts("Hans, das") == ["Hans", ",", "das"]
    assert loaded.decode(loaded.encode("Das Haus.")) == "Das Haus."


def test_what_is_wrong_is_named(monkeypatch):
    with pytest.raises(UserError, match=r"pre.protect=\(: not a regular expression"):
        Moses(MosesConfig(protect=["("]))
    with pytest.raises(UserError, match=r"pre\.truecase=nowhere: a model of a truecaser is needed"):
        Moses(MosesConfig(truecase="nowhere"))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sacremoses" else find(name))
    with pytest.raises(UserError, match=r"requires the package sacremoses: pip install .*\[moses\]"):
        Moses(MosesConfig())
