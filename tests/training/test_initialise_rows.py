"""train.init: rows find their symbols on the side that these are of, in models that are not plain."""

from types import SimpleNamespace

import pytest
import torch

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
