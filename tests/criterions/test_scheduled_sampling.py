"""Scheduled sampling against a loop over positions."""

import math

import numpy as np
import pytest
import torch

from s2s.criterions.forward import Run
from s2s.criterions.terms.cross_entropy import CrossEntropy, CrossEntropyConfig
from s2s.criterions.terms.scheduled_sampling import ScheduledSampling, ScheduledSamplingConfig
from s2s.data.store import Store
from s2s.models.transformer import Transformer, TransformerConfig
from s2s.tasks.translation import TranslationTask
from tests.training.test_resume import SMALL


@pytest.fixture
def data(store):
    data = Store(store)
    task = TranslationTask.setup(data)
    return task, task.dataset(data.split("train"))


def model_of(task):
    from s2s.config import compose

    torch.manual_seed(0)
    chosen = [word.removeprefix("model.") for word in SMALL if word.startswith("model.")]
    built = compose.build(TransformerConfig, compose.by_key([compose.Override(*w.split("=")) for w in chosen]))
    built.fill()
    built.config.dropout = 0.0
    return Transformer(built.config, task.spec).double()


def term_of(**options):
    term = ScheduledSampling(ScheduledSamplingConfig(decay="linear", updates=1, **options))
    term.update = 10  # of 1: no token of the target is read, if `least` is 0
    return term


def test_predictions_are_read_in_place_of_the_target(data):
    task, dataset = data
    model, batch = model_of(task), dataset.collate([3, 8, 21])
    value = term_of(least=0.0, choice="best").__call__(Run(model, batch)).sum
    total = 0.0
    memory = model.encode(batch.sources)
    guesses = model.decode(memory, batch.decoder_input).logits().argmax(-1)
    for row, length in enumerate(batch.target_lengths.tolist()):
        shown = [int(batch.decoder_input[row, 0]), *guesses[row, : length - 1].tolist()]
        alone = dataset.collate([int(batch.ids[row])])
        logits = model.decode(model.encode(alone.sources), torch.tensor([shown])).logits()[0]
        total += torch.nn.functional.cross_entropy(logits, alone.target[0], label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(value, total, rtol=1e-6, atol=1e-6)
    packed = dataset.collate([3, 8, 21], np.array([2, 1]))
    torch.testing.assert_close(term_of(least=0.0, choice="best")(Run(model, packed)).sum, total, rtol=1e-6, atol=1e-6)


def test_without_predictions_it_is_the_cross_entropy(data):
    task, dataset = data
    model, batch = model_of(task), dataset.collate([3, 8, 21])
    value = term_of(least=1.0)(Run(model, batch)).sum
    torch.testing.assert_close(value, CrossEntropy(CrossEntropyConfig())(Run(model, batch)).sum)
    half = [float(term_of(least=0.5)(Run(model, batch)).sum.detach()) for _ in range(3)]
    assert len(set(half)) == 3  # other tokens each time


@pytest.mark.parametrize(("decay", "value"), [
    ("linear", 0.75), ("exponential", math.exp(-0.25)), ("inverse_sigmoid", 8 / (8 + math.exp(0.25))),
])  # fmt: skip
def test_the_probability_of_a_target_token(decay, value):
    term = ScheduledSampling(ScheduledSamplingConfig(decay=decay, updates=8, least=0.1))
    first = term.kept
    term.updated(2, {})
    other = ScheduledSampling(ScheduledSamplingConfig(decay=decay, updates=8, least=0.1))
    other.load_state_dict(term.state_dict())
    assert other.kept == pytest.approx(value)
    assert first == (pytest.approx(8 / 9) if decay == "inverse_sigmoid" else 1)
    term.updated(10**6, {})
    assert term.kept == 0.1
