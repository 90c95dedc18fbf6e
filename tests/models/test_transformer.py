"""The Transformer against PyTorch's and Hugging Face's modules with the same weights, and against its own steps."""

import pytest
import torch
from torch import nn

from s2s.data.batch import Source
from s2s.errors import UserError
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.parts import counts
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from s2s.nn.positions import sinusoidal
from tests.specs import text_spec


def config(**changes) -> TransformerConfig:
    sizes = {"encoder": EncoderConfig(2, 32, 4, None, 64), "decoder": DecoderConfig(3, 32, 4, None, 64)}
    return TransformerConfig(**{**sizes, "dropout": 0.0, **changes})


def model_of(seed: int = 0, sizes=(20, 23), shared: bool = False, **changes) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(config(**changes), text_spec(*sizes, shared))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # fresh ones are 0 and 1, which would hide a mistake
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    return model.eval()


def ragged(vocabulary: int, lengths: list[int], seed: int = 0) -> Source:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, vocabulary, (len(lengths), max(lengths)), generator=generator)
    return Source(ids, torch.tensor(lengths))


def copy_attention(ours, theirs: nn.MultiheadAttention, cross: bool) -> None:
    if cross:
        theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight]).detach()
        theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias]).detach()
    else:
        theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_same_logits_as_pytorch_modules(norm, activation):
    model = model_of(norm=norm, activation=activation)
    common = {"dim_feedforward": 64, "dropout": 0.0, "activation": activation, "batch_first": True,
              "norm_first": norm == "pre"}  # fmt: skip
    source, target = ragged(20, [7, 3, 5]), ragged(23, [6, 6, 2], seed=1)
    with torch.no_grad():
        x = model.frontend.embedding(source.values)
        padding = torch.arange(7) >= source.lengths[:, None]
        for layer in model.encoder.layers:
            theirs = nn.TransformerEncoderLayer(32, 4, **common)  # in training mode: no fused path of its own
            copy_attention(layer.attention, theirs.self_attn, cross=False)
            theirs.linear1, theirs.linear2 = layer.feedforward.inner, layer.feedforward.outer
            theirs.norm1, theirs.norm2 = layer.attention_norm, layer.feedforward_norm
            x = theirs(x, src_key_padding_mask=padding)
        memory = model.encoder.norm(x)
        y = model.decoder.embedding(target.values)
        causal = nn.Transformer.generate_square_subsequent_mask(6)
        for layer in model.decoder.layers:
            theirs = nn.TransformerDecoderLayer(32, 4, **common)
            copy_attention(layer.attention, theirs.self_attn, cross=False)
            copy_attention(layer.cross, theirs.multihead_attn, cross=True)
            theirs.linear1, theirs.linear2 = layer.feedforward.inner, layer.feedforward.outer
            theirs.norm1, theirs.norm2, theirs.norm3 = layer.attention_norm, layer.cross_norm, layer.feedforward_norm
            y = theirs(y, memory, tgt_mask=causal, memory_key_padding_mask=padding)
        expected = model.output(model.decoder.norm(y))
        actual = model.decode(model.encode((source,)), target.values).logits()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_same_logits_as_hugging_face_marian():
    transformers = pytest.importorskip("transformers")
    model = model_of(norm="post", sizes=(23, 23), shared=True, tie_embeddings="all", activation="relu")
    theirs = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=23, decoder_vocab_size=23, d_model=32, encoder_layers=2, decoder_layers=3,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
            activation_function="relu", dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
            scale_embedding=True,
            max_position_embeddings=64, pad_token_id=0, eos_token_id=3, decoder_start_token_id=2,
            share_encoder_decoder_embeddings=True,
        )
    ).eval()  # fmt: skip
    weights = {
        "model.shared.weight": model.output.weight, "lm_head.weight": model.output.weight,
        "final_logits_bias": torch.zeros(1, 23),
        "model.encoder.embed_tokens.weight": model.output.weight,
        "model.decoder.embed_tokens.weight": model.output.weight,
    }  # fmt: skip
    for side in ("encoder", "decoder"):
        weights[f"model.{side}.embed_positions.weight"] = sinusoidal(torch.arange(64), 32)
        for n, layer in enumerate(getattr(model, side).layers):
            at = f"model.{side}.layers.{n}."
            linears = {"fc1": layer.feedforward.inner, "fc2": layer.feedforward.outer,
                       "final_layer_norm": layer.feedforward_norm, "self_attn_layer_norm": layer.attention_norm,
                       "self_attn.out_proj": layer.attention.output}  # fmt: skip
            parts = {"self_attn": [layer.attention.qkv]}
            if side == "decoder":
                linears |= {"encoder_attn.out_proj": layer.cross.output, "encoder_attn_layer_norm": layer.cross_norm}
                parts["encoder_attn"] = [layer.cross.query, layer.cross.key_value]
            for name, module in linears.items():
                weights |= {f"{at}{name}.{key}": value for key, value in module.state_dict().items()}
            for name, modules in parts.items():
                for kind in ("weight", "bias"):
                    joined = torch.cat([getattr(module, kind) for module in modules])
                    for letter, part in zip("qkv", joined.chunk(3), strict=True):
                        weights[f"{at}{name}.{letter}_proj.{kind}"] = part
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    source, target = ragged(23, [7, 3, 5]), ragged(23, [6, 6, 2], seed=1)
    mask = (torch.arange(7) < source.lengths[:, None]).long()
    with torch.no_grad():
        expected = theirs(input_ids=source.values, attention_mask=mask, decoder_input_ids=target.values).logits
        actual = model.decode(model.encode((source,)), target.values).logits()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_steps_equal_whole_sequences_through_reorder_and_growth(positions, kv_heads, norm):
    model = model_of(positions=positions, norm=norm, activation="swiglu",
                     decoder=DecoderConfig(2, 16, 4, kv_heads, 40)).double()  # fmt: skip
    source, target = ragged(20, [7, 3, 5]), ragged(23, [40, 40, 40])
    with torch.inference_mode():
        memory = model.encode((source,))
        expected = model.decode(memory, target.values).logits()
        state = model.start(memory, 2)
        size = state.nbytes
        for t in range(40):
            logits = model.step(target.values[:, t].repeat_interleave(2), state)
            torch.testing.assert_close(logits.view(3, 2, -1)[:, 1], expected[:, t], rtol=0, atol=1e-10)
            state.reorder(torch.tensor([1, 0, 2, 2, 5, 4]))
    assert state.nbytes > size


