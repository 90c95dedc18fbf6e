"""s2s-preprocess of speech: what goes in comes out, broken recordings are named at once, nothing is lost uncounted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2s.audio.cmvn import Statistics
from s2s.audio.features import Fbank, FeatureConfig
from s2s.audio.waveform import read
from s2s.data import picture, speech_preprocess
from s2s.data.speech import Recordings, feature_config
from s2s.data.speech_preprocess import SpeechFilterConfig, select
from s2s.data.store import Store, Stores
from s2s.errors import UserError
from tests.audio.recordings import write
from tests.data.test_manifest import tsv

DATA = Path(__file__).parents[2].parent / "shared" / "data"
WORDS = ["yes", "no", "yes no", "no yes no", "äh"]
OPTIONS = ["task=speech_to_text", "features.sample_rate=8000", "features.bins=20", "workers=1"]


def corpus(folder, count=5, name="m.tsv", rate=8000):
    """A manifest of recordings of 0.2 s, 0.25 s, ..., with five texts and three speakers."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        write(folder / f"{number}.wav", 0.2 + 0.05 * number, rate, number)
        rows.append([f"u{number}", f"{number}.wav", WORDS[number % 5], f"s{number % 3}", ""])
    return tsv(folder / name, ["id", "audio", "text", "speaker", "language"], *rows)


@pytest.fixture
def make(s2s, tmp_path):
    """make("store", "key=value", ...) makes a store of characters; returns its path."""

    def run(name, *words):
        store = tmp_path / name
        tokenizer = [] if any(word.startswith("tokenizer") for word in words) else ["tokenizer=characters"]
        assert s2s("preprocess", *OPTIONS, *tokenizer, f"store={store}", *words) == 0
        return store

    return run


def recordings(split, bins=20, rate=8000):
    return Recordings(split, Fbank(FeatureConfig(sample_rate=rate, bins=bins)))


def expected(folder, number, rate=8000):
    config = FeatureConfig(sample_rate=8000, bins=20)
    return Fbank(config)(read(folder / f"{number}.wav", sample_rate=8000))


def test_what_goes_in_comes_out(make, tmp_path):
    manifest = corpus(tmp_path / "a", 7)
    store = Store(make("store", f"train={manifest}", f"valid={manifest}", f"test=[{manifest}]", "shard_pairs=3"))
    store.verify()
    assert store.splits == ["train", "valid", "test"]
    (target,) = store.tokenizers().values()
    for name in store.splits:
        split = store.split(name)
        assert len(split) == 7
        assert split._shards("target.tokens")[-1][2] == 1  # of three shards
        order = np.array([6, 0, 3, 3])
        features, frames = recordings(split).features(order)
        assert features.dtype == np.float32
        assert frames.dtype == np.int64
        for number, found in zip(order, np.split(features, np.cumsum(frames)[:-1]), strict=True):
            right = expected(tmp_path / "a", number)
            np.testing.assert_allclose(found, right, rtol=2**-11, atol=1e-6)
        ids, lengths = split.gather("target.tokens", order)
        pieces = np.split(ids, np.cumsum(lengths)[:-1])
        assert [target.decode(piece.tolist()) for piece in pieces] == [WORDS[n % 5] for n in order]
        assert split.lines("target.text", order) == [WORDS[n % 5] for n in order]
        assert split.lines("target.text") == [WORDS[n % 5] for n in range(7)]
        assert split.known(order[:2]) == [
            {"id": "u6", "speaker": "s0", "language": None, "seconds": 0.5},
            {"id": "u0", "speaker": "s0", "language": None, "seconds": 0.2},
        ]
        frames, tokens = recordings(split).lengths(2, 5), split.lengths("target.tokens", 2, 5)
        assert frames.tolist() == [len(expected(tmp_path / "a", number)) for number in (2, 3, 4)]
        assert tokens.tolist() == [len(WORDS[number]) for number in (2, 3, 4)]
        assert (frames.dtype, tokens.dtype) == (np.int32, np.int32)
        assert split.lengths("source.features").tolist()[2:5] == frames.tolist()
        assert split.lengths("target.tokens").tolist()[2:5] == tokens.tolist()
        assert (split.longest("source.features"), split.longest("target.tokens")) == (48, 9)
        assert split.corpora == [(manifest, 0, 7, "speech", "text", ())]


