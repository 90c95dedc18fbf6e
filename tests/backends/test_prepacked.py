"""Packed linear maps are held to slow references, row by row, and packed models to the models they are made of."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from s2s.backends import prepacked as module
from s2s.backends.prepacked import BFloat16Linear, Int8Linear, PrepackedLinear, check, prepacked
from s2s.data.batch import Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from s2s.text.vocabulary import BOS, EOS
from tests.decoding.slow_search import collate, sides
from tests.specs import text_spec

V = 14


def available(dtype: str) -> bool:
    try:
        check(dtype, "cpu")
    except UserError:
        return False
    return True


TYPES = [dtype for dtype in ("fp32", "bf16", "int8") if available(dtype)]
needs_bf16 = pytest.mark.skipif("bf16" not in TYPES, reason="no bf16 in hardware")
needs_int8 = pytest.mark.skipif("int8" not in TYPES, reason="no fbgemm")

# Rows of 1 and 64 and 65 take one kernel and the other; products of few and of many multiplications do in fp32.
cases = given(
    rows=st.sampled_from([1, 2, 7, 64, 65, 200]),
    inputs=st.sampled_from([1, 5, 64, 515]),
    outputs=st.sampled_from([1, 3, 48, 1030]),
    bias=st.booleans(),
    relu=st.booleans(),
    seed=st.integers(0, 99),
)


def made(rows, inputs, outputs, bias, seed):
    """A linear map and inputs whose rows are of very different size."""
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias).requires_grad_(False)
    return linear, torch.randn(rows, inputs) * torch.logspace(-2, 2, rows)[:, None]


@settings(max_examples=40, deadline=None)
@cases
def test_fp32_is_the_plain_product(rows, inputs, outputs, bias, relu, seed):
    linear, x = made(rows, inputs, outputs, bias, seed)
    expected = linear(x).relu() if relu else linear(x)
    scale = x.norm(dim=-1, keepdim=True) * linear.weight.norm(dim=-1) + 1
    assert ((PrepackedLinear(linear, relu)(x) - expected).abs() <= 1e-6 * scale).all()


@needs_bf16
@settings(max_examples=40, deadline=None)
@cases
def test_bf16_rounds_inputs_weights_and_the_result(rows, inputs, outputs, bias, relu, seed):
    linear, x = made(rows, inputs, outputs, bias, seed)
    exact = x.bfloat16().double() @ linear.weight.bfloat16().double().T
    exact += linear.bias.bfloat16().double() if bias else 0
    expected = exact.relu() if relu else exact
    found = BFloat16Linear(linear, relu)(x)
    assert found.dtype == torch.float32
    scale = x.norm(dim=-1, keepdim=True) * linear.weight.norm(dim=-1)
    assert ((found - expected).abs() <= expected.abs() / 2**8 + 1e-5 * scale + 1e-6).all()


@needs_int8
@settings(max_examples=60, deadline=None)
@cases
def test_int8_is_the_product_of_rounded_rows_and_rounded_weights(rows, inputs, outputs, bias, relu, seed):
    linear, x = made(rows, inputs, outputs, bias, seed)
    int8 = Int8Linear(linear, relu)
    levels = 127 if int8.vnni else 63
    # Numbers near an integer of their row's scale, for no kernel to take them for another one.
    scale = x.abs().amax(1, keepdim=True)
    integers = (x / scale * levels).round()
    x = (integers + torch.rand_like(x) * 0.6 - 0.3).clamp(-levels, levels) / levels * scale
    x[:, 0] = scale[:, 0]
    integers[:, 0] = levels
    weight_scale = linear.weight.abs().amax(1, keepdim=True) / 127
    weight = (linear.weight / weight_scale).round().double() * weight_scale
    expected = (integers.double() / levels * scale) @ weight.T + (linear.bias if bias else 0)
    expected = expected.relu() if relu else expected
    assert ((int8(x) - expected).abs() <= 1e-6 * (scale * weight.abs().sum(1) + 1)).all()


@needs_int8
@pytest.mark.parametrize("vnni", [True, False])
def test_int8_rows_do_not_depend_on_each_other(monkeypatch, vnni):
    if not vnni:
        monkeypatch.setattr(module, "_cpu", lambda feature: False)
    linear, x = made(130, 60, 50, True, 0)
    x[3], x[5, 7] = 0, float("nan")
    int8 = Int8Linear(linear)
    alone = torch.cat([int8(row[None]) for row in x])
    assert torch.allclose(int8(x), alone, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert torch.equal(alone[3], linear.bias)
    assert alone[5].isnan().all()
    assert torch.cat([alone[:5], alone[6:]]).isfinite().all()
    assert torch.equal(int8(x.view(2, 65, 60)[:, 1]), int8(x[[1, 66]]))  # not contiguous


def model_of(**changes) -> Transformer:
    torch.manual_seed(0)
    sizes = {"encoder": EncoderConfig(2, 32, 4, None, 64), "decoder": DecoderConfig(2, 32, 4, None, 64)}
    return Transformer(TransformerConfig(**{**sizes, "dropout": 0.0, **changes}), text_spec(V)).eval()


def random_sources(count: int, seed: int) -> list[list[int]]:
    numbers = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (count,), generator=numbers).tolist()
    return [torch.randint(4, V, (length,), generator=numbers).tolist() for length in lengths]


def logits_of(model, sources: list[list[int]], targets: list[list[int]]):
    """Teacher-forced logits at real positions, and the targets there."""
    T = max(map(len, targets)) + 1
    target = torch.tensor([[*ids, EOS] + [-1] * (T - 1 - len(ids)) for ids in targets])
    inputs = torch.cat([torch.full((len(targets), 1), BOS), target[:, :-1].clamp(min=EOS)], 1)
    real = target >= 0
    return model.decode(model.encode(*collate(sources)), inputs).logits()[real], target[real]


@pytest.fixture(scope="module")
def trained() -> Transformer:
    """A model that has learnt to write backwards."""
    model = model_of().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(400):
        sources = random_sources(32, step)
        logits, target = logits_of(model, sources, [source[::-1] for source in sources])
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, target).backward()
        optimizer.step()
    return model.eval()


KINDS = [{}, {"activation": "gelu"}, {"activation": "swiglu", "norm": "post"}, {"tie_embeddings": "none"},
         {"positions": "rotary"}, {"decoder": DecoderConfig(2, 32, 4, 1, 64)}]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_random_models_give_the_logits_of_the_plain_one_within_the_tolerance_of_the_type(monkeypatch, kind, dtype):
    monkeypatch.setattr(module, "PLAIN_BELOW", 0)
    model = model_of(**kind)
    sources = random_sources(30, 1)
    expected, _ = logits_of(model, sources, sources)
    found, _ = logits_of(prepacked(model, dtype), sources, sources)
    error = (found - expected).std() / expected.std()
    assert error < {"fp32": 1e-5, "bf16": 0.02, "int8": 0.03}[dtype]


@pytest.mark.parametrize("dtype", TYPES)
def test_a_trained_model_chooses_the_same_tokens(trained, dtype):
    sources = random_sources(200, 1000)
    with torch.inference_mode():
        plain, target = logits_of(trained, sources, [source[::-1] for source in sources])
        found, _ = logits_of(prepacked(trained, dtype), sources, [source[::-1] for source in sources])
    assert (plain.argmax(1) == target).float().mean() > 0.9  # it has learnt something
    assert (plain.argmax(1) == found.argmax(1)).float().mean() > (0.9999 if dtype == "fp32" else 0.99)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("beam_size", [1, 4])
def test_hypotheses_do_not_depend_on_the_batch(trained, dtype, beam_size):
    config = DecodeConfig(beam_size=beam_size, dtype=dtype)
    sources = random_sources(40, 7)
    generator = Generator([trained], config, sides)
    together = [n_best[0] for n_best in generator.generate(sources)]
    alone = [next(generator.generate([source]))[0] for source in sources]
    # What fp32 rounds otherwise in another batch can be the next number of a coarser type.
    tolerance = {"fp32": 1e-5, "bf16": 3e-2, "int8": 2e-3}[dtype]
    same = [pair for pair in zip(together, alone, strict=True) if pair[0].ids == pair[1].ids]
    assert len(same) >= (40 if dtype == "fp32" else 38)
    assert all(one.score == pytest.approx(other.score, abs=tolerance) for one, other in same)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_model_itself_is_untouched_and_can_be_trained_on(dtype):
    model = model_of()
    before = copy.deepcopy(model.state_dict())
    light = prepacked(model.train(), dtype)
    assert {name: type(part) for name, part in model.named_modules()} == {
        name: type(part) for name, part in model_of().named_modules()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    light.eval()
    assert model.training
    assert all(part.training for part in model.modules())
    sources = random_sources(5, 0)
    logits, target = logits_of(model, sources, sources)
    nn.functional.cross_entropy(logits, target).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", TYPES)
def test_a_prepacked_model_shares_what_is_not_and_keeps_nothing_else(dtype):
    model = model_of(tie_embeddings="none")
    light = prepacked(model, dtype)
    ours, theirs = dict(model.named_parameters()), dict(light.named_parameters())
    assert theirs
    assert all(theirs[name] is ours[name] for name in theirs)
    linear = {f"{name}.{which}" for name, part in model.named_modules() if isinstance(part, nn.Linear)
              for which in ("weight", "bias")}  # fmt: skip
    assert set(ours) - set(theirs) == linear & set(ours)
    assert not any(isinstance(part, nn.Linear) for part in light.modules())


@pytest.mark.parametrize("dtype", TYPES)
def test_threads_pack_and_compute_at_once(dtype):
    model, sources = model_of(), random_sources(20, 3)
    engine = torch.backends.quantized.engine

    @torch.inference_mode()
    def work(light):
        return logits_of(light or prepacked(model, dtype), sources, sources)[0]

    light = prepacked(model, dtype)
    expected = work(light)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, [light, None] * 8))
    assert all(torch.equal(one, expected) for one in found)
    assert torch.backends.quantized.engine == engine


def test_on_another_device_than_a_cpu_the_whole_model_is_in_the_type():
    with torch.device("meta"):
        model = model_of()
        source = Source(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
        inputs = torch.zeros(2, 4, dtype=torch.int64)
    light = prepacked(model, "bf16")
    assert {parameter.dtype for parameter in light.parameters()} == {torch.bfloat16}
    assert light.output.weight is light.decoder.embedding.tokens.weight is light.frontend.embedding.tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    light.config.encoder.unpad = False  # counting tokens needs their values
    assert light.decode(light.encode((source,)), inputs).logits().dtype == torch.bfloat16
    assert prepacked(model, "fp32") is model


def test_types_that_a_device_does_not_compute_in_are_refused(monkeypatch):
    for dtype, device, words in (("fp16", "cpu", "is for a GPU"), ("int8", "cuda", "is for a CPU")):
        with pytest.raises(UserError, match=f"decode.dtype={dtype} {words}"):
            check(dtype, device)
    monkeypatch.setattr(module, "_cpu", lambda feature: False)
    with pytest.raises(UserError, match=r"decode\.dtype=bf16: this CPU has neither"):
        Generator([model_of()], DecodeConfig(dtype="bf16"), sides)


def test_weights_that_cannot_be_packed_are_used_as_they_are_and_a_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(module, "_has_onednn", lambda: False)
    model = model_of()
    assert prepacked(model, "fp32") is model
    assert "decode.dtype=fp32: without oneDNN" in capsys.readouterr().err


def test_training_that_could_not_be_validated_is_refused_before_it_starts(s2s, store, tmp_path, capsys):
    assert s2s("train", f"store={store}", f"run={tmp_path}/run", "device=cpu", "decode.dtype=fp16") == 2
    assert "decode.dtype=fp16 is for a GPU" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
