"""Terms with each other: several passes, several divisors, and what is said of them."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from s2s import registry
from s2s.criterions.terms.auxiliary import AuxiliaryConfig
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.ctc import CTCConfig
from s2s.criterions.terms.distillation import DistillationConfig
from s2s.criterions.terms.intermediate_ctc import IntermediateCTCConfig
from s2s.criterions.terms.r_drop import RDropConfig
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.speech import SpeechModel
from tests.criterions import test_ctc_term as speech
from tests.specs import criterion_of, speech_spec
from tests.training import own_terms
from tests.training.own_terms import ContrastConfig, EndsConfig, SpreadConfig


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """The terms of `own_terms`."""
    monkeypatch.setitem(registry.COMPONENTS, "term", dict(registry.COMPONENTS["term"]))
    own_terms.register()


def dropping(model: SpeechModel) -> SpeechModel:
    """A model like this one, with dropout."""
    other = SpeechModel(dataclasses.replace(model.config, dropout=0.2), speech_spec(speech.F, speech.V)).double()
    other.load_state_dict(model.state_dict())
    return other.train()


def data() -> Batch:
    return speech.batch(speech.TARGETS, speech.FRAMES)


def teaching(*terms):
    """The criterion of these terms, among them distillation from a model of its own."""
    criterion = criterion_of(*terms, DistillationConfig(teachers=["a"], weight=0.2, temperature=2.0))
    teacher = speech.model(1)
    criterion.terms[-1].teachers = [teacher.eval().requires_grad_(False)]
    return criterion


def all_terms():
    return teaching(CTCConfig(weight=0.3), IntermediateCTCConfig(weight=0.1), CrossEntropyConfig(weight=0.6),
                    AuxiliaryConfig(), SpreadConfig(weight=0.7), EndsConfig(weight=1.3))  # fmt: skip


def gradients(model, parts) -> dict[str, torch.Tensor]:
    """Gradients of the sum of losses."""
    model.zero_grad()
    for loss in parts:
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_how_an_update_is_cut_changes_no_gradient():
    """Four examples in one batch, in two or in four, on as many processes or one after the other, and one that is
    empty: what each term counts is that of all of them."""
    model, criterion = speech.model(3, heads=(1,), ctc_layers=[1]), all_terms()
    criterion.check(model)
    whole = data()
    halves = whole.halves()
    quarters = [part for half in halves for part in half.halves()]
    totals = criterion.counts(whole)
    assert totals == {"tokens": 11, **{f"{term.name}.count": 11 for term in criterion.terms}, "spread.count": 43,
                      "ends.count": 4}  # fmt: skip
    expected, value = None, None
    for parts in ([whole], halves, quarters):
        losses = [criterion(model, part, totals) for part in parts]
        found = gradients(model, [loss.sum / totals["tokens"] for loss in losses])
        total = sum(loss.sum.detach() for loss in losses)
        if expected is None:
            expected, value = found, total
        torch.testing.assert_close(total, value, rtol=1e-12, atol=0)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11)
    # Each term's part of the loss by its own definition.
    alone = {}
    for term in criterion.terms:
        sum_ = term(next(iter(term_passes(model, whole))))
        alone[term.name] = term.weight * sum_.sum.detach() / term.count(whole)
    torch.testing.assert_close(value / totals["tokens"], sum(alone.values()), rtol=1e-12, atol=0)


def term_passes(model, batch):
    from s2s.criterions.forward import Run

    return Run.several(model, batch, 1)


def test_r_drop_goes_with_every_other_term():
    """With two passes each of the others is the mean over both."""
    model, batch = dropping(speech.model(3, heads=(1,), ctc_layers=[1])), data()
    criterion = teaching(CTCConfig(weight=0.3), IntermediateCTCConfig(weight=0.1),
                         CrossEntropyConfig(weight=0.6, label_smoothing=0.2), AuxiliaryConfig(),
                         RDropConfig(weight=0.8))  # fmt: skip
    criterion.check(model)
    torch.manual_seed(5)
    loss = criterion(model, batch)
    loss.sum.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())

    torch.manual_seed(5)
    with torch.no_grad():
        # The first term that asks has its memory made first, of both passes.
        memories = [model.encode(batch.sources) for _ in range(2)]
        ctc = [-sum_ctc(model, memory, -1, batch) for memory in memories]
        inner = [-sum_ctc(model, memory, 0, batch) for memory in memories]
        outputs = [model.decode(memory, batch.decoder_input) for memory in memories]
        real = batch.target != 0
        logs = [output.logits()[real].log_softmax(-1) for output in outputs]
        heads = [output.output(output.heads[1])[real] for output in outputs]
        target = batch.target[real]
        entropy = [functional.cross_entropy(log, target, label_smoothing=0.2, reduction="sum") for log in logs]
        auxiliary = [functional.cross_entropy(head, target, label_smoothing=0.1, reduction="sum") for head in heads]
        p, q = logs
        kl = [functional.kl_div(b, a, reduction="sum", log_target=True) for a, b in ((p, q), (q, p))]
        teacher = criterion.terms[-1].teachers[0]
        taught = teacher.decode(teacher.encode(batch.sources), batch.decoder_input).logits()[real]
        soft = (taught / 2).softmax(-1)
        teaching_ = [-(soft * (log / 2).log_softmax(-1)).sum() for log in logs]
    means = [sum(pair) / 2 for pair in (ctc, inner, entropy, auxiliary, kl, teaching_)]
    expected = sum(w * mean for w, mean in zip((0.3, 0.1, 0.6, 0.3, 0.8, 0.2 * 4), means, strict=True))
    torch.testing.assert_close(loss.sum.detach(), expected, rtol=1e-10, atol=0)
    for name, value in zip(("ctc", "ctc_1", "auxiliary_1", "r_drop", "distillation"),
                           (means[0], means[1], None, means[4], means[5]), strict=True):  # fmt: skip
        assert value is None or float(loss.metrics[name]) == pytest.approx(float(value))


def sum_ctc(model, memory, which, batch) -> torch.Tensor:
    """Log-probability of the targets by CTC, without those that have no alignment."""
    rows = zip(model.ctc_log_probabilities(memory, which), memory.lengths.tolist(), speech.TARGETS, strict=True)
    each = [speech.by_hand(row[:length].tolist(), target) for row, length, target in rows]
    return -torch.tensor(sum(each[:3]), dtype=torch.float64)


def test_a_term_of_two_passes_has_both_in_training_and_one_in_a_validation():
    model, batch = dropping(speech.model(3)), data()
    criterion = criterion_of(CTCConfig(), CrossEntropyConfig(), ContrastConfig())
    assert criterion.couples_examples == "contrast"
    torch.manual_seed(1)
    training = criterion(model, batch).metrics["contrast"]
    assert float(training) > float(criterion(model.eval(), batch).metrics["contrast"]) > 0
    assert criterion_of(CTCConfig(), CrossEntropyConfig()).couples_examples is None


def test_a_term_of_which_nothing_is_counted_adds_nothing():
    class Nothing(own_terms.Ends):
        def count(self, batch):
            return 0

    model, batch = speech.model(3), data()
    criterion = criterion_of(CTCConfig(), CrossEntropyConfig(), EndsConfig())
    alone = criterion_of(CTCConfig(), CrossEntropyConfig())(model, batch).sum
    criterion.terms[-1] = Nothing(EndsConfig())
    torch.testing.assert_close(criterion(model, batch).sum, alone, rtol=1e-12, atol=0)


def test_state_goes_through_by_the_terms_name():
    criterion, other = (criterion_of(CrossEntropyConfig(), SpreadConfig()) for _ in range(2))
    criterion.terms[1].push += 3
    assert criterion.state_dict().keys() == {"spread.push"}
    other.load_state_dict(criterion.state_dict(), "here")
    assert other.terms[1].push.tolist() == [3, 3]
    for state in ({}, {"ends.push": torch.zeros(2)}):
        with pytest.raises(UserError, match="here: has no state of the term spread"):
            other.load_state_dict(state, "here")
    with pytest.raises(UserError, match="here: has an unexpected state of the term cross_entropy"):
        other.load_state_dict({**criterion.state_dict(), "cross_entropy.a": torch.zeros(1)}, "here")