def test_waveforms_give_the_same_features_and_can_be_perturbed(make, tmp_path):
    manifest = corpus(tmp_path / "a")
    features = Store(make("features", f"train={manifest}"))
    waveforms = Store(make("waveforms", f"train={manifest}", "features.keep=waveform"))
    waveforms.verify()
    one, other = recordings(features.split("train")), recordings(waveforms.split("train"))
    assert np.array_equal(one.lengths(0, 5), other.lengths(0, 5))
    assert next(iter(waveforms.split("train").columns)) == "source.waveform"
    order = np.array([4, 1])
    (first, frames), (second, again) = one.features(order), other.features(order)
    np.testing.assert_allclose(first, second, rtol=2**-11)
    assert frames.tolist() == again.tolist()
    np.testing.assert_allclose(features.facts["cmvn"]["mean"], waveforms.facts["cmvn"]["mean"], atol=1e-3)
    assert np.array_equal(other.waveforms(order)[1], read(tmp_path / "a/1.wav", sample_rate=8000))
    places = []

    def half(samples, place):
        places.append(place)
        return samples[: len(samples) // 2]

    shorter, fewer = other.features(order, half)
    assert places == [0, 1]
    assert len(shorter) == fewer.sum() < frames.sum()
    assert np.array_equal(shorter[: fewer[0]], second[: fewer[0]])
    with pytest.raises(UserError, match=r"make it with features\.keep=waveform"):
        one.features(order, half)


def test_means_are_those_of_the_training_split(make, tmp_path):
    train, valid = corpus(tmp_path / "a"), corpus(tmp_path / "b", 2)
    store = Store(make("store", f"train={train}", f"valid={valid}"))
    whole = np.concatenate([expected(tmp_path / "a", number) for number in range(5)]).astype(np.float16)
    assert store.facts["cmvn"] == Statistics.of(whole).facts()
    assert feature_config(store.facts, tmp_path) == FeatureConfig(sample_rate=8000, bins=20)
    for kind in ("utterance", "none"):
        assert Store(make(kind, f"train={train}", f"features.cmvn={kind}")).facts["cmvn"] is None


def test_the_store_does_not_depend_on_the_workers(make, tmp_path, monkeypatch):
    manifest = corpus(tmp_path / "a", 9)
    digests = {Store(make(f"store{n}", f"train={manifest}", f"workers={n}")).digest for n in (1, 2)}
    monkeypatch.setattr(speech_preprocess, "CHUNK_SECONDS", 0.5)
    monkeypatch.setattr(speech_preprocess, "CHECKED", 2)
    digests |= {Store(make(f"small{n}", f"train={manifest}", f"workers={n}")).digest for n in (1, 2)}
    assert len(digests) == 1


def test_segments_and_other_rates(make, tmp_path):
    folder = tmp_path / "kaldi"
    folder.mkdir()
    write(folder / "long.flac", 2.0, 16000)
    (folder / "wav.scp").write_text("rec long.flac\n")
    (folder / "segments").write_text("u1 rec 0.5 1.0\nu2 rec 1.25 -1\n")
    (folder / "text").write_text("u1 yes\nu2 no\n")
    (folder / "utt2spk").write_text("u1 ann\nu2 bob\n")
    store = Store(make("store", f"train={folder}"))
    split = store.split("train")
    features, frames = recordings(split).features(np.array([1, 0]))
    right = Fbank(FeatureConfig(sample_rate=8000, bins=20))(read(folder / "long.flac", 1.25, None, 8000))
    np.testing.assert_allclose(features[: frames[0]], right, rtol=2**-11)
    assert [(one["speaker"], one["seconds"]) for one in split.known([0, 1])] == [("ann", 0.5), ("bob", 0.75)]
    assert store.manifest["splits"]["train"]["rates"] == {"16000": 2}


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_all_of_a_few_broken_entries_among_many_are_named(s2s, tmp_path, capsys, count):
    write(tmp_path / "good.wav", 0.05)
    cut = write(tmp_path / "cut.wav", 0.05)
    cut.write_bytes(cut.read_bytes()[:500])
    (tmp_path / "text.wav").write_text("no audio\n" * 100)
    rows = [[f"u{number}", "good.wav", "", "yes"] for number in range(count)]
    places = [17, count // 8, count // 2, count - 60, count - 1]
    values = [(1, "none.wav"), (1, "cut.wav"), (1, "text.wav"), (3, " "), (2, "3.5")]
    for number, (column, value) in zip(places, values, strict=True):
        rows[number][column] = value
    manifest = tsv(tmp_path / "m.tsv", ["id", "audio", "start", "text"], *rows)
    words = [*OPTIONS, "features.bins=5", "tokenizer=characters", f"train={manifest}", f"store={tmp_path / 'store'}"]
    assert s2s("preprocess", *words) == 2
    said = capsys.readouterr().err
    kinds = "1 beyond the end, 1 empty text, 1 missing, 1 not audio, 1 truncated"
    assert f"error: 5 of {count:,} entries are broken ({kinds})" in said
    assert "skip_broken=true skips them" in said
    for number in places:
        assert f"{manifest}:{number + 2}: u{number}: " in said
    assert not (tmp_path / "store").exists()
    assert s2s("preprocess", *words, "skip_broken=true", "workers=2") == 0
    captured = capsys.readouterr()
    assert f"warning: skipped: 5 of {count:,} entries" in captured.err
    assert kinds in captured.out
    facts = Store(tmp_path / "store").manifest["splits"]["train"]
    assert (facts["read"], facts["pairs"], sum(facts["broken"].values())) == (count, count - 5, 5)


def test_broken_entries_of_all_splits_are_named_together(s2s, tmp_path, capsys):
    train, valid = corpus(tmp_path / "a"), corpus(tmp_path / "b")
    (tmp_path / "a/2.wav").unlink()
    (tmp_path / "b/3.wav").unlink()
    words = [*OPTIONS, f"train={train}", f"valid={valid}", f"store={tmp_path / 'store'}", "tokenizer=characters"]
    assert s2s("preprocess", *words) == 2
    said = capsys.readouterr().err
    assert "2 of 10 entries are broken (2 missing)" in said
    assert "a/2.wav: no such file" in said
    assert "b/3.wav: no such file" in said
    for number in range(5):
        (tmp_path / f"b/{number}.wav").unlink(missing_ok=True)
    assert s2s("preprocess", *words, "skip_broken=true") == 2
    assert "valid: all entries are broken" in capsys.readouterr().err


def test_wrong_rates_and_clipping_are_counted(s2s, make, tmp_path, capsys):
    import soundfile

    manifest = corpus(tmp_path / "a")
    write(tmp_path / "a/1.wav", 0.3, 16000)
    soundfile.write(tmp_path / "a/2.wav", np.sign(np.sin(np.arange(4000) / 9)), 8000)
    facts = Store(make("store", f"train={manifest}")).manifest["splits"]["train"]
    assert facts["rates"] == {"16000": 1, "8000": 4}
    assert facts["clipped"] == 1
    said = capsys.readouterr()
    assert "1 of 5 entries are suspicious, but used (1 clipped)" in said.err
    assert f"{manifest}:4: u2: {tmp_path / 'a/2.wav'}" in said.err
    assert "16000 Hz (1), 8000 Hz (4)" in said.out
    store = make("strict", f"train={manifest}", "wrong_rate=error", "skip_broken=true")
    assert Store(store).manifest["splits"]["train"]["broken"] == {"wrong rate": 1}


def stereo(path, *channels):
    import soundfile

    soundfile.write(path, np.stack(channels, 1), 8000, subtype="FLOAT")


def test_silence_is_told_and_counted(make, tmp_path, capsys):
    manifest = corpus(tmp_path / "a")
    tone = read(tmp_path / "a/1.wav", sample_rate=8000)
    stereo(tmp_path / "a/1.wav", tone, -tone)
    stereo(tmp_path / "a/2.wav", 0 * tone)
    facts = Store(make("store", f"train={manifest}")).manifest["splits"]["train"]
    assert (facts["pairs"], facts["clipped"], facts["silent"]) == (5, 0, 2)
    said = capsys.readouterr()
    assert "warning: 2 of 5 entries are suspicious, but used (2 silent)" in said.err
    assert f"{manifest}:3: u1: {tmp_path / 'a/1.wav'}" in said.err
    header, row = (line.split("  ") for line in said.out.split("\n\n")[1].splitlines()[:2])
    assert (
        dict(zip(filter(None, map(str.strip, header)), filter(None, map(str.strip, row)), strict=True))["silent"] == "2"
    )
    facts = Store(make("first", f"train={manifest}", "features.channel=1")).manifest["splits"]["train"]
    assert facts["silent"] == 1


def test_channels_are_those_of_the_entry_or_of_the_features(make, s2s, tmp_path, capsys):
    corpus(tmp_path / "a")
    tones = [read(tmp_path / f"a/{number}.wav", sample_rate=8000)[:1600] for number in (0, 1)]
    stereo(tmp_path / "a/both.wav", *tones)
    path = tsv(tmp_path / "a/m.tsv", ["audio", "channel", "text"], ["both.wav", "1", "x"], ["both.wav", "2", "y"],
               ["both.wav", "", "z"])  # fmt: skip
    right = [Fbank(FeatureConfig(sample_rate=8000, bins=20))(samples) for samples in (*tones, sum(tones) / 2)]

    def assert_features(store, *numbers):
        split = Store(store).split("train" if "train" in Store(store).splits else "test")
        found = np.split(
            *(a if n == 0 else np.cumsum(a)[:-1] for n, a in enumerate(recordings(split).features(np.arange(3))))
        )
        for features, number in zip(found, numbers, strict=True):
            np.testing.assert_allclose(features, right[number], rtol=2**-11, atol=1e-3)
        return split

    mean, second = make("mean", f"train={path}"), make("second", f"train={path}", "features.channel=2")
    assert [one["id"] for one in assert_features(mean, 0, 1, 2).known([0, 1, 2])] == [
        "both.wav#1", "both.wav#2", "both.wav"
    ]  # fmt: skip
    assert_features(second, 0, 1, 1)
    assert "channel" not in Store(mean).facts["features"]
    # A store may be read from another channel than the one whose features and means it has.
    words = ["task=speech_to_text", f"test={path}", f"tokenizer_from={second}", "tokenizer=sentencepiece"]
    assert s2s("preprocess", *words, f"store={tmp_path / 'same'}") == 0
    assert_features(tmp_path / "same", 0, 1, 1)
    assert s2s("preprocess", *words, f"store={tmp_path / 'other'}", "features.channel=1") == 0
    assert_features(tmp_path / "other", 0, 1, 0)
    assert len(Stores([tmp_path / "same", tmp_path / "other"]).split("test")) == 6
    assert s2s("preprocess", *words, f"store={tmp_path / 'none'}", "features.bins=30") == 2
    assert "those of that store (except the channel)" in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["reader", "stream"])
def test_a_store_is_complete_though_nobody_hears_the_warnings(tmp_path, gone):
    """Progress may be lost; work may not."""
    path = tsv(tmp_path / "m.tsv", ["audio", "text"], ["a.wav", "yes"], ["none.wav", "no"], ["silent.wav", "no"])
    write(tmp_path / "a.wav")
    stereo(tmp_path / "silent.wav", np.zeros(4000), np.zeros(4000))
    words = [*OPTIONS, f"train={path}", "skip_broken=true", "tokenizer=characters", f"store={tmp_path / 'store'}"]
    command = [sys.executable, "-m", "s2s_cli.preprocess", *words]
    if gone == "stream":
        command = ["sh", "-c", '"$@" 2>&-', "sh", *command]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, text=True)
    finally:
        os.close(writer)
    assert done.returncode == 0
    assert "train             3     2" in done.stdout
    store = Store(tmp_path / "store")
    store.verify()
    assert [one["id"] for one in store.split("train").known(np.arange(2))] == ["a.wav", "silent.wav"]
    assert (store.path / "report.txt").is_file()
    assert (store.path / "report.png").is_file()


