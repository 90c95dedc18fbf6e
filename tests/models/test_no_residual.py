"""The encoder without a residual connection in one layer, beside one that is written out."""

import pytest
import torch

from s2s.errors import UserError
from tests.models.test_parts import model_of, sources_of


@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_one_layer_has_no_residual_connection(norm):
    words = [f"norm={norm}", "encoder.layers=3"]
    model, plain = model_of("encoder=no_residual", "encoder.free_layer=2", *words), model_of(*words)
    plain.load_state_dict(model.state_dict())
    (source,) = sources_of(model, [5, 5])
    x = model.frontend(source).values
    for number, layer in enumerate(plain.encoder.layers, 1):
        y = layer.attention(layer.attention_norm(x) if norm == "pre" else x, torch.ones(2, 1, 1, 5, dtype=torch.bool))
        x = y if number == 2 else x + y
        x = x if norm == "pre" else layer.attention_norm(x)
        x = x + layer.feedforward(layer.feedforward_norm(x) if norm == "pre" else x)
        x = x if norm == "pre" else layer.feedforward_norm(x)
    states = model.encode((source,)).top
    torch.testing.assert_close(states, plain.encoder.norm(x))
    assert not torch.allclose(states, plain.encode((source,)).top, atol=1e-2)


def test_the_middle_layer_is_the_default_and_others_are_refused():
    kinds = [type(layer).__name__ for layer in model_of("encoder=no_residual", "encoder.layers=5").encoder.layers]
    assert kinds == ["Layer", "Layer", "FreeLayer", "Layer", "Layer"]
    with pytest.raises(UserError, match="free_layer=3: there are 2 layers"):
        model_of("encoder=no_residual", "encoder.free_layer=3")
    with pytest.raises(UserError, match="layer=conformer does not go with it"):
        model_of("encoder=no_residual", "encoder.layer=conformer")
