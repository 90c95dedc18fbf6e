"""Speech in a store: features or waveforms on the source side, beside each utterance what is known of it.

    SPLIT-SHARD.source.features    log-mel features of an example, frames x F, float16, not normalised
    SPLIT-SHARD.source.waveform    or its samples at the features' rate, int16
    SPLIT-SHARD.source.utterance   a line of JSON for each: id, speaker, language (null: unknown), seconds

Target tokens and texts are as in every store. The manifest holds `features`, the resolved `FeatureConfig`, and `cmvn`,
mean and deviation of each feature over the training split (null where features.cmvn is not global).
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from s2s.audio.features import Fbank, FeatureConfig
from s2s.audio.waveform import from_int16
from s2s.config import schema
from s2s.config.documents import parse_json
from s2s.data.store import TEXT, Split, Store
from s2s.errors import UserError
from s2s.manifests import MANIFEST

FEATURES, WAVEFORM = np.dtype("<f2"), np.dtype("<i2")
UTTERANCE = {"id": str, "speaker": (str, None), "language": (str, None), "seconds": float}

Perturb = Callable[[np.ndarray, int], np.ndarray]


class SpeechSplit(Split):
    """One split of one or more stores of speech: features, and token ids of the target side without EOS.

    Of `Split` there is everything but the tokens and lines of the source side.

    Args:
        name: Of the split.
        stores: Stores that have it, with the same features.
    """

    def __init__(self, name: str, stores: list[Store]):
        self.name = name
        self._stores = [(store, store.manifest["splits"][name]) for store in stores]
        self.config = feature_config(stores[0].manifest, stores[0].path / MANIFEST)
        features = self.config.keep == "features"
        self._source = self._column(f"source.{self.config.keep}", FEATURES if features else WAVEFORM)
        self._tokens = {"target": self._column("target.tokens", np.dtype(self._stores[0][1]["target"]["type"]))}
        self._texts = {
            "target": self._column("target.text", TEXT), "utterance": self._column("source.utterance", TEXT)
        }  # fmt: skip

    @cached_property
    def fbank(self) -> Fbank:
        """What computes the features."""
        return Fbank(self.config)

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames, and target tokens without EOS, of each of the examples first ... last - 1, int32 [last - first] both.

        Raises:
            IndexError: examples that are not there.
            UserError: a file that cannot be read or is damaged, by name; this holds for all that is read here.
        """
        values = self._source.lengths(first, last)
        frames = values // self.config.bins if self.config.keep == "features" else self.fbank.frames(values)
        return frames.astype(np.int32), self._tokens["target"].lengths(first, last)

    @property
    def source_lengths(self) -> np.ndarray:
        """Frames of each example, int64 [examples]."""
        return self.lengths(0, len(self))[0].astype(np.int64)

    def features(self, examples: np.ndarray, perturb: Perturb | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Features of examples of any numbers in any order, not normalised.

        Args:
            examples: Their numbers, integers [B].
            perturb: Makes other samples of an example's samples (float32 [n] of -1..1) and its place in `examples`;
                needs waveforms in the store.

        Returns:
            features: Of all these examples, one after the other, float32 [sum of frames, F].
            frames: Of each example, int64 [B].

        Raises:
            IndexError: an example that is not there.
            UserError: `perturb` without waveforms.
        """
        if self.config.keep == "features":
            if perturb is not None:
                raise UserError(
                    f"{self._stores[0][0].path}: it has features, and speed, noise and gain change waveforms; "
                    "make the store with features.keep=waveform"
                )
            values, lengths = self._source.gather(examples)
            return values.reshape(-1, self.config.bins).astype(np.float32), lengths // self.config.bins
        waveforms = self.waveforms(examples)
        if perturb is not None:
            waveforms = [perturb(samples, place) for place, samples in enumerate(waveforms)]
        found = [self.fbank(samples) for samples in waveforms]
        return np.concatenate(found), np.fromiter(map(len, found), np.int64, len(found))

    def waveforms(self, examples: np.ndarray) -> list[np.ndarray]:
        """Samples of examples, float32 [n] of -1..1 each, of a store that has them."""
        values, lengths = self._source.gather(examples)
        return np.split(from_int16(values), np.cumsum(lengths)[:-1])

    def utterances(self, examples: np.ndarray) -> list[dict]:
        """What is known of examples: a dictionary of UTTERANCE for each; None for what is not known."""
        where = f"{self._stores[0][0].path}: an utterance of '{self.name}'"
        return [parse_json(line, where, UTTERANCE) for line in self._lines("utterance", examples)]


def feature_config(facts: dict, where: Path) -> FeatureConfig:
    """The options of the features in a store's manifest or in a checkpoint's `features.json`, and of its `cmvn` whether
    it fits them. Raises UserError naming that file."""
    config = schema.load(FeatureConfig, facts["features"], str(where))
    sizes = {len(values) for values in (facts["cmvn"] or {}).values()}
    if sizes != ({config.bins} if config.cmvn == "global" else set()):
        raise UserError(f"{where}: cmvn: a mean and a deviation of each of the {config.bins} features are needed where "
                        "features.cmvn=global, and none elsewhere")  # fmt: skip
    return config


def features_facts(config: FeatureConfig) -> dict:
    """What `feature_config` reads."""
    facts = dataclasses.asdict(config)
    if config.channel is None:  # so are the digests of stores that were made before there was a choice
        del facts["channel"]
    return facts