def test_filters_hold_for_training_and_are_counted(make, tmp_path, s2s, capsys):
    manifest = corpus(tmp_path / "a")
    rules = ["filter.min_seconds=0.22", "filter.max_seconds=0.38", "filter.max_length=5"]
    store = Store(make("store", f"train={manifest}", f"valid={manifest}", *rules))
    assert store.manifest["splits"]["train"]["dropped"] == {"min_seconds": 1, "max_length": 2, "max_seconds": 1}
    assert [one["id"] for one in store.split("train").known(np.arange(1))] == ["u1"]
    assert (len(store.split("train")), len(store.split("valid"))) == (1, 5)
    words = ["tokenizer=bytes", f"train={manifest}", f"store={tmp_path / 'none'}", "filter.max_seconds=0.1"]
    assert s2s("preprocess", *OPTIONS, *words) == 2
    assert (
        f"train: {manifest}: the filters drop all 5 utterances: filter.max_seconds drops 5" in capsys.readouterr().err
    )


def test_select_counts_the_first_rule_that_drops():
    keep, dropped = select(np.array([0.1, 1, 2, 3]), np.array([9, 1, 9, 1]), SpeechFilterConfig(0.5, 2.5, 5))
    assert keep.tolist() == [False, True, False, False]
    assert dropped == {"min_seconds": 1, "max_length": 1, "max_seconds": 1}


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "words", "sentencepiece"])
def test_every_tokenizer_learns_from_the_transcripts(make, tmp_path, tokenizer):
    extra = ["tokenizer.vocab_size=15"] if tokenizer == "sentencepiece" else []
    store = Store(make("store", f"train={corpus(tmp_path / 'a', 10)}", f"tokenizer={tokenizer}", *extra))
    (target,) = store.tokenizers().values()
    ids, lengths = store.split("train").gather("target.tokens", np.arange(5))
    assert [target.decode(piece.tolist()) for piece in np.split(ids, np.cumsum(lengths)[:-1])] == WORDS


