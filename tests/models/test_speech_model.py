"""The model of speech: padding, limited context, against transformers' Conformer layer, and its decoder in steps."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.data.batch import Source
from s2s.errors import UserError
from s2s.models.parts import counts
from s2s.models.speech import SpeechConfig, SpeechDecoderConfig, SpeechModel
from s2s.native.library import Unavailable, library
from s2s.nn.conformer import ConformerLayer
from s2s.nn.initialise import initialise
from s2s.text.vocabulary import PAD
from s2s_cli.train import TrainCommand
from tests.specs import speech_parts, speech_spec

F, V = 8, 11
KINDS = ("transformer", "conformer", "e_branchformer")


def config(decoder=2, **encoder):
    options = {"layers": 3, "width": 16, "heads": 2, "ffn_width": 24, "kernel": 5, "channels": 4}
    return SpeechConfig(
        **speech_parts(**{**options, **encoder}),
        decoder=SpeechDecoderConfig(decoder, 16, 2, None, 24),
        dropout=0.0,
    )


def model(**options):
    torch.manual_seed(0)
    return (
        SpeechModel(config(**options), speech_spec(F, V)).double().eval().apply(initialise)
    )  # else its layers do nothing yet


def utterances(lengths):
    """Features with noise at the padding."""
    return Source(torch.randn(len(lengths), max(lengths), F, dtype=torch.float64), torch.tensor(lengths))


def alone(source, row):
    length = int(source.lengths[row])
    return Source(source.values[row : row + 1, :length], source.lengths[row : row + 1])


CONTEXTS = ({}, {"chunk": 3}, {"chunk": 1, "left_context": 2, "right_context": 1}, {"chunk": 4, "left_context": 0})


@given(
    st.sampled_from(KINDS), st.sampled_from([2, 4, 8]), st.sampled_from(["rotary", "sinusoidal"]),
    st.sampled_from(CONTEXTS), st.lists(st.integers(1, 70), min_size=2, max_size=4),
)  # fmt: skip
@settings(max_examples=40)
def test_an_utterance_alone_has_the_states_that_it_has_in_a_padded_batch(kind, factor, positions, context, lengths):
    speech = model(layer=kind, factor=factor, positions=positions, ctc_layers=[1], self_conditioned=True, **context)
    torch.manual_seed(1)
    source = utterances(lengths)
    together = speech.encode((source,))
    target = torch.randint(4, V, (len(lengths), 5))
    logits = speech.decode(together, target).logits()
    for row, length in enumerate(lengths):
        one = speech.encode((alone(source, row),))
        n = int(one.lengths)
        assert n == int(together.lengths[row]) == speech.memory_length(length) == -(-length // factor)
        for mine, theirs in zip(one.states, together.states, strict=True):
            torch.testing.assert_close(mine[0], theirs[row, :n])
        torch.testing.assert_close(
            speech.ctc_log_probabilities(one)[0], speech.ctc_log_probabilities(together)[row, :n]
        )
        torch.testing.assert_close(speech.decode(one, target[row : row + 1]).logits()[0], logits[row])


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        (1, [(1, 70), (1, 41), (1, 41), (1, 20), (1, 8), (1, 5), (1, 3)]),
        (9, [(1, 70), (1, 41), (1, 41), (1, 20), (3, 8)]),  # of 18, 11, 11, 5 and 2 positions
        (22, [(1, 70), (2, 41), (4, 20)]),
    ],
)
def test_a_cpu_encodes_a_batch_in_parts_of_little_padding(together, expected, monkeypatch):
    speech, source = model(ctc_layers=[1]), utterances([20, 3, 41, 41, 8, 70, 5])
    whole, sizes = speech.encoder(speech.frontend(source)), []
    monkeypatch.setattr(SpeechModel, "together", together)
    speech.frontend.subsampling.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2]))
    parts = speech.encode((source,))
    assert sizes == expected
    torch.testing.assert_close(parts.lengths, whole.lengths)
    torch.testing.assert_close(parts.mask, whole.mask)
    real = whole.mask[:, 0, 0]
    for mine, theirs in zip(parts.states, whole.states, strict=True):
        torch.testing.assert_close(mine[real], theirs[real])
    speech.train().encode((source,))
    assert sizes[-1] == (7, 70)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("context", "sees"),
    [
        ({"chunk": 2}, lambda query, key: key // 2 <= query // 2),
        # Three layers, each of which sees one more position ahead and two more behind.
        ({"chunk": 1, "left_context": 2, "right_context": 1}, lambda query, key: key <= query + 3),
    ],
)
def test_a_position_sees_no_further_than_its_context(kind, context, sees):
    """The gradient of each position's state is zero beyond it, and not within."""
    speech = model(layer=kind, **context)
    source = utterances([48])
    source.values.requires_grad_()
    states = speech.encode((source,)).top[0]
    for query in range(len(states)):
        (grad,) = torch.autograd.grad(states[query].pow(2).sum(), source.values, retain_graph=True)
        seen = grad[0].abs().sum(1) > 0
        farthest = max(key for key in range(12) if sees(query, key))
        # Position n is made of the frames from 4n - 3 to 4n + 3.
        assert seen.nonzero().max() == min(47, 4 * farthest + 3)


