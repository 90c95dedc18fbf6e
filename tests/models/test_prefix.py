"""Decoder-only models against PyTorch's attention over one sentence without padding, and through the commands."""

import pytest
import torch
from torch import nn

from s2s.backends.prepare import prepare
from s2s.config import compose
from s2s.criterions.criterion import Criterion, CriterionConfig
from s2s.criterions.forward import Run
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.source_auto_encoding import SourceAutoEncoding, SourceAutoEncodingConfig
from s2s.data.batch import Batch, Counts, Source
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.nn.positions import sinusoidal
from s2s.text.vocabulary import BOS
from tests.specs import text_spec

V, D, H = 13, 16, 4


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    common = ["encoder=none", f"encoder.width={D}", "decoder=prefix", "decoder.layers=2", f"decoder.width={D}",
              f"decoder.heads={H}", "decoder.ffn_width=24", "dropout=0"]  # fmt: skip
    built = compose.build(Transformer.Config, compose.by_key([compose.Override(*word.split("="))
                                                              for word in [*common, *words]]))  # fmt: skip
    built.fill()
    model = Transformer(built.config, text_spec(V)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "segments")) or "norm" in name:
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    return model


def torchs(weight, bias, output, query, keys, mask=None):
    """PyTorch's attention with these projections; mask: true where a query may look."""
    theirs = nn.MultiheadAttention(D, H, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = weight, bias
    theirs.out_proj.load_state_dict(output.state_dict())
    return theirs(query, keys, keys, attn_mask=None if mask is None else ~mask, need_weights=False)[0]


def slow(model, source, target, causal, partial, separate):
    """Logits for one sentence, source and target in one row, at all positions."""
    decoder, S, T = model.decoder, len(source), len(target)
    x = D**0.5 * torch.cat([model.frontend.tokens.weight[source], decoder.embedding.tokens.weight[target]])
    places = torch.cat([torch.arange(S), torch.arange(T) if separate else torch.arange(S, S + T)])
    x = x + sinusoidal(places, D)
    if decoder.segments is not None:
        x = x + decoder.segments[[0] * S + [1] * T]
    mask = torch.ones(S + T, S + T, dtype=torch.bool).tril()
    if not causal:
        mask[:S, :S] = True
    x = x[None]
    for layer in decoder.layers:
        qkv, h = layer.attention.qkv, layer.attention_norm(x)
        x = x + torchs(qkv.weight.data, qkv.bias.data, layer.attention.output, h, h, mask)
        if partial:
            cross, h = layer.cross, layer.cross_norm(x)
            weight = torch.cat([cross.query.weight.data, cross.key_value.weight.data])
            bias = torch.cat([cross.query.bias.data, cross.key_value.bias.data])
            x = x + torchs(weight, bias, cross.output, h, h[:, :S])
        x = x + layer.feedforward(layer.feedforward_norm(x))
    return model.output(decoder.norm(x))[0]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("separate", [False, True])
def test_source_and_target_are_one_row(causal, partial, separate):
    model = model_of(f"decoder.mask={'causal' if causal else 'prefix'}", f"decoder.partial_attention={partial}".lower(),
                     f"decoder.target_positions={'separate' if separate else 'continued'}",
                     f"decoder.segments={separate}".lower())  # fmt: skip
    source = Source(torch.tensor([[5, 8, 6, 9, 3], [7, 4, 3, 0, 0]]), torch.tensor([5, 3]))
    target = torch.tensor([[BOS, 6, 7, 11], [BOS, 9, 9, 4]])
    with torch.no_grad():
        logits = model.decode(model.encode((source,)), target).logits()
        for row, length in enumerate(source.lengths.tolist()):
            expected = slow(model, source.values[row, :length], target[row], causal, partial, separate)[length:]
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-5)
        stepping = prepare(model, "fp32", "auto")
        state = stepping.start(stepping.encode((source,)), 1)
        for t in range(4):
            torch.testing.assert_close(stepping.step(target[:, t].contiguous(), state), logits[:, t],
                                       rtol=1e-4, atol=1e-5)  # fmt: skip
        mass = model.cross_attention(model.encode((source,)), target, 1).sum(3)
    assert mass.shape == (2, H, 4)
    assert ((mass > 0) & (mass < 1)).all()


def test_the_loss_on_the_source_is_that_of_a_language_model():
    model, loss, nothing = model_of("decoder.mask=causal"), 0.0, torch.tensor([], dtype=torch.int64)
    criterion = Criterion(CriterionConfig(terms={"cross_entropy": CrossEntropyConfig(label_smoothing=0.0),
                                                 "source_auto_encoding": SourceAutoEncodingConfig()}))  # fmt: skip
    criterion.check(model)
    sources = [[5, 8, 6, 9, 3], [7, 4, 3]]
    for source in sources:
        for place in range(len(source) - 1):  # a prefix alone: it cannot see what is after it
            logits = slow(model, torch.tensor(source[: place + 1]), nothing, True, False, False)
            loss -= logits[place].log_softmax(0)[source[place + 1]].item()
    values = torch.tensor([sources[0], sources[1] + [0, 0]])
    target = torch.tensor([[6, 7, 3], [9, 3, 0]])
    batch = Batch(ids=torch.arange(2), sources=(Source(values, torch.tensor([5, 3])),),
                  decoder_input=torch.tensor([[BOS, 6, 7], [BOS, 9, 0]]), target=target,
                  target_lengths=torch.tensor([3, 2]), counts=Counts(2, 8, 5, 2, 1))  # fmt: skip
    term = criterion.terms[1]
    assert float(term(Run(model, batch)).sum.detach()) == pytest.approx(loss, rel=1e-5)
    assert term.count(batch) == 6
    criterion(model.train(), batch).sum.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("words", [["decoder.mask=prefix"], ["decoder.mask=causal", "decoder.partial_attention=true"],
                                   ["decoder.mask=causal", "tie_embeddings=none"]])  # fmt: skip
def test_a_loss_on_the_source_that_sees_what_it_predicts_is_refused(words):
    with pytest.raises(UserError, match=r"criterion\.terms: source_auto_encoding requires"):
        SourceAutoEncoding(SourceAutoEncodingConfig()).check(model_of(*words))


@pytest.mark.parametrize(("words", "message"), [
    (["positions=rotary"], r"model\.positions=rotary"),
    (["positions=learned"], "target_positions=separate"),
    (["decoder.width=32"], "must be that of the memory, 16"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        model_of(*words)