def test_more_pieces_than_the_transcripts_give_are_told(s2s, tmp_path, capsys):
    words = [*OPTIONS, f"train={corpus(tmp_path / 'a', 10)}", f"store={tmp_path / 'store'}"]
    assert s2s("preprocess", *words) == 2  # as by default
    said = capsys.readouterr().err
    assert "vocab_size=8000 is too large: the most that can be learned from this text is vocab_size=" in said
    assert s2s("preprocess", *words, f"tokenizer.vocab_size={said.strip().rpartition('=')[2]}") == 0


def test_another_store_gives_its_tokenizer_features_and_means(make, tmp_path, s2s, capsys):
    train = corpus(tmp_path / "a")
    first = make("first", f"train={train}")
    words = ["task=speech_to_text", "workers=1", f"tokenizer_from={first}", f"train={corpus(tmp_path / 'b', 2)}"]
    assert s2s("preprocess", *words, f"store={tmp_path / 'second'}") == 0
    both = Stores([first, tmp_path / "second"])
    split = both.split("train")
    assert len(split) == 7
    assert split.known([5])[0]["id"] == "u0"
    second = Store(tmp_path / "second")
    assert second.facts["cmvn"] == Store(first).facts["cmvn"]
    assert second.facts["features"]["bins"] == 20
    features, frames = recordings(split).features(np.array([6, 0]))
    assert features.shape == (frames.sum(), 20)
    for option, message in [("features.bins=30", "tokenizer_from and features"), ("tokenizer=bytes", "tokenizer_from")]:
        assert s2s("preprocess", *words, f"store={tmp_path / 'third'}", option) == 2
        assert f"{message} " in capsys.readouterr().err