def test_left_context_bounds_what_attention_sees_of_the_past():
    speech = model(layer="transformer", chunk=2, left_context=2)
    source = utterances([48])
    source.values.requires_grad_()
    states = speech.encode((source,)).top[0]
    (grad,) = torch.autograd.grad(states[11].pow(2).sum(), source.values)
    # Layer by layer one chunk further back: positions 10-11, then 8-11, 6-11, 4-11; frame 4 * 4 - 3 is the first.
    assert (grad[0].abs().sum(1) > 0).nonzero().min() == 13


def test_conformer_layer_is_that_of_wav2vec2_bert():
    transformers = pytest.importorskip("transformers")
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertEncoderLayer

    torch.manual_seed(0)
    theirs = Wav2Vec2BertEncoderLayer(
        transformers.Wav2Vec2BertConfig(
            hidden_size=16, num_attention_heads=2, intermediate_size=24, conv_depthwise_kernel_size=5,
            position_embeddings_type=None, hidden_act="swish",
        )
    ).eval()  # fmt: skip
    ours = ConformerLayer(16, 2, 2, 24, kernel=5, activation="silu", rotary=False, causal=True, dropout=0.0,
                          attention_dropout=0.0, activation_dropout=0.0).eval()  # fmt: skip
    pairs = {
        "before.norm": "ffn1_layer_norm", "before.block.inner": "ffn1.intermediate_dense",
        "before.block.outer": "ffn1.output_dense", "attention_norm": "self_attn_layer_norm",
        "attention.output": "self_attn.linear_out", "convolution_norm": "conv_module.layer_norm",
        "convolution.norm": "conv_module.depthwise_layer_norm", "after.norm": "ffn2_layer_norm",
        "after.block.inner": "ffn2.intermediate_dense", "after.block.outer": "ffn2.output_dense",
        "norm": "final_layer_norm",
    }  # fmt: skip
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
        for mine, their in pairs.items():
            ours.get_submodule(mine).load_state_dict(theirs.get_submodule(their).state_dict())
        queries = [getattr(theirs.self_attn, f"linear_{name}") for name in "qkv"]
        ours.attention.qkv.weight.copy_(torch.cat([linear.weight for linear in queries]))
        ours.attention.qkv.bias.copy_(torch.cat([linear.bias for linear in queries]))
        for linear, name in ((ours.convolution.inner, "pointwise_conv1"), (ours.convolution.outer, "pointwise_conv2")):
            linear.weight.copy_(theirs.conv_module.get_submodule(name).weight[:, :, 0])
            linear.bias.zero_()
        ours.convolution.depthwise.weight.copy_(theirs.conv_module.depthwise_conv.weight)
    x = torch.randn(2, 9, 16)
    real = torch.arange(9) < torch.tensor([[9], [4]])
    additive = torch.zeros(2, 1, 1, 9).masked_fill(~real[:, None, None], torch.finfo().min)
    got = ours(x, real[:, None, None], real[:, :, None])
    expected = theirs(x, attention_mask=additive, conv_attention_mask=real)
    torch.testing.assert_close(got[real], expected[0][real] if isinstance(expected, tuple) else expected[real])


def test_steps_of_the_decoder_are_its_teacher_forcing_native_or_not():
    speech = model().float()
    source = utterances([30, 17])
    source = Source(source.values.float(), source.lengths)
    target = torch.randint(4, V, (2, 6))
    expected = speech.decode(speech.encode((source,)), target).logits()
    try:
        library()
        backends = ("eager", "native")
    except Unavailable:
        backends = ("eager",)
    for backend in backends:
        light = prepare(speech, "fp32", backend)
        assert is_native(light) == (backend == "native")
        with torch.inference_mode():
            state = light.start(light.encode((source,)), 2)
            for t in range(6):
                logits = light.step(target[:, t].repeat_interleave(2), state)
                for row in (0, 1):
                    torch.testing.assert_close(logits[row::2], expected[:, t], rtol=1e-4, atol=1e-4)


