"""Speech to text: batches of a store of tones, what is drawn anew, and what does not fit."""

import dataclasses

import numpy as np
import pytest
import torch

from s2s.audio.augment import SpecAugmentConfig, WaveformConfig
from s2s.audio.waveform import AudioError
from s2s.data.iterator import BatchIterator, DataConfig, Draw
from s2s.data.manifest import Entry
from s2s.data.store import Store
from s2s.errors import UserError
from s2s.tasks.speech import SpeechToTextTask
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import BOS, EOS, PAD
from tests.conftest import _call
from tests.tones import write_tones

pytest.importorskip("soundfile")
COUNTS = {"train": 24, "valid": 6}


def preprocess(folder, name, *words):
    with pytest.MonkeyPatch.context() as patch:
        code = _call(
            patch, "s2s_cli.preprocess", "task=speech_to_text", f"train={folder}/train.tsv",
            f"valid={folder}/valid.tsv", "tokenizer=characters", "features.sample_rate=8000", "features.bins=20",
            f"store={folder}/{name}", "workers=1", *words,
        )  # fmt: skip
    assert code == 0
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    write_tones(folder, COUNTS)
    return folder


@pytest.fixture(scope="module")
def speech(folder):
    return Store(preprocess(folder, "store"))


@pytest.fixture(scope="module")
def waveforms(folder):
    return Store(preprocess(folder, "waveforms", "features.keep=waveform"))


def draw(config=None, epoch=1):
    return Draw(config or DataConfig(), 7, epoch)


def rows(values, lengths):
    return [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]


@pytest.mark.parametrize("name", ["speech", "waveforms"])
def test_a_batch_holds_normalised_features_and_targets(name, request):
    store = request.getfixturevalue(name)
    task, split = SpeechToTextTask.setup(store), store.split("train")
    dataset, examples = task.dataset(split), np.array([3, 0, 17])
    batch = dataset.collate(examples)
    (source,) = batch.sources
    frames, targets = dataset.lengths(0, len(dataset))
    assert source.lengths.tolist() == frames[examples].tolist()
    assert batch.target_lengths.tolist() == targets[examples].tolist()
    assert source.values.dtype == torch.float32
    assert source.values.shape == (3, frames[examples].max(), 20)
    for features, example, target, shown in zip(
        rows(source.values, source.lengths), examples, batch.target, batch.decoder_input, strict=True
    ):
        raw, _ = dataset.recordings.features(np.array([example]))
        mean, deviation = (np.array(store.facts["cmvn"][key]) for key in ("mean", "deviation"))
        torch.testing.assert_close(features.double(), torch.from_numpy((raw - mean) / deviation), rtol=1e-4, atol=1e-4)
        ids = split.row("target.tokens", example).tolist()
        assert target[: len(ids) + 1].tolist() == [*ids, EOS]
        assert shown[: len(ids) + 1].tolist() == [BOS, *ids]
        assert set(target[len(ids) + 1 :].tolist()) <= {PAD}
    assert batch.counts.source + batch.counts.source_padding == source.values.size(0) * source.values.size(1)
    assert task.text(split.row("target.tokens", 3).tolist(), None) == split.lines("target.text", [3])[0]


