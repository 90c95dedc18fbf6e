"""Speech to text: recognition, or translation into another language. Sources are features of recordings."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from s2s.audio.augment import perturb, spec_augment
from s2s.audio.cmvn import normalise, normalise_utterance
from s2s.audio.features import FeatureConfig
from s2s.audio.waveform import AudioError, record, resample
from s2s.audio.whisper import features_of
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
from s2s.tasks.symbols import FirstTagConfig
from s2s.tasks.text import TEXT, TOKENS, TextDataset, TextTask, padded
from s2s.text.tokenizer import Tokenizer, load_tokenizer

FILE = "features.json"


@dataclasses.dataclass
class SpeechToTextConfig(FirstTagConfig):
    """Options of the task."""

    type: str = option("speech_to_text", "component")
    target_tag: str | None = option(
        None, "tag whose symbol every target begins with, after <s>, such as target_language; a search forces it"
    )
    target_prefix: list[str] = option(
        [],
        "reserved symbols, without <>, that every target begins with, after that of target_tag; a search forces them",
    )
    suppressed: list[int] = option([], "ids of symbols that a search never writes", at_least=0)
    suppressed_first: list[int] = option(
        [], "ids of symbols that a search does not write first, after target_prefix", at_least=0
    )


class SpeechToTextTask(TextTask):
    """Speech to text: owns the target tokenizer, and computes and normalises features.

    Args:
        target_tokenizer: Tokenizer of the texts.
        features: Options of the features.
        cmvn: `mean` and `deviation` of each feature, for features.cmvn=global; otherwise None.
        order, config: As in TextTask.
    """

    Config = SpeechToTextConfig
    DEFAULTS: ClassVar = {
        "model": "conformer_small", "criterion": "ctc_attention", "decode": "speech",
        "data.cost": "frames", "data.batching": "bucket_2d", "data.batch_tokens": "20000",
    }  # fmt: skip
    reads = "recordings"
    buffer = 256
    max_source = 15_000  # positions: ten minutes if 4 frames of 10 ms make a position

    def __init__(self, target_tokenizer: Tokenizer, features: FeatureConfig, cmvn: dict | None,
                 order: Any = "none", config: Any = None):  # fmt: skip
        super().__init__(target_tokenizer, order, config)
        self.features, self.cmvn, self.fbank = features, cmvn, features_of(features)
        self.frame_seconds = self.fbank.shift / features.sample_rate
        self._silent = 0  # number of silent recordings so far

    @classmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "SpeechToTextTask":
        """Make the task of a store. Raises UserError if it holds no speech."""
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
        """Load the task from the folder of a checkpoint."""
        facts = read_json(folder / FILE, {"features": mapping(object), "cmvn": CMVN_SHAPE})
        features = feature_config(facts, folder / FILE)
        task = cls(load_tokenizer(folder, "target"), features, facts["cmvn"], order, config)
        task.tags = task.tag_values = tags.load(folder)
        return task

    def save(self, folder: Path) -> None:
        """Write the tokenizer and the options of features into the folder of a checkpoint."""
        super().save(folder)
        facts = {"features": features_facts(self.features), "cmvn": self.cmvn}
        write(folder / FILE, json.dumps(facts, indent=1))

    def describe(self) -> str:
        """As in TextTask."""
        f = self.features
        vocabulary = f"vocabulary: {len(self.target_tokenizer.vocabulary):,} target symbols"
        return f"{vocabulary}; features: {f.bins} of {f.sample_rate} Hz every {f.frame_shift:g} ms, cmvn {f.cmvn}"

    def difference(self, other: TextTask) -> str | None:
        """As in TextTask. It makes no difference whether a store keeps features or waveforms, nor which channel of the
        recordings it has."""
        if difference := super().difference(other):
            return difference
        for key in features_facts(self.features) | features_facts(other.features):
            value, other_value = getattr(self.features, key), getattr(other.features, key)
            if other_value != value and key not in ("keep", "channel"):
                return f"another features.{key}, {other_value} against {value}"
        return None if self.cmvn == other.cmvn else "another mean and deviation of features (see tokenizer_from)"

    def fits(self, store: Store) -> str | None:
        """As in TextTask. The mean and deviation of the store do not matter, since the task has its own."""
        other = self.setup(store, self.target_transform.config, self.config)
        other.cmvn, other.tags = self.cmvn, self.tags
        return self.difference(other)

    def dataset(self, split: Split) -> "SpeechDataset":
        return SpeechDataset(split, self)

    @property
    def spec(self) -> Spec:
        """As in TextTask."""
        target = self.target_tokenizer
        return Spec((FeatureSource(self.features.bins),), len(target.vocabulary), tags=self.tag_values,
                    target_starts=target.word_starts(),
                    target_symbols=tuple(target.vocabulary.symbols))  # fmt: skip

    def encode(self, items: list[Entry | str]) -> list[np.ndarray]:
        """Normalised features of recordings, float32 [S, F] each.

        Args:
            items: Paths, or entries of a manifest.

        Raises:
            AudioError: a recording cannot be read.
        """
        return [self._encoded(item) for item in items]

    def encode_each(self, items: list[Entry | str]) -> list[np.ndarray | AudioError]:
        """As in TextTask."""

        def encoded_or_error(item: Entry | str) -> np.ndarray | AudioError:
            try:
                return self._encoded(item)
            except AudioError as error:
                return error.with_traceback(None)  # a traceback would keep the arrays of its frames in memory

        return [encoded_or_error(item) for item in items]

    def check_entries(self, entries: list[Entry]) -> list[Checked | Broken]:
        """Read each recording to its end; returns a Broken for those that cannot be read."""
        return check(self.features, "resample", entries)

    def _encoded(self, item: Entry | str) -> np.ndarray:
        entry = item if isinstance(item, Entry) else Entry("", item, Path(item), "")
        try:
            channel = entry.channel or self.features.channel
            recording = record(entry.audio, entry.start, entry.duration, channel)
        except AudioError as error:
            if item is entry or error.kind not in ("missing", "not audio"):
                raise
            raise AudioError(f"{error}; the model reads a recording, a list of files (.txt, .list), or a manifest "
                             "(.tsv, .jsonl, Kaldi folder)", error.kind) from error  # fmt: skip
        if recording.silent:
            self._tell_silent(entry)
        samples = resample(recording, self.features.sample_rate)
        if complaint := self.fbank.complaint(len(samples)):
            raise AudioError(f"{entry.audio}: {complaint[0]}", complaint[1])
        return self.normalised(self.fbank(samples))

    def _tell_silent(self, entry: Entry) -> None:
        """Warn about a silent recording; only the first ones are named."""
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
        """Features of an utterance [S, F], normalised as features.cmvn says, float32."""
        if self.features.cmvn == "global":
            return normalise(features, np.array(self.cmvn["mean"]), np.array(self.cmvn["deviation"]))
        return normalise_utterance(features) if self.features.cmvn == "utterance" else features

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """Ids of utterances and their durations in seconds."""
        known = split.known(np.asarray(examples, np.int64))
        return [f"{utterance['id']} ({utterance['seconds']:.1f} s)" for utterance in known]

    def source_symbols(self, source: np.ndarray, size: int) -> list[str]:
        """The start time of each position, in seconds."""
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
        """Check the training data and its options before training. Raises UserError."""
        self.check_transforms(config)
        if config.batching == "packed":
            raise UserError("data.batching=packed requires text; use data.batching=bucket_2d")
        if self.target_tokenizer.sampling and TEXT not in dataset.split:
            raise UserError("tokenizer.sampling requires the raw text of the train split, and the store lacks it")
        if config.waveform.active and not dataset.recordings.has_waveforms:
            raise UserError("data.waveform requires waveforms, and the store has features; make it with "
                            "features.keep=waveform")  # fmt: skip


class SpeechDataset(TextDataset):
    """The utterances of a split. Source lengths are numbers of frames; perturbed speeds change them in a batch.

    Attributes:
        source_seconds: Seconds from one frame to the next.
    """

    def __init__(self, split: Split, task: SpeechToTextTask):
        super().__init__(split, task)
        self.source_seconds, self.recordings = task.frame_seconds, Recordings(split, task.fbank)

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of frames and target lengths (EOS included) of the examples first ... last - 1, int32."""
        return self.recordings.lengths(first, last), self.split.lengths(TOKENS, first, last) + 1 + self.task.beginning

    def collate(self, examples: np.ndarray, rows: np.ndarray | None = None, draw: Draw | None = None) -> Batch:
        """Make a batch of examples; without `draw` they are not augmented."""
        examples = np.asarray(examples, np.int64)
        (source,) = self.task.padded_sources(self._features(examples, draw))
        decoder_input, target, lengths = self._targets(examples, draw)
        targets = padded(target, lengths)
        totals = int(source.lengths.sum()), int(lengths.sum())
        positions = source.values.size(0) * source.values.size(1)
        return Batch(
            ids=torch.from_numpy(examples),
            sources=(source,),
            decoder_input=padded(decoder_input, lengths),
            target=targets,
            target_lengths=torch.from_numpy(lengths),
            counts=Counts(len(examples), *totals, positions - totals[0], targets.numel() - totals[1]),
            tags=self._tags(examples),
            columns=self._columns(examples),
        )

    def _features(self, examples: np.ndarray, draw: Draw | None) -> list[np.ndarray]:
        """Normalised features of examples, float32 [S, F] each; `draw`: augment them."""
        if draw is None:
            return self.task.inputs(self.split, examples)
        change, config = None, draw.config
        if config.waveform.active:
            drawn = seeds(draw.seed, draw.epoch, examples, "waveform").tolist()
            rate = self.task.features.sample_rate

            def change(samples: np.ndarray, place: int) -> np.ndarray:
                return perturb(samples, rate, config.waveform, drawn[place])

        flat, frames = self.recordings.features(examples, change)
        rows = [self.task.normalised(row) for row in np.split(flat, np.cumsum(frames)[:-1])]
        if config.spec_augment.active:
            drawn_masks = seeds(draw.seed, draw.epoch, examples, "spec_augment").tolist()
            rows = [spec_augment(row, config.spec_augment, seed) for row, seed in zip(rows, drawn_masks, strict=True)]
        if not config.transforms:
            return rows
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        flat, sizes = self._transformed("source", np.concatenate(rows), sizes, examples, draw)
        return np.split(flat, np.cumsum(sizes)[:-1])