def test_stores_with_other_features_are_not_one(make, tmp_path, store):
    train, other = corpus(tmp_path / "a"), corpus(tmp_path / "b", 3)
    first = make("first", f"train={train}")
    with pytest.raises(UserError, match="its features differs from that of"):
        Stores([first, make("bins", f"train={train}", "features.bins=21")])
    with pytest.raises(UserError, match="its cmvn differs from that of"):
        Stores([first, make("means", f"train={other}")])
    with pytest.raises(UserError, match="its task differs from that of"):
        Stores([first, store])
    with pytest.raises(UserError, match="its tokenizers differ from those of"):
        Stores([first, make("tokens", f"train={train}", "tokenizer=bytes")])


def test_what_is_missing_is_asked_for(s2s, tmp_path, capsys):
    manifest = corpus(tmp_path / "a")
    store = f"store={tmp_path / 'store'}"
    for words, message in [
        ([f"train={manifest}"], "store= is required"),
        ([store], "no manifest is given; use train=FILE.tsv"),
        ([store, f"valid={manifest}"], "train= is required for features.cmvn=global"),
        (
            [store, f"valid={manifest}", "features.cmvn=none"],
            "train= is required to learn a tokenizer",
        ),
        ([store, f"train={manifest}", "features.low_frequency=5000"], "filters from 5000 to 4000 Hz"),
        ([store, f"train={manifest}", "features.sample_rate=1e9"], "sample_rate"),
        ([store, f"train={manifest}", "features.frame_length=1e9"], "features.frame_length=1000000000.0: must"),
        ([store, f"train={manifest}", "features.frame_shift=inf"], "features.frame_shift"),
        ([store, f"train={manifest}", f"audio_root={tmp_path}/none"], "/none: no such folder"),
        ([store, f"train={manifest}", "source_tokenizer=bytes"], "unknown key 'source_tokenizer'"),
        ([store, f"train={manifest}", "task=speech"], "did you mean 'speech_to_text'?"),
    ]:
        assert s2s("preprocess", *OPTIONS, *words) == 2
        assert message in capsys.readouterr().err, words


