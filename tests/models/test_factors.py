"""Factors of sentences: every token is embedded with them, whatever is beside it."""

import pytest
import torch
from torch import nn

from s2s.config import compose
from s2s.data.batch import Packing, Source
from s2s.data.spec import Spec, TokenSource
from s2s.errors import UserError
from s2s.models.transformer import Transformer

V, D = 12, 16
TAGS = {"emotion": ["joy", "fear", "anger"], "dataset": ["a", "b"]}
ROWS = [[5, 6, 7, 8], [9, 4], [10, 11, 5]]
GIVEN = {"emotion": torch.tensor([2, 0, 1]), "dataset": torch.tensor([0, 1, 1])}


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    size = [f"{side}.{key}" for side in ("encoder", "decoder") for key in ("layers=1", f"width={D}", "heads=2")]
    given = [*size, "dropout=0", "frontend=factors", *words]
    built = compose.build(Transformer.Config, compose.by_key([compose.Override(*w.split("=", 1)) for w in given]))
    built.fill()
    return Transformer(built.config, Spec((TokenSource(V),), V, True, TAGS)).eval()


def padded() -> Source:
    lengths = torch.tensor([len(row) for row in ROWS])
    values = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ROWS], batch_first=True)
    return Source(values, lengths, tags=GIVEN)


def by_hand(frontend, row: int) -> torch.Tensor:
    x = frontend.tokens.weight[ROWS[row]] * D**0.5
    vectors = [table.weight[GIVEN[name][row]] * D**0.5
               for name, table in zip(frontend.tags, frontend.factors, strict=True)]  # fmt: skip
    if frontend.join is None:
        x = nn.functional.layer_norm(x + sum(vectors), (D,), frontend.norm.weight, frontend.norm.bias)
    else:
        wide = torch.cat([x, *(vector.expand_as(x) for vector in vectors)], -1)
        x = wide @ frontend.join.weight.T + frontend.join.bias
    return frontend.embedding.positions(x[None])[0]


@pytest.mark.parametrize("combine", ["sum_norm", "concat"])
def test_each_token_is_embedded_with_the_factors_of_its_sentence(combine):
    model = model_of("frontend.tags=[emotion,dataset]", f"frontend.combine={combine}")
    assert model.tags == ("emotion", "dataset")
    with torch.no_grad():
        states = model.frontend(padded()).values
        for row, ids in enumerate(ROWS):
            torch.testing.assert_close(states[row, : len(ids)], by_hand(model.frontend, row), rtol=1e-5, atol=1e-5)
        ids = [token for row in ROWS for token in row]
        segments = torch.tensor([[row for row, own in enumerate(ROWS) for _ in own]])
        places = torch.tensor([[place for own in ROWS for place in range(len(own))]])
        packed = Source(torch.tensor([ids]), torch.tensor([9]), Packing(segments, places), tags=GIVEN)
        together = model.frontend(packed).values[0]
    torch.testing.assert_close(together, torch.cat([states[row, : len(own)] for row, own in enumerate(ROWS)]))


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "model.frontend=factors: requires tags"), (["frontend.tags=[tense]"], "the model reads the tag tense")],
)
def test_what_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        model_of(*words)
