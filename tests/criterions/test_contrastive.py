"""CoCa's contrastive term against a sum over pairs."""

import math

import pytest
import torch

from s2s.config import compose
from s2s.criterions.terms.contrastive import ContrastiveConfig
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.data.batch import Batch, Counts, Packing, Source
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS, EOS, PAD
from tests.specs import criterion_of, text_spec

V, D = 13, 16
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=3", f"width={D}", "heads=2", "ffn_width=24")]  # fmt: skip
SOURCES, TARGETS = [[5, 9, 7, 4, EOS], [11, EOS], [8, 12, 5, EOS]], [[6, 7, EOS], [8, EOS], [9, 10, 11, EOS]]


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    chosen = [*SIZE, "dropout=0", "decoder=some_cross", "decoder.cross_layers=[3]", "auxiliary_heads=[2]", *words]
    built = compose.build(Transformer.Config, compose.by_key([compose.Override(*w.split("=")) for w in chosen]))
    built.fill()
    return Transformer(built.config, text_spec(V))


def padded(rows):
    size = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (size - len(row))] for row in rows])


def batch(packing=None) -> Batch:
    shown = padded([[BOS, *target[:-1]] for target in TARGETS])
    source = Source(padded(SOURCES), torch.tensor([len(row) for row in SOURCES]), packing)
    lengths, counts = torch.tensor([len(row) for row in TARGETS]), Counts(3, 11, 9, 0, 0)
    return Batch(torch.arange(3), (source,), shown, padded(TARGETS), lengths, counts, None, packing)


def test_sources_and_targets_find_each_other():
    model = model_of().double()
    criterion = criterion_of(CrossEntropyConfig(), ContrastiveConfig(temperature=0.3))
    criterion.check(model)
    assert criterion.couples_examples == "contrastive"
    loss = criterion(model, batch())
    sources, targets = [], []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        memory = model.encode((Source(torch.tensor([source]), torch.tensor([len(source)])),))
        output = model.decode(memory, torch.tensor([[BOS, *target[:-1]]]))
        for vectors, vector in ((sources, memory.top[0].mean(0)), (targets, output.heads[2][0, -1])):
            vectors.append(vector / vector.square().sum().sqrt())
    total = 0.0
    for i in range(3):
        for one, others in ((sources[i], targets), (targets[i], sources)):
            powers = [math.exp(float((one @ other).detach()) / 0.3) for other in others]
            total -= math.log(powers[i] / sum(powers)) / 2
    assert float(loss.metrics["contrastive"]) == pytest.approx(total, rel=1e-5)
    loss.sum.backward()
    assert model.decoder.head_norms["2"].weight.grad.abs().sum() > 0
    assert "contrastive" in criterion(model.eval(), batch()).metrics


def test_what_it_needs():
    criterion = criterion_of(CrossEntropyConfig(), ContrastiveConfig())
    for words, message in (
        (("decoder.cross_layers=[2,3]",), "below those that attend to the source"),
        (("auxiliary_heads=[1,2]",), "needs one layer in model.auxiliary_heads"),
        (("encoder.width=24",), "an encoder and a decoder of one width"),
    ):
        with pytest.raises(UserError, match=message):
            criterion.check(model_of(*words))
    packed = batch(Packing(torch.zeros(3, 5, dtype=torch.int64), torch.arange(5).expand(3, 5)))
    packed.target_packing = Packing(torch.zeros(3, 4, dtype=torch.int64), torch.arange(4).expand(3, 4))
    with pytest.raises(UserError, match="contrastive compares rows"):
        criterion(model_of(), packed)
