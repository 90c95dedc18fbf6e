"""Heads of lower decoder layers count in the logits: held to a reference that maps each head to logits by itself."""

import pytest
import torch
from slow_search import beam_search, score, sides, tiny_model
from test_beam_search import assert_same, ragged
from torch import nn

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.transformer import Transformer
from s2s.native.library import Unavailable, library
from tests.specs import text_spec

V, HEADS, WEIGHTS = 30, [1, 2], [0.4, 0.25]


def model(seed=1, norm="pre", **options):
    torch.manual_seed(seed)
    stack = EncoderConfig(3, 16, 2, None, 24)
    made = Transformer(
        Transformer.Config(encoder=stack, decoder=stack, norm=norm, auxiliary_heads=HEADS, **options), text_spec(V)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.6)
        for head in made.decoder.head_norms.values():
            head.bias.normal_()
    return made.double().eval()


class ByHand(Transformer):
    """A vocabulary product for each head."""

    def decode(self, memory, decoder_input, packing=None):
        found = super().decode(memory, decoder_input, packing)
        logits = [self.output(found.heads[number]) for number in HEADS]
        mixed = sum(w * x for w, x in zip(WEIGHTS, logits, strict=True)) + (1 - sum(WEIGHTS)) * found.logits()

        class Output:
            def logits(self):
                return mixed

        return Output()


def by_hand(**options):
    reference = model(**options)
    reference.__class__ = ByHand
    return reference


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_search_with_heads_is_that_of_their_summed_logits(norm):
    config = DecodeConfig(beam_size=3, n_best=3, auxiliary_weights=WEIGHTS, max_length_a=1, max_length_b=2)
    sources = [source for source in ragged(9, seed=2) if source]
    found = list(Generator([model(norm=norm)], config, sides).generate(sources))
    for n_best, source in zip(found, sources, strict=True):
        assert_same(n_best, beam_search([by_hand(norm=norm)], source, config))
    plain = Generator([model(norm=norm)], DecodeConfig(beam_size=3), sides).generate(sources)
    assert any(one[0].ids != other[0].ids for one, other in zip(found, plain, strict=True))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_the_kernels_mix_heads_too(norm, dtype):
    try:
        library()
    except Unavailable as reason:
        pytest.skip(str(reason))
    found, sources = {}, [source for source in ragged(9, seed=2) if source]
    for backend in ("eager", "native"):
        config = DecodeConfig(n_best=5, backend=backend, dtype=dtype, slots=3, auxiliary_weights=WEIGHTS)
        generator = Generator([model(norm=norm).float()], config, sides)
        assert generator.setting.scorer.native == (backend == "native")
        found[backend] = list(generator.generate(sources))
    for mine, other in zip(found["native"], found["eager"], strict=True):
        assert mine[0].score == pytest.approx(other[0].score, abs=1e-4 if dtype == "fp32" else 0.1)
        if dtype == "fp32":
            assert [one.ids for one in mine] == [one.ids for one in other]


def test_given_targets_and_speculative_search_see_the_heads():
    config = DecodeConfig(beam_size=1, auxiliary_weights=WEIGHTS)
    sources, single = ragged(5, seed=4)[1:], model()
    (best,) = zip(*Generator([single], config, sides).generate(sources), strict=True)
    ids = [one.ids for one in best]
    for one, source in zip(Generator([single], config, sides).score(sources, ids), sources, strict=True):
        assert one.token_log_probabilities == pytest.approx(score([by_hand()], source, one.ids), abs=1e-9)
    config = DecodeConfig(beam_size=1, auxiliary_weights=WEIGHTS, speculative="input")
    assert [one.ids for (one,) in Generator([single], config, sides).generate(sources)] == ids


def test_the_model_itself_stays_as_it_was():
    single, sources = model(), ragged(5, seed=4)
    before = [one[0].score for one in Generator([single], DecodeConfig(), sides).generate(sources)]
    heads = Generator([single], DecodeConfig(auxiliary_weights=WEIGHTS), sides)
    assert [one[0].score for one in heads.generate(sources)] != before
    assert [one[0].score for one in Generator([single], DecodeConfig(), sides).generate(sources)] == before


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (model, {"auxiliary_weights": [0.3]}, r"requires one weight for each of model.auxiliary_heads=\[1, 2\]"),
        (lambda: tiny_model(1, V), {"auxiliary_weights": [0.3]}, r"model.auxiliary_heads=\[\]"),
        (model, {"auxiliary_weights": [0.7, 0.7]}, "their sum must be at most 1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(make, options, message):
    with pytest.raises(UserError, match=message):
        Generator([make()], DecodeConfig(**options), sides)


def test_ctc_alone_has_no_heads():
    single = model()
    single.encoder.ctc = nn.Linear(16, V)
    with pytest.raises(UserError, match=r"decode.auxiliary_weights=.*: does nothing with CTC alone"):
        Generator([single], DecodeConfig(auxiliary_weights=WEIGHTS, ctc_weight=1.0), sides)