def test_self_conditioning_changes_the_layers_after_it_only():
    plain, conditioned = model(ctc_layers=[2]), model(ctc_layers=[2], self_conditioned=True)
    plain.load_state_dict({k: v for k, v in conditioned.state_dict().items() if "conditioning" not in k})
    source = utterances([20])
    (before, after), (same, other) = (m.encode((source,)).states for m in (plain, conditioned))
    torch.testing.assert_close(before, same)
    assert not torch.allclose(after, other)
    with torch.no_grad():
        conditioned.encoder.conditioning.weight.zero_()
    torch.testing.assert_close(conditioned.encode((source,)).top, after)


def test_a_model_of_ctc_alone_has_no_decoder():
    speech = model(decoder=0)
    assert (speech.has_decoder, speech.has_ctc, speech.output) == (False, True, None)
    assert not any(name.startswith(("decoder", "output")) for name, _ in speech.named_parameters())
    light = prepare(speech.float(), "fp32", "auto")
    source = utterances([20])
    source = Source(source.values.float(), source.lengths)
    found = light.ctc_log_probabilities(light.encode((source,)))
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(1, 5))


def test_parts_and_flops():
    for speech in (model(), model(decoder=0), model(layer="e_branchformer", ctc_layers=[1], self_conditioned=True)):
        assert sum(counts(speech).values()) == sum(p.numel() for p in speech.parameters())
    speech = model(layer="transformer", factor=8, ctc_layers=[1])
    source, target = utterances([64, 64]), torch.randint(4, V, (2, 5))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        memory = speech.encode((source,))
        for which in range(2):
            speech.ctc_log_probabilities(memory, which)
        speech.decode(memory, target).logits()
    assert speech.flops(source.lengths, torch.tensor([5, 5])) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": 0, "ctc": False}, "no output"),
        ({"kernel": 4}, "kernel=4 must be odd"),
        ({"ctc_layers": [3]}, "layers from 1 to 2"),
        ({"ctc_layers": [1], "ctc": False}, "need model.ctc=true"),
        ({"self_conditioned": True}, "needs model.encoder.ctc_layers"),
        ({"left_context": 2}, "need model.encoder.chunk"),
        ({"width": 15}, "model.encoder.width=15"),
    ],
)
def test_contradictions_are_told(change, message):
    change = dict(change)
    ctc = change.pop("ctc", True)
    with pytest.raises(UserError, match=message):
        SpeechModel(dataclasses.replace(config(**change), ctc=ctc), speech_spec(F, V))


@pytest.mark.parametrize("kind", KINDS)
def test_what_enters_a_deep_encoder_gets_to_its_top_at_first(kind):
    torch.manual_seed(0)
    deep = SpeechModel(config(layer=kind, layers=12), speech_spec(F, V)).double().eval()
    source = utterances([40, 23])
    entered = deep.encoder.norm(deep.frontend(source).values)
    real = deep.encode((source,)).mask[:, 0, 0]
    assert torch.allclose(deep.encode((source,)).states[-1][real], entered[real], rtol=1e-3, atol=1e-3)
    source.values.requires_grad_()
    deep.ctc_log_probabilities(deep.encode((source,)))[real].sum().backward()
    assert all(linear.weight.grad.abs().sum() > 0 for layer in deep.encoder.layers for linear in layer.outputs())


def test_ctc_begins_with_blanks():
    for size in (6, 500):
        row = SpeechModel(config(), speech_spec(F, size)).encoder.ctc.bias.detach().softmax(0)
        assert row[PAD] == pytest.approx(0.8)
        assert torch.allclose(row[PAD + 1 :], row[-1])


FOLDER = Path(compose.__file__).parent / "conf" / "model"
PRESETS = sorted(path.stem for path in FOLDER.glob("*.yaml") if "base: speech\n" in path.read_text())


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_models(preset):
    chosen = compose.compose(TrainCommand, [("task", "speech_to_text"), ("model", preset)]).model
    with torch.device("meta"):
        made = SpeechModel(chosen, speech_spec(80, 100))
    assert made.has_decoder == (preset != "conformer_ctc_small")
    if preset == "conformer_shallow":  # asymmetric: layers are in the encoder
        assert len(made.encoder.layers) > 8 * len(made.decoder.layers)
