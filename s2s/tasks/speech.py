"""Speech to text: features of recordings in, text out, in the language that is spoken or in another one."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from s2s.audio.augment import perturb, spec_augment
from s2s.audio.cmvn import normalise, normalise_utterance
from s2s.audio.features import Fbank, FeatureConfig
from s2s.audio.waveform import AudioError, record, resample
from s2s.config.documents import read_json
from s2s.config.schema import option
from s2s.config.shapes import mapping
from s2s.data.batch import Batch, Counts, Source
from s2s.data.iterator import DataConfig, Draw
from s2s.data.manifest import NAMED, Broken, Checked, Entry, check
from s2s.data.spec import FeatureSource, Spec
from s2s.data.speech import CMVN_SHAPE, Recordings, feature_config, features_facts
from s2s.data.split import Split
from s2s.data.store import Store, Stores
from s2s.data.transforms import seeds
from s2s.errors import UserError
from s2s.files import write
from s2s.manifests import MANIFEST
from s2s.tasks import tags
from s2s.tasks.text import TEXT, TOKENS, TextDataset, TextTask, padded, stages
from s2s.text.tokenizer import Tokenizer, load_tokenizer

FILE = "features.json"


@dataclasses.dataclass
class SpeechToTextConfig:
    """Options of the task."""

    type: str = option("speech_to_text", "component")


class SpeechToTextTask(TextTask):
    """Speech to text: owns the target's tokenizer and knows how features are made and normalised.

    Args:
        target_tokenizer: Of the text.
        features: How features are made.
        cmvn: `mean` and `deviation` of each feature, for features.cmvn=global; else None.
        order, config: As of TextTask.
    """

    Config = SpeechToTextConfig
    DEFAULTS: ClassVar = {
        "model": "conformer_small", "criterion": "ctc_attention", "decode": "speech",
        "data.cost": "frames", "data.batching": "bucket_2d", "data.batch_tokens": "20000",
    }  # fmt: skip
    reads = "recordings"
    buffer = 256
    max_source = 15_000  # ten minutes, where 4 frames make a position

    def __init__(self, target_tokenizer: Tokenizer, features: FeatureConfig, cmvn: dict | None,
                 order: Any = "none", config: Any = None):  # fmt: skip
        super().__init__(target_tokenizer, order, config)
        self.features, self.cmvn, self.fbank = features, cmvn, Fbank(features)
        self.frame_seconds = self.fbank.shift / features.sample_rate
        self._silent = 0  # recordings that were, of those encoded so far

    @classmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "SpeechToTextTask":
        """The task of a store."""
        if "features" not in store.facts:
            raise UserError(
                "task=speech_to_text: the store holds text; s2s-preprocess task=speech_to_text makes one of speech"
            )
        target, facts = store.tokenizers()["target"], store.facts
        task = cls(target, feature_config(facts, store.path / MANIFEST), facts["cmvn"], order, config)
        task.tag_values = tags.of_store(store)
        return task

    @classmethod
    def load(cls, folder: Path, order: Any = "none", config: Any = None) -> "SpeechToTextTask":
        """The task saved in a checkpoint's folder."""
        facts = read_json(folder / FILE, {"features": mapping(object), "cmvn": CMVN_SHAPE})
        features = feature_config(facts, folder / FILE)
        task = cls(load_tokenizer(folder, "target"), features, facts["cmvn"], order, config)
        task.tags = task.tag_values = tags.load(folder)
        return task

    def save(self, folder: Path) -> None:
        """Write tokenizer and features into a checkpoint's folder."""
        super().save(folder)
        facts = {"features": features_facts(self.features), "cmvn": self.cmvn}
        write(folder / FILE, json.dumps(facts, indent=1))

    def describe(self) -> str:
        """As TextTask.describe."""
        f = self.features
        vocabulary = f"vocabulary: {len(self.target_tokenizer.vocabulary):,} target symbols"
        return f"{vocabulary}; features: {f.bins} of {f.sample_rate} Hz every {f.frame_shift:g} ms, cmvn {f.cmvn}"

    def difference(self, other: TextTask) -> str | None:
        """As TextTask.difference. What a store keeps, features or waveforms, is no
        difference, nor what channel its recordings have been read from."""
        if found := super().difference(other):
            return found
        for key, mine in features_facts(self.features).items():
            its = getattr(other.features, key)
            if its != mine and key not in ("keep", "channel"):
                return f"another features.{key}, {its} against {mine}"
        return None if self.cmvn == other.cmvn else "another mean and deviation of features (see tokenizer_from)"

    def fits(self, store: Store) -> str | None:
        """As TextTask.fits. The mean and deviation of a store do not matter: the task has its own."""
        other = self.setup(store, self.target_transform.config, self.config)
        other.cmvn, other.tags = self.cmvn, self.tags
        return self.difference(other)

    def dataset(self, split: Split) -> "SpeechDataset":
        return SpeechDataset(split, self)

    @property
    def spec(self) -> Spec:
        """As TextTask.spec."""
        return Spec((FeatureSource(self.features.bins),), len(self.target_tokenizer.vocabulary), tags=self.tag_values)

    def encode(self, items: list[Entry | str]) -> list[np.ndarray]:
        """Normalised features of recordings, float32 [S, F] each; items: paths, or entries of a manifest. Raises
        AudioError."""
        return [self._encoded(item) for item in items]

    def encode_each(self, items: list[Entry | str]) -> list[np.ndarray | AudioError]:
        """As TextTask.encode_each."""

        def one(item: Entry | str) -> np.ndarray | AudioError:
            try:
                return self._encoded(item)
            except AudioError as error:
                return error.with_traceback(None)  # which would keep what its frames hold

        return [one(item) for item in items]

    def check_entries(self, entries: list[Entry]) -> list[Checked | Broken]:
        """Whether each recording can be read, all of it."""
        return check(self.features, "resample", entries)

    def _encoded(self, item: Entry | str) -> np.ndarray:
        entry = item if isinstance(item, Entry) else Entry("", item, Path(item), "")
        try:
            channel = entry.channel or self.features.channel
            recording = record(entry.audio, entry.start, entry.duration, channel)
        except AudioError as error:
            if item is entry or error.kind not in ("missing", "not audio"):
                raise
            raise AudioError(f"{error}; the model reads recordings: one, a list of their files (.txt, .list), "
                             "or a manifest (.tsv, .jsonl, Kaldi folder)", error.kind) from error  # fmt: skip
        if recording.silent:
            self._tell_silent(entry)
        samples = resample(recording, self.features.sample_rate)
        if not self.fbank.frames(len(samples)):
            seconds = len(samples) / self.features.sample_rate
            raise AudioError(f"{entry.audio}: {seconds:g} s are less than a frame", "too short")
        return self.normalised(self.fbank(samples))

    def _tell_silent(self, entry: Entry) -> None:
        """Warn of a recording of which nothing is left to hear, by name where there are few."""
        self._silent += 1
        if self._silent <= NAMED:
            where = f"{entry.where}: " if entry.where else ""
            print(f"warning: {where}{entry.audio}: silent, or its channels cancel each other", file=sys.stderr)
        elif self._silent == NAMED + 1:
            print("warning: more recordings are silent", file=sys.stderr)

    def inputs(self, split: Split, examples: np.ndarray) -> list[np.ndarray]:
        """Normalised features of examples, float32 [S, F] each."""
        flat, frames = Recordings(split, self.fbank).features(np.asarray(examples, np.int64))
        return [self.normalised(row) for row in np.split(flat, np.cumsum(frames)[:-1])]

    def normalised(self, features: np.ndarray) -> np.ndarray:
        """Features of an utterance [S, F] as the model takes them, float32."""
        if self.features.cmvn == "global":
            return normalise(features, np.array(self.cmvn["mean"]), np.array(self.cmvn["deviation"]))
        return normalise_utterance(features) if self.features.cmvn == "utterance" else features

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """Ids of utterances and how long they are."""
        known = split.known(np.asarray(examples, np.int64))
        return [f"{one['id']} ({one['seconds']:.1f} s)" for one in known]

    def source_symbols(self, source: np.ndarray, size: int) -> list[str]:
        """The time at which each position begins, in seconds."""
        step = len(source) / size * self.frame_seconds
        return [f"{place * step:.2f}" for place in range(size)]

    def padded_sources(self, sources: list[np.ndarray]) -> tuple[Source, ...]:
        """Normalised features of several utterances as the model's input [B, S, F], padded with zeros."""
        lengths = np.fromiter(map(len, sources), np.int64, len(sources))
        values = torch.zeros(len(sources), int(lengths.max()), self.features.bins)
        for row, features in zip(values, sources, strict=True):
            row[: len(features)] = torch.from_numpy(features)
        return (Source(values, torch.from_numpy(lengths)),)

    def check(self, config: DataConfig, dataset: "SpeechDataset") -> None:
        """What can be known of training data and its options before training. Raises UserError."""
        self.check_transforms(config)
        for key in ("character_noise", "word_dropout"):
            if any(getattr(stage, key) for stage in stages(config)):
                raise UserError(f"data.{key} requires text on the source side; try data.spec_augment, data.waveform")
        if config.batching == "packed":
            raise UserError("data.batching=packed requires text; use data.batching=bucket_2d")
        if self.target_tokenizer.sampling and TEXT not in dataset.split:
            raise UserError("tokenizer.sampling needs the raw text of the train split, and the store lacks it")
        if config.waveform.active and not dataset.recordings.has_waveforms:
            raise UserError("data.waveform: the store has features, and speed, noise and gain change waveforms; "
                            "make it with features.keep=waveform")  # fmt: skip


