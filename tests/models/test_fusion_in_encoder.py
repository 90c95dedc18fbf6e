"""Disentangled attention by loops and against transformers' DeBERTa; fusion-in-encoder chunk by chunk."""

import pytest
import torch
from torch import nn

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.config.compose import preset
from s2s.data.batch import Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.lens import lens
from s2s.decoding.prepacking import cut, packed_source
from s2s.decoding.similarity import leaving
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.nn.disentangled import DisentangledAttention
from s2s.text.vocabulary import BOS
from tests.specs import text_spec

V, CHUNK, LENGTHS = 19, 6, [20, 5, 12, 13]
SIZE = ["encoder.layers=4", "decoder.layers=2", *(f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("width=16", "heads=2", "ffn_width=24"))]  # fmt: skip
FUSION = ["encoder=fusion_in_encoder", f"encoder.chunk={CHUNK}"]
DISENTANGLED = ["encoder.layer=disentangled", "encoder.layer.distance=4"]


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    built = compose.build(Transformer.Config, compose.by_key(
        [compose.Override(*word.split("=")) for word in [*words[:1], *SIZE, "dropout=0", *words[1:]]]))  # fmt: skip
    built.fill()
    model = Transformer(built.config, text_spec(V)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "relative" in name:
            nn.init.normal_(parameter, std=0.5)
    return model


def source() -> Source:
    ids = torch.randint(4, V, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    return Source(ids, torch.tensor(LENGTHS))


def attention_of(kv_heads: int, distance: int = 3) -> DisentangledAttention:
    torch.manual_seed(0)
    attention = DisentangledAttention(8, 4, kv_heads, 0.0, distance).eval()
    nn.init.normal_(attention.distances.weight)
    nn.init.normal_(attention.qkv.bias)
    return attention


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_disentangled_attention_by_loops(kv_heads):
    attention, T, d, k = attention_of(kv_heads), 9, 2, 3
    x, seen = torch.randn(2, T, 8), torch.arange(T) < torch.tensor([T, 6])[:, None]
    found = attention(x, seen[:, None, None])
    weight, bias = attention.qkv.weight, attention.qkv.bias
    for row, length in enumerate((T, 6)):
        for i in range(length):
            joined = []
            for head in range(4):
                group = head * kv_heads // 4
                rows = [slice(head * d, head * d + d), slice(8 + group * d, 8 + group * d + d),
                        slice(8 + kv_heads * d + group * d, 8 + kv_heads * d + group * d + d)]  # fmt: skip

                def part(vector, which, rows=rows):
                    return weight[rows[which]] @ vector + bias[rows[which]]

                logits = []
                for j in range(length):
                    place = attention.distances.weight[min(max(i - j, -k), k - 1) + k]
                    query, key = part(x[row, i], 0), part(x[row, j], 1)
                    logits.append((query @ key + query @ part(place, 1) + key @ part(place, 0)) / (3 * d) ** 0.5)
                shares = torch.stack(logits).softmax(0)
                joined.append(sum(share * part(x[row, j], 2) for j, share in enumerate(shares)))
            torch.testing.assert_close(found[row, i], attention.output(torch.cat(joined)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_disentangled_attention_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

    attention, T = attention_of(4, distance=5), 12
    theirs = DisentangledSelfAttention(transformers.DebertaV2Config(
        hidden_size=8, num_attention_heads=4, relative_attention=True, share_att_key=True, position_buckets=-1,
        max_relative_positions=5, pos_att_type=["c2p", "p2c"], attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )).eval()  # fmt: skip
    for kind in ("weight", "bias"):
        parts = zip(["query", "key", "value"], getattr(attention.qkv, kind).chunk(3), strict=True)
        for name, part in parts:
            getattr(getattr(theirs, f"{name}_proj"), kind).copy_(part)
    x, seen = torch.randn(2, T, 8), torch.arange(T) < torch.tensor([T, 7])[:, None]
    mask = seen[:, None, None] & seen[:, None, :, None]
    expected, _ = theirs(x, mask, rel_embeddings=attention.distances.weight)
    found = attention(x, seen[:, None, None])
    for row, length in enumerate((T, 7)):
        expected_row = attention.output(expected[row, :length])
        torch.testing.assert_close(found[row, :length], expected_row, rtol=1e-4, atol=1e-5)


KINDS = {
    "plain": [],
    "disentangled": DISENTANGLED,
    "relative_bias": ["positions=relative_bias"],
    "rotary": ["positions=rotary", "norm=post"],
    "conformer": ["encoder.layer=conformer", "encoder.layer.kernel=3"],
}


@torch.no_grad()
@pytest.mark.parametrize("global_layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_chunk_by_chunk(kind, global_layers):
    model = model_of(*FUSION, f"encoder.global_layers={global_layers}", *KINDS[kind])
    encoder, x = model.encoder, model.frontend(source()).values
    encoder.needed = (1, 2, 3)
    memory = model.encode((source(),))

    def run(layer, rows):
        keys = torch.ones(1, 1, 1, len(rows), dtype=torch.bool)
        mask = keys if encoder.relative is None else encoder.relative.masked(keys)
        return layer(rows[None], mask, None if layer.unpads else keys[:, 0, 0, :, None])[0]

    for row, length in enumerate(LENGTHS):
        states = x[row, :length]
        for number, layer in enumerate(encoder.layers, 1):
            local = number <= 4 - global_layers
            states = torch.cat([run(layer, part) for part in states.split(CHUNK if local else length)])
            if number < 4:
                torch.testing.assert_close(memory.states[number - 1][row, :length], states, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(memory.top[row, :length], encoder.norm(states), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("words", [FUSION + DISENTANGLED, DISENTANGLED, [*DISENTANGLED, "encoder.unpad=true"],
                                   [*DISENTANGLED, "encoder.unpad_attention=true", "encoder.kv_heads=1"]])  # fmt: skip
def test_a_row_is_as_if_alone_and_as_if_packed(words):
    model, whole = model_of(*words), source()
    written = torch.tensor([[BOS, 5, 6, 7]] * len(LENGTHS))
    memory = model.encode((whole,))
    taught = model.decode(memory, written).logits()
    for row, length in enumerate(LENGTHS):
        alone = model.encode((Source(whole.values[row : row + 1, :length], whole.lengths[row : row + 1]),))
        logits = model.decode(alone, written[:1]).logits()[0]
        torch.testing.assert_close(logits, taught[row], rtol=1e-4, atol=1e-5)
    for backend in ("eager", "auto"):
        prepared = prepare(model, "fp32", backend)  # its linear maps are others
        assert is_native(prepared) == (backend == "auto")
        torch.testing.assert_close(prepared.encode((whole,)).top, memory.top, rtol=1e-4, atol=1e-4)
    rows = [[1, 2], [3], [0]]
    together = cut(model.encode((packed_source(whole, rows),)), torch.tensor([1, 2, 3, 0]).argsort(), {})
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(together.top[row, :length], memory.top[row, :length], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_lower_layers_alone_and_operations():
    model = model_of(*FUSION)
    for layers in (1, 2, 3):
        light = lens(model, layers)
        states = light.encode((source(),)).top
        model.encoder.needed = (layers,)
        expected = model.encoder.norm(model.encode((source(),)).states[0])
        for row, length in enumerate(LENGTHS):
            torch.testing.assert_close(states[row, :length], expected[row, :length], rtol=1e-5, atol=1e-6)
    plain = model_of()
    lengths = torch.tensor([20, 5])
    pairs = 3 * (3 * 36 + 4 + 25) + 20 * 20 + 25
    less = model.encoder.flops(lengths) - 4 * 16 * pairs
    assert less == plain.encoder.flops(lengths) - 4 * 16 * 4 * (20 * 20 + 25)


def test_the_preset_learns_all():
    built = preset("model", "zcode_tiny")
    model = Transformer(built, text_spec(V))
    model.decode(model.encode((source(),)), torch.tensor([[BOS, 5, 6]] * 4)).logits().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert [layer.attention.distances.weight.std().item() for layer in model.encoder.layers] == pytest.approx(
        [1] * 4, rel=0.05
    )


@pytest.mark.parametrize(("words", "message"), [
    ([*FUSION, "encoder.global_layers=4"], "model.encoder.global_layers=4: must be below model.encoder.layers=4"),
    ([*DISENTANGLED, "positions=rotary"], "model.positions=rotary: model.encoder.layer=disentangled has vectors"),
    ([*DISENTANGLED, "positions=relative_bias"], "relative_bias: model.encoder.layer=disentangled does not have it"),
    ([*DISENTANGLED, "log_length_scale=true"], "log_length_scale=true: model.encoder.layer=disentangled does not"),
])  # fmt: skip
def test_what_does_not_go_together_says_so(words, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        model_of(*words)


def test_chunks_do_not_exit_by_similarity():
    from collections import Counter

    with pytest.raises(UserError, match="no encoder with layers of attention over whole rows"):
        leaving(model_of(*FUSION), DecodeConfig(encoder_exit_similarity=0.9), Counter())
