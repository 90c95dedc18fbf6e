"""Reads recordings: any file that libsndfile reads, or a segment of it, as one channel at a given sample rate.

Samples are float32 in -1..1. Those of 16-bit files are exact (divided by FULL_SCALE).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from s2s.audio.containers import lost, ogg_damage
from s2s.errors import UserError, install

FULL_SCALE = 1 << 15  # 16-bit value of a sample of 1; also the scale of Kaldi's features
CLIPPED_RUN = 3  # this many consecutive samples at full scale are a clipped peak
SILENT = 0.1  # amplitude of the mean of the channels relative to theirs, below which the channels cancel each other
ROUNDING = 0.05  # seconds by which a segment may exceed its recording, since manifests are rounded
UNKNOWN_FRAMES = 1 << 62


class AudioError(UserError):
    """A recording cannot be used. The message names the file; `kind` is the reason in a word or two, see `record`."""

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


class Recording(NamedTuple):
    """A recording with one channel.

    Attributes:
        samples: float32 [n], of one channel, or the mean of all.
        rate: Sample rate in Hz.
        clipped: Whether one of these channels is clipped.
        silent: Whether all samples are equal, or the channels cancel each other in their mean.
    """

    samples: np.ndarray
    rate: int
    clipped: bool
    silent: bool


def read(path: str | Path, start: float = 0.0, duration: float | None = None, sample_rate: int = 16000,
         channel: int | None = None) -> np.ndarray:  # fmt: skip
    """Read a recording, or a segment of it, as one channel at a sample rate.

    Args:
        path: The file.
        start: Start of the segment in seconds.
        duration: Length of the segment in seconds; None: to the end of the recording.
        sample_rate: Sample rate of the result in Hz.
        channel: Number of the channel, from 1; None: the mean of all.

    Returns:
        Samples in -1..1, float32 [n].

    Raises:
        AudioError, UserError: as `record`.
    """
    return resample(record(path, start, duration, channel), sample_rate)


def record(
    path: str | Path, start: float = 0.0, duration: float | None = None, channel: int | None = None
) -> Recording:
    """Read a recording, or a segment of it, at its own sample rate. Arguments as in `read`.

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
    except OSError as error:  # no permission to read it, or an invalid name
        raise AudioError(f"{path}: {error.strerror}", "unreadable") from error


def _stretch(path: Path, file, start: float, duration: float | None, channel: int | None) -> Recording:
    """As `record`, for an open file."""
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
        count_read = len(samples)
    except _soundfile().LibsndfileError as error:
        raise AudioError(f"{path}: truncated or damaged ({error.error_string})", "truncated") from error
    if count_read < count:
        raise AudioError(f"{path}: truncated: {first + count_read} samples, its header says {frames}", "truncated")
    if channel:
        samples = samples[:, channel - 1 : channel]
    full = np.abs(samples) >= 1 - 1.5 / FULL_SCALE
    clipped = np.logical_and.reduce([full[i : max(0, count + 1 + i - CLIPPED_RUN)] for i in range(CLIPPED_RUN)]).any()
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)
    if not np.isfinite(mono.sum(dtype=np.float64)):  # the sum of all is finite only if each one is
        raise AudioError(f"{path}: NaN or infinite samples", "not numbers")
    return Recording(np.ascontiguousarray(mono), rate, bool(clipped), _silent(samples, mono))


def _silent(samples: np.ndarray, mono: np.ndarray) -> bool:
    """As `Recording.silent`, for samples [n, channels] and their mean [n]."""
    if np.ptp(mono) == 0:
        return True
    return samples.shape[1] > 1 and bool(np.square(mono).mean() < SILENT**2 * np.square(samples).mean())


def resample(recording: Recording, sample_rate: int) -> np.ndarray:
    """Resample a recording to a rate in Hz by soxr (high quality). Returns float32 [n]."""
    if recording.rate == sample_rate:
        return recording.samples
    return change_rate(recording.samples, recording.rate, sample_rate)


def change_rate(samples: np.ndarray, rate: float, new: float) -> np.ndarray:
    """Resample samples from `rate` to `new`, both in Hz. float32 [n] -> float32 [about n * new / rate]."""
    _soundfile()
    import soxr

    return soxr.resample(samples, rate, new)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Convert samples in -1..1 to int16, of the same shape; louder ones are clipped."""
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
    """Convert int16 samples to float32 in -1..1; the inverse of `to_int16`."""
    return samples.astype(np.float32) / FULL_SCALE


def _soundfile():
    try:
        import soundfile
        import soxr  # noqa: F401 (comes with the same extra)
    except (ImportError, OSError) as error:
        raise UserError(f"recordings require soundfile and soxr: {install('speech')} ({error})") from error
    return soundfile
