"""T5's blocks against transformers' T5 with the same weights, in every way of decoding, and what refuses them."""

from collections import Counter

import pytest
import torch
from torch import nn

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.config.compose import preset
from s2s.data.batch import Inputs, Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.prepacking import cut, packed_source
from s2s.decoding.similarity import leaving
from s2s.errors import UserError
from s2s.models.claims import departure, step_departure
from s2s.models.subnets import subnet
from s2s.models.transformer import Transformer
from s2s.nn.relative_bias import RelativeBias
from s2s.nn.split_attention import split_attend
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import BOS, SPECIALS, Vocabulary
from s2s.text.words import WordTokenizer
from tests.specs import text_spec

V, LENGTHS = 23, [40, 4, 17]
SIZE = ["encoder.layers=2", "decoder.layers=2", *(f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("width=16", "heads=2", "ffn_width=24"))]  # fmt: skip
WIDE = ["encoder.head_width=12", "decoder.head_width=12"]
T5 = ["norm_type=rms", "positions=relative_bias", "relative_buckets=8", "relative_distance=20", "activation=geglu",
      "bias=false", "scale_attention=false", "scale_embeddings=false", *WIDE]  # fmt: skip


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    built = compose.build(Transformer.Config, compose.by_key(
        [compose.Override(*word.split("=")) for word in [*SIZE, "dropout=0", *words]]))  # fmt: skip
    built.fill()
    model = Transformer(built.config, text_spec(V)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "relative" in name:  # fresh ones are 1 and 0, which would hide a mistake
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.5)
    return model


def sources() -> tuple[Source, ...]:
    random = torch.Generator().manual_seed(1)
    return (Source(torch.randint(4, V, (3, max(LENGTHS)), generator=random), torch.tensor(LENGTHS)),)


