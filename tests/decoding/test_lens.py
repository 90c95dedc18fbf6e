"""The decoder reads a lower encoder layer: the same as a model that has no layers above it."""

import pytest
import torch
from slow_search import beam_search, sides, tiny_model
from test_beam_search import assert_same, ragged
from torch import nn

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError
from s2s.models.bridges.linear import LinearBridgeConfig

V = 9


def cut(model):
    """A model whose encoder has its first layer only."""
    model.encoder.layers = nn.ModuleList([model.encoder.layers[0]])
    return model


def test_a_search_at_a_lower_layer_is_that_of_a_model_without_those_above():
    options = {"beam_size": 3, "n_best": 3, "max_length_a": 1, "max_length_b": 2}
    sources = [source for source in ragged(9, seed=2) if source]
    model = tiny_model(1, V)
    found = list(Generator([model], DecodeConfig(**options, encoder_layer=1), sides).generate(sources))
    for n_best, source in zip(found, sources, strict=True):
        assert_same(n_best, beam_search([cut(tiny_model(1, V))], source, DecodeConfig(**options)))
    assert len(model.encoder.layers) == 2  # the model itself is as before


@torch.no_grad()
def test_the_last_layer_is_the_model_and_kernels_read_a_lower_one_too():
    sources, model = ragged(5, seed=3), tiny_model(1, V).float()

    def found(model, **options):
        config = DecodeConfig(beam_size=1, max_length_a=0, max_length_b=5, **options)
        return [best.ids for best, *_ in Generator([model], config, sides).generate(sources)]

    assert found(model, encoder_layer=2) == found(model)
    assert found(model, encoder_layer=1) == found(cut(tiny_model(1, V).float()), backend="eager")


def test_what_the_decoder_cannot_read_is_an_error():
    for model, layer, message in (
        (tiny_model(1, V), 3, r"decode\.encoder_layer=3: the encoder has 2 layers"),
        (tiny_model(1, V, bridge=LinearBridgeConfig()), 1, r"decode\.encoder_layer=1: model\.bridge=linear has"),
    ):
        with pytest.raises(UserError, match=message):
            Generator([model], DecodeConfig(encoder_layer=layer), sides)
