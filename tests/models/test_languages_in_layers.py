"""Encoders whose layers read languages: each row as alone, with the layers of its own languages applied one by one."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from s2s.config import compose
from s2s.data.batch import Source
from s2s.data.spec import Spec, TokenSource
from s2s.errors import UserError
from s2s.models.encoders.language_layers import MixedLayer, SpecificLayer
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS

V = 13
LANGUAGES = {"source_language": ["de", "en", "fr"], "target_language": ["de", "en"]}
SIZE = [
    f"{side}.{key}" for side in ("encoder", "decoder") for key in ("layers=3", "width=16", "heads=2", "ffn_width=24")
]
TAGS = {"source_language": torch.tensor([2, 0, 0, 1]), "target_language": torch.tensor([1, 0, 1, 1])}
LENGTHS = [7, 9, 3, 8]


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    pairs = compose.by_key([compose.Override(*word.split("=", 1)) for word in [*SIZE, "dropout=0", *words]])
    built = compose.build(Transformer.Config, pairs)
    built.fill()
    return Transformer(built.config, Spec((TokenSource(V, (4,)),), V, True, LANGUAGES)).eval()


def source() -> Source:
    values = torch.randint(4, V, (4, 9), generator=torch.Generator().manual_seed(1))
    return Source(values, torch.tensor(LENGTHS))


def states(model: Transformer) -> list[torch.Tensor]:
    with torch.no_grad():
        top = model.encode((source(),), TAGS).top
    return [row[:length] for row, length in zip(top, LENGTHS, strict=True)]


def by_hand(model: Transformer, layer_of) -> list[torch.Tensor]:
    """Each row alone; layer_of(layer, row, x, mask) applies a layer."""
    found = []
    for row, length in enumerate(LENGTHS):
        x = model.frontend(Source(source().values[row : row + 1, :length], torch.tensor([length]))).values
        mask = torch.ones(1, 1, 1, length, dtype=torch.bool)
        for layer in model.encoder.layers:
            x = layer_of(layer, row, x, mask)
        found.append(model.encoder.norm(x)[0].detach())
    return found


def check(found, expected) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unpad", ["", "encoder.unpad=true", "encoder.unpad_attention=true"])
def test_the_upper_layers_know_the_target(unpad):
    model = model_of("encoder=converter", "encoder.converters=2", *([unpad] if unpad else []))
    first = model.encoder.layers[1]
    nn.init.normal_(first.languages.weight)
    assert model.tags == ("target_language",)
    table = first.languages.weight

    def layer_of(layer, row, x, mask):
        if layer is first:
            return layer.layer.encode(x + table[TAGS["target_language"][row]], mask)
        return layer.encode(x, mask)

    check(states(model), by_hand(model, layer_of))


def test_each_row_passes_the_layers_of_its_languages():
    model = model_of("encoder=language_layers", "encoder.source_layers=[1]", "encoder.target_layers=[3]")
    kinds = [layer.tags if isinstance(layer, SpecificLayer) else () for layer in model.encoder.layers]
    assert kinds == [("source_language",), (), ("target_language",)]
    assert [len(model.encoder.layers[place].copies) for place in (0, 2)] == [3, 2]

    def layer_of(layer, row, x, mask):
        if isinstance(layer, SpecificLayer):
            layer = layer.copies[TAGS[layer.tags[0]][row]]
        return layer.encode(x, mask)

    check(states(model), by_hand(model, layer_of))
    plain = model_of()
    assert model.encoder.flops(torch.tensor(LENGTHS)) == plain.encoder.flops(torch.tensor(LENGTHS))


def test_a_search_mixes_three_layers():
    model = model_of("encoder=language_layers", "encoder.search=true")
    for layer in model.encoder.layers:
        nn.init.normal_(layer.weights)

    def layer_of(layer, row, x, mask):
        assert isinstance(layer, MixedLayer)
        kinds = [layer.shared, layer.by_source.copies[TAGS["source_language"][row]],
                 layer.by_target.copies[TAGS["target_language"][row]]]  # fmt: skip
        total = layer.weights.exp().sum()
        return sum(
            weight.exp() / total * kind.encode(x, mask) for weight, kind in zip(layer.weights, kinds, strict=True)
        )

    check(states(model), by_hand(model, layer_of))


@pytest.mark.parametrize("words", [["encoder.source_layers=[1]", "encoder.target_layers=[2]"], ["encoder.search=true"]])
def test_every_copy_has_a_gradient_whatever_languages_a_batch_has(words):
    """As several processes need it."""
    model = model_of("encoder=language_layers", *words).train()
    tags = {name: torch.zeros(4, dtype=torch.int64) for name in TAGS}
    shown = torch.tensor([[BOS, 5, 6]] * 4)
    model.decode(model.encode((source(),), tags), shown).logits().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder=converter", "encoder.converters=4"], "there are 3 layers"),
        (["encoder=converter", "encoder.tag=dataset"], "the model reads the tag dataset of the examples"),
        (["encoder=language_layers"], "requires source_layers or target_layers, or search=true"),
        (["encoder=language_layers", "encoder.search=true", "encoder.source_layers=[1]"], "search=true without them"),
        (["encoder=language_layers", "encoder.source_layers=[4]"], "there is no layer 4; they are 1 to 3"),
        (
            ["encoder=language_layers", "encoder.source_layers=[1]", "encoder.target_layers=[1]"],
            "in source_layers, too",
        ),
        (["encoder=language_layers", "encoder.search=true", "encoder.unpad=true"], "takes whole rows"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        model_of(*words)


def test_the_placement_is_printed(monkeypatch, capsys):
    model = model_of("encoder=language_layers", "encoder.search=true")
    for number, layer in enumerate(model.encoder.layers):
        layer.weights.data[(1, 0, 2)[number]] = 2.0
    file = Path(__file__).parents[2] / "examples" / "methods" / "placement.py"
    module = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("placement", file))
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "load_model", lambda *_: (model, None, None))
    module.main("RUN")
    assert capsys.readouterr().out.splitlines()[-1] == (
        "model.encoder=language_layers model.encoder.source_layers=[1] model.encoder.target_layers=[3]")  # fmt: skip
