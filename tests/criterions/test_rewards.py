"""Minimum risk training and REINFORCE against sums over all texts of a tiny vocabulary."""

import itertools

import pytest
import torch

from s2s.config import compose
from s2s.criterions.forward import Run
from s2s.criterions.rewards import Command, rewards_by
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.minimum_risk import MinimumRisk, MinimumRiskConfig
from s2s.criterions.terms.reinforce import Reinforce, ReinforceConfig
from s2s.data.batch import Batch, Counts, Source
from s2s.errors import Failure, UserError
from s2s.models.transformer import Transformer
from s2s.scoring.sentences import sentence_scores
from s2s.text.vocabulary import BOS, EOS, PAD
from tests.specs import criterion_of, text_spec

V, D = 6, 16
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=1", f"width={D}", "heads=2", "ffn_width=24")]  # fmt: skip
SOURCES, TARGETS = [[5, 4, 5, EOS], [4, EOS]], [[4, 5], [5]]
TEXTS = [list(ids) for n in range(3) for ids in itertools.product((4, 5), repeat=n)]  # all of at most two symbols


@pytest.fixture
def model():
    torch.manual_seed(0)
    chosen = [*SIZE, "dropout=0"]
    built = compose.build(Transformer.Config, compose.by_key([compose.Override(*w.split("=")) for w in chosen]))
    built.fill()
    return Transformer(built.config, text_spec(V)).double()


def padded(rows):
    size = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (size - len(row))] for row in rows])


def batch_of(sources, targets, columns=None) -> Batch:
    ends = [[*target, EOS] for target in targets]
    source = Source(padded(sources), torch.tensor([len(row) for row in sources]))
    lengths = torch.tensor([len(row) for row in ends])
    counts = Counts(len(ends), int(source.lengths.sum()), int(lengths.sum()), 0, 0)
    shown = padded([[BOS, *target] for target in targets])
    return Batch(torch.arange(len(ends)), (source,), shown, padded(ends), lengths, counts, columns=columns or {})


def text(row, ids):
    return " ".join("ab"[i - 4] for i in ids)


def log_probability(model, source, ids):
    """log p(ids | source), token by token."""
    memory = model.encode((Source(torch.tensor([source]), torch.tensor([len(source)])),))
    total = 0.0
    for n in range(len(ids) + 1):
        logits = model.decode(memory, torch.tensor([[BOS, *ids[:n]]])).logits()[0, -1]
        total = total + logits.log_softmax(0)[[*ids, EOS][n]]
    return total


def reward(ids, target):
    """chrF, as the terms have it."""
    (value,) = sentence_scores("chrf")([text(0, ids)], [text(0, target)])
    return value / 100


def gradients(model, value):
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def test_minimum_risk_is_the_expected_risk_over_all_texts(model):
    term = MinimumRisk(MinimumRiskConfig(reward="chrf", sharpness=0.7))
    batch = batch_of(SOURCES, TARGETS)
    # The second example has fewer texts, some of them twice, and not its target, which is added.
    texts = [TEXTS, [[4], [4, 4], [4], [5, 4]]]
    batch.columns = term.written(batch, [texts], text)
    value = term(Run(model, batch))
    wanted = 0.0
    for source, target, candidates in zip(SOURCES, TARGETS, (TEXTS, [[4], [4, 4], [5, 4], [5]]), strict=True):
        powers = [(0.7 * log_probability(model, source, ids)).exp() for ids in candidates]
        wanted = wanted + sum(
            p / sum(powers) * (1 - reward(ids, target)) for p, ids in zip(powers, candidates, strict=True)
        )
    torch.testing.assert_close(value.sum, wanted, rtol=1e-6, atol=1e-7)
    for own, other in zip(gradients(model, value.sum), gradients(model, wanted), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-8)
    mean = sum(reward(ids, TARGETS[0]) for ids in TEXTS) / len(TEXTS)
    mean += sum(reward(ids, TARGETS[1]) for ids in texts[1]) / 4
    assert float(value.metrics["sampled_reward"]) == pytest.approx(mean, rel=1e-5)


def test_the_mean_of_reinforce_over_all_texts_is_the_gradient_of_the_expected_reward(model):
    term, greedy = Reinforce(ReinforceConfig(reward="chrf")), [4, 4]
    baseline = reward(greedy, TARGETS[0])
    batch = batch_of(SOURCES[:1], TARGETS[:1])
    mean, expected = None, 0.0
    for ids in TEXTS:
        batch.columns = term.written(batch, [[[ids]], [[greedy]]], text)
        value = term(Run(model, batch))
        assert float(value.metrics["greedy_reward"]) == pytest.approx(baseline)
        p = log_probability(model, SOURCES[0], ids).exp()
        own = [float(p.detach()) * gradient for gradient in gradients(model, value.sum)]
        mean = own if mean is None else [a + b for a, b in zip(mean, own, strict=True)]
        expected = expected + p * (reward(ids, TARGETS[0]) - baseline)
    for own, other in zip(mean, gradients(model, -expected), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-8)


def test_several_samples_are_averaged_and_a_row_is_as_alone(model):
    term = Reinforce(ReinforceConfig(reward="wer", samples=2))
    several = [[[4], [5, 5]], [[], [4, 4, 5]]]
    batch = batch_of(SOURCES, TARGETS)
    batch.columns = term.written(batch, [several, [[[5]], [[5]]]], text)
    together, alone = term(Run(model, batch)).sum, 0.0
    for i in range(2):
        for ids in several[i]:
            one = batch_of(SOURCES[i : i + 1], TARGETS[i : i + 1])
            one.columns = term.written(one, [[[ids]], [[[5]]]], text)
            alone = alone + term(Run(model, one)).sum / 2
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)
    half = batch.halves()[1]
    assert half.columns["reinforce.ids"].equal(batch.columns["reinforce.ids"][1:])


def test_rewards_of_metrics_and_commands():
    texts, references = ["a b c d", "a x"], ["a b c d", "a b"]
    assert rewards_by(MinimumRiskConfig(reward="wer"))(texts, references) == [1.0, 0.5]
    bleu = rewards_by(MinimumRiskConfig(reward="bleu"))(texts, references)
    assert bleu[0] == pytest.approx(1)
    assert bleu[1] == pytest.approx(0.5)  # sqrt(1/2 * 1/2): one word of two, and no pair, which counts 1/2
    length = "awk -F'\t' '{print length($1) / length($2)}'"
    assert rewards_by(MinimumRiskConfig(reward="command", command=length))(["a\tb", "a"], ["a", "ab"]) == [3, 0.5]
    for command, message in (
        ("echo 1", "wrote 1 numbers for 2 lines"),
        ("echo one two", "could not convert string to float: 'one'"),
        ("echo no luck >&2; exit 3", "exit code 3: no luck"),
    ):
        with pytest.raises(Failure, match=message):
            Command(command)(texts, references)
    with pytest.raises(UserError, match=r"requires criterion\.minimum_risk\.command"):
        rewards_by(MinimumRiskConfig(reward="command"))
    with pytest.raises(UserError, match="needs language="):
        rewards_by(MinimumRiskConfig(reward="language_accuracy"))


def test_validation_needs_another_term(model):
    with pytest.raises(UserError, match="add cross_entropy, perhaps with weight 0"):
        criterion_of(MinimumRiskConfig()).check(model)
    criterion = criterion_of(CrossEntropyConfig(weight=0), MinimumRiskConfig())
    criterion.check(model)
    assert "minimum_risk" not in criterion(model.eval(), batch_of(SOURCES, TARGETS)).metrics
