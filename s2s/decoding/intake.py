"""Sentences as they may be decoded: what is too long is cut, and what cannot be decoded has failed."""

from bisect import bisect_right
from itertools import pairwise
from typing import Any

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.setting import Setting
from s2s.errors import Failure, UserError

Ids = list[int]


class Intake:
    """What sources, prefixes and targets may be.

    Args:
        config: Decode options.
        setting: Models and task.
        most: Tokens of a hypothesis at most, EOS among them; None: any number.
        ctc: Whether CTC rates hypotheses.
    """

    def __init__(self, config: DecodeConfig, setting: Setting, most: int | None, ctc: bool):
        self.config, self.setting, self.most, self.ctc = config, setting, most, ctc
        limits = [model.max_length - 1 for model in setting.models if model.max_length is not None]  # without EOS
        self.limit = longest_source(config, setting.sides.max_source, min(limits, default=None))

    def cut(self, source: Ids) -> Ids:
        """A source as far as decode.max_source and the models take it."""
        if self.limit is None or not len(source) or self.setting.length(source) <= self.limit:
            return source
        lengths = range(len(source) + 1)
        return source[: bisect_right(lengths, self.limit, key=lambda n: self.setting.length(source[:n])) - 1]

    def checked(self, sources: list, companions: list[Ids], name: str) -> tuple[list, set[int], dict[int, Any]]:
        """Sources, those that are too long cut; which these are; and the hypotheses of sentences that are known to
        fail: of companions (prefixes or targets, which `name` says) that are not for the models, too."""
        found, cut, failed = list(sources), set(), {}
        for i, (source, ids) in enumerate(zip(sources, companions, strict=True)):
            if (error := self._complaint(source, ids, name)) is not None:
                failed[i] = [Hypothesis.failed(error)]
            elif (short := self.cut(source)) is not source:
                found[i] = short
                cut.add(i)
        return found, cut, failed

    def _complaint(self, source: Ids | UserError | Failure, ids: Ids, name: str) -> UserError | Failure | None:
        """Why a sentence fails, as of `checked`, if that is known."""
        if isinstance(source, Exception):
            return source
        if self.most is not None and len(ids) >= self.most:
            return UserError(f"{name} of {len(ids)} tokens; with EOS, model.max_positions={self.most} is the most")
        length = self.setting.length(source) if len(source) else 0
        if self.config.long_source == "refuse" and self.limit is not None and length > self.limit:
            unit = "tokens" if self.setting.sides.seconds is None else "positions"
            return UserError(f"source of {length} {unit}; at most {self.limit} are taken (decode.max_source, "
                             "model.max_positions)")  # fmt: skip
        needed = len(ids) + sum(one == other for one, other in pairwise(ids))  # with a blank between two of the same
        frames = self.setting.positions(source) if len(source) else 0
        if self.ctc and name == "prefix" and len(ids) and needed > frames:
            return UserError(f"prefix of {len(ids)} tokens: they do not fit into {frames} frames of the encoder, and "
                             "have no probability by CTC; decode.ctc_weight=0 leaves it out")  # fmt: skip
        return None


def longest_source(config: DecodeConfig, default: int | None, most: int | None) -> int | None:
    """Tokens, or positions of the encoder, of the longest source that is not cut; None: any is.

    Args:
        config: Decode options.
        default: decode.max_source where they do not say it.
        most: That the models take.
    """
    limits = (config.max_source or (default if config.chunk_seconds is None else None), most)
    return min((limit for limit in limits if limit is not None), default=None)
