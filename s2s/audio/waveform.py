"""Recordings as samples: any file that libsndfile reads, or a stretch of one, as one channel at one sample rate.

Samples are float32 of -1..1, which 16-bit files give exactly (divided by FULL_SCALE).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from s2s.audio.containers import lost, ogg_damage
from s2s.errors import UserError

FULL_SCALE = 1 << 15  # what a sample of 1 is in 16 bits, and so in Kaldi's features
CLIPPED_RUN = 3  # so many samples at full scale, one after the other, are a clipped peak
SILENT = 0.1  # of the channels' energy in amplitude: with less, their mean is what they do not have in common
ROUNDING = 0.05  # seconds that a segment may end after its recording: manifests round
UNKNOWN_FRAMES = 1 << 62


class AudioError(UserError):
    """A recording that cannot be used; `kind` is one of a few words that say why, the message names the file."""

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


class Recording(NamedTuple):
    """Samples float32 [n] at `rate`, of one channel or the mean of all; whether any of these is clipped; and whether
    nothing is left to hear: all samples are the same, or the channels cancel each other in their mean."""

    samples: np.ndarray
    rate: int
    clipped: bool
    silent: bool


def read(path: str | Path, start: float = 0.0, duration: float | None = None, sample_rate: int = 16000,
         channel: int | None = None) -> np.ndarray:  # fmt: skip
    """A recording, or a stretch of one, as one channel at a sample rate.

    Args:
        path: The file.
        start: Seconds from its beginning.
        duration: Seconds; None: to its end.
        sample_rate: Of the result, Hz.
        channel: From 1; None: the mean of all.

    Returns:
        Samples of -1..1, float32 [n].

    Raises:
        AudioError: what `record` raises.
    """
    return resample(record(path, start, duration, channel), sample_rate)


def record(
    path: str | Path, start: float = 0.0, duration: float | None = None, channel: int | None = None
) -> Recording:
    """A recording, or a stretch of one, at its own sample rate. Arguments as of `read`.

    Raises:
        AudioError: "missing", "unreadable", "not audio", "truncated" (or damaged), "zero length", "beyond the end" (of
            a segment), "no such channel", "not numbers" (NaN or infinite samples).
        UserError: soundfile is not installed.
    """
    soundfile = _soundfile()
    path = Path(path)
    try:
        if not path.is_file():
            raise AudioError(f"{path}: {'not a file' if path.exists() else 'no such file'}", "missing")
        if path.stat().st_size == 0:
            raise AudioError(f"{path}: an empty file", "zero length")
        if damage := ogg_damage(path):
            raise AudioError(f"{path}: {damage}", "truncated")
        with soundfile.SoundFile(path) as file:
            return _stretch(path, file, start, duration, channel)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: not audio that libsndfile reads ({error.error_string})", "not audio") from error
    except OSError as error:  # it may not be read, or has no name that a file can have
        raise AudioError(f"{path}: {error.strerror}", "unreadable") from error


def _stretch(path: Path, file, start: float, duration: float | None, channel: int | None) -> Recording:
    """What `record` returns, of an open file."""
    rate, frames = file.samplerate, file.frames
    if frames >= UNKNOWN_FRAMES:
        raise AudioError(f"{path}: its header does not say how long it is; encode it again", "not audio")
    if missing := lost(path, file):
        raise AudioError(f"{path}: {missing}", "truncated")
    if frames == 0:
        raise AudioError(f"{path}: no samples in it", "zero length")
    if channel and channel > file.channels:
        raise AudioError(f"{path}: no channel {channel}: it has {file.channels}", "no such channel")
    first = round(start * rate)
    count = frames - first if duration is None else round(duration * rate)
    if start < 0 or count < 0 or (duration is None and first >= frames) or first + count > frames + ROUNDING * rate:
        end = "its end" if duration is None else f"{start + duration:g}"
        why = f"the segment from {start:g} to {end} s is not in it: it is {frames / rate:g} s long"
        raise AudioError(f"{path}: {why}", "beyond the end")
    count = min(count, frames - first)
    if count <= 0:
        raise AudioError(f"{path}: the segment at {start:g} s has no samples", "zero length")
    try:
        if first:
            file.seek(first)
        samples = file.read(count, dtype="float32", always_2d=True)  # [n, channels]
        found = len(samples)
    except _soundfile().LibsndfileError as error:
        raise AudioError(f"{path}: truncated or damaged ({error.error_string})", "truncated") from error
    if found < count:
        raise AudioError(f"{path}: truncated: {first + found} samples, its header says {frames}", "truncated")
    if channel:
        samples = samples[:, channel - 1 : channel]
    full = np.abs(samples) >= 1 - 1.5 / FULL_SCALE
    clipped = np.logical_and.reduce([full[i : max(0, count + 1 + i - CLIPPED_RUN)] for i in range(CLIPPED_RUN)]).any()
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)
    if not np.isfinite(mono.sum(dtype=np.float64)):  # one that is not makes the sum so
        raise AudioError(f"{path}: NaN or infinite samples", "not numbers")
    return Recording(np.ascontiguousarray(mono), rate, bool(clipped), _silent(samples, mono))


def _silent(samples: np.ndarray, mono: np.ndarray) -> bool:
    """As in Recording, of samples [n, channels] and their mean."""
    if np.ptp(mono) == 0:
        return True
    return samples.shape[1] > 1 and bool(np.square(mono).mean() < SILENT**2 * np.square(samples).mean())


def resample(recording: Recording, sample_rate: int) -> np.ndarray:
    """The samples of a recording at another rate, by soxr (high quality), float32 [n]."""
    if recording.rate == sample_rate:
        return recording.samples
    return change_rate(recording.samples, recording.rate, sample_rate)


def change_rate(samples: np.ndarray, rate: float, new: float) -> np.ndarray:
    """Samples of one rate at another one, float32 to float32."""
    _soundfile()
    import soxr

    return soxr.resample(samples, rate, new)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples of -1..1 in 16 bits; what is louder is clipped."""
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
    """The samples of `to_int16`, float32."""
    return samples.astype(np.float32) / FULL_SCALE


def _soundfile():
    try:
        import soundfile
        import soxr  # noqa: F401 (comes with the same extra)
    except (ImportError, OSError) as error:
        raise UserError(f"recordings are read by soundfile and soxr: pip install 's2s[speech]' ({error})") from error
    return soundfile
