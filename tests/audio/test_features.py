"""Filterbank features are Kaldi's, and a frame is the same whatever lies around it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.audio.features import BLOCK, Fbank, FeatureConfig
from s2s.audio.waveform import read
from s2s.errors import UserError
from tests.audio.recordings import sweep

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def kaldi(samples, config):
    """The features of kaldi-native-fbank."""
    library = pytest.importorskip("kaldi_native_fbank")
    options = library.FbankOptions()
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.dither = 0
    options.frame_opts.frame_length_ms = config.frame_length
    options.frame_opts.frame_shift_ms = config.frame_shift
    options.frame_opts.window_type = config.window
    options.frame_opts.preemph_coeff = config.preemphasis
    options.frame_opts.snip_edges = config.snip_edges
    options.mel_opts.num_bins = config.bins
    options.mel_opts.low_freq = config.low_frequency
    options.mel_opts.high_freq = config.high_frequency
    fbank = library.OnlineFbank(options)
    fbank.accept_waveform(config.sample_rate, (samples * 32768).tolist())
    fbank.input_finished()
    frames = [fbank.get_frame(number) for number in range(fbank.num_frames_ready)]
    return np.array(frames, np.float32).reshape(-1, config.bins)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sample_rate": 8000, "bins": 40},
        {"snip_edges": False},
        {"snip_edges": False, "sample_rate": 8000, "bins": 23},
        {"low_frequency": 100, "high_frequency": 7000, "bins": 64},
        {"high_frequency": -400, "bins": 40},
        {"window": "hamming", "preemphasis": 0.9},
        {"window": "hanning", "preemphasis": 0.0},
        {"frame_length": 32, "frame_shift": 12.5},
        {"sample_rate": 44100},
    ],
    ids=str,
)
def test_features_are_those_of_kaldi(options):
    config = FeatureConfig(**options)
    fbank = Fbank(config)
    for seconds in (0.0, 0.012, 0.024, 0.025, 0.0351, 1.234):
        samples = sweep(seconds, config.sample_rate)
        found, expected = fbank(samples), kaldi(samples, config)
        assert found.dtype == np.float32
        assert found.shape == expected.shape, seconds
        assert len(found) == fbank.frames(len(samples))
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


def test_silence_is_floored_as_in_kaldi():
    silence = np.zeros(8000, np.float32)
    np.testing.assert_allclose(Fbank(FeatureConfig())(silence), kaldi(silence, FeatureConfig()), atol=1e-6)


@pytest.mark.parametrize(("name", "rate"), [("yesno", 8000), ("an4/train", 16000)])
def test_features_of_speech_are_those_of_kaldi(name, rate):
    files = sorted((DATA / name).glob("*.flac"))[:5]
    if not files:
        pytest.skip(f"needs ../shared/data/{name}")
    config = FeatureConfig(sample_rate=rate)
    for file in files:
        samples = read(file, sample_rate=rate)
        np.testing.assert_allclose(Fbank(config)(samples), kaldi(samples, config), atol=1e-3, rtol=0)


@given(st.integers(0, 3000), st.booleans())
@settings(max_examples=30)
def test_frames_are_counted_before_they_are_computed(samples, snip_edges):
    fbank = Fbank(FeatureConfig(sample_rate=8000, bins=10, snip_edges=snip_edges))
    assert len(fbank(sweep(samples / 8000, 8000))) == fbank.frames(samples)


def test_a_frame_is_the_same_whatever_follows():
    fbank = Fbank(FeatureConfig(sample_rate=8000, bins=20))
    samples = sweep((BLOCK + 30) * 0.01, 8000)  # more than one block
    whole = fbank(samples)
    assert len(whole) > BLOCK
    for frames in (1, 5, 100):
        assert np.array_equal(fbank(samples[: 200 + 80 * (frames - 1)]), whole[:frames])
    assert np.array_equal(fbank(samples[BLOCK * 80 :])[1:], whole[BLOCK + 1 :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_frequency": 4000, "sample_rate": 8000}, "within 0 and half of features.sample_rate=8000"),
        ({"high_frequency": 9000}, "from 20 to 9000 Hz"),
        ({"bins": 300, "sample_rate": 8000}, "features.bins=300: no frequency falls into filter"),
        (
            {"frame_shift": 1, "sample_rate": 500},
            "features.frame_shift=1 are 12 and 0 samples at features.sample_rate=500",
        ),
        ({"frame_length": 1, "sample_rate": 1000}, "features.frame_length=1 and .* are 1 and 10 samples"),
    ],
)
def test_filters_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Fbank(FeatureConfig(**options))
