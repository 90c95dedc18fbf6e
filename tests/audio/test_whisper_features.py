"""Whisper's features and front-end against those of transformers."""

import numpy as np
import pytest
import torch

from s2s.audio.features import FeatureConfig
from s2s.audio.whisper import features_of, fixed
from s2s.data.batch import Source
from s2s.data.spec import FeatureSource
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.frontends.whisper import WhisperFrontend, WhisperFrontendConfig


def recording(seconds, seed=0):
    random, time = np.random.default_rng(seed), np.arange(int(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * 440 * time * (1 + time)) + random.normal(0, 0.02, len(time))).astype(np.float32)


@pytest.mark.parametrize("bins", [80, 128])
def test_the_features_are_those_of_transformers(bins):
    transformers = pytest.importorskip("transformers")
    extractor, ours = transformers.WhisperFeatureExtractor(feature_size=bins), features_of(fixed(bins))
    for samples in (recording(2.7), recording(0.01), np.zeros(16_000, np.float32)):
        expected = extractor(samples, sampling_rate=16_000, return_tensors="np").input_features[0].T
        assert ours.frames(len(samples)) == len(expected) == 3000
        np.testing.assert_allclose(ours(samples), expected, atol=1e-4)
    assert ours.frames(0) == 0
    assert ours.complaint(30 * 16_000) is None
    assert ours.complaint(31 * 8_000, 8_000) == ("31 s is longer than 30 s", "too long")


def test_options_that_the_features_do_not_have_are_refused():
    with pytest.raises(UserError, match=r"features.window=hamming, features.cmvn=global"):
        features_of(FeatureConfig(kind="whisper", window="hamming"))


def test_the_front_end_sees_no_padding_and_is_that_of_two_convolutions():
    torch.manual_seed(0)
    frontend = WhisperFrontend(WhisperFrontendConfig(positions=9), FeatureSource(5), 8, Shared(dropout=0.0))
    frontend.first_weights()
    values, lengths = torch.randn(3, 12, 5), torch.tensor([12, 7, 1])
    states = frontend(Source(values, lengths))
    assert states.lengths.tolist() == [6, 4, 1]
    for row, length in enumerate(lengths.tolist()):
        x = values[row : row + 1, :length].transpose(1, 2)
        x = torch.nn.functional.gelu(frontend.first(x))
        x = torch.nn.functional.gelu(frontend.second(x))[0].T
        assert frontend.most(length) == len(x)
        torch.testing.assert_close(states.values[row, : len(x)], x + frontend.positions[: len(x)])
