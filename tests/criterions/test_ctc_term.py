"""CTC against all alignments one by one, and the weighted sum against its terms."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn import functional

from s2s.config import compose
from s2s.criterions.criterion import Criterion, CriterionConfig
from s2s.criterions.terms.auxiliary import AuxiliaryConfig
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.ctc import CTCConfig, impossible
from s2s.criterions.terms.distillation import DistillationConfig
from s2s.criterions.terms.intermediate_ctc import IntermediateCTCConfig
from s2s.criterions.terms.r_drop import RDropConfig
from s2s.data.batch import Batch, Counts, Packing, Source
from s2s.errors import UserError
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.speech import SpeechConfig, SpeechDecoderConfig, SpeechModel
from s2s.models.transformer import Transformer, TransformerConfig
from s2s.nn.initialise import initialise
from s2s.text.vocabulary import BOS, EOS, PAD
from tests.specs import criterion_of, speech_parts, speech_spec, text_spec

F, V = 5, 7


def batch(targets, lengths):
    """Utterances of these frames; targets without EOS."""
    torch.manual_seed(2)
    values = torch.randn(len(lengths), max(lengths), F, dtype=torch.float64)
    sizes = torch.tensor([len(target) + 1 for target in targets])
    target, shown = torch.full((2, len(targets), int(sizes.max())), PAD)
    for row, ids in enumerate(targets):
        target[row, : len(ids) + 1] = torch.tensor([*ids, EOS])
        shown[row, : len(ids) + 1] = torch.tensor([BOS, *ids])
    counts = Counts(len(targets), sum(lengths), int(sizes.sum()), 0, 0)
    source = Source(values, torch.tensor(lengths))
    return Batch(torch.arange(len(targets)), (source,), shown, target, sizes, counts)


def model(decoder=3, ctc=True, heads=(), **encoder):
    torch.manual_seed(0)
    config = SpeechConfig(
        **speech_parts(layers=3, width=8, heads=2, ffn_width=12, kernel=3, channels=2, **encoder),
        decoder=SpeechDecoderConfig(decoder, 8, 2, None, 12),
        ctc=ctc, dropout=0.0, auxiliary_heads=list(heads),
    )  # fmt: skip
    return SpeechModel(config, speech_spec(F, V)).double().apply(initialise)  # else its layers do nothing yet


def by_hand(log_probabilities, target):
    """-log of the summed probability of all alignments of a target."""
    total = 0.0
    for path in itertools.product(range(V), repeat=len(log_probabilities)):
        if [label for label, _ in itertools.groupby(path) if label != PAD] == target:
            total += math.exp(sum(row[label] for row, label in zip(log_probabilities, path, strict=True)))
    return -math.log(total) if total else math.inf


TARGETS, FRAMES = [[4, 5], [6, 6], [5], [4, 4]], [16, 12, 7, 8]  # 4, 3, 2, 2 states: the last one has too few


@pytest.mark.parametrize("heads", [(), (1, 2)])
@pytest.mark.parametrize("decoder", [0, 3])
@pytest.mark.parametrize("layers", [[], [1, 2]])
def test_the_loss_is_the_weighted_sum_of_its_terms(decoder, layers, heads):
    heads = heads if decoder else ()
    speech = model(decoder, heads=heads, ctc_layers=layers, self_conditioned=bool(layers))
    share = 0.4 if decoder else 1.0
    terms = [CTCConfig(weight=share * (0.3 if layers else 1))]
    terms += [IntermediateCTCConfig(weight=share * 0.7)] * bool(layers)
    terms += [CrossEntropyConfig(weight=0.6 * (0.9 if heads else 1), label_smoothing=0.2)] * bool(decoder)
    terms += [AuxiliaryConfig(weight=0.6 * 0.1, label_smoothing=0.2)] * bool(heads)
    criterion, data = criterion_of(*terms), batch(TARGETS, FRAMES)
    criterion.check(speech)
    loss = criterion(speech, data)
    loss.sum.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in speech.parameters())
    speech.requires_grad_(False)
    memory = speech.encode(data.sources)
    assert memory.lengths.tolist() == [4, 3, 2, 2]

    terms = []
    for which in range(len(memory.states)):
        rows = zip(speech.ctc_log_probabilities(memory, which), memory.lengths.tolist(), TARGETS, strict=True)
        each = [by_hand(row[:length].tolist(), target) for row, length, target in rows]
        assert each[3] == math.inf
        terms.append(sum(each[:3]))
    ctc = 0.3 * terms[-1] + 0.7 * sum(terms[:-1]) / 2 if layers else terms[-1]
    metrics = {"ctc": terms[-1], **{f"ctc_{n}": term for n, term in zip(layers, terms, strict=False)}}
    expected = ctc
    if decoder:
        output = speech.decode(memory, data.decoder_input)
        real = data.target != PAD

        def entropy(states, smoothing):
            logits, target = output.output(states)[real], data.target[real]
            return functional.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum")

        attention = entropy(output.states, 0.2)
        if heads:
            attention = 0.9 * attention + 0.1 * sum(entropy(output.heads[n], 0.2) for n in heads) / 2
        metrics |= {"nll": entropy(output.states, 0), **{f"auxiliary_{n}": entropy(output.heads[n], 0) for n in heads}}
        expected = 0.6 * attention + 0.4 * ctc
    else:
        metrics["nll"] = terms[-1]
    torch.testing.assert_close(float(loss.sum.detach()), float(expected))
    assert loss.count == 11
    assert loss.metrics["impossible"] == 1
    for name, value in metrics.items():
        torch.testing.assert_close(float(loss.metrics[name]), float(value))
    assert criterion.names(speech) == list(loss.metrics)


def test_presets_are_terms_with_weights():
    def weights(name):
        config = compose.preset("criterion", name)
        return {name: term.weight for name, term in config.terms.items()}

    assert weights("cross_entropy") == weights("likelihood") == {"cross_entropy": 1.0}
    assert weights("ctc_attention") == {"ctc": 0.3, "cross_entropy": 0.7}
    assert weights("ctc") == {"ctc": 1.0}
    assert weights("intermediate_ctc") == {"ctc": 0.5, "intermediate_ctc": 0.5}
    assert weights("distillation") == {"cross_entropy": 0.5, "distillation": 0.5}
    assert weights("r_drop") == {"cross_entropy": 1.0, "r_drop": 2.5}
    assert weights("auxiliary") == {"cross_entropy": 0.7, "auxiliary": 0.3}
    smoothing = [compose.preset("criterion", name).terms["cross_entropy"].label_smoothing
                 for name in ("cross_entropy", "likelihood")]  # fmt: skip
    assert smoothing == [0.1, 0.0]


def test_impossible_targets_are_those_without_an_alignment():
    for length in range(1, 5):
        targets = [list(ids) for size in range(4) for ids in itertools.product([4, 5], repeat=size)]
        found = impossible(batch(targets, [4] * len(targets)), torch.full([len(targets)], length))
        uniform = [[-1.0] * V] * length
        assert found.tolist() == [by_hand(uniform, target) == math.inf for target in targets]


def test_packed_rows_are_refused():
    data = batch(TARGETS, FRAMES)
    places = torch.zeros_like(data.target)
    data.target_packing = Packing(places, places)
    with pytest.raises(UserError, match=r"data.batching=packed: does not go with CTC, which aligns one target"):
        criterion_of(CTCConfig())(model(0), data)


CTC, ENTROPY = CTCConfig(), CrossEntropyConfig()


@pytest.mark.parametrize(
    ("terms", "options", "message"),
    [
        ([CTC, ENTROPY], {"ctc": False}, "criterion.terms: ctc requires a model with CTC: set model.ctc=true"),
        ([ENTROPY], {}, r"criterion.terms=\[cross_entropy\]: no term with a weight trains the CTC .* add ctc"),
        ([CTCConfig(weight=0.0), ENTROPY], {}, "trains the CTC"),
        ([CTC, ENTROPY], {"decoder": 0}, "cross_entropy requires a decoder, .*model.decoder.layers=0.*criterion=ctc"),
        ([CTC], {}, "no term with a weight trains the decoder: add cross_entropy"),
        ([CTC, ENTROPY], {"ctc_layers": [1]}, "trains model.encoder.ctc_layers: add intermediate_ctc"),
        ([CTC, ENTROPY, IntermediateCTCConfig()], {}, "intermediate_ctc requires model.encoder.ctc_layers"),
        ([CTC, ENTROPY], {"heads": [1]}, "trains model.auxiliary_heads: add auxiliary"),
        ([CTC, ENTROPY, AuxiliaryConfig()], {}, "auxiliary requires model.auxiliary_heads"),
        ([CTC, ENTROPY, DistillationConfig()], {}, "teachers: requires at least one checkpoint"),
        ([CTC, ENTROPY, RDropConfig()], {}, "r_drop requires dropout, or both passes are the same"),
        ([CTC, RDropConfig()], {"decoder": 0}, "r_drop requires a decoder"),
        ([], {}, "no term has a weight above 0"),
        ([CrossEntropyConfig(weight=0.0)], {"ctc": False}, "no term has a weight above 0"),
    ],
)
def test_what_would_not_be_trained_or_has_nothing_to_train_is_told(terms, options, message):
    with pytest.raises(UserError, match=message):
        criterion_of(*terms).check(model(**options))


def test_terms_that_report_one_name_are_refused():
    criterion = Criterion(CriterionConfig(terms={"a": ENTROPY, "b": CrossEntropyConfig(label_smoothing=0.0)}))
    with pytest.raises(UserError, match=r"criterion.terms: a and b both report nll"):
        criterion.check(model(ctc=False))


def test_auxiliary_heads_of_a_text_model_count_in_training_only():
    stack = EncoderConfig(3, 8, 2, None, 12)
    config = TransformerConfig(encoder=stack, decoder=stack, dropout=0.0, auxiliary_heads=[1, 2])
    torch.manual_seed(0)
    headed = Transformer(config, text_spec(V, V)).double()
    plain = Transformer(dataclasses.replace(config, auxiliary_heads=[]), text_spec(V, V)).double()
    plain.load_state_dict({name: p for name, p in headed.state_dict().items() if "head_norms" not in name})
    data = batch(TARGETS, FRAMES)
    data.sources = (Source(torch.randint(4, V, (4, 5)), torch.tensor([5, 2, 3, 4])),)
    entropy = CrossEntropyConfig(label_smoothing=0.0, weight=0.6)
    criterion = criterion_of(entropy, AuxiliaryConfig(weight=0.4, label_smoothing=0.0))
    alone, loss = criterion_of(dataclasses.replace(entropy, weight=1.0))(plain, data), criterion(headed, data)
    torch.testing.assert_close(loss.metrics["nll"], alone.sum.detach())
    heads = [loss.metrics[f"auxiliary_{n}"] for n in (1, 2)]
    torch.testing.assert_close(loss.sum, 0.6 * alone.sum + 0.4 * sum(heads) / 2)
    valid = criterion(headed.eval(), data)
    assert valid.metrics["auxiliary_1"] == heads[0]
    sums = {name: float(value) for name, value in valid.metrics.items()} | criterion.counts(data)
    assert criterion.valid_loss(sums) == pytest.approx(float(alone.sum.detach()) / 11)


def test_torch_has_the_kernel_of_ctc():
    """`torch._ctc_loss` is private. If it is gone, or computes something else, the term must call F.ctc_loss, which
    copies the targets of a GPU to the host: raise the waits of tests/gpu/test_gpu_training.py by one for each head."""
    torch.manual_seed(1)
    x, targets = torch.randn(9, 3, V).log_softmax(-1).requires_grad_(), torch.randint(1, V, (3, 4))
    lengths, tokens = [9, 6, 2], [4, 2, 4]  # the last target does not fit
    ours, _ = torch._ctc_loss(x, targets, lengths, tokens, PAD, True)
    public = functional.ctc_loss(x, targets, lengths, tokens, PAD, "none", True)
    possible = [True, True, False]
    assert (ours < torch.inf).tolist() == possible
    assert ours[:2].equal(public[:2])
    gradients = [torch.autograd.grad(loss[:2].sum(), x)[0] for loss in (ours, public)]
    assert gradients[0].equal(gradients[1])
