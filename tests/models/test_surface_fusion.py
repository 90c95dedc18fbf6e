"""SurfaceFusion against sums that are written out, and in every way of decoding."""

import pytest
import torch
from torch import nn

from s2s.config import compose
from s2s.criterions.forward import Run
from s2s.criterions.terms.cross_entropy import CrossEntropy
from s2s.data.batch import Batch, Counts, Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError
from s2s.models.claims import step_departure
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS, EOS, PAD
from tests.specs import text_spec

V, D = 13, 16
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=2", f"width={D}", "heads=2", "ffn_width=24")]  # fmt: skip
SOURCES = [[5, 9, 7, 4], [11, 6], [8, 8, 12, 5, 10, 4], [6]]


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    pairs = [compose.Override(*word.split("=")) for word in [*SIZE, "dropout=0", "output=surface_fusion", *words]]
    built = compose.build(Transformer.Config, compose.by_key(pairs))
    built.fill()
    model = Transformer(built.config, text_spec(V)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def collate(sources, device="cpu"):
    from s2s.data.batch import Inputs

    rows = [[*source, EOS] for source in sources]
    size = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (size - len(row)) for row in rows])
    return Inputs((Source(ids, torch.tensor(list(map(len, rows)))),))


KINDS = {"constant": (), "learned": ("output.gate=learned",), "soft": ("output.fusion=soft", "output.temperature=0.7")}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_two_distributions(kind):
    model = model_of(*KINDS[kind])
    written = torch.tensor([[BOS, 5, 6]] * 4)
    memory = model.encode(*collate(SOURCES))
    found = model.decode(memory, written)
    logits, output, matrix = found.logits(), model.output, model.output.weight
    for row, source in enumerate(SOURCES):
        embedded = model.frontend.embedding(torch.tensor([[*source, EOS]]))[0]
        for t, state in enumerate(found.states[row]):
            query = output.query.weight @ state + output.query.bias
            keys = memory.top[row, : len(embedded)] @ output.key.weight.T + output.key.bias
            weights = torch.stack([query @ key / D**0.5 for key in keys]).softmax(0)
            read = sum(w * x for w, x in zip(weights, embedded, strict=True))
            target, source_side = matrix @ state, matrix @ read
            if kind == "soft":
                expected = target + (source_side / 0.7).log_softmax(0)
            else:
                g = 0.8 if kind == "constant" else output.gate(torch.cat([state, read])).sigmoid()
                expected = g * target.log_softmax(0) + (1 - g) * source_side.log_softmax(0)
            torch.testing.assert_close(logits[row, t], expected, rtol=1e-4, atol=1e-4)


def test_neither_encoder_nor_decoder_learns_by_where_is_looked():
    model = model_of().train()
    memory = model.encode(*collate(SOURCES))
    states = torch.randn(4, 3, D, requires_grad=True)
    memory.states[-1].retain_grad()
    (read,) = model.output.context(states, *model.output.keep(memory), memory.visible())
    read.square().sum().backward()
    assert states.grad is None
    assert memory.top.grad is None
    assert model.output.query.weight.grad.abs().sum() > 0
    assert model.frontend.tokens.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"beam_size": 1}, {"beam_size": 3}, {"beam_size": 1, "speculative": "input"}])
@pytest.mark.parametrize("slots", [None, 1, 2])
def test_a_search_scores_as_taught(options, slots):
    model = model_of("output.gate=learned")
    assert step_departure(model) == "output is a SurfaceFusion"
    config = DecodeConfig(**options, slots=slots, max_length_a=0.0, max_length_b=9, length_penalty=0.0)
    found = list(Generator([model], config, Sides(collate)).generate(SOURCES))
    for (best, *_), source in zip(found, SOURCES, strict=True):
        with torch.no_grad():
            logits = model.decode(model.encode(*collate([source])), torch.tensor([[BOS, *best.ids]])).logits()
        log = logits.log_softmax(-1)[0].gather(1, torch.tensor([[*best.ids, EOS]]).T)
        assert best.log_probability == pytest.approx(float(log.sum()), abs=1e-3)


def test_the_loss_is_that_of_all_logits_at_once():
    model = model_of("output.gate=learned").double()
    inputs = collate(SOURCES)
    target = torch.tensor([[5, 6, EOS], [7, EOS, PAD], [EOS, PAD, PAD], [9, 8, EOS]])
    lengths = torch.tensor([3, 2, 1, 3])
    decoder_input = torch.cat([torch.full((4, 1), BOS), target[:, :-1]], 1)
    batch = Batch(torch.arange(4), inputs.sources, decoder_input, target, lengths, Counts(4, 0, 9, 0, 0), None, None)
    term = CrossEntropy(CrossEntropy.Config(label_smoothing=0.0))
    value = term(Run(model, batch)).sum
    value.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model.decode(model.encode(*inputs), decoder_input).logits()
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="sum")
    torch.testing.assert_close(value, expected)
    expected.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_it_needs_one_width():
    model = model_of("encoder.width=24")
    with pytest.raises(UserError, match=r"model\.output=surface_fusion: needs one source"):
        model.decode(model.encode(*collate(SOURCES)), torch.tensor([[BOS]] * 4))
