"""Every figure that is reported of a criterion, with each option that scales, against one computed the slow way."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from s2s.criterions.terms.auxiliary import AuxiliaryConfig
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.ctc import CTCConfig
from s2s.criterions.terms.distillation import DistillationConfig
from s2s.criterions.terms.intermediate_ctc import IntermediateCTCConfig
from s2s.criterions.terms.r_drop import RDropConfig
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from s2s.training.validation import metrics_of
from tests.criterions import test_ctc_term as speech
from tests.criterions.test_positions import VOCABULARY, batch_of, small
from tests.specs import criterion_of, text_spec


def reported(criterion, model, batch, seed: int = 3) -> dict[str, float]:
    """What the log of training, or of a validation, has of a batch."""
    torch.manual_seed(seed)
    loss = criterion(model, batch)
    assert list(loss.metrics) == criterion.names(model)
    sums = {name: float(value) for name, value in loss.metrics.items()} | criterion.counts(batch)
    value = float(loss.sum) / loss.count if model.training else criterion.valid_loss(sums)
    return {"loss": value, **metrics_of(sums, criterion.divisors(model))}


def passes(model, batch, number: int, seed: int = 3) -> list[dict[int, torch.Tensor]]:
    """Of each pass the log-probabilities at real target positions [P, V], by layer; 0: the top."""
    torch.manual_seed(seed)
    real = torch.arange(batch.target.size(1)) < batch.target_lengths[:, None]
    found = []
    for _ in range(number):
        output = model.decode(model.encode(batch.sources, batch.tags), batch.decoder_input, batch.target_packing)
        logits = {n: functional.linear(states, output.weight, output.bias) for n, states in output.heads.items()}
        found.append({n: value[real].log_softmax(-1) for n, value in {0: output.logits(), **logits}.items()})
    return found


def mean(values) -> float:
    values = [float(value) for value in values]
    return sum(values) / len(values)


def cross_entropies(passes, target, smoothing: float, layer: int = 0) -> tuple[float, float]:
    """Label-smoothed and plain, a token, one token after the other."""
    nll, smooth = [], []
    for log in passes:
        for row, token in zip(log[layer], target, strict=True):
            nll.append(-row[token])
            share = torch.full_like(row, smoothing / len(row))
            share[token] += 1 - smoothing
            smooth.append(-(share * row).sum())
    return mean(smooth), mean(nll)


def check(found: dict[str, float], expected: dict[str, float]) -> None:
    nll = expected["nll"]
    assert found == pytest.approx({**expected, "perplexity": math.exp(nll)}, rel=1e-5)


CRITERIA = [
    *itertools.product(["cross_entropy"], [0.0, 0.3], [(), (1,)], [0.0, 5.0], [None], [None]),
    *itertools.product(["distillation"], [0.1], [(), (1,)], [0.0, 5.0], [0.3], [1.0, 2.0]),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "smoothing", "heads", "r_drop", "weight", "temperature"), CRITERIA)
@torch.no_grad()
def test_text(kind, smoothing, heads, r_drop, weight, temperature, training):
    stack = EncoderConfig(2, 16, 2, None, 32)
    torch.manual_seed(0)
    model = Transformer(
        TransformerConfig(encoder=stack, decoder=stack, dropout=0.2, auxiliary_heads=list(heads)),
        text_spec(12, VOCABULARY),
    )
    model.train(training)
    batch = batch_of()
    rest = 0.6 if heads else 1.0
    terms = [CrossEntropyConfig(label_smoothing=smoothing, weight=rest * (1 - (weight or 0)))]
    terms += [RDropConfig(weight=rest * r_drop / 2)] * bool(r_drop)
    terms += [AuxiliaryConfig(weight=0.4, label_smoothing=smoothing)] * bool(heads)
    teachers = [small(seed, 0.0).eval() for seed in (5, 6)] if kind == "distillation" else []
    if teachers:
        terms.append(DistillationConfig(teachers=["a", "b"], weight=rest * weight, temperature=temperature))
    criterion = criterion_of(*terms)
    criterion.terms[-1].teachers = teachers
    criterion.check(model)
    found = reported(criterion, model, batch)

    log = passes(model, batch, 2 if training and r_drop else 1)
    target = batch.target[torch.arange(batch.target.size(1)) < batch.target_lengths[:, None]].tolist()
    loss, nll = cross_entropies(log, target, smoothing)
    right = [float(row.argmax() == token) for one in log for row, token in zip(one[0], target, strict=True)]
    expected = {"nll": nll, "accuracy": 100 * mean(right)}
    if training and kind == "distillation":
        taught = [passes(teacher, batch, 1)[0][0] for teacher in teachers]
        q = sum((teacher / temperature).softmax(-1) for teacher in taught) / 2
        pupil = [(one[0] / temperature).log_softmax(-1) for one in log]
        expected["distillation"] = mean(-(q[i] * p[i]).sum() for p in pupil for i in range(len(target)))
        loss = (1 - weight) * loss + weight * temperature**2 * expected["distillation"]
    if training and r_drop:
        p, q = (one[0].exp() for one in log)
        kl = [(a * (a / b).log()).sum(-1) for a, b in ((p, q), (q, p))]
        expected["r_drop"] = mean(torch.cat(kl))
        loss += r_drop / 2 * expected["r_drop"]
    for number in heads:
        head, expected[f"auxiliary_{number}"] = cross_entropies(log, target, smoothing, number)
        loss = 0.6 * loss + 0.4 * head if training else loss
    check(found, {"loss": loss, **expected})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("decoder", [0, 3])
@pytest.mark.parametrize("layers", [[], [1, 2]])
@pytest.mark.parametrize("share", [0.3, 0.6])
@torch.no_grad()
def test_speech(share, layers, decoder, training):
    model = speech.model(decoder, heads=(1,) if decoder else (), ctc_layers=layers).train(training)
    part = share if decoder else 1.0
    terms = [CTCConfig(weight=part * (0.8 if layers else 1.0))]
    terms += [IntermediateCTCConfig(weight=part * 0.2)] * bool(layers)
    if decoder:
        terms += [CrossEntropyConfig(weight=(1 - share) * 0.6, label_smoothing=0.3),
                  AuxiliaryConfig(weight=(1 - share) * 0.4, label_smoothing=0.3)]  # fmt: skip
    criterion, batch = criterion_of(*terms), speech.batch(speech.TARGETS, speech.FRAMES)
    found = reported(criterion, model, batch)

    memory, terms = model.encode(batch.sources), []
    for which in range(len(memory.states)):
        rows = zip(model.ctc_log_probabilities(memory, which), memory.lengths.tolist(), speech.TARGETS, strict=True)
        each = [speech.by_hand(row[:length].tolist(), target) for row, length, target in rows]
        terms.append(sum(one for one in each if one < math.inf) / batch.counts.target)  # the last has no alignment
    *others, last = terms
    expected = {"ctc": last, **{f"ctc_{n}": value for n, value in zip(layers, others, strict=True)}, "impossible": 1}
    loss = 0.8 * last + 0.2 * mean(others) if layers else last
    if not decoder:
        check(found, {"loss": loss, "nll": last, **expected})
        return
    log = passes(model, batch, 1)
    target = batch.target[torch.arange(batch.target.size(1)) < batch.target_lengths[:, None]].tolist()
    attention, expected["nll"] = cross_entropies(log, target, 0.3)
    head, expected["auxiliary_1"] = cross_entropies(log, target, 0.3, 1)
    # A validation has the mean of the terms that are not for training only, by their weights.
    attention, rest = (0.6 * attention + 0.4 * head, 1.0) if training else (0.6 * attention, 0.6)
    right = [float(row.argmax() == token) for row, token in zip(log[0][0], target, strict=True)]
    expected["accuracy"] = 100 * mean(right)
    both = (1 - share) * attention + share * loss
    check(found, {"loss": both / ((1 - share) * rest + share), **expected})
