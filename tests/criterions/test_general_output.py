"""Losses of outputs that are not a matrix, against the same formulas in one piece, and against the path of a matrix."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.criterions import positions
from s2s.criterions.forward import Run
from s2s.criterions.positions import Rows, losses
from s2s.criterions.terms.auxiliary import AuxiliaryConfig
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.distillation import DistillationConfig
from s2s.criterions.terms.r_drop import RDropConfig
from s2s.data.batch import Batch, Counts
from s2s.models.contract import DecoderOutput, Memory
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from tests.criterions.test_positions import VOCABULARY, Largest, batch_of
from tests.specs import criterion_of, text_spec


class Logits(nn.Module):
    """A linear map that does not say so."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states)


class Mixture(nn.Module):
    """Log-probabilities of a mixture of softmaxes (Yang et al. 2018), with dropout inside."""

    def __init__(self, width: int, vocabulary: int, parts: int = 3):
        super().__init__()
        self.prior, self.parts = nn.Linear(width, parts), nn.Linear(width, parts * width)
        self.output, self.drop = nn.Linear(width, vocabulary), nn.Dropout(0.3)

    def forward(self, states: Tensor) -> Tensor:
        prior = self.prior(states).log_softmax(-1)
        each = self.drop(self.parts(states).tanh()).unflatten(-1, (prior.size(-1), -1))
        return (prior[..., None] + self.output(each).log_softmax(-1)).logsumexp(-2)


