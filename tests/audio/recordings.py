"""Made-up recordings: a tone that rises through the band, over soft noise, as no filter is silent in speech."""

from pathlib import Path

import numpy as np


def sweep(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Samples float32 [seconds x rate] of a tone that rises from 50 Hz to 0.45 of the rate."""
    time = np.arange(round(seconds * rate)) / rate
    rise = (0.45 * rate - 50) / max(seconds, 1e-9)
    tone = 0.2 * np.sin(2 * np.pi * (50 * time + rise * time**2 / 2))
    return (tone + 0.05 * np.random.default_rng(seed).standard_normal(len(time))).astype(np.float32)


def write(path: Path, seconds: float = 0.3, rate: int = 8000, seed: int = 0) -> Path:
    """Write a sweep to a file of the format of its ending; returns its path."""
    import soundfile

    soundfile.write(path, sweep(seconds, rate, seed), rate)
    return path
