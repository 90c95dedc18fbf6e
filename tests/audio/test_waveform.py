"""Recordings: samples are exact where they can be, and each kind of broken file has its own words."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from s2s.audio.waveform import AudioError, from_int16, read, record, to_int16
from tests.audio.recordings import sweep, write

soundfile = pytest.importorskip("soundfile")


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_sixteen_bits_are_exact(tmp_path, ending):
    samples = np.random.default_rng(1).integers(-(1 << 15), 1 << 15, 4000).astype(np.int16)
    soundfile.write(tmp_path / f"a.{ending}", samples, 16000)
    found = read(tmp_path / f"a.{ending}")
    assert found.dtype == np.float32
    assert np.array_equal(found, samples / 32768)
    assert np.array_equal(to_int16(found), samples)
    assert np.array_equal(from_int16(samples), found)


@pytest.mark.parametrize("ending", ["ogg", "mp3", "aiff", "au"])
def test_other_formats_are_read(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", 1.0, 16000)
    assert np.corrcoef(read(path), sweep(1.0, 16000))[0, 1] > 0.95


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_segment_is_that_stretch_of_the_whole(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", 1.0, 8000)
    whole = read(path, sample_rate=8000)
    assert np.array_equal(read(path, 0.25, 0.5, 8000), whole[2000:6000])
    assert np.array_equal(read(path, 0.25, None, 8000), whole[2000:])
    assert np.array_equal(read(path, 0.5, 0.52, 8000), whole[4000:])  # manifests round


def test_channels_become_their_mean(tmp_path):
    stereo = np.stack([sweep(0.1, 8000, 1), sweep(0.1, 8000, 2)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, 8000, subtype="FLOAT")
    np.testing.assert_allclose(read(tmp_path / "a.wav", sample_rate=8000), stereo.mean(1), atol=1e-7)


def test_another_rate_is_resampled(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32) / 2
    soundfile.write(tmp_path / "a.wav", tone, 44100, subtype="FLOAT")
    found = read(tmp_path / "a.wav", sample_rate=16000)
    assert len(found) == 16000
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000) / 2
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=1e-3)


def test_what_is_at_full_scale_for_some_samples_is_clipped(tmp_path):
    for name, samples, clipped in [
        ("loud", np.clip(9 * sweep(0.2, 8000), -1, 1), True),
        ("negative", np.minimum(np.clip(9 * sweep(0.2, 8000), -1, 1), 0), True),
        ("peak", sweep(0.2, 8000) / np.abs(sweep(0.2, 8000)).max(), False),
    ]:
        soundfile.write(tmp_path / f"{name}.wav", samples, 8000)
        assert record(tmp_path / f"{name}.wav").clipped == clipped, name


def stereo(path, *channels):
    soundfile.write(path, np.stack(channels, 1), 8000, subtype="FLOAT")
    return path


def test_a_channel_is_read_by_its_number(tmp_path):
    one, two = sweep(0.1, 8000, 1), sweep(0.1, 8000, 2)
    path = stereo(tmp_path / "a.wav", one, two)
    for number, samples in ((1, one), (2, two)):
        assert np.array_equal(read(path, sample_rate=8000, channel=number), samples)
        assert np.array_equal(read(path, 0.05, 0.02, 8000, number), samples[400:560])
    with pytest.raises(AudioError, match=r"a.wav: no channel 3: it has 2") as found:
        read(path, channel=3)
    assert found.value.kind == "no such channel"


def test_clipping_is_that_of_what_is_read(tmp_path):
    path = stereo(tmp_path / "a.wav", sweep(0.1, 8000), np.clip(9 * sweep(0.1, 8000), -1, 1))
    assert [record(path, channel=number).clipped for number in (None, 1, 2)] == [True, False, True]


def test_a_recording_of_which_nothing_is_left_is_silent(tmp_path):
    one, two = sweep(0.2, 8000, 1), sweep(0.2, 8000, 2)
    none = np.zeros_like(one)
    for number, (channels, silent) in enumerate(
        [
            ([one], False),
            ([1e-4 * one], False),
            ([none], True),
            ([none + 0.25], True),  # an offset
            ([one, two], False),
            ([one, one], False),
            ([one, none], False),
            ([one] + [none] * 7, False),
            ([one, -one], True),
            ([one, -0.99 * one], True),
            ([one, -0.5 * one], False),
            ([none, none], True),
        ]
    ):
        path = stereo(tmp_path / f"{number}.wav", *channels)
        assert record(path).silent is silent, number
    path = stereo(tmp_path / "anti.wav", one, -one)
    assert not record(path, channel=1).silent
    path = stereo(tmp_path / "part.wav", np.concatenate([none, one]))
    assert [record(path, start, 0.2).silent for start in (0, 0.2)] == [True, False]


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def broken(folder):
    """A file of each kind of trouble: what it is called, and what is said of it."""
    nan = sweep(0.1, 8000)
    nan[400] = np.nan
    soundfile.write(folder / "nan.wav", nan, 8000, subtype="FLOAT")
    soundfile.write(folder / "infinite.wav", np.where(np.isnan(nan), np.inf, nan), 8000, subtype="FLOAT")
    damaged = bytearray(write(folder / "damaged.flac", 2.0).read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 64] = bytes(64)
    (folder / "damaged.flac").write_bytes(damaged)
    soundfile.write(folder / "none.wav", np.empty(0), 8000)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is no audio\n" * 20)
    cut(write(folder / "cut.wav"), 0.6)
    cut(write(folder / "cut.flac", 2.0), 0.6)
    cut(write(folder / "cut.mp3", 2.0, 16000), 0.6)
    for format in ("AIFF", "AU", "RF64", "W64", "SVX", "VOC", "NIST"):
        soundfile.write(folder / f"cut.{format}", sweep(0.3, 8000), 8000, format=format, subtype="PCM_16")
        cut(folder / f"cut.{format}", 0.6)
    return [
        *(
            (f"cut.{format}", "truncated", "its header says")
            for format in ("AIFF", "AU", "RF64", "W64", "SVX", "VOC", "NIST")
        ),
        ("a" * 300 + ".wav", "unreadable", "File name too long"),
        ("a\0b.wav", "missing", "no such file"),
        ("absent.wav", "missing", "no such file"),
        ("", "missing", "not a file"),  # the folder
        ("text.wav", "not audio", "not audio that libsndfile reads"),
        ("empty.wav", "zero length", "an empty file"),
        ("none.wav", "zero length", "no samples"),
        ("cut.wav", "truncated", "its header says 4800"),
        ("cut.flac", "truncated", "truncated or damaged"),
        ("cut.mp3", "truncated", "truncated"),
        ("damaged.flac", "truncated", "truncated or damaged"),
        ("nan.wav", "not numbers", "NaN or infinite"),
        ("infinite.wav", "not numbers", "NaN or infinite"),
    ]


def test_each_kind_of_broken_file_has_its_own_words(tmp_path):
    for name, kind, words in broken(tmp_path):
        with pytest.raises(AudioError) as found:
            read(tmp_path / name, sample_rate=8000)
        assert found.value.kind == kind, name
        assert str(found.value).startswith(f"{tmp_path / name}: "), name
        assert words in str(found.value), name


@pytest.mark.parametrize(
    ("start", "duration", "kind", "words"),
    [
        (0.2, 0.2, "beyond the end", "from 0.2 to 0.4 s is not in it: it is 0.3 s long"),
        (0.5, None, "beyond the end", "from 0.5 to its end s is not in it"),
        (-0.1, 0.2, "beyond the end", "from -0.1"),
        (0.1, 0.0, "zero length", "no samples"),
    ],
)
def test_a_segment_that_is_not_in_its_recording_is_told(tmp_path, start, duration, kind, words):
    with pytest.raises(AudioError) as found:
        read(write(tmp_path / "a.wav"), start, duration, 8000)
    assert found.value.kind == kind
    assert words in str(found.value)


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_ogg_that_is_not_whole_is_told(tmp_path, codec):
    """libsndfile reads what is left of it."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, sweep(2.0, 16000), 16000, format="OGG", subtype=codec)
    whole = path.read_bytes()
    starts = [place for place in range(len(whole)) if whole[place : place + 4] == b"OggS"]
    assert len(read(path)) == 32000

    def said(content):
        path.write_bytes(content)
        with pytest.raises(AudioError) as found:
            read(path, 0.0, 0.1)
        assert found.value.kind == "truncated"
        return str(found.value)

    assert f"{path}: truncated: its stream of Ogg has no end" in said(whole[: starts[-1]])
    for end in (len(whole) - 1, len(whole) // 2, starts[-1] + 10, starts[-1] + 27, starts[1] + 5):
        assert f"{path}: truncated: it ends inside of a page of Ogg, at byte {end}" in said(whole[:end])
    missing = whole[: starts[2]] + whole[starts[3] :]
    assert f"{path}: damaged: a page of Ogg is missing before byte {starts[2]}" in said(missing)
    rng = np.random.default_rng(3)
    for place in rng.integers(len(whole), size=50).tolist():
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        if content[:4] == b"OggS":
            assert "Ogg" in said(bytes(content)), place
    path.write_bytes(whole + b"a tag of another making")
    assert len(read(path)) == 32000
    path.write_bytes(whole + bytes(4096))
    assert len(read(path)) == 32000


def test_a_header_written_into_a_pipe_is_no_truncation(tmp_path):
    path = write(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[40:44] = (0xFFFFFFFF).to_bytes(4, "little")
    path.write_bytes(content)
    assert len(read(path, sample_rate=8000)) == 2400


def test_an_unreadable_length_is_told(tmp_path):
    content = bytearray(write(tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(AudioError, match="does not say how long it is"):
        read(tmp_path / "a.flac")


def test_an_error_comes_out_of_a_worker_as_it_went_in():
    error = pickle.loads(pickle.dumps(AudioError("a.wav: no such file", "missing")))
    assert (str(error), error.kind) == ("a.wav: no such file", "missing")


def test_without_soundfile_the_extra_is_named():
    code = (
        "import sys; sys.modules['soundfile'] = None\n"
        "from s2s.audio.waveform import read\n"
        "from s2s.errors import UserError\n"
        "try: read('a.wav')\n"
        "except UserError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install -e '.[speech]'" in said
