"""Columns of speech in a store: features or waveforms, and facts about each utterance.

    source.features     log-mel features of an example, frames x F, float16, not normalised
    source.waveform     or its samples at the features' rate, int16
    source.utterance    an object for each: id, speaker, language (null: unknown), seconds

Target tokens and texts are as in every store. The store's facts are `features`, the resolved `FeatureConfig`, and
`cmvn`, mean and deviation of each feature over the training split (null where features.cmvn is not global).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s2s.audio.features import Fbank, FeatureConfig
from s2s.audio.waveform import from_int16
from s2s.config import schema
from s2s.config.shapes import conform, mapping, number
from s2s.data.columns import Column
from s2s.data.split import Split
from s2s.errors import UserError

FEATURES, WAVEFORMS, UTTERANCES = "source.features", "source.waveform", "source.utterance"
MOST = 1e6  # far above any logarithm of an energy; larger features would become infinite in a model
CMVN_SHAPE = ({"mean": [number(-MOST, MOST)], "deviation": [number(0, MOST)]}, None)
Perturb = Callable[[np.ndarray, int], np.ndarray]


class Recordings:
    """The recordings of a split, as features or waveforms.

    Args:
        split: A split of a store of speech.
        fbank: Computes features from waveforms.
    """

    def __init__(self, split: Split, fbank: Fbank):
        self.split, self.fbank = split, fbank
        self.has_waveforms = WAVEFORMS in split

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Number of frames of the examples first ... last - 1, int32 [last - first]. Raises as Split.lengths."""
        if not self.has_waveforms:
            return self.split.lengths(FEATURES, first, last)
        return self.fbank.frames(self.split.lengths(WAVEFORMS, first, last)).astype(np.int32)

    def features(self, examples: np.ndarray, perturb: Perturb | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Features of examples, not normalised.

        Args:
            examples: Example numbers in any order, integers [B].
            perturb: Changes the samples of an example (float32 [n], -1 to 1), given its place in `examples`. It
                requires waveforms in the store.

        Returns:
            features: Concatenated features of the examples, float32 [sum of frames, F].
            frames: Number of frames of each example, int64 [B].

        Raises:
            IndexError: there is no such example.
            UserError: `perturb` is given, and the store has no waveforms.
        """
        if not self.has_waveforms:
            if perturb is not None:
                raise UserError(f"split '{self.split.name}': speed, noise and gain require waveforms, and the store "
                                "has features; make it with features.keep=waveform")  # fmt: skip
            values, frames = self.split.gather(FEATURES, examples)
            return values.astype(np.float32).reshape(-1, self.fbank.config.bins), frames
        waveforms = self.waveforms(examples)
        if perturb is not None:
            waveforms = [perturb(samples, place) for place, samples in enumerate(waveforms)]
        rows = [self.fbank(samples) for samples in waveforms]
        return np.concatenate(rows), np.fromiter(map(len, rows), np.int64, len(rows))

    def waveforms(self, examples: np.ndarray) -> list[np.ndarray]:
        """Samples of examples, float32 [n] each, -1 to 1; the store must have waveforms."""
        values, lengths = self.split.gather(WAVEFORMS, examples)
        return np.split(from_int16(values), np.cumsum(lengths)[:-1])


def source_column(config: FeatureConfig) -> Column:
    """The column of recordings, as features or waveforms."""
    if config.keep == "features":
        return Column(FEATURES, "array", "<f2", config.bins)
    return Column(WAVEFORMS, "array", "<i2")


def feature_config(facts: dict, where: Path) -> FeatureConfig:
    """The options of features, from the facts of a store or a checkpoint's `features.json`; `cmvn` is checked, too.

    Args:
        facts: With `features` and `cmvn`.
        where: The file, for messages.

    Raises:
        UserError: the facts are invalid; the message names the file.
    """
    facts = conform(facts, {"features": mapping(object), "cmvn": CMVN_SHAPE}, str(where))
    config = schema.load(FeatureConfig, facts["features"], str(where))
    sizes = {len(values) for values in (facts["cmvn"] or {}).values()}
    if sizes != ({config.bins} if config.cmvn == "global" else set()):
        raise UserError(f"{where}: cmvn: must have a mean and a deviation for each of the {config.bins} features if "
                        "features.cmvn=global, and none otherwise")  # fmt: skip
    return config


def features_facts(config: FeatureConfig) -> dict:
    """The facts that `feature_config` reads."""
    facts = dataclasses.asdict(config)
    if config.channel is None:  # left out, to keep the digests of stores that are older than this option
        del facts["channel"]
    if config.kind == "kaldi":  # as above
        del facts["kind"]
    return facts
