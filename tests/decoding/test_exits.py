"""Early exits: CTC on a lower layer of the encoder, always or where it is sure."""

import numpy as np
import pytest
import torch
from slow_search import sides, tiny_model

from s2s.data.batch import Inputs, Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.ctc import best_path
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError
from s2s.models.speech import SpeechConfig, SpeechDecoderConfig, SpeechModel
from s2s.nn.initialise import initialise
from tests.specs import speech_parts, speech_spec

F, V = 8, 11


@pytest.fixture(params=[False, True], ids=["plain", "self-conditioned"])
def speech(request):
    return model(self_conditioned=request.param)


def model(**options):
    torch.manual_seed(0)
    parts = speech_parts(layers=5, width=16, heads=2, ffn_width=24, kernel=3, channels=2, ctc_layers=[2, 4], **options)
    made = SpeechModel(SpeechConfig(**parts, decoder=SpeechDecoderConfig(1, 16, 2, None, 24)), speech_spec(F, V)).eval()
    made.apply(initialise)  # else its layers do nothing yet
    with torch.no_grad():
        made.encoder.ctc.weight *= 3
    return made


def collate(sources, device="cpu"):
    lengths = torch.tensor([len(source) for source in sources])
    values = torch.zeros(len(sources), int(lengths.max()), F)
    for row, source in zip(values, sources, strict=True):
        row[: len(source)] = torch.from_numpy(source)
    return Inputs((Source(values, lengths),))


@pytest.fixture
def recordings():
    rng = np.random.default_rng(1)
    return [rng.standard_normal((int(n), F)).astype(np.float32) for n in rng.integers(20, 90, 12)]


def generate(speech, recordings, **options):
    generator = Generator([speech], DecodeConfig(**options), Sides(collate, seconds=0.01), timestamps=True)
    return [(one.ids, one.score, one.times) for (one, *_) in generator.generate(recordings)]


@torch.inference_mode()
def paths(speech, recordings, which):
    """Ids and scores of the best path of each alone, on one of the states."""
    memories = [speech.encode(*collate([recording])) for recording in recordings]
    found = [best_path(speech.ctc_log_probabilities(m, which), m.lengths)[0] for m in memories]
    return [one.ids for one in found], pytest.approx([one.score for one in found], rel=1e-4)


@pytest.mark.parametrize(("layer", "which"), [(2, 0), (4, 1), (None, 2)])
def test_decoding_from_a_layer_is_that_of_its_ctc_and_computes_nothing_above(speech, recordings, layer, which):
    expected = paths(speech, recordings, which)
    ran = []
    for number, each in enumerate(speech.encoder.layers, 1):
        each.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    ids, scores, _ = zip(*generate(speech, recordings, beam_size=1, exit_layer=layer, ctc_weight=1.0), strict=True)
    assert (list(ids), list(scores)) == expected
    assert set(ran) == set(range(1, (layer or 5) + 1))
    assert speech.encode(*collate(recordings)).states[2] is not None  # the model itself is as before
    assert speech.has_decoder


def test_a_recording_leaves_where_ctc_is_sure_whatever_else_is_in_the_batch(speech, recordings):
    with torch.inference_mode():
        sure = []
        for recording in recordings:
            memory = speech.encode(*collate([recording]))
            best = [speech.ctc_log_probabilities(memory, which)[0].amax(1) for which in (0, 1)]
            sure.append([float(np.exp(np.mean(values.numpy()))) for values in best])
    confidence = float(np.median(sure))
    exits = [next((i for i, value in enumerate(each) if value >= confidence), 2) for each in sure]
    assert len(set(exits)) > 1
    expected = [paths(speech, [recording], which) for recording, which in zip(recordings, exits, strict=True)]
    for slots in (1, None):
        found = generate(speech, recordings, beam_size=1, exit_confidence=confidence, slots=slots)
        assert [([ids], [score]) for ids, score, _ in found] == expected
    everything = generate(speech, recordings, beam_size=3, exit_confidence=0.0)
    assert everything == generate(speech, recordings, beam_size=3, exit_layer=2)  # all leave at the first
    never = generate(speech, recordings, beam_size=3, exit_confidence=1.0)
    assert never == generate(speech, recordings, beam_size=3, ctc_weight=1.0)


def test_times_are_those_of_the_exit(recordings):
    speech = model()
    times = [generate(speech, recordings, exit_layer=layer)[0][2] for layer in (2, 4)]
    assert times[0] != times[1]
    with torch.no_grad():  # what is above has no say
        speech.encoder.layers[3].norm.weight.zero_()
    assert generate(speech, recordings, exit_layer=2)[0][2] == times[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exit_layer": 3}, r"decode.exit_layer=3: layers before the last with CTC \(model.encoder.ctc_layers\): 2, 4"),
        ({"exit_layer": 5}, "exit_layer=5"),
        ({"exit_layer": 2, "ctc_weight": 0.3}, "decode.exit_layer: requires CTC alone"),
        ({"exit_confidence": 0.9, "ctc_weight": 0.0}, "decode.exit_confidence: requires CTC alone"),
    ],
)
def test_what_has_no_exit_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Generator([model()], DecodeConfig(**options), sides)


def test_a_model_of_text_has_no_exits():
    for options in ({"exit_layer": 1}, {"exit_confidence": 0.5}):
        with pytest.raises(UserError, match="none"):
            Generator([tiny_model(1, V)], DecodeConfig(**options), sides)
