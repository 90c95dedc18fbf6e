"""Speech in a store: features or waveforms, beside each utterance what is known of it.

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
MOST = 1e6  # far from what logarithms of energies are; features beyond it would be infinite in a model
CMVN_SHAPE = ({"mean": [number(-MOST, MOST)], "deviation": [number(0, MOST)]}, None)
Perturb = Callable[[np.ndarray, int], np.ndarray]


class Recordings:
    """The recordings of a split: features or waveforms, whichever it has.

    Args:
        split: Of a store of speech.
        fbank: What computes the features of waveforms.
    """

    def __init__(self, split: Split, fbank: Fbank):
        self.split, self.fbank = split, fbank
        self.has_waveforms = WAVEFORMS in split

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Frames of each of the examples first ... last - 1, int32 [last - first]. Raises as Split.lengths."""
        if not self.has_waveforms:
            return self.split.lengths(FEATURES, first, last)
        return self.fbank.frames(self.split.lengths(WAVEFORMS, first, last)).astype(np.int32)

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
        if not self.has_waveforms:
            if perturb is not None:
                raise UserError(f"split '{self.split.name}': it has features, and speed, noise and gain change "
                                "waveforms; make the store with features.keep=waveform")  # fmt: skip
            values, frames = self.split.gather(FEATURES, examples)
            return values.astype(np.float32).reshape(-1, self.fbank.config.bins), frames
        waveforms = self.waveforms(examples)
        if perturb is not None:
            waveforms = [perturb(samples, place) for place, samples in enumerate(waveforms)]
        found = [self.fbank(samples) for samples in waveforms]
        return np.concatenate(found), np.fromiter(map(len, found), np.int64, len(found))

    def waveforms(self, examples: np.ndarray) -> list[np.ndarray]:
        """Samples of examples, float32 [n] of -1..1 each, of a store that has them."""
        values, lengths = self.split.gather(WAVEFORMS, examples)
        return np.split(from_int16(values), np.cumsum(lengths)[:-1])


def source_column(config: FeatureConfig) -> Column:
    """What a store keeps of recordings."""
    if config.keep == "features":
        return Column(FEATURES, "array", "<f2", config.bins)
    return Column(WAVEFORMS, "array", "<i2")


def feature_config(facts: dict, where: Path) -> FeatureConfig:
    """The options of the features in a store's facts or in a checkpoint's `features.json`, and of its `cmvn` whether
    it fits them. Raises UserError naming that file."""
    facts = conform(facts, {"features": mapping(object), "cmvn": CMVN_SHAPE}, str(where))
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