class SpeechDataset(TextDataset):
    """The utterances of a split. Source lengths are frames; with other speeds, utterances in a batch have others.

    Attributes:
        source_seconds: From one frame to the next.
    """

    def __init__(self, split: Split, task: SpeechToTextTask):
        super().__init__(split, task)
        self.source_seconds, self.recordings = task.frame_seconds, Recordings(split, task.fbank)

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames, and target lengths (EOS included), of the examples first ... last - 1, int32."""
        return self.recordings.lengths(first, last), self.split.lengths(TOKENS, first, last) + 1

    def collate(self, examples: np.ndarray, rows: np.ndarray | None = None, draw: Draw | None = None) -> Batch:
        """A batch of these examples; without `draw` as they are."""
        examples = np.asarray(examples, np.int64)
        (source,) = self.task.padded_sources(self._features(examples, draw))
        decoder_input, target, lengths = self._targets(examples, draw)
        targets = padded(target, lengths)
        real = int(source.lengths.sum()), int(lengths.sum())
        positions = source.values.size(0) * source.values.size(1)
        return Batch(
            ids=torch.from_numpy(examples),
            sources=(source,),
            decoder_input=padded(decoder_input, lengths),
            target=targets,
            target_lengths=torch.from_numpy(lengths),
            counts=Counts(len(examples), *real, positions - real[0], targets.numel() - real[1]),
            tags=self._tags(examples),
            columns=self._columns(examples),
        )

    def _features(self, examples: np.ndarray, draw: Draw | None) -> list[np.ndarray]:
        """Normalised features of examples, [S, F] each, in training changed as `draw` says."""
        if draw is None:
            return self.task.inputs(self.split, examples)
        change, config = None, draw.config
        if config.waveform.active:
            drawn = seeds(draw.seed, draw.epoch, examples, "waveform").tolist()
            rate = self.task.features.sample_rate

            def change(samples: np.ndarray, place: int) -> np.ndarray:
                return perturb(samples, rate, config.waveform, drawn[place])

        flat, frames = self.recordings.features(examples, change)
        found = [self.task.normalised(row) for row in np.split(flat, np.cumsum(frames)[:-1])]
        if config.spec_augment.active:
            drawn_masks = seeds(draw.seed, draw.epoch, examples, "spec_augment").tolist()
            found = [spec_augment(row, config.spec_augment, seed) for row, seed in zip(found, drawn_masks, strict=True)]
        if not config.transforms:
            return found
        sizes = np.fromiter(map(len, found), np.int64, len(found))
        flat, sizes = self._transformed("source", np.concatenate(found), sizes, examples, draw)
        return np.split(flat, np.cumsum(sizes)[:-1])
