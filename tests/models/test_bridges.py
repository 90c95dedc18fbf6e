"""What decoder layers see of encoder layers, and the output of decoder layers, against sums that are written out."""

import pytest
import torch
from torch.nn.functional import layer_norm

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.data.batch import Inputs, Source
from s2s.errors import UserError
from s2s.models.claims import departure, step_departure
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS
from tests.specs import text_spec

V, D = 13, 16
SIZE = [f"{side}.{key}" for side, layers in (("encoder", 4), ("decoder", 3))
        for key in (f"layers={layers}", f"width={D}", "heads=2", "ffn_width=24")]  # fmt: skip


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    pairs = compose.by_key([compose.Override(*word.split("=")) for word in [*SIZE, "dropout=0", *words]])
    built = compose.build(Transformer.Config, pairs)
    built.fill()
    return Transformer(built.config, text_spec(V)).eval()


def encoded(model: Transformer):
    """The memory, and the states after each encoder layer [B, S, D] by hooks, the last of them normed."""
    states, hooks = [], []
    for layer in model.encoder.layers:
        hooks.append(layer.register_forward_hook(lambda *found: states.append(found[-1])))
    memory = model.encode((Source(torch.arange(4, 12).view(2, 4), torch.tensor([4, 4])),))
    for hook in hooks:
        hook.remove()
    return memory, [*states[:-1], model.encoder.norm(states[-1])]


@torch.no_grad()
@pytest.mark.parametrize("weights", ["matrix", "layer"])
def test_a_linear_bridge_is_a_map_of_all_layers_side_by_side(weights):
    model = model_of("bridge=linear", f"bridge.weights={weights}")
    model.bridge.weights.normal_()
    memory, states = encoded(model)
    for n, seen in enumerate(model.bridge.seen(memory, 3)):
        expected = torch.zeros(2, 4, D)
        for number, state in enumerate(states):
            state = state if number == 3 else layer_norm(state, (D,))
            part = model.bridge.weights[n, number * D : number * D + D] if weights == "matrix" else None
            expected += model.bridge.weights[n, number] * state if part is None else state @ part
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_linear_bridge_begins_as_no_bridge():
    plain, bridged = model_of(), model_of("bridge=linear")
    bridged.load_state_dict(plain.state_dict(), strict=False)
    source = (Source(torch.arange(4, 12).view(2, 4), torch.tensor([4, 3])),)
    written = torch.tensor([[BOS, 5, 6]] * 2)
    found = (model.decode(model.encode(source), written).logits() for model in (plain, bridged))
    torch.testing.assert_close(*found)


@torch.no_grad()
@pytest.mark.parametrize("weights", ["matrix", "layer"])
def test_a_linear_bridge_may_begin_at_the_same_depth(weights):
    model = model_of("bridge=linear", "bridge.start=same_depth", f"bridge.weights={weights}")
    memory, states = encoded(model)
    for layer, seen in zip((2, 3, 4), model.bridge.seen(memory, 3), strict=True):  # of 4, for 3 decoder layers
        state = states[layer - 1]
        torch.testing.assert_close(seen, state if layer == 4 else layer_norm(state, (D,)))


@torch.no_grad()
def test_groups_of_encoder_layers_are_fused():
    model = model_of("bridge=groups", "bridge.groups=3")
    model.bridge.weights.copy_(torch.tensor([0.0, 1.0, 2.0]))
    memory, states = encoded(model)
    shares = torch.tensor([0.0, 1.0, 2.0]).exp()
    shares /= shares.sum()
    expected = sum(share * layer_norm(states[last - 1], (D,)) for share, last in zip(shares, (2, 3, 4), strict=True))
    for seen in model.bridge.seen(memory, 3):
        torch.testing.assert_close(seen, expected)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "native"])
def test_groups_of_decoder_layers_are_fused(backend):
    model = model_of("decoder=groups", "decoder.groups=2")
    model.decoder.weights.copy_(torch.tensor([0.5, -0.3]))
    model.decoder.head_norms["2"].weight.mul_(1.3)
    source, written = (Source(torch.arange(4, 12).view(2, 4), torch.tensor([4, 3])),), torch.tensor([[BOS, 5, 6]] * 2)
    memory, states = model.encode(source), []
    hooks = [layer.register_forward_hook(lambda *found: states.append(found[-1])) for layer in model.decoder.layers]
    output = model.decode(memory, written)
    for hook in hooks:
        hook.remove()
    share = torch.tensor(0.8).sigmoid()  # of a softmax of 0.5 and -0.3
    fused = share * 1.3 * layer_norm(states[1], (D,)) + (1 - share) * layer_norm(states[2], (D,))
    expected = model.output(fused)
    assert not output.heads
    torch.testing.assert_close(output.logits(), expected, rtol=1e-5, atol=1e-5)
    stepping = prepare(model, "fp32", backend)
    assert is_native(stepping) == (backend == "native")
    state = stepping.start(stepping.encode(*Inputs(source)), 1)
    for t in range(3):
        torch.testing.assert_close(
            stepping.step(written[:, t].contiguous(), state), expected[:, t], rtol=1e-4, atol=1e-4
        )


def test_what_only_steps_as_the_transformer_is_not_exported():
    model = model_of("decoder=groups")
    assert step_departure(model) is None
    assert departure(model) == "decoder is a GroupsDecoder"


@pytest.mark.parametrize(("words", "message"), [
    (("bridge=groups", "bridge.groups=5"), r"model\.bridge\.groups=5: there are 4 layers, so at most 4 groups"),
    (("decoder=groups", "decoder.groups=4"), r"model\.decoder\.groups=4: there are 3 layers"),
    (("decoder=groups", "auxiliary_heads=[1]"), r"model\.auxiliary_heads=\[1\]: model\.decoder=groups"),
])  # fmt: skip
def test_what_cannot_be_grouped_is_an_error(words, message):
    with pytest.raises(UserError, match=message):
        model_of(*words)
