"""Augmentation: each option has its effect, the same for the same seed and another for another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.audio.augment import SpecAugmentConfig, WaveformConfig, perturb, spec_augment
from s2s.errors import UserError
from tests.audio.recordings import sweep, write

RATE = 8000
SAMPLES = sweep(0.5, RATE)


def power(samples):
    return float(np.mean(np.asarray(samples, np.float64) ** 2))


@pytest.mark.parametrize("options", [{"speed": [0.9, 1.1]}, {"gain": 6.0}, {"noise": 1.0}], ids=str)
def test_a_seed_decides(options):
    config = WaveformConfig(**options)
    assert config.active
    found = [perturb(SAMPLES, RATE, config, seed) for seed in (1, 1, *range(2, 12))]
    assert np.array_equal(found[0], found[1])
    assert not all(np.array_equal(found[0], other) for other in found[2:])
    assert all(samples.dtype == np.float32 for samples in found)


def test_without_options_nothing_changes():
    assert not WaveformConfig().active
    assert not SpecAugmentConfig().active
    assert np.array_equal(perturb(SAMPLES, RATE, WaveformConfig(), 3), SAMPLES)
    features = np.ones((7, 4), np.float32)
    assert np.array_equal(spec_augment(features, SpecAugmentConfig(), 3), features)


def test_speed_changes_length_and_pitch():
    tone = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE).astype(np.float32)
    lengths = {round(len(perturb(tone, RATE, WaveformConfig(speed=[0.5, 1.0, 2.0]), seed)), -1) for seed in range(30)}
    assert lengths == {RATE // 2, RATE, 2 * RATE}
    fast = perturb(tone, RATE, WaveformConfig(speed=[2.0]), 0)
    assert np.argmax(np.abs(np.fft.rfft(fast))) / len(fast) * RATE == pytest.approx(800, abs=3)


def test_gain_is_at_most_so_many_decibels():
    levels = [
        10 * np.log10(power(perturb(SAMPLES, RATE, WaveformConfig(gain=6.0), s)) / power(SAMPLES)) for s in range(99)
    ]
    assert -6.01 < min(levels) < -5
    assert 5 < max(levels) < 6.01


@pytest.mark.parametrize("folder", [False, True])
def test_noise_has_the_ratio_that_was_drawn(tmp_path, folder):
    write(tmp_path / "short.wav", 0.1, 16000, 7)  # shorter than the utterance, at another rate
    write(tmp_path / "long.flac", 2.0, RATE, 8)
    config = WaveformConfig(noise=1.0, noise_snr=[10.0, 12.0], noise_folder=str(tmp_path) if folder else None)
    for seed in range(10):
        noise = perturb(SAMPLES, RATE, config, seed) - SAMPLES
        assert 9.9 < 10 * np.log10(power(SAMPLES) / power(noise)) < 12.1
    silence = np.zeros(100, np.float32)
    assert np.array_equal(perturb(silence, RATE, config, 0), silence)


def test_noise_comes_with_its_probability():
    config = WaveformConfig(noise=0.3)
    noisy = sum(not np.array_equal(perturb(SAMPLES[:50], RATE, config, seed), SAMPLES[:50]) for seed in range(500))
    assert 110 < noisy < 190


def test_noise_that_cannot_be_is_told(tmp_path):
    with pytest.raises(UserError, match="no recordings in it"):
        perturb(SAMPLES, RATE, WaveformConfig(noise=1.0, noise_folder=str(tmp_path)), 0)
    with pytest.raises(UserError, match="two numbers"):
        perturb(SAMPLES, RATE, WaveformConfig(noise=1.0, noise_snr=[5.0]), 0)


@given(st.integers(0, 60), st.integers(1, 30), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1000))
def test_masks_are_whole_stretches_of_at_most_their_widths(frames, bins, time_masks, frequency_masks, seed):
    features = np.random.default_rng(0).standard_normal((frames, bins)).astype(np.float32)
    config = SpecAugmentConfig(time_masks, 9, 0.5, frequency_masks, 5)
    masked = spec_augment(features, config, seed)
    changed = masked != features
    rows, columns = changed.all(1), changed.all(0)
    if frames and not rows.all() and not columns.all():
        assert np.array_equal(changed, rows[:, None] | columns)  # nothing else is touched
        assert np.all(masked[changed] == features.mean())
        assert rows.sum() <= time_masks * min(9, frames // 2)
        assert columns.sum() <= frequency_masks * 5
    assert masked is not features
    assert np.array_equal(masked, spec_augment(features, config, seed))


def test_masks_reach_their_widths_and_every_place():
    features = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    found = [spec_augment(features, SpecAugmentConfig(1, 9, 0.5, 1, 5), seed) != features for seed in range(300)]
    times, bands = [f[:, f.all(0).argmin()] for f in found], [f[f.all(1).argmin()] for f in found]
    assert max(t.sum() for t in times) == 9
    assert max(b.sum() for b in bands) == 5
    assert np.any(times, 0).all()
    assert np.any(bands, 0).all()
    assert (
        max((spec_augment(features, SpecAugmentConfig(1, 30, 0.1), s) != features)[:, 0].sum() for s in range(99)) == 4
    )
