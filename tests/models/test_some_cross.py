"""Cross-attention in some decoder layers only, against layers called one by one, and in every way of decoding."""

import pytest
import torch

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.data.batch import Inputs, Source
from s2s.decoding.alignment import Attention
from s2s.decoding.config import DecodeConfig
from s2s.errors import UserError
from s2s.models.claims import departure, step_departure
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS
from tests.specs import text_spec

V, D = 13, 16
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=4", f"width={D}", "heads=2", "ffn_width=24")]  # fmt: skip
WRITTEN = torch.tensor([[BOS, 5, 6, 7]] * 3)


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    pairs = [compose.Override(*word.split("=")) for word in [*SIZE, "dropout=0", "decoder=some_cross", *words]]
    built = compose.build(Transformer.Config, compose.by_key(pairs))
    built.fill()
    return Transformer(built.config, text_spec(V)).eval()


def sources_of() -> tuple[Source, ...]:
    values = torch.randint(4, V, (3, 9), generator=torch.Generator().manual_seed(1))
    return (Source(values, torch.tensor([9, 4, 1])),)


@torch.no_grad()
@pytest.mark.parametrize(("words", "attend"), [
    ((), [3, 4]), (("decoder.cross_layers=[2]",), [2]),
    (("decoder.cross_layers=[1,3]", "bridge=linear", "bridge.start=same_depth"), [1, 3]),
])  # fmt: skip
def test_only_the_chosen_layers_see_the_source(words, attend):
    model = model_of(*words)
    memory = model.encode(sources_of())
    taught = model.decode(memory, WRITTEN).logits()
    seen, x = iter(model.bridge.seen(memory, len(attend))), model.decoder.embedding(WRITTEN)
    for number, layer in enumerate(model.decoder.layers, 1):
        assert layer.attends == (number in attend)
        x = layer.decode(x, None, next(seen), memory.mask) if number in attend else layer.encode(x, None)
    torch.testing.assert_close(model.output(model.decoder.norm(x)), taught)
    assert step_departure(model) is None
    assert departure(model) == "decoder is a SomeCrossDecoder" or "bridge" in departure(model)
    for backend in ("eager", "native"):
        stepping = prepare(model, "fp32", backend)
        assert is_native(stepping) == (backend == "native")
        state = stepping.start(stepping.encode(*Inputs(sources_of())), 1)
        for t in range(4):
            logits = stepping.step(WRITTEN[:, t].contiguous(), state)
            torch.testing.assert_close(logits, taught[:, t], rtol=1e-4, atol=1e-5, msg=f"{backend}, step {t}")
    state = model.start_blocks(memory)
    torch.testing.assert_close(model.step_block(WRITTEN, state), taught, rtol=1e-4, atol=1e-5)
    weights = model.cross_attention(memory, WRITTEN, attend[-1] - 1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 4))


def test_layers_that_are_not_there_or_see_nothing_are_errors():
    with pytest.raises(UserError, match=r"model\.decoder\.cross_layers=\[5\]: there are 4 layers; name some of 1 to 4"):
        model_of("decoder.cross_layers=[5]")
    model = model_of()
    with pytest.raises(UserError, match=r"decode\.alignment_layer=2: does not attend to the source"):
        model.cross_attention(model.encode(sources_of()), WRITTEN, 1)


def test_fewer_operations_are_counted():
    plain, some = model_of("decoder=transformer"), model_of()
    lengths = torch.tensor([9, 4]), torch.tensor([5, 3])
    memory, target = 13, 8
    cross = 2 * (2 * memory * 2 * D * D + 2 * target * 2 * D * D) + 4 * 2 * D * (9 * 5 + 4 * 3)
    assert plain.decoder.flops(*lengths) - some.decoder.flops(*lengths) == cross


def test_an_alignment_is_that_of_the_nearest_layer_that_attends():
    for layers, expected in (([4], 4), ([1, 2], 2), ([1, 4], 4), ([3], 3), ([1, 2, 3, 4], 3)):
        model = model_of(f"decoder.cross_layers={layers}".replace(" ", ""))
        assert Attention([model], DecodeConfig()).layers == [expected - 1], layers
