"""Augmentation of recordings for training, of their samples and of their features. A seed determines the result."""

import dataclasses
from functools import lru_cache
from pathlib import Path

import numpy as np

from s2s.audio.waveform import change_rate, read
from s2s.config.schema import option
from s2s.errors import UserError


@dataclasses.dataclass
class WaveformConfig:
    """Options of augmenting samples. They require waveforms in the store (features.keep=waveform)."""

    speed: list[float] = option(
        [1.0], "speed factors; one of them is drawn for each utterance", at_least=0.1, at_most=10
    )
    gain: float = option(0.0, "most decibels by which an utterance is made louder or softer", at_least=0, at_most=200)
    noise: float = option(0.0, "probability of adding noise to an utterance", at_least=0, at_most=1)
    noise_snr: list[float] = option([5.0, 20.0], "range of the signal-to-noise ratio, in decibels",
                                    needs="noise")  # fmt: skip
    noise_folder: str | None = option(None, "folder of noise recordings; null: white noise", needs="noise")

    @property
    def active(self) -> bool:
        return self.speed != [1.0] or self.gain > 0 or self.noise > 0


@dataclasses.dataclass
class SpecAugmentConfig:
    """Options of SpecAugment (Park et al. 2019, arXiv:1904.08779), without time warping."""

    time_masks: int = option(0, "number of time masks", at_least=0, at_most=1000)
    time_width: int = option(40, "most frames in a time mask", at_least=1, needs="time_masks")
    time_share: float = option(0.2, "largest share of an utterance in a time mask", at_least=0, at_most=1,
                               needs="time_masks")  # fmt: skip
    frequency_masks: int = option(0, "number of frequency masks", at_least=0, at_most=1000)
    frequency_width: int = option(27, "most features in a frequency mask", at_least=1, needs="frequency_masks")

    @property
    def active(self) -> bool:
        return self.time_masks > 0 or self.frequency_masks > 0


def perturb(samples: np.ndarray, sample_rate: int, config: WaveformConfig, seed: int) -> np.ndarray:
    """Change the speed (with the pitch, as when a tape runs faster) and the volume of an utterance, and add noise.

    Args:
        samples: float32 [n].
        sample_rate: Sample rate in Hz.
        config: The options.
        seed: Determines the result.

    Returns:
        float32 [about n / factor].

    Raises:
        UserError: noise_snr is not two numbers; the folder has no recordings; a recording cannot be read.
    """
    random = np.random.default_rng(seed)
    factor = config.speed[random.integers(len(config.speed))]
    gain, noisy = random.uniform(-config.gain, config.gain), random.random() < config.noise
    if factor != 1:
        samples = change_rate(samples, sample_rate * factor, sample_rate)
    if noisy:
        if len(config.noise_snr) != 2:
            raise UserError(f"noise_snr={config.noise_snr}: must be two numbers, the lowest and the highest")
        samples = samples + _noise(samples, sample_rate, config, random)
    return samples * np.float32(10 ** (gain / 20)) if gain else samples


def _noise(samples: np.ndarray, sample_rate: int, config: WaveformConfig, random: np.random.Generator) -> np.ndarray:
    """Noise at a random ratio to the samples, float32 [n]. Silence gets no noise, since the ratio is undefined."""
    ratio = random.uniform(*config.noise_snr)
    if config.noise_folder is None:
        noise = random.standard_normal(len(samples), np.float32)
    else:
        files = _files(config.noise_folder)
        noise = _recording(files[random.integers(len(files))], sample_rate)
        noise = np.resize(np.roll(noise, -random.integers(len(noise))), len(samples))  # repeated
    power, signal = (float(np.mean(x.astype(np.float64) ** 2)) for x in (noise, samples))
    return noise * np.float32((signal / power * 10 ** (-ratio / 10)) ** 0.5 if power else 0.0)


@lru_cache(maxsize=8)
def _files(folder: str) -> list[Path]:
    """The files of a folder and its subfolders, sorted by path."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise UserError(f"noise_folder={folder}: no recordings in it")
    return files


@lru_cache(maxsize=64)
def _recording(path: Path, sample_rate: int) -> np.ndarray:
    return read(path, sample_rate=sample_rate)


def spec_augment(features: np.ndarray, config: SpecAugmentConfig, seed: int) -> np.ndarray:
    """Mask spans of time and bands of frequency: replace them by the utterance's mean.

    Args:
        features: float32 [S, F], normalised or not.
        config: The options.
        seed: Determines the result.

    Returns:
        float32 [S, F], a new array.
    """
    random = np.random.default_rng(seed)
    frames, bins = features.shape
    masked, mean = features.copy(), features.mean() if frames else 0.0
    for _ in range(config.time_masks):
        width = random.integers(min(config.time_width, int(config.time_share * frames)) + 1)
        first = random.integers(frames - width + 1)
        masked[first : first + width] = mean
    for _ in range(config.frequency_masks):
        width = random.integers(min(config.frequency_width, bins) + 1)
        first = random.integers(bins - width + 1)
        masked[:, first : first + width] = mean
    return masked