def test_release_keeps_the_other_sentences_as_they_were():
    model = model_of().double()
    source, target = ragged(20, [7, 3, 5]), ragged(23, [9, 9, 9])
    with torch.inference_mode():
        memory = model.encode((source,))
        expected = model.decode(memory, target.values).logits()
        state = model.start(memory, 3)
        for t in range(4):
            model.step(target.values[:, t].repeat_interleave(3), state)
        state.release(torch.tensor([0, 2]), 2)
        for t in range(4, 9):
            logits = model.step(target.values[[0, 2], t].repeat_interleave(3), state)
            torch.testing.assert_close(logits.view(2, 3, -1)[:, 2], expected[[0, 2], t], rtol=0, atol=1e-10)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_a_sentence_takes_the_place_of_another_at_any_position(positions):
    """Places are freed, added and refilled with sentences of any length; each goes on by its own position."""
    model = model_of(positions=positions).double()
    source, target = ragged(20, [7, 3, 5]), ragged(23, [50, 50, 50])
    longer, more = ragged(20, [2, 9]), ragged(23, [50, 50])
    with torch.inference_mode():
        expected = [*model.decode(model.encode((source,)), target.values).logits(),
                    *model.decode(model.encode((longer,)), more.values).logits()]  # fmt: skip
        tokens = [*target.values, *more.values]
        first, second = model.start(model.encode((source,)), 2), model.start(model.encode((longer,)), 2)
        state = first.empty(3)
        state.admit(torch.tensor([2, 0, 1]), first, torch.tensor([0, 1, 2]))
        places, done = [1, 2, 0], [0] * 5  # which sentence is where, and how far each is

        def steps(count):
            for _ in range(count):
                now = torch.stack([tokens[i][done[i]] for i in places]).repeat_interleave(2)
                logits = model.step(now, state).view(len(places), 2, -1)
                for place, i in enumerate(places):
                    torch.testing.assert_close(logits[place, 1], expected[i][done[i]], rtol=0, atol=1e-10)
                    done[i] += 1
                state.reorder(torch.arange(2 * len(places)).view(-1, 2).flip(1).flatten())

        steps(5)
        state.admit(torch.tensor([1]), second, torch.tensor([1]))  # 2 leaves, 4 is longer than all before
        places = [1, 4, 0]
        steps(33)
        state.release(torch.tensor([1, 2]), 4)
        state.admit(torch.tensor([3, 2]), second, torch.tensor([0, 1]))
        places, done[4] = [4, 0, 4, 3], 0
        state.steps[0], state.positions[0] = 0, 0
        state.admit(torch.tensor([0]), second, torch.tensor([1]))
        done[4] = 0
        places = [0, 3]
        state.release(torch.tensor([1, 3]), 2)
        steps(12)