def test_a_recording_that_changes_meanwhile_is_told(s2s, tmp_path, capsys, monkeypatch):
    manifest = corpus(tmp_path / "a")
    learn = speech_preprocess._tokenizer
    monkeypatch.setattr(
        speech_preprocess, "_tokenizer", lambda *args: [(tmp_path / "a/3.wav").unlink(), learn(*args)][1]
    )
    assert s2s("preprocess", *OPTIONS, f"train={manifest}", f"store={tmp_path / 'store'}", "tokenizer=bytes") == 2
    assert "a/3.wav: no such file" in capsys.readouterr().err
    assert not list(tmp_path.glob("store*"))


def test_help_and_config_are_those_of_the_task(s2s, tmp_path, capsys):
    assert s2s("preprocess", "task=speech_to_text", "--help", "all") == 0
    said = capsys.readouterr().out
    assert "features.sample_rate: int = 16000" in said
    assert "source_tokenizer" not in said
    assert s2s("preprocess", "--help", "all") == 0
    said = capsys.readouterr().out
    assert "task=speech_to_text" in said
    assert "features.sample_rate" not in said
    assert s2s("preprocess", "task=speech_to_text", "features.bins=40", "--print-config") == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert s2s("preprocess", "--config", tmp_path / "config.yaml", "--print-config") == 0
    assert capsys.readouterr().out == (tmp_path / "config.yaml").read_text()


