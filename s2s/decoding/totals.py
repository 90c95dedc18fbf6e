"""Totals of a decoding, for its final line."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from s2s.decoding.hypothesis import Hypothesis


class Places:
    """Counts sentences, and remembers the numbers of the first ones."""

    SHOWN = 5

    def __init__(self, count: int = 0, first: Iterable[int] = ()):
        self.count, self.first = count, list(first)

    def add(self, number: int) -> None:
        """Count a sentence by its number, from 1."""
        self.count += 1
        if len(self.first) < self.SHOWN:
            self.first.append(number)

    def __add__(self, other: "Places") -> "Places":
        both = Places()
        both.count, both.first = self.count + other.count, sorted(self.first + other.first)[: self.SHOWN]
        return both

    def text(self, unit: str) -> str:
        """The count and the first numbers; `unit` is what a sentence is called."""
        more = ", ..." * (self.count > len(self.first))
        return f"{self.count:,} {unit}{'s' * (self.count > 1)} ({', '.join(map(str, self.first))}{more})"


@dataclass
class Totals:
    """Totals over sentences.

    Attributes:
        sentences, tokens: Their number, and that of the tokens of their best hypotheses.
        truncated: Hypotheses that the maximum length has ended.
        unmet: Sentences that lack constraints.
        guessed, passes: In speculative decoding, accepted tokens and passes of the decoder.
        audio: Seconds of recordings.
        tally: As in Generator.
        cut, failed: Sources that were cut, and sentences that have failed.
    """

    sentences: int = 0
    tokens: int = 0
    truncated: int = 0
    unmet: int = 0
    guessed: int = 0
    passes: int = 0
    audio: float = 0.0
    tally: Counter = field(default_factory=Counter)
    cut: Places = field(default_factory=Places)
    failed: Places = field(default_factory=Places)

    @classmethod
    def of_all(cls, parts: Iterable["Totals"]) -> "Totals":
        """The totals of several processes together."""
        total = cls()
        for part in parts:
            for name in (each.name for each in fields(cls)):
                value: Any = getattr(total, name) + getattr(part, name)
                setattr(total, name, value)
        return total

    def add(self, number: int, best: Hypothesis) -> None:
        """Add the best hypothesis of a sentence, which has this number, from 1."""
        self.sentences += 1
        self.tokens += len(best.ids)
        self.truncated += best.truncated
        if best.source_truncated:
            self.cut.add(number)
        if best.error is not None:
            self.failed.add(number)
        if best.passes:
            self.passes += best.passes
            self.guessed += len(best.token_log_probabilities) - best.passes
        self.unmet += bool(best.unmet)

    def plain(self) -> dict[str, Any]:
        """The totals as JSON has them; `of_plain` makes them of it."""
        return {**vars(self), "tally": dict(self.tally), "cut": vars(self.cut), "failed": vars(self.failed)}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Totals":
        """The totals of what `plain` returned."""
        places = {key: Places(**plain[key]) for key in ("cut", "failed")}
        return cls(**{**plain, "tally": Counter(plain["tally"]), **places})

    def line(self, seconds: float | None, unit: str) -> str:
        """The final line.

        Args:
            seconds: Time taken; None: it is not known.
            unit: What a sentence is called.
        """
        line = f"{self.sentences:,} sentences, {self.tokens:,} tokens"
        if seconds is not None:
            line += f", {seconds:.1f} s, {self.sentences / seconds:,.1f} sentences/s"
        if self.audio and seconds is not None:
            line += f", RTFx {self.audio / seconds:,.1f}"
        if self.truncated:
            line += f"; {self.truncated:,} ended by the maximum length (decode.max_length_a, decode.max_length_b)"
        if self.passes:
            line += f"; {self.guessed / self.passes:.2f} proposed tokens accepted per step"
        for side in ("encoder", "decoder"):
            if layers := self.tally[side]:
                line += f"; {self.tally[side + ' run'] / layers:.0%} of the {side}'s layers were run"
        if self.unmet:
            line += f"; {self.unmet:,} lack some of their constraints, which did not fit into the maximum length"
        if self.cut.count:
            line += f"; too long and cut (decode.max_source, model.max_positions): {self.cut.text(unit)}"
        if self.failed.count:
            line += f"; failed and left empty: {self.failed.text(unit)}"
        return line