def test_padding_value_and_amount_never_matter():
    model = model_of().double()
    source, target = ragged(20, [7, 3, 5]), ragged(23, [6, 4, 2])
    longer = Source(torch.cat([source.values, torch.full((3, 5), 9)], dim=1), source.lengths)
    for row, length in enumerate(source.lengths):
        longer.values[row, length:] = torch.randint(0, 20, (12 - int(length),))
    changed = target.values.clone()
    for row, length in enumerate(target.lengths):
        changed[row, length:] = 0
    with torch.no_grad():
        expected = model.decode(model.encode((source,)), target.values).logits()
        actual = model.decode(model.encode((longer,)), changed).logits()
        alone = model.decode(
            model.encode((Source(source.values[1:2, :3], source.lengths[1:2]),)), target.values[1:2, :4]
        ).logits()
    for row, length in enumerate(target.lengths):
        torch.testing.assert_close(actual[row, :length], expected[row, :length], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone[0], expected[1, :4], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("tie", "shared", "matrices"),
    [
        ("none", True, 3),
        ("decoder", False, 2),
        ("inputs", True, 2),
        ("all", True, 1),
        ("auto", True, 1),
        ("auto", False, 2),
    ],
)
def test_tied_embeddings_are_one_matrix(tie, shared, matrices):
    model = model_of(sizes=(23, 23), shared=shared, tie_embeddings=tie)
    assert counts(model)["embeddings"] == matrices * 23 * 32
    assert sum(counts(model).values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_embeddings": "all"}, "a vocabulary of its own"),
        (
            {"encoder": EncoderConfig(1, 30, 4, None, 8)},
            "model.encoder.width=30 is not a multiple of model.encoder.heads=4",
        ),
        ({"decoder": DecoderConfig(1, 32, 4, 3, 8)}, "model.decoder.kv_heads=3 does not divide"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        model_of(**changes)


def test_learned_positions_end_with_a_clear_error():
    model = model_of(positions="learned", max_positions=5)
    with pytest.raises(UserError, match="max_positions=5"):
        model.encode((ragged(20, [6]),))


def test_depth_and_width_may_differ_on_each_side():
    model = model_of(encoder=EncoderConfig(4, 48, 6, None, 96), decoder=DecoderConfig(1, 16, 2, 1, 32))
    logits = model.decode(model.encode((ragged(20, [7, 3]),)), ragged(23, [4, 4]).values).logits()
    assert logits.shape == (2, 4, 23)
    assert len(model.encoder.layers) == 4
    assert len(model.decoder.layers) == 1
