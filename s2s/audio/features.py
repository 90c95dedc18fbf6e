"""Log-mel filterbank features as Kaldi computes them (`compute-fbank-feats --dither=0`), frame by frame in numpy.

Kaldi's samples are 16-bit numbers, so samples in -1..1 are first multiplied by 2^15. The mean of each frame is
subtracted; the frame is pre-emphasised, multiplied by the window, and padded with zeros to a power of two. Triangular
filters over its power spectrum, equally spaced on the mel scale 1127 ln(1 + f / 700), give the bins. The features are
their logarithms, at least the logarithm of float32's epsilon.
"""

import dataclasses
from functools import cached_property

import numpy as np

from s2s.audio.waveform import FULL_SCALE
from s2s.config.schema import option
from s2s.errors import UserError

BLOCK = 4096  # frames that are computed at a time, to save memory
ROWS = 8  # rows of a matrix product: such a small one runs in one thread, so several processes do not compete
FLOOR = np.finfo(np.float32).eps
CMVN = ("global", "utterance", "none")


@dataclasses.dataclass
class FeatureConfig:
    """Options of the features of speech."""

    sample_rate: int = option(16000, "Hz; recordings of another rate are resampled", at_least=100, at_most=1_000_000)
    bins: int = option(80, "mel filters, which is the number of features in a frame", at_least=1, at_most=4096)
    frame_length: float = option(25.0, "length of a frame in milliseconds", at_least=1, at_most=1000)
    frame_shift: float = option(10.0, "milliseconds from one frame to the next", at_least=1, at_most=1000)
    low_frequency: float = option(20.0, "Hz at which the first filter begins", at_least=0)
    high_frequency: float = option(0.0, "Hz at which the last filter ends; 0 or less: added to half the sample rate")
    window: str = option("povey", "window of a frame", ("povey", "hamming", "hanning"))
    preemphasis: float = option(
        0.97, "share of the previous sample that is subtracted from each sample", at_least=0, at_most=1
    )
    snip_edges: bool = option(
        True, "only frames entirely within the recording; false: one per shift, with mirrored edges"
    )
    cmvn: str = option(
        "global", "normalise features to mean 0 and variance 1 over the training split, or each utterance", CMVN
    )
    keep: str = option(
        "features", "data in the store: features, or the waveform, which speed perturbation requires",
        ("features", "waveform"),
    )  # fmt: skip
    channel: int | None = option(None, "channel of recordings with several, from 1; null: the mean of all", at_least=1)
    kind: str = option(
        "kaldi", "whisper: those of Whisper, of 30 s, with fixed options but for bins; requires features.cmvn=none",
        ("kaldi", "whisper"),
    )  # fmt: skip


