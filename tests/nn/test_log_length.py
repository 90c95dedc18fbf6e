"""Log-length scaling against attention that is written out, a query at a time, and in every way of decoding."""

import math

import pytest
import torch

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.data.batch import Inputs, Source
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.nn.attention import CrossAttention, SelfAttention, length_mask
from s2s.text.vocabulary import BOS
from tests.specs import text_spec

D, H, V = 8, 2, 13
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=2", "width=16", "heads=4", "ffn_width=24")]  # fmt: skip


def one_query(q, keys, values):
    """q: [D] of H heads; keys and values: lists of [D], those that it sees."""
    found, d = [], D // H
    for h in range(H):
        part = slice(h * d, h * d + d)
        logits = [math.log(len(keys)) / math.sqrt(d) * float(q[part] @ key[part]) for key in keys]
        weights = torch.tensor(logits).softmax(0)
        found.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
    return torch.cat(found)


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(causal):
    torch.manual_seed(0)
    attention, lengths = SelfAttention(D, H, H, 0.0, causal, False, log_length=True), [5, 3]
    x = torch.randn(2, 5, D)
    found = attention(x, None if causal else length_mask(torch.tensor(lengths), 5))
    for row, length in enumerate(lengths):
        q, k, v = attention.qkv(x[row]).chunk(3, -1)
        for t in range(length):
            last = t + 1 if causal else length
            expected = attention.output(one_query(q[t], list(k[:last]), list(v[:last])))
            torch.testing.assert_close(found[row, t], expected)


@torch.no_grad()
def test_attention_to_a_source():
    torch.manual_seed(0)
    attention, lengths = CrossAttention(D, D, H, H, 0.0, log_length=True), [4, 2]
    x, memory, mask = torch.randn(2, 3, D), torch.randn(2, 4, D), length_mask(torch.tensor(lengths), 4)
    found = attention(x, attention.project(memory), mask)
    weights = attention.weights(x, attention.project(memory), mask)
    for row, length in enumerate(lengths):
        k, v = attention.key_value(memory[row, :length]).chunk(2, -1)
        for t in range(3):
            expected = one_query(attention.query(x[row, t]), list(k), list(v))
            torch.testing.assert_close(found[row, t], attention.output(expected))
            seen = torch.cat([weights[row, h, t, :length] @ part for h, part in enumerate(v.chunk(H, -1))])
            torch.testing.assert_close(seen, expected)


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    pairs = [compose.Override(*word.split("=")) for word in [*SIZE, "dropout=0", "log_length_scale=true", *words]]
    built = compose.build(Transformer.Config, compose.by_key(pairs))
    built.fill()
    return Transformer(built.config, text_spec(V)).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "words", [(), ("positions=rotary", "decoder.kv_heads=2", "norm=post"), ("encoder.unpad=true",)]
)
def test_every_way_of_decoding_has_the_scale(words):
    model, plain = model_of(*words), model_of(*words, "log_length_scale=false")
    sources = (Source(torch.randint(4, V, (3, 9)), torch.tensor([9, 4, 1])),)
    written = torch.tensor([[BOS, 5, 6, 7]] * 3)
    taught = model.decode(model.encode(sources), written).logits()
    assert not torch.allclose(taught, plain.decode(plain.encode(sources), written).logits(), atol=1e-2)
    for row, length in enumerate((9, 4, 1)):
        alone = (Source(sources[0].values[row : row + 1, :length], torch.tensor([length])),)
        logits = model.decode(model.encode(alone), written[:1]).logits()
        torch.testing.assert_close(logits[0], taught[row], rtol=1e-4, atol=1e-5)
    for backend in ("eager", "native"):
        stepping = prepare(model, "fp32", backend)
        assert is_native(stepping) == (backend == "native")
        state = stepping.start(stepping.encode(*Inputs(sources)), 1)
        for t in range(4):
            logits = stepping.step(written[:, t].contiguous(), state)
            torch.testing.assert_close(logits, taught[:, t], rtol=1e-4, atol=1e-5, msg=f"{backend}, step {t}")
    memory = model.encode(sources)
    state = model.decoder.start_blocks([memory.top] * 2, memory.visible())
    blocks = [model.decoder.step_block(part, state) for part in (written[:, :1], written[:, 1:])]
    torch.testing.assert_close(model.output(torch.cat(blocks, 1)), taught, rtol=1e-4, atol=1e-5)


def test_the_layers_of_recordings_have_it_too():
    for layer in ("conformer", "e_branchformer"):
        scaled, plain = (model_of(f"encoder.layer={layer}", f"log_length_scale={on}") for on in ("true", "false"))
        source = (Source(torch.randint(4, V, (1, 9)), torch.tensor([9])),)
        assert not torch.allclose(scaled.encode(source).top, plain.encode(source).top, atol=1e-3)


def test_an_export_refuses_it():
    pytest.importorskip("ctranslate2")
    from s2s.interop.ctranslate2 import specification
    from s2s.tasks.translation import TranslationTask
    from s2s.text.vocabulary import SPECIALS, Vocabulary
    from s2s.text.words import WordTokenizer

    words = WordTokenizer(WordTokenizer.Config(), Vocabulary([*SPECIALS, *map(str, range(V - len(SPECIALS)))]))
    with pytest.raises(UserError, match=r"CTranslate2 has no model\.log_length_scale"):
        specification(model_of(), TranslationTask(words, words))