def test_utterance_normalisation_is_of_each_utterance(folder):
    store = Store(preprocess(folder, "utterance", "features.cmvn=utterance"))
    task = SpeechToTextTask.setup(store)
    for features in task.inputs(store.split("valid"), range(6)):
        np.testing.assert_allclose(features.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(features.std(0), 1, atol=1e-3)


CHANGES = {
    "spec_augment": DataConfig(spec_augment=SpecAugmentConfig(time_masks=2, frequency_masks=1)),
    "speed": DataConfig(waveform=WaveformConfig(speed=[0.8, 1.0, 1.2])),
    "gain": DataConfig(waveform=WaveformConfig(gain=10.0)),
    "noise": DataConfig(waveform=WaveformConfig(noise=1.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_of_seed_epoch_and_example_alone(waveforms, change):
    dataset, config = SpeechToTextTask.setup(waveforms).dataset(waveforms.split("train")), CHANGES[change]

    def features(examples, epoch=1, config=config):
        (source,) = dataset.collate(examples, None, draw(config, epoch)).sources
        return dict(zip(examples, rows(source.values, source.lengths), strict=True))

    def same(one, other):
        return [one[i].shape == other[i].shape and torch.equal(one[i], other[i]) for i in one]

    examples = list(range(8))
    first = features(examples)
    assert all(same(features([5, 2, 20]) | first, first | features([20])))
    assert not all(same(first, features(examples, epoch=2)))
    assert sum(same(first, features(examples, config=DataConfig()))) < 8  # a speed of 1 may be drawn
    assert all(same(features(examples, config=DataConfig()), features(examples, 2, DataConfig())))


def test_an_epoch_visits_every_utterance_in_batches_by_frames(speech):
    dataset = SpeechToTextTask.setup(speech).dataset(speech.split("train"))
    config = DataConfig(batching="bucket_2d", cost="frames", batch_tokens=500)
    batches = list(BatchIterator(dataset, config, 1).rest_of_epoch())
    assert sorted(i for batch in batches for i in batch.ids.tolist()) == list(range(24))
    for batch in batches:
        size = batch.sources[0].values.shape
        assert size[0] == 1 or size[0] * size[1] <= 500


def test_halves_of_a_batch_are_its_utterances(speech):
    dataset = SpeechToTextTask.setup(speech).dataset(speech.split("train"))
    batch = dataset.collate(np.arange(5))
    first, second = batch.halves()
    assert torch.equal(first.sources[0].values, dataset.collate(np.arange(2)).sources[0].values)
    assert second.counts == dataset.collate(np.arange(2, 5)).counts


def test_a_saved_task_is_the_same_and_reads_recordings_as_the_store_has_them(speech, folder, tmp_path):
    task = SpeechToTextTask.setup(speech)
    task.save(tmp_path)
    again = SpeechToTextTask.load(tmp_path)
    assert task.difference(again) is None
    assert again.fits(speech) is None
    paths = [f"{folder}/valid-{number}.flac" for number in range(6)]
    for mine, stored in zip(again.encode(paths), task.inputs(speech.split("valid"), range(6)), strict=True):
        np.testing.assert_allclose(mine, stored, atol=0.02)  # features are stored in 16 bits
    assert task.source_names(speech.split("valid"), [4])[0].startswith("valid-4 (")


def test_the_channel_of_a_recording_is_that_of_its_entry_or_of_the_task(speech, tmp_path):
    import soundfile

    channels = np.random.default_rng(1).normal(scale=0.1, size=(2, 4000)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", channels.T, 8000, subtype="FLOAT")
    path = str(tmp_path / "a.wav")
    entry = Entry("m.tsv:2", "u", tmp_path / "a.wav", "")
    mean = SpeechToTextTask.setup(speech)
    features = dataclasses.replace(mean.features, channel=2)
    SpeechToTextTask(mean.target_tokenizer, features, mean.cmvn).save(tmp_path)
    second = SpeechToTextTask.load(tmp_path)
    assert mean.difference(second) is None
    one, two, both = (mean.normalised(mean.fbank(samples)) for samples in (*channels, channels.mean(0)))
    for task, default in ((mean, both), (second, two)):
        for found, right in zip(
            task.encode([path, entry, entry._replace(channel=1)]), (default, default, one), strict=True
        ):
            np.testing.assert_allclose(found, right, atol=1e-3)


@pytest.mark.parametrize(("key", "value"), [("mean", 1e308), ("deviation", -1.0)])
def test_means_and_deviations_out_of_all_proportion_are_refused(speech, tmp_path, key, value):
    """The features would be infinite, and no sentence to blame."""
    task = SpeechToTextTask.setup(speech)
    cmvn = {**task.cmvn, key: [value, *task.cmvn[key][1:]]}
    SpeechToTextTask(task.target_tokenizer, task.features, cmvn).save(tmp_path)
    with pytest.raises(UserError, match=rf"features\.json: cmvn\.{key}\[0\]: a number of at least "):
        SpeechToTextTask.load(tmp_path)


def test_text_in_place_of_recordings_is_told(speech, folder, tmp_path):
    task = SpeechToTextTask.setup(speech)
    (tmp_path / "test.de").write_text("ein Satz\n")
    for item, message in ((f"{tmp_path}/test.de", "not audio"), ("ein Satz", "ein Satz: no such file")):
        with pytest.raises(UserError, match=f"{message}.*; the model reads a recording, a list of files"):
            task.encode([item])
    with pytest.raises(AudioError, match="not audio that libsndfile reads"):
        task.encode([Entry("m.tsv:2", "u", tmp_path / "test.de", "")])


def test_what_does_not_fit_is_told(speech, waveforms, store, folder):
    task = SpeechToTextTask.setup(speech)
    assert task.fits(waveforms) is None
    other = SpeechToTextTask.setup(Store(preprocess(folder, "hamming", "features.window=hamming")))
    assert task.difference(other) == "another features.window, hamming against povey"
    moved = SpeechToTextTask(task.target_tokenizer, task.features, {"mean": [0.0] * 20, "deviation": [1.0] * 20})
    assert "mean and deviation" in task.difference(moved)
    assert "another task" in task.difference(TranslationTask.setup(Store(store)))
    with pytest.raises(UserError, match="holds text"):
        SpeechToTextTask.setup(Store(store))
    with pytest.raises(UserError, match="holds no text to translate: it is made for task=speech_to_text"):
        TranslationTask.setup(speech)
    dataset = task.dataset(speech.split("train"))
    for config, message in (
        (CHANGES["noise"], "features.keep=waveform"),
        (DataConfig(word_dropout=0.1), "data.word_dropout"),
        (DataConfig(batching="packed"), "data.batching=packed"),
    ):
        with pytest.raises(UserError, match=message):
            task.check(config, dataset)
    text = TranslationTask.setup(Store(store))
    for config in (CHANGES["noise"], CHANGES["spec_augment"]):
        with pytest.raises(UserError, match="requires recordings"):
            text.check(dataclasses.replace(config), text.dataset(Store(store).split("train")))