def written(length: int = 30) -> torch.Tensor:
    ids = torch.randint(4, V, (3, length), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = BOS
    return ids


def theirs_of(model: Transformer, tied: bool):
    """The T5 of transformers with the weights of a model."""
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=V, d_model=16, d_kv=12, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=20, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=tied, pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    if not tied:  # it shares the matrix of a new model in any case
        theirs.lm_head = nn.Linear(16, V, bias=False)
    table = model.frontend.tokens.weight
    weights = {"shared.weight": table, "lm_head.weight": model.output.weight,
               "encoder.embed_tokens.weight": table, "decoder.embed_tokens.weight": table}  # fmt: skip
    for side in ("encoder", "decoder"):
        stack = getattr(model, side)
        weights[f"{side}.final_layer_norm.weight"] = stack.norm.weight
        weights[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = stack.relative.weight
        for n, layer in enumerate(stack.layers):
            at, last = f"{side}.block.{n}.layer", 2 if side == "decoder" else 1
            blocks = {0: ("SelfAttention", layer.attention.qkv.weight, layer.attention, layer.attention_norm)}
            if side == "decoder":
                joined = torch.cat([layer.cross.query.weight, layer.cross.key_value.weight])
                blocks[1] = ("EncDecAttention", joined, layer.cross, layer.cross_norm)
            for number, (name, joined, attention, norm) in blocks.items():
                parts = zip("qkv", joined.chunk(3), strict=True)
                weights |= {f"{at}.{number}.{name}.{letter}.weight": part for letter, part in parts}
                weights |= {f"{at}.{number}.{name}.o.weight": attention.output.weight,
                            f"{at}.{number}.layer_norm.weight": norm.weight}  # fmt: skip
            gate, value = layer.feedforward.inner.weight.chunk(2)
            weights |= {f"{at}.{last}.DenseReluDense.wi_0.weight": gate,
                        f"{at}.{last}.DenseReluDense.wi_1.weight": value,
                        f"{at}.{last}.DenseReluDense.wo.weight": layer.feedforward.outer.weight,
                        f"{at}.{last}.layer_norm.weight": layer.feedforward_norm.weight}  # fmt: skip
    theirs.load_state_dict(weights)
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("tie", ["all", "inputs"])
def test_same_logits_as_the_t5_of_transformers(tie):
    model = model_of(*T5, f"tie_embeddings={tie}", f"scale_output={str(tie == 'all').lower()}")
    theirs, target = theirs_of(model, tie == "all"), written()
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    expected = theirs(input_ids=sources()[0].values, attention_mask=mask, decoder_input_ids=target)
    memory = model.encode(sources())
    for row, length in enumerate(LENGTHS):
        states = expected.encoder_last_hidden_state[row, :length]
        torch.testing.assert_close(memory.top[row, :length], states, rtol=1e-4, atol=1e-4)
    logits = model.decode(memory, target).logits()
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.1


@pytest.mark.parametrize("causal", [True, False])
def test_a_bias_by_loops(causal):
    bias = RelativeBias(3, 8, 20, causal)
    nn.init.normal_(bias.weight)
    places = {0: 0, 1: 1, 2: 2, 3: 2, 6: 2, 7: 3, 19: 3, 20: 3, 99: 3}  # of four buckets for distances up to 20
    if causal:
        places = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 5, 8: 5, 9: 6, 13: 6, 14: 7, 20: 7, 99: 7}
    size = 100
    added = bias.masked(torch.ones(1, 1, 1, size, dtype=torch.bool))[0]
    for distance, place in places.items():
        for query, key in ((size - 1, size - 1 - distance), (0, distance)):
            row = place
            if not causal and key > query:
                row += 4
            if causal and key > query:
                row = 0
            assert torch.equal(added[:, query, key], bias.weight[row]), (distance, query, key)
    steps = bias.step(torch.tensor([[7], [3]]), 9, None)
    assert torch.equal(steps[:, :, 0], torch.stack([added[:, 7, :9], added[:, 3, :9]]))


OPTIONS = {
    "t5": T5,
    "norm_type": ["norm_type=rms", "norm=post"],
    "relative_bias": ["positions=relative_bias", "decoder.kv_heads=1", "auxiliary_heads=[1]"],
    "activation": ["activation=geglu"],
    "scale_attention": ["scale_attention=false"],
    "scale_embeddings": ["scale_embeddings=false"],
    "scale_output": ["scale_output=true"],
    "bias": ["bias=false"],
    "embedding_norm": ["embedding_norm=true", "scale_embeddings=false", "norm=post", "positions=learned"],
    "silu": ["activation=silu", "positions=sinusoidal_fairseq", "output.bias=true"],
    "head_width": [*WIDE, "decoder.kv_heads=1", "positions=rotary"],
    "nested": [*T5, "encoder.layer=nested", "decoder=nested"],
    "unpad": [*T5, "encoder.unpad=true"],
}
WITH_KERNELS = ("bias", "head_width", "scale_embeddings", "embedding_norm", "silu")


@torch.no_grad()
@pytest.mark.parametrize("name", OPTIONS)
def test_every_way_of_decoding_has_it(name, capsys):
    model, inputs, target = model_of(*OPTIONS[name]), sources(), written(40)
    memory = model.encode(inputs)
    taught = model.decode(memory, target).logits()
    for row, length in enumerate(LENGTHS):
        alone = (Source(inputs[0].values[row : row + 1, :length], torch.tensor([length])),)
        logits = model.decode(model.encode(alone), target[row : row + 1]).logits()
        torch.testing.assert_close(logits[0], taught[row], rtol=1e-4, atol=1e-5)
    for backend in ("eager", "auto"):
        stepping = prepare(model, "fp32", backend)
        assert is_native(stepping) == (backend == "auto" and name in WITH_KERNELS)
        state = stepping.start(stepping.encode(*Inputs(inputs)), 1)
        for t in range(target.size(1)):
            logits = stepping.step(target[:, t].contiguous(), state)
            torch.testing.assert_close(logits, taught[:, t], rtol=1e-4, atol=1e-4, msg=f"{backend}, step {t}")
    assert (step_departure(model) is None) == (name in WITH_KERNELS)
    state = model.decoder.start_blocks([memory.top] * 2, memory.visible())
    blocks = [model.decoder.step_block(part, state) for part in target.split([1, 7, 32], 1)]
    torch.testing.assert_close(model.output(torch.cat(blocks, 1)), taught, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sentences_at_different_places():
    """A slot that is taken again, with two rows a sentence, and over the keys in parts."""
    model, target = model_of(*T5), written(12)
    taught = model.decode(model.encode(sources()), target).logits()
    state = model.start(model.encode(sources()), 2)
    state.attention = lambda *args: split_attend(*args, size=5)
    for t in range(5):
        model.step(target[:, t].repeat_interleave(2), state)
    slot = torch.tensor([1])
    state.admit(slot, model.start(model.encode(sources()), 2), slot)
    for t in range(5, 12):
        now = torch.stack([target[0, t], target[1, t - 5], target[2, t]]).repeat_interleave(2)
        logits = model.step(now, state)[::2]
        expected = torch.stack([taught[0, t], taught[1, t - 5], taught[2, t]])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_packed_rows_and_alignment():
    model, target = model_of(*T5), written(9)
    (source,) = sources()
    apart = model.encode((source,))
    rows = [[1, 2], [0]]
    together = cut(model.encode((packed_source(source, rows),)), torch.tensor([1, 2, 0]).argsort(), {})
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(together.top[row, :length], apart.top[row, :length], rtol=1e-4, atol=1e-4)
    weights = model.cross_attention(apart, target, 1)
    above, layer = model.decoder.layers, model.decoder.layers[1]
    mask = model.decoder.relative.masked(torch.ones(1, 1, 9, 9, dtype=torch.bool).tril())
    x = above[0].decode(model.decoder.embedding(target), mask, apart.top, apart.mask)
    x = layer.cross_norm(x + layer.attention(layer.attention_norm(x), mask))
    q, k = layer.cross.query(x), layer.cross.key_value(apart.top)[..., :24]
    for head in (slice(0, 12), slice(12, 24)):
        logits = (q[..., head] @ k[..., head].transpose(1, 2)).masked_fill(~apart.mask[:, 0], float("-inf"))
        torch.testing.assert_close(weights[:, head.start // 12], logits.softmax(-1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_slice_has_it():
    nested = model_of(*T5, "encoder.layer=nested", "decoder=nested")
    plain = model_of(*T5, "encoder.ffn_width=12", "decoder.ffn_width=12")
    half = {name: torch.cat([value[:12], value[24:36]]) if "inner" in name else value[:, :12] if "outer" in name
            else value for name, value in nested.state_dict().items()}  # fmt: skip
    plain.load_state_dict(half)
    found, expected = (
        each.decode(each.encode(sources()), written()).logits() for each in (subnet(nested, "0.5"), plain)
    )
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_exits_by_similarity_do_not_depend_on_padding():
    """Rows that have left keep the places of their keys."""
    model, tally = model_of(*T5, "encoder.layers=4"), Counter()
    for threshold in (0.5, 0.7, 0.8):
        light = leaving(model, DecodeConfig(encoder_exit_similarity=threshold), tally)
        together = light.encode(sources())
        for row, length in enumerate(LENGTHS):
            alone = light.encode((Source(sources()[0].values[row : row + 1, :length], torch.tensor([length])),))
            torch.testing.assert_close(alone.top[0], together.top[row, :length], rtol=1e-4, atol=1e-4)
    assert tally["encoder run"] < tally["encoder"]


def test_first_states_have_variance_1_and_all_learn():
    model = model_of("encoder.width=64", "decoder.width=64", *T5, "tie_embeddings=inputs")
    assert model.frontend.tokens.weight.std().item() == pytest.approx(1, rel=0.1)
    layer = model_of("encoder.width=64", "decoder.width=64", *T5).encoder.layers[0].attention
    q, k, _ = layer.split(layer.qkv(torch.randn(1, 50, 64)))
    assert ((q @ k.transpose(2, 3)) / 12**0.5).std() < 1.5  # as if it were divided by sqrt(d)
    assert model_of("scale_embeddings=false").frontend.tokens.weight.std().item() == pytest.approx(0.25, rel=0.2)
    model.train()
    model.decode(model.encode(sources()), written()).logits().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("words", "message"), [
    (["positions=relative_bias", "log_length_scale=true"], "log_length_scale=true: model.positions=relative_bias"),
    (["positions=relative_bias", "encoder=deletion", "encoder.gate_layer=1"], "relative_bias: model.encoder=deletion"),
    (["positions=relative_bias", "encoder.layer=conformer"], "relative_bias: model.encoder.layer=conformer does not"),
    (["positions=relative_bias", "encoder.unpad_attention=true"], "unpad_attention=true: does not have"),
    (["positions=relative_bias", "decoder=convolutional"], "relative_bias: model.decoder=convolutional does not"),
    (["positions=relative_bias", "frontend=lobef_ncf"], "relative_bias: model.frontend=lobef_ncf does not"),
    (["positions=relative_bias", "relative_distance=20"], "relative_distance=20: must be over model.relative_buckets"),
    (["positions=relative_bias", "encoder=super"], "positions=relative_bias: model.encoder=super does not have it"),
    (["positions=relative_bias", "decoder=super"], "positions=relative_bias: model.decoder=super does not have it"),
    (["encoder.head_width=4", "encoder=super"], "model.encoder.head_width=4: model.encoder=super does not have it"),
    (["norm_type=rms", "encoder.layer=conformer"], "norm_type=rms: model.encoder.layer=conformer does not have it"),
    (["bias=false", "encoder.layer=fconv"], "model.bias=false: model.encoder.layer=fconv does not have it"),
    (["encoder.head_width=4", "encoder.layer=conformer"], "head_width=4: model.encoder.layer=conformer does not"),
    (["bias=false", "decoder=convolutional"], "model.bias=false: model.decoder=convolutional does not have it"),
])  # fmt: skip
def test_what_does_not_have_it_says_so(words, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        model_of(*words)


@pytest.mark.parametrize("name", ["norm_type", "relative_bias", "activation", "scale_attention",
                                  "scale_output"])  # fmt: skip
def test_no_export_takes_it(name):
    assert departure(model_of(*OPTIONS[name])) is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bias", "model.bias=false"),
        ("t5", "relative_bias|model.scale"),
        ("head_width", "model.encoder.head_width=12, and no model.decoder"),
    ],
)
def test_an_export_refuses_it(name, message):
    pytest.importorskip("ctranslate2")
    from s2s.interop.ctranslate2 import specification

    words = WordTokenizer(WordTokenizer.Config(), Vocabulary([*SPECIALS, *map(str, range(V - len(SPECIALS)))]))
    with pytest.raises(UserError, match=f"CTranslate2 has no .*({message})"):
        specification(model_of(*OPTIONS[name]), TranslationTask(words, words))


def test_the_preset_has_the_size_of_byt5():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=384, d_model=1472, d_kv=64, d_ff=3584, num_layers=12, num_decoder_layers=4, num_heads=6,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        theirs, ours = transformers.T5ForConditionalGeneration(config), Transformer(preset("model", "byt5_small"),
                                                                                    text_spec(384))  # fmt: skip
    shared = 384 * 1472  # it shares the output matrix of a new model in any case
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) + shared