class Fbank:
    """Samples to log-mel filterbank features.

    Args:
        config: The options.

    Raises:
        UserError: frequencies that do not fit the sample rate, a filter so narrow that no frequency falls into it, or
            frames of no samples.

    Attributes:
        longest: Most samples of a recording; None: any number.
    """

    longest: int | None = None

    def __init__(self, config: FeatureConfig):
        self.config = config
        self.length = int(config.sample_rate * 0.001 * config.frame_length)  # samples of a frame
        self.shift = int(config.sample_rate * 0.001 * config.frame_shift)
        if self.shift < 1 or self.length < 2:
            raise UserError(
                f"features.frame_length={config.frame_length:g} and features.frame_shift={config.frame_shift:g} are "
                f"{self.length} and {self.shift} samples at features.sample_rate={config.sample_rate}, and must be at "
                "least 2 and 1"
            )
        self.filters  # noqa: B018 (reports a wrong config now)

    @cached_property
    def filters(self) -> np.ndarray:
        """Weight of each frequency of the power spectrum in each bin, float32 [frequencies, F]."""
        config, size = self.config, 1 << (self.length - 1).bit_length()
        half = config.sample_rate / 2
        low, high = config.low_frequency, config.high_frequency
        high = high if high > 0 else half + high
        if not low < high <= half:
            raise UserError(
                f"features: filters from {low:g} to {high:g} Hz: the band must be within 0 and half of "
                f"features.sample_rate={config.sample_rate}"
            )
        edges = np.linspace(_mel(low), _mel(high), config.bins + 2)
        left, center, right = edges[:-2], edges[1:-1], edges[2:]
        frequency = _mel(np.arange(size // 2 + 1) * config.sample_rate / size)[:, None]
        up, down = (frequency - left) / (center - left), (right - frequency) / (right - center)
        filters = np.maximum(0, np.minimum(up, down))
        filters[-1] = 0  # as in Kaldi: the highest frequency is in no filter
        empty = np.flatnonzero(filters.sum(0) == 0)
        if len(empty):
            raise UserError(
                f"features.bins={config.bins}: no frequency falls into filter {empty[0] + 1}; use fewer bins "
                f"or longer frames"
            )
        return filters.astype(np.float32)

    @cached_property
    def _window(self) -> np.ndarray:
        angle = 2 * np.pi * np.arange(self.length) / (self.length - 1)
        hanning = 0.5 - 0.5 * np.cos(angle)
        windows = {"povey": hanning**0.85, "hanning": hanning, "hamming": 0.54 - 0.46 * np.cos(angle)}
        return windows[self.config.window].astype(np.float32)

    def frames(self, samples: int | np.ndarray) -> int | np.ndarray:
        """Number of frames of a recording with this many samples; elementwise for an array."""
        if not self.config.snip_edges:
            return (samples + self.shift // 2) // self.shift
        return np.maximum(0, 1 + (samples - self.length) // self.shift)

    def complaint(self, samples: int, rate: int | None = None) -> tuple[str, str] | None:
        """Why a recording has no features, and its kind, in words; None: it has.

        Args:
            samples: Number of samples.
            rate: Their rate; None: that of the features.
        """
        rate = rate or self.config.sample_rate
        wanted, seconds = samples * self.config.sample_rate // rate, samples / rate
        if not self.frames(wanted):
            return f"{seconds:g} s is shorter than a frame", "too short"
        if self.longest is not None and wanted > self.longest:
            return f"{seconds:g} s is longer than {self.longest / self.config.sample_rate:g} s", "too long"
        return None

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Compute the features of a recording.

        Args:
            samples: float32 [n] in -1..1, at `config.sample_rate`.

        Returns:
            Natural logarithms of the energies of the bins, float32 [frames, F]; too few samples give 0 frames.
        """
        frames = int(self.frames(len(samples)))
        if not frames:
            return np.empty((0, self.config.bins), np.float32)
        samples = np.asarray(samples, np.float32) * np.float32(FULL_SCALE)
        if not self.config.snip_edges:
            samples = self._mirrored(samples, frames)
        stretches = np.lib.stride_tricks.sliding_window_view(samples, self.length)[:: self.shift]  # [frames, length]
        blocks = [self._block(stretches[first : min(first + BLOCK, frames)]) for first in range(0, frames, BLOCK)]
        return np.concatenate(blocks)

    def _mirrored(self, samples: np.ndarray, frames: int) -> np.ndarray:
        """The samples from the beginning of the first frame to the end of the last, mirrored beyond the edges."""
        first = self.shift // 2 - self.length // 2
        place = np.arange(first, first + (frames - 1) * self.shift + self.length) % (2 * len(samples))
        return samples[np.minimum(place, 2 * len(samples) - 1 - place)]

    def _block(self, stretches: np.ndarray) -> np.ndarray:
        """Features of a block of frames: float32 [S, length] -> float32 [S, F]."""
        size = 2 * (len(self.filters) - 1)
        frames = stretches - stretches.mean(1, keepdims=True)
        emphasised = np.empty_like(frames)
        emphasised[:, 1:] = frames[:, 1:] - self.config.preemphasis * frames[:, :-1]
        emphasised[:, 0] = frames[:, 0] * (1 - self.config.preemphasis)
        spectrum = np.fft.rfft(emphasised * self._window, size)
        power = np.zeros((-(-len(frames) // ROWS) * ROWS, len(self.filters)), np.float32)
        power[: len(frames)] = spectrum.real**2 + spectrum.imag**2
        bins = (power.reshape(-1, ROWS, len(self.filters)) @ self.filters).reshape(-1, self.config.bins)
        return np.log(np.maximum(bins[: len(frames)], FLOOR))


def _mel(frequency):
    return 1127 * np.log1p(np.asarray(frequency, np.float64) / 700)
