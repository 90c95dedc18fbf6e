"""Whisper's log-mel features: those of `WhisperFeatureExtractor` in transformers.

A recording of at most 30 s is padded with silence to 30 s. Its spectrum is that of frames of 25 ms, one in 10 ms, whose
middles begin with the first sample, under a Hann window. Slaney's triangular filters over the power spectrum, of equal
area, give the bins. A feature is log10 of a bin, not less than the greatest one of the recording minus 8; 4 is added,
and the sum divided by 4.
"""

import dataclasses
from functools import cached_property

import numpy as np

from s2s.audio.features import Fbank, FeatureConfig
from s2s.errors import UserError

RATE, LENGTH, SHIFT, SECONDS = 16_000, 400, 160, 30  # Hz; samples of a frame, and from one frame to the next
FIXED = ("sample_rate", "frame_length", "frame_shift", "low_frequency", "high_frequency", "window", "preemphasis",
         "snip_edges")  # fmt: skip


class WhisperFeatures(Fbank):
    """Samples to Whisper's features.

    Args:
        config: The options.

    Raises:
        UserError: options that these features do not have.
    """

    longest = RATE * SECONDS

    def __init__(self, config: FeatureConfig):
        plain = FeatureConfig()
        given = {name: getattr(config, name) for name in FIXED}
        wrong = [f"features.{name}={value}" for name, value in given.items() if value != getattr(plain, name)]
        wrong += [f"features.cmvn={config.cmvn}"] if config.cmvn != "none" else []
        if wrong:
            raise UserError(f"features.kind=whisper: does not have {', '.join(wrong)}; its options are fixed, with "
                            "features.cmvn=none")  # fmt: skip
        super().__init__(config)

    @cached_property
    def filters(self) -> np.ndarray:
        """Weight of each frequency of the power spectrum in each bin, float32 [frequencies, F]."""
        edges = _hertz(np.linspace(_mel(0), _mel(RATE / 2), self.config.bins + 2))
        left, center, right = edges[:-2], edges[1:-1], edges[2:]
        frequency = np.linspace(0, RATE / 2, LENGTH // 2 + 1)[:, None]
        up, down = (frequency - left) / (center - left), (right - frequency) / (right - center)
        return (np.maximum(0, np.minimum(up, down)) * 2 / (right - left)).astype(np.float32)

    @cached_property
    def _window(self) -> np.ndarray:
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(LENGTH) / LENGTH)

    def frames(self, samples: int | np.ndarray) -> int | np.ndarray:
        """As in Fbank: all recordings with any samples have the same number."""
        return np.where(np.asarray(samples) > 0, self.longest // SHIFT, 0)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """As in Fbank; samples after 30 s are left out."""
        if not len(samples):
            return np.empty((0, self.config.bins), np.float32)
        padded = np.zeros(self.longest)
        padded[: len(samples)] = samples[: self.longest]
        padded = np.pad(padded, LENGTH // 2, mode="reflect")
        stretches = np.lib.stride_tricks.sliding_window_view(padded, LENGTH)[::SHIFT][: self.longest // SHIFT]
        spectrum = np.fft.rfft(stretches * self._window)
        bins = np.log10(np.maximum((spectrum.real**2 + spectrum.imag**2) @ self.filters, 1e-10))
        return ((np.maximum(bins, bins.max() - 8) + 4) / 4).astype(np.float32)


def features_of(config: FeatureConfig) -> Fbank:
    """What computes the features. Raises UserError: options that do not fit each other."""
    return WhisperFeatures(config) if config.kind == "whisper" else Fbank(config)


def fixed(bins: int) -> FeatureConfig:
    """Options of Whisper's features."""
    return dataclasses.replace(FeatureConfig(), kind="whisper", bins=bins, cmvn="none")


def _mel(hertz):
    """Slaney's scale: linear up to 1000 Hz, and then logarithmic."""
    return np.where(np.asarray(hertz) < 1000, np.asarray(hertz) * 3 / 200,
                    15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))  # fmt: skip


def _hertz(mel):
    """The inverse of `_mel`."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
