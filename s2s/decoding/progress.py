"""What s2s-generate shows of its progress."""

import sys
import time
from collections.abc import Iterator

from s2s.decoding.hypothesis import Skipped
from s2s.decoding.totals import Totals

PROMPT = "> "
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} sentences{postfix}, {remaining} left"
COUNTER = "{n_fmt} sentences{postfix}, {elapsed}"  # where the number of sentences is unknown
NAMED = 20  # failed sentences that are named; the others are only counted


class Progress:
    """Shows a progress bar on a terminal, or a prompt where the user types the input, and the final line.

    Args:
        total: Number of sentences, if known.
        typed: Whether the user types the input.
        hidden: Whether to show neither.

    Attributes:
        totals: Totals of what is decoded.
        window: The window that is being decoded.
    """

    def __init__(self, total: int | None, typed: bool = False, hidden: bool = False):
        from tqdm import tqdm

        self.typed, self.read, self.totals = typed, 0, Totals()
        hidden = hidden or typed or not sys.stderr.isatty()
        self.bar = tqdm(total=total, dynamic_ncols=True, disable=hidden, bar_format=BAR if total else COUNTER)
        self.unit, self.window, self.earlier = "line", None, 0
        self.start = time.perf_counter()

    def __enter__(self) -> "Progress":
        self.answered()
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def goes_on(self, sentences: int, output: str) -> None:
        """Begin after sentences that an earlier call has decoded."""
        self.earlier = sentences
        if sentences:
            print(f"output={output}: goes on after {sentences:,} sentences", file=sys.stderr)
            self.reached(sentences)

    def advance(self, sentences: int) -> None:
        """Advance the bar by this many decoded sentences."""
        if self.bar.disable:
            return
        speed = self.totals.tokens / (time.perf_counter() - self.start)
        self.bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
        self.bar.update(sentences)

    def reached(self, sentences: int) -> None:
        """Set the bar to this many decoded sentences."""
        if not self.bar.disable:
            self.bar.update(sentences - self.bar.n)

    def answered(self) -> None:
        """Show the prompt if everything that was typed has its answer."""
        if self.typed and self.totals.sentences == self.read and sys.stderr.isatty():
            print(PROMPT, end="", file=sys.stderr, flush=True)

    def heard(self, windows: Iterator, frame_seconds: float | None) -> Iterator:
        """Yield the windows unchanged, and add up the seconds of their recordings."""
        for window in windows:
            self.window, self.unit = window, window.unit
            self.read += len(window.sources)
            if frame_seconds is not None:
                seconds = sum(len(s) for s in window.sources if not isinstance(s, Exception)) * frame_seconds
                self.totals.audio += seconds
            yield window

    def count(self, number: int, best) -> None:
        """Add the best hypothesis of a sentence, with its number from 1, to the totals."""
        self.totals.add(number, best)
        if best.error is not None and self.totals.failed.count <= NAMED:
            where = "" if isinstance(best.error, Skipped) else f"{self.unit} {number}: "
            self.bar.write(f"warning: {where}{best.error}", file=sys.stderr)

    def add(self, parts: list) -> None:
        """Set the totals to those of all processes."""
        self.totals = type(self.totals).of_all(parts)

    def report(self) -> None:
        """Print the final line."""
        if self.typed and sys.stderr.isatty():
            print(file=sys.stderr)  # after the prompt
        line = self.totals.line(time.perf_counter() - self.start, self.unit)
        print(line + f"; {self.earlier:,} sentences before" * bool(self.earlier), file=sys.stderr)