def test_the_report_says_hours_and_lengths(make, tmp_path, capsys, s2s):
    store = make("store", f"train={corpus(tmp_path / 'a')}")
    said = capsys.readouterr().out
    assert "hours a minute" in said
    assert (store / "report.txt").read_text() in said
    line = next(line for line in said.split("\n") if line.startswith("train") and "seconds " in line)
    assert line.split() == ["train", "seconds", "0.3", "0.4", "0.4", "0.4"]
    again = [*OPTIONS, f"tokenizer_from={store}", f"test={tmp_path / 'a/m.tsv'}", f"store={tmp_path / 'b'}"]
    assert s2s("preprocess", *again, "format=json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["test"]["seconds"] == pytest.approx(1.5)
    assert report["splits"]["test"]["target"]["characters"] == sum(map(len, WORDS))
    assert {"hours", "hours_per_minute", "seconds"} <= set(report)


def test_the_picture_shows_seconds_and_tokens_of_every_split(make, tmp_path, s2s, monkeypatch, capsys):
    manifest = corpus(tmp_path / "a")
    store = make("store", f"train={manifest}", f"valid={corpus(tmp_path / 'b', 1)}")
    with Image.open(store / "report.png") as image:
        assert image.size == (2 * picture.WIDTH, 2 * picture.HEIGHT)
        for number in range(4):
            left, top = number % 2 * picture.WIDTH, number // 2 * picture.HEIGHT
            panel = image.crop((left, top + 100, left + picture.WIDTH, top + picture.HEIGHT))  # without its legend
            assert (0, 0x72, 0xB2) in {color for _, color in panel.getcolors(1 << 16)}
    monkeypatch.setattr(picture, "draw", lambda *_: 1 / 0)
    words = [*OPTIONS, "tokenizer=bytes", f"train={manifest}", f"store={tmp_path / 'none'}"]
    assert s2s("preprocess", *words) == 1
    assert "the store is complete, but its report.png could not be drawn: ZeroDivisionError" in capsys.readouterr().err
    assert len(Store(tmp_path / "none").split("train")) == 5


def test_inspect_tells_of_speech_and_of_damage(make, s2s, tmp_path, capsys):
    store = make("store", f"train={corpus(tmp_path / 'a')}")
    capsys.readouterr()
    assert s2s("inspect", store) == 0
    said = capsys.readouterr().out
    assert "features: sample_rate=8000 bins=20" in said
    assert "split  pairs  dropped  hours  source.features  target.tokens  shards  text" in said
    content = bytearray((store / "train-00000.source.features").read_bytes())
    content[100] ^= 1
    (store / "train-00000.source.features").write_bytes(content)
    assert s2s("inspect", store) == 1
    assert "train-00000.source.features: its content differs from what was written" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"source.features: truncated or changed"):
        Store(store).verify()


def test_the_digest_says_how_features_are_made(make, tmp_path):
    manifest = corpus(tmp_path / "a")
    kinds = ("utterance", "none")
    assert len({Store(make(kind, f"train={manifest}", f"features.cmvn={kind}")).digest for kind in kinds}) == 2


def test_speech_needs_no_torch_and_text_no_soundfile(tmp_path):
    code = "import sys; from s2s_cli.preprocess import main; main(); print({'torch', 'soundfile'} & set(sys.modules))"
    manifest = corpus(tmp_path / "a")
    (tmp_path / "t.tsv").write_text("a b\tb a\n" * 5)
    for words, loaded in [
        ([*OPTIONS, f"train={manifest}", "tokenizer=bytes"], "{'soundfile'}"),
        ([f"train={tmp_path / 't.tsv'}", "tokenizer=bytes"], "set()"),
    ]:
        command = [sys.executable, "-c", code, *words, f"store={tmp_path / loaded}"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[-2] == loaded


@pytest.mark.skipif(not (DATA / "an4").is_dir(), reason="needs ../shared/data/an4")
def test_the_manifest_of_an4_is_read_as_it_is(make, tmp_path):
    head = (DATA / "an4/manifest_train.tsv").read_text().split("\n")[:13]
    (tmp_path / "m.tsv").write_text("\n".join(head) + "\n")
    words = [f"audio_root={DATA / 'an4'}", "features.sample_rate=16000", "features.bins=80"]
    split = Store(make("store", f"train={tmp_path / 'm.tsv'}", *words)).split("train")
    assert split.known([3])[0] == {"id": "an255-fash-b", "speaker": "fash", "language": None, "seconds": 2.6}
    assert split.lines("target.text", [3]) == ["u m n y h six"]
    assert split.lengths("source.features", 3, 4).tolist() == [258]