class Pointer(nn.Module):
    """Scores of source positions, -inf at padding: as wide as the source."""

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Linear(width, width)

    def forward(self, states: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        scores = (memory @ self.query(states)[..., None])[..., 0]
        return scores.masked_fill(~mask, -torch.inf)


class Pointing(Transformer):
    """A Transformer that writes places of its source."""

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.output = Pointer(config.decoder.width)

    def decode(self, memory: Memory, decoder_input: Tensor, packing=None) -> DecoderOutput:
        found = super().decode(memory, decoder_input, packing)
        size = decoder_input.size(1)
        context = memory.top[:, None].expand(-1, size, -1, -1), memory.mask[:, 0].expand(-1, size, -1)
        return dataclasses.replace(found, context=context)


def transformer(seed: int, kind=Transformer, dropout: float = 0.2, heads=()) -> Transformer:
    torch.manual_seed(seed)
    stack = EncoderConfig(2, 16, 2, None, 32)
    config = TransformerConfig(encoder=stack, decoder=stack, dropout=dropout, auxiliary_heads=list(heads))
    return kind(config, text_spec(12, VOCABULARY)).double()


def results(criterion, model, batch) -> tuple[dict, dict]:
    """The loss with the metrics, and gradients by names without the wrapper."""
    torch.manual_seed(3)
    loss = criterion(model, batch)
    model.zero_grad()
    (2 * loss.sum).backward()
    gradients = {name.replace("linear.", ""): p.grad for name, p in model.named_parameters()}
    return {"loss": loss.sum.detach(), **loss.metrics}, gradients


@pytest.mark.parametrize("plain_teacher", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_linear_map_that_does_not_say_so_has_the_results_of_one_that_does(training, plain_teacher, monkeypatch):
    """Label smoothing, distillation from either kind, R-Drop and auxiliary heads, several chunks."""
    monkeypatch.setattr(positions, "CHUNK", 4)
    batch, model = batch_of(), transformer(0, heads=(1,)).train(training)
    criterion = criterion_of(
        CrossEntropyConfig(label_smoothing=0.2),
        RDropConfig(),
        AuxiliaryConfig(label_smoothing=0.3),
        DistillationConfig(teachers=["a"], temperature=2.0),
    )
    teacher = transformer(5, dropout=0.0).eval()
    criterion.terms[-1].teachers = [teacher]
    expected = results(criterion, model, batch)
    general = transformer(0, heads=(1,)).train(training)
    general.output = Logits(general.output)
    if not plain_teacher:
        teacher.output = Logits(teacher.output)
    found = results(criterion, general, batch)
    assert found[0].keys() == expected[0].keys()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mixture_equals_the_plain_formula(smoothing, monkeypatch):
    """With dropout in the output, whose random numbers the backward pass draws again."""
    monkeypatch.setattr(positions, "CHUNK", 100)
    batch, model = batch_of(), transformer(0)
    model.output = Mixture(16, VOCABULARY).double()
    criterion = criterion_of(CrossEntropyConfig(label_smoothing=smoothing))
    found, gradients = results(criterion, model, batch)
    torch.manual_seed(3)
    model.zero_grad()
    run = Run(model, batch)
    logits = model.output(run.states)
    plain = functional.cross_entropy(logits, run.target, label_smoothing=smoothing, reduction="sum")
    (2 * plain).backward()
    torch.testing.assert_close(found["loss"], plain.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(found["nll"], functional.cross_entropy(logits, run.target, reduction="sum").detach())
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-9, atol=1e-11)


def test_a_pointer_is_as_wide_as_its_source_and_smooths_over_what_is_possible(monkeypatch):
    monkeypatch.setattr(positions, "CHUNK", 4)
    batch, model = batch_of(), transformer(0, Pointing, dropout=0.0)
    lengths = batch.sources[0].lengths
    batch.target = (batch.target % lengths[:, None]).contiguous()  # places of the source
    criterion = criterion_of(CrossEntropyConfig(label_smoothing=0.3), RDropConfig())
    found, gradients = results(criterion, model, batch)
    model.zero_grad()
    output = model.decode(model.encode(batch.sources), batch.decoder_input)
    plain = torch.zeros(())
    for row, (source, size) in enumerate(zip(lengths.tolist(), batch.target_lengths.tolist(), strict=True)):
        log = output.logits()[row, :size, :source].log_softmax(-1)
        plain = plain + functional.cross_entropy(log, batch.target[row, :size], label_smoothing=0.3, reduction="sum")
    (2 * plain).backward()
    torch.testing.assert_close(found["loss"], plain.detach(), rtol=1e-10, atol=0)
    assert found["r_drop"] == 0  # both passes are the same, impossible places too
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(gradients[name], p.grad, rtol=1e-9, atol=1e-11)


def test_a_target_that_is_impossible_makes_no_finite_loss():
    rows = 3
    ids = torch.tensor([[0, 1, 2]])
    run = Run(None, Batch(torch.arange(1), (), ids, ids, torch.tensor([rows]), Counts(1, 0, rows, 0, 0)))
    states = torch.tensor([[[0.0, -torch.inf, 1.0]] * rows], requires_grad=True)
    loss, *_ = losses(Rows([run], [DecoderOutput(states, nn.Identity())]), run.target, 0.1, 1.0)
    assert loss == torch.inf


def test_no_more_logits_than_those_of_a_chunk_exist(monkeypatch):
    monkeypatch.setattr(positions, "CHUNK", 4)
    batch, model = batch_of(12), transformer(0)
    model.output, criterion = Logits(model.output), criterion_of(CrossEntropyConfig(), RDropConfig())
    held = []
    with (
        Largest() as largest,
        torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x.shape) or x, lambda x: x),
    ):
        loss = criterion(model, batch).sum
        kept = [shape for shape in held if shape[-1:] == (VOCABULARY,) and len(shape) > 1 and shape[0] != VOCABULARY]
        loss.backward()
    assert largest.rows == 4 < batch.counts.target
    assert kept == []  # what the backward pass needs of the logits it computes anew


def test_half_precision_is_widened_before_the_loss():
    batch, model = batch_of(), transformer(0, dropout=0.0).float()
    criterion = criterion_of(CrossEntropyConfig())
    expected = criterion(model, batch).sum
    model.output = Logits(model.output)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(model, batch).sum
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    loss.backward()


def test_a_linear_map_with_a_hook_takes_the_general_path():
    linear = nn.Linear(4, 6)
    output = DecoderOutput(torch.randn(1, 2, 4), linear)
    assert output.weight is linear.weight
    linear.register_forward_hook(lambda module, args, found: found / 2)
    assert output.weight is None
    assert output.bias is None
    assert DecoderOutput(output.states, Logits(nn.Linear(4, 6))).weight is None
