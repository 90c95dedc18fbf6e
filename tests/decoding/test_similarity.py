"""Exits by similarity: a search is that of a model that computes one row at a time, and leaves where it says."""

from collections import Counter

import pytest
import torch
from slow_search import beam_search, sides, tiny_model
from test_beam_search import assert_same, ragged
from torch.nn.functional import cosine_similarity

from s2s.data.batch import Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError
from s2s.models.contract import DecoderOutput, Memory
from s2s.models.encoders.none import NoEncoderConfig
from s2s.models.encoders.recurrent import LstmEncoderConfig
from s2s.nn.attention import length_mask

V = 9
SHORT = {"max_length_a": 1, "max_length_b": 2}


class Slow:
    """A model that computes one row at a time, and one token after another.

    Args:
        model: Its weights.
        encoder, decoder: Similarities above which a source leaves the encoder, and a token the decoder.
    """

    def __init__(self, model, encoder=1.0, decoder=1.0):
        self.model, self.thresholds, self.depths = model, (encoder, decoder), []

    def encode(self, sources, tags=None):
        """As EncoderDecoder.encode."""
        rows = [self._row(ids[None, :n], n) for ids, n in zip(*sources[0][:2], strict=True)]
        lengths = sources[0].lengths
        states = torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
        return Memory([states], lengths, length_mask(lengths, states.size(1)))

    def _row(self, ids, length):
        x, encoder = self.model.frontend(Source(ids, length[None])).values, self.model.encoder
        for layer in encoder.layers:
            before, x = x, layer(x, torch.ones(1, 1, 1, len(ids[0]), dtype=torch.bool))
            if cosine_similarity(before, x, dim=-1).mean() > self.thresholds[0]:
                break
        return encoder.norm(x)

    def decode(self, memory, decoder_input):
        """As EncoderDecoder.decode."""
        rows = [self._tokens(memory.states[0][row, None, :n], decoder_input[row, None])
                for row, n in enumerate(memory.lengths)]  # fmt: skip
        return DecoderOutput(torch.stack(rows), self.model.output)

    def _tokens(self, memory, ids):
        decoder = self.model.decoder
        seen = torch.ones(1, 1, 1, memory.size(1), dtype=torch.bool)
        inputs, tops = [[] for _ in decoder.layers], []
        for x in decoder.embedding(ids)[0]:
            left = 0
            for number, layer in enumerate(decoder.layers, 1):
                inputs[number - 1].append(x)
                if not left:
                    before, x = x, layer(torch.stack(inputs[number - 1])[None], None, memory, seen)[0, -1]
                    left = number * bool(cosine_similarity(before, x, dim=0) > self.thresholds[1])
            own = left in self.model.auxiliary_heads
            tops.append((decoder.head_norms[str(left)] if own else decoder.norm)(x))
            self.depths.append(left)
        return torch.stack(tops)


@pytest.mark.parametrize(
    ("thresholds", "options"),
    [((0.8, 1.0), {}), ((1.0, 0.75), {}), ((0.8, 0.75), {"auxiliary_heads": [1]}), ((0.6, 0.6), {"norm": "post"})],
)
def test_a_search_is_that_of_one_row_at_a_time(thresholds, options):
    sources = [source for source in ragged(7, seed=2) if source]
    encoder, decoder = thresholds
    config = DecodeConfig(beam_size=3, n_best=3, **SHORT, backend="eager", encoder_exit_similarity=encoder,
                          decoder_exit_similarity=decoder)  # fmt: skip
    model, tally = tiny_model(1, V, **options, scale=1.2), Counter()
    model.encoder.config.unpad_attention = not options  # exits need rows even then
    found = list(Generator([model], config, sides, tally=tally).generate(sources))
    slow = Slow(model, encoder, decoder)
    for n_best, source in zip(found, sources, strict=True):
        assert_same(n_best, beam_search([slow], source, config))
    for side, threshold in zip(("encoder", "decoder"), thresholds, strict=True):
        assert (tally[f"{side} run"] < tally[side]) == (threshold < 1), "some leave, but not all"
        assert tally[f"{side} run"] > tally[side] / 2
    (given,) = Generator([model], config, sides).score([sources[0]], [found[0][0].ids])
    assert given.log_probability == pytest.approx(found[0][0].log_probability)  # teacher forcing leaves there too


def test_blocks_leave_as_steps_do():
    sources, model = ragged(5, seed=3), tiny_model(4, V, scale=1.2)
    options = {**SHORT, "beam_size": 1, "decoder_exit_similarity": 0.75, "backend": "eager"}
    plain, blocks = (list(Generator([model], DecodeConfig(**options, **more), sides).generate(sources))
                     for more in ({}, {"speculative": "input"}))  # fmt: skip
    assert [best.ids for best, *_ in plain] == [best.ids for best, *_ in blocks]


def test_where_all_leave_nothing_above_is_run():
    model, tally = tiny_model(1, V), Counter()
    config = DecodeConfig(beam_size=2, **SHORT, backend="eager", encoder_exit_similarity=-1.0,
                          decoder_exit_similarity=-1.0)  # fmt: skip
    above = [model.encoder.layers[1], model.decoder.layers[1].feedforward, model.decoder.layers[1].cross.output]
    ran = []
    for module in above:
        module.register_forward_hook(lambda module, *_: ran.append(module))
    list(Generator([model], config, sides, tally=tally).generate(ragged(4, seed=2)))
    assert not ran
    assert tally["encoder run"] * 2 == tally["encoder"] > 0
    assert tally["decoder run"] * 2 == tally["decoder"] > 0


def test_kernels_go_with_exits_of_the_encoder():
    sources, model = ragged(5, seed=3), tiny_model(1, V, scale=1.2).float()
    found = [[best.ids for best, *_ in Generator([model], DecodeConfig(beam_size=2, **SHORT, backend=backend,
              encoder_exit_similarity=0.8), sides).generate(sources)] for backend in ("eager", "auto")]  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({}, {"decoder_exit_similarity": 0.9}, r"decode\.decoder_exit_similarity=0\.9: requires decode\.backend=eager"),
        ({"encoder": LstmEncoderConfig()}, {"encoder_exit_similarity": 0.9}, "no encoder with layers"),
        ({"encoder": NoEncoderConfig()}, {"encoder_exit_similarity": 0.9}, "no encoder with layers"),
        ({}, {"encoder_exit_similarity": 0.9, "pack_source": True}, "does not go with decode.pack_source"),
        ({"auxiliary_heads": [1]}, {"decoder_exit_similarity": 0.9, "auxiliary_weights": [0.5]}, "does not go with"),
    ],
)
def test_what_has_no_exits_is_an_error(model, options, message):
    with pytest.raises(UserError, match=message):
        Generator([tiny_model(1, V, **model).float()], DecodeConfig(beam_size=1, **options), sides)
