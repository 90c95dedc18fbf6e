"""Checks sentences before decoding: sources that are too long are cut, and invalid sentences fail."""

from bisect import bisect_right
from itertools import pairwise
from typing import Any

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.setting import Setting
from s2s.errors import Failure, UserError

Ids = list[int]


class Intake:
    """Checks sources, prefixes and targets.

    Args:
        config: Decode options.
        setting: Models and task.
        most: Maximum length of a hypothesis in tokens, EOS among them; None: there is none.
        ctc: Whether CTC scores hypotheses.
    """

    def __init__(self, config: DecodeConfig, setting: Setting, most: int | None, ctc: bool):
        self.config, self.setting, self.most, self.ctc = config, setting, most, ctc
        limits = [model.max_source - 1 for model in setting.models if model.max_source is not None]  # without EOS
        self.limit = longest_source(config, setting.sides.max_source, min(limits, default=None))

    def cut(self, source: Ids) -> Ids:
        """A source, cut to decode.max_source and to the maximum length of the models."""
        if self.limit is None or not len(source) or self.setting.length(source) <= self.limit:
            return source
        lengths = range(len(source) + 1)
        return source[: bisect_right(lengths, self.limit, key=lambda n: self.setting.length(source[:n])) - 1]

    def checked(self, sources: list, companions: list[Ids], name: str) -> tuple[list, set[int], dict[int, Any]]:
        """Check sentences.

        Args:
            sources: Source ids, or the error of each sentence that has failed already.
            companions: Prefixes or targets.
            name: `prefix` or `target`.

        Returns:
            The sources, cut where they are too long; the numbers of those that were cut; and number -> hypotheses of
            the sentences that fail.
        """
        checked, cut, failed = list(sources), set(), {}
        for i, (source, ids) in enumerate(zip(sources, companions, strict=True)):
            if (error := self._complaint(source, ids, name)) is not None:
                failed[i] = [Hypothesis.failed(error)]
            elif (short := self.cut(source)) is not source:
                checked[i] = short
                cut.add(i)
        return checked, cut, failed

    def _complaint(self, source: Ids | UserError | Failure, ids: Ids, name: str) -> UserError | Failure | None:
        """Why a sentence fails; None: it can be decoded."""
        if isinstance(source, Exception):
            return source
        if self.most is not None and len(ids) >= self.most:
            return UserError(f"{name} of {len(ids)} tokens; model.max_positions={self.most} allows at most "
                             f"{self.most - 1} and EOS")  # fmt: skip
        length = self.setting.length(source) if len(source) else 0
        if self.config.long_source == "refuse" and self.limit is not None and length > self.limit:
            unit = "tokens" if self.setting.sides.seconds is None else "positions"
            return UserError(f"source of {length} {unit}; at most {self.limit} are allowed (decode.max_source, "
                             "model.max_positions)")  # fmt: skip
        if not self.ctc or name != "prefix" or not len(ids):
            return None
        needed = len(ids) + sum(left == right for left, right in pairwise(ids))  # repeated labels need a blank
        frames = self.setting.positions(source) if len(source) else 0
        if needed > frames:
            return UserError(f"prefix of {len(ids)} tokens: CTC cannot align them with {frames} frames of the encoder; "
                             "decode.ctc_weight=0 leaves CTC out")  # fmt: skip
        return None


def longest_source(config: DecodeConfig, default: int | None, most: int | None) -> int | None:
    """The maximum length of a source, in tokens or encoder positions; longer ones are cut. None: there is none.

    Args:
        config: Decode options.
        default: Used if decode.max_source is not set.
        most: The maximum of the models; None: there is none.
    """
    if config.chunk_seconds is not None or config.encoder_chunk is not None:  # nothing grows with a source's square
        default = None
    limits = (config.max_source or default, most if config.encoder_chunk is None else None)
    return min((limit for limit in limits if limit is not None), default=None)
