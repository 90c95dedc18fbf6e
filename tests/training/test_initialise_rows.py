"""train.init: rows find their symbols on the side that these are of, in models that are not plain."""

from types import SimpleNamespace

import pytest
import torch

from s2s import registry
from s2s.checkpoint import loading, runs
from s2s.config import compose
from s2s.data.spec import Spec, TokenSource
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import SPECIALS, Vocabulary
from s2s.training.initialise import InitConfig, initialise

SIZE = [f"{side}.{key}" for side in ("encoder", "decoder") for key in ("layers=1", "width=8", "heads=2", "ffn_width=8")]
POSITIONS = Vocabulary([*SPECIALS, *map(str, range(1, 31))])
WORDS = {"old": Vocabulary([*SPECIALS, *"abcdef"]), "new": Vocabulary([*SPECIALS, *"fedxab"])}  # of one size


def model_of(seed: int, spec: Spec, *words: str) -> Transformer:
    torch.manual_seed(seed)
    pairs = [compose.Override(*word.split("=")) for word in [*SIZE, *words]]
    built = compose.build(Transformer.Config, compose.by_key(pairs))
    built.fill()
    return Transformer(built.config, spec)


CUT = {  # a tokenizer of the checkpoint -> new symbol -> its tokens there; none: the mean of all rows
    "characters": {"\u2581th": " th", "ee": "ee", "ôe": "e", "ô": "", "<0xE1>": "", "<x>": ""},
    "bytes": {"\u2581ô": [0x20, 0xC3, 0xB4], "ee": [0x65, 0x65], "<x>": []},
    "sentencepiece": {"ha": "ha", "\u2581ta": ["\u2581t", "a"], "ô": "", "<x>": ""},
}


@pytest.mark.parametrize("kind", CUT)
def test_new_rows_are_means_of_the_tokens_that_spelled_their_symbols(kind, monkeypatch):
    tokenizer = registry.find("tokenizer", kind)
    options = {"vocab_size": 12, "algorithm": "bpe"} if kind == "sentencepiece" else {}
    old = tokenizer.learn(tokenizer.Config(**options), [["the sea sees the tea"] * 9])
    new = Vocabulary([*SPECIALS, *CUT[kind]], reserved=1)
    before = SimpleNamespace(vocabularies=dict.fromkeys(("source", "target"), old.vocabulary), shared_vocabulary=True,
                             target_tokenizer=old, source_tokenizers={"source": old})  # fmt: skip
    task = SimpleNamespace(vocabularies=dict.fromkeys(("source", "target"), new), shared_vocabulary=True)
    theirs, ours = (model_of(seed, Spec((TokenSource(size),), size), "tie_embeddings=none")
                    for seed, size in enumerate((len(old.vocabulary), len(new))))  # fmt: skip
    monkeypatch.setattr(loading, "load_model", lambda path: (theirs, before, {"model": {"type": "transformer"}}))
    monkeypatch.setattr(runs, "resolve", lambda path: path)
    train = SimpleNamespace(init=InitConfig(checkpoint="run", new_rows="pieces"))
    report = initialise(ours, task, SimpleNamespace(train=train, model=ours.config))
    assert "are new (pieces)" in report[-1]
    for name in ("frontend.embedding.tokens.weight", "output.weight"):
        value, made = (dict(model.named_parameters())[name] for model in (theirs, ours))
        for symbol, tokens in CUT[kind].items():
            ids = [4 + token if kind == "bytes" else old.vocabulary.symbols.index(token) for token in tokens]
            torch.testing.assert_close(made[new.symbols.index(symbol)], value[ids].mean(0) if ids else value.mean(0))


@pytest.mark.parametrize("kind", ["pointer", "several"])
def test_rows_find_their_symbols(kind, monkeypatch):
    if kind == "pointer":
        spec = Spec((TokenSource(10),), len(POSITIONS), positions=True)
        words, name, side = ["output=pointer", "tie_embeddings=none"], "decoder.embedding.tokens.weight", "source"
        others = {"target": POSITIONS}
    else:
        spec = Spec((TokenSource(10), TokenSource(10)), 10)
        words, name, side = ["bridge=flat"], "more_frontends.0.embedding.tokens.weight", "source2"
        others = {"source": WORDS["old"], "target": WORDS["old"]}
    old, new = (model_of(seed, spec, *words) for seed in (1, 2))
    before, task = (SimpleNamespace(vocabularies={**others, side: WORDS[key]}, shared_vocabulary=False)
                    for key in ("old", "new"))  # fmt: skip
    settings = {"model": {"type": "transformer"}}
    monkeypatch.setattr(loading, "load_model", lambda path: (old, before, settings))
    monkeypatch.setattr(runs, "resolve", lambda path: path)
    train = SimpleNamespace(init=InitConfig(checkpoint="run"))
    initialise(new, task, SimpleNamespace(train=train, model=new.config))
    theirs, ours = (dict(model.named_parameters())[name] for model in (old, new))
    for symbol in "abdef":
        i, j = (WORDS[key].symbols.index(symbol) for key in ("old", "new"))
        assert torch.equal(theirs[i], ours[j])
    torch.testing.assert_close(ours[WORDS["new"].symbols.index("x")], theirs.mean(0))
