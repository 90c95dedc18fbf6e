"""Nested feed-forward blocks (MatFormer): a slice is the plain model with the first inner states only."""

import pytest
import torch

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.data.batch import Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError
from s2s.models.subnets import subnet
from s2s.models.transformer import Transformer
from s2s.nn.elastic import choose_parts, elastic_modules
from s2s.nn.feedforward import GATED
from s2s.text.vocabulary import BOS
from s2s.training.config import TrainConfig
from s2s.training.wrapping import check
from tests.decoding.slow_search import sides
from tests.specs import text_spec

V, F = 11, 16
NESTED = ("encoder.layer=nested", "decoder=nested")


def model_of(*words):
    torch.manual_seed(3)
    sizes = ("layers=2", "width=8", "heads=2", f"ffn_width={F}")
    words = ["dropout=0", *words, *(f"{side}.{size}" for side in ("encoder", "decoder") for size in sizes)]
    built = compose.build(Transformer.Config, compose.by_key([compose.Override(*word.split("=")) for word in words]))
    built.fill()
    model = Transformer(built.config, text_spec(V)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases, too
    return model


def logits(model):
    source = Source(torch.tensor([[5, 6, 7, 8, 9], [4, 5, 4, 0, 0]]), torch.tensor([5, 3]))
    return model.decode(model.encode((source,)), torch.tensor([[BOS, 6, 5, 9]] * 2)).logits()


def sliced_by_hand(nested, activation, inner):
    """A plain model whose layer n has the first inner[n] inner states of the nested one."""
    plain = model_of(f"activation={activation}")
    plain.load_state_dict(nested.state_dict())
    for layer, m in zip([*plain.encoder.layers, *plain.decoder.layers], inner, strict=True):
        block = layer.feedforward
        keep = [*range(m), *range(F, F + m)] if activation in GATED else [*range(m)]
        block.inner.weight, block.inner.bias = (
            torch.nn.Parameter(block.inner.weight[keep]), torch.nn.Parameter(block.inner.bias[keep])
        )  # fmt: skip
        block.outer.weight = torch.nn.Parameter(block.outer.weight[:, :m])
    return plain


@pytest.mark.parametrize("activation", ["relu", "swiglu", "geglu"])
@pytest.mark.parametrize(("which", "inner"), [("0.25", [4] * 4), ("1,0.125,0.5,0.25", [16, 2, 8, 4]), ("1", [16] * 4)])
def test_a_slice_is_the_model_with_the_first_inner_states(activation, which, inner):
    nested = model_of(*NESTED, f"activation={activation}")
    with torch.no_grad():
        whole, part = logits(nested), logits(subnet(nested, which))
        torch.testing.assert_close(part, logits(sliced_by_hand(nested, activation, inner)))
        torch.testing.assert_close(logits(nested), whole)  # the model itself has not changed
        for backend in ("eager", "auto"):
            torch.testing.assert_close(logits(prepare(nested, "fp32", backend, which)), part, rtol=1e-4, atol=1e-5)
    assert torch.equal(whole, part) == (which == "1")


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_an_update_trains_a_slice(activation):
    model = model_of(*NESTED, f"activation={activation}").train()
    for update in range(1, 20):
        choose_parts(elastic_modules(model), 1, update)
        widths = [layer.feedforward.outer.columns for layer in [*model.encoder.layers, *model.decoder.layers]]
        if widths[0] == 4:
            break
    assert widths == [4] * 4  # the same width everywhere
    plain = sliced_by_hand(model, activation, widths).train()
    torch.testing.assert_close(logits(model), logits(plain))
    logits(model).square().sum().backward()
    logits(plain).square().sum().backward()
    block, expected = (each.decoder.layers[0].feedforward for each in (model, plain))
    torch.testing.assert_close(block.outer.weight.grad[:, :4], expected.outer.weight.grad)
    assert not block.outer.weight.grad[:, 4:].any()
    assert not block.inner.weight.grad[4:F].any()
    whole = logits(model.eval())
    torch.testing.assert_close(whole, logits(sliced_by_hand(model, activation, [F] * 4)))  # all of it in evaluation


def test_widths_belong_to_the_seed_and_the_update():
    def widths(seed):
        model = model_of(*NESTED)
        drawn = []
        for update in range(1, 401):
            choose_parts(elastic_modules(model), seed, update)
            drawn.append(model.decoder.layers[1].feedforward.outer.columns)
        return drawn

    first = widths(1)
    assert first == widths(1) != widths(2)
    assert all(75 < first.count(width) < 125 for width in (2, 4, 8, 16))


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_the_whole_is_prepared_as_a_plain_model(activation):
    """Its maps have kernels, or a type of their own."""
    nested = model_of(*NESTED, f"activation={activation}")
    plain = model_of(f"activation={activation}")
    plain.load_state_dict(nested.state_dict())
    with torch.no_grad():
        for how in (("fp32", "native"), ("int8", "native"), ("int8", "eager")):
            assert torch.equal(logits(prepare(nested, *how)), logits(prepare(plain, *how)))


def test_kernels_compute_a_slice_of_one_width():
    nested = model_of(*NESTED)
    assert is_native(prepare(nested, "fp32", "native"))
    assert is_native(prepare(nested, "fp32", "native", "0.5"))
    assert is_native(prepare(nested, "fp32", "native", "0.5,1,1,1"))  # only the decoder counts
    with pytest.raises(UserError, match=r"decode\.backend=native: they are for decoder layers of one width"):
        prepare(nested, "fp32", "native", "1,1,0.5,1")


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("options", [{}, {"draft_subnet": "1,1,0.5,0.25"}, {"subnet": "0.5", "draft_subnet": "0.25"}])
def test_a_slice_drafts_for_the_model(backend, options):
    if backend == "native" and "draft_subnet" in options and "," in options["draft_subnet"]:
        options = {**options, "draft_subnet": "0.5"}
    nested = model_of(*NESTED)
    sources = [[4, 5, 6, 7, 8], [9], [10, 9, 8, 4], [6] * 9]
    plain = {key: value for key, value in options.items() if key == "subnet"}
    greedy, drafted = (
        [one for (one,) in Generator([nested], DecodeConfig(beam_size=1, backend=backend, slots=3, **each), sides)
         .generate(sources)] for each in (plain, {"speculative": "self", "speculative_tokens": 3, **options})
    )  # fmt: skip
    assert [one.ids for one in drafted] == [one.ids for one in greedy]
    for one, other in zip(drafted, greedy, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
    assert sum(one.passes for one in drafted) < sum(len(one.ids) + 1 for one in greedy)


def test_a_whole_model_that_drafts_is_always_right():
    """Guesses continue the state of the model, and none is taken back."""
    nested = model_of(*NESTED)
    config = DecodeConfig(beam_size=1, backend="eager", speculative="self", draft_subnet="1", speculative_tokens=3)
    ((one,),) = Generator([nested], config, sides).generate([[4, 5, 6, 7]])
    assert one.passes == -(-(len(one.ids) + 1) // 4)


def test_parts_are_not_compiled():
    options = TrainConfig(compile=True)
    with pytest.raises(UserError, match=r"train\.compile=true: each update uses a part of the model"):
        check(options, model_of(*NESTED), torch.device("cpu"))
    check(options, model_of(), torch.device("cpu"))


@pytest.mark.parametrize(("which", "message"), [
    ("0.3", "decode.subnet=0.3: the model has no width 0.3; it was trained with 0.125, 0.25, 0.5, 1"),
    ("half", "decode.subnet=half: must be a number"),
    ("1,0.5", "decode.subnet=1,0.5: 2 widths, and the model has 4 nested layers"),
])  # fmt: skip
def test_a_slice_that_there_is_not_is_an_error(which, message):
    with pytest.raises(UserError, match=message):
        subnet(model_of(*NESTED), which)


def test_a_model_without_nested_layers_has_no_slices():
    with pytest.raises(UserError, match=r"decode\.subnet=0\.5: the model has no parts"):
        subnet(model_of(), "0.5")
    with pytest.raises(UserError, match=r"decode\.speculative=self: the model has no nested layers"):
        Generator([model_of()], DecodeConfig(beam_size=1, speculative="self"), sides)


@pytest.mark.parametrize(("widths", "message"), [("[0.5]", "must have 1"), ("[0.01,1]", "0.01 of ffn_width=16 is")])
def test_widths_that_cannot_be_trained_are_an_error(widths, message):
    with pytest.raises(UserError, match=message):
        model_of("decoder=nested", f"decoder.widths={widths}")
