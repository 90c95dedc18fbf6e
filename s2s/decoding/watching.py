"""Warns once if many tokens of what is decoded are unknown: for s2s-generate, the library and s2s-serve."""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator

from s2s.data.unknown import Watch
from s2s.decoding.inputs import Window
from s2s.tasks.multi_source import Several


class Watches:
    """Counts the unknown tokens of the sources of a task, and of targets that are scored.

    Args:
        task: The task of the models; of recordings nothing is counted.
        name: What the sources are, for the warning.
        target: What the targets are, for the warning; None: targets are not counted.
        say: Gets the warning.
    """

    def __init__(self, task, name: str = "the input", target: str | None = None,
                 say: Callable[[str], None] = warnings.warn):  # fmt: skip
        tokenizers = task.source_tokenizers.values() if task.reads == "lines" else ()
        self._sources = [Watch(f"{name}{f', source {number}' if number > 1 else ''}", tokenizer, say)
                         for number, tokenizer in enumerate(tokenizers, 1)]  # fmt: skip
        self._target = None if target is None else Watch(target, task.target_tokenizer, say)
        self._lock = threading.Lock()

    def add(self, sources: list, lines: list) -> None:
        """Count the tokens of sources, which were made of the lines; those that could not be made are left out."""
        pairs = [pair for pair in zip(sources, lines, strict=True) if not isinstance(pair[0], Exception)]
        with self._lock:
            for number, watch in enumerate(self._sources):
                parts = [source.parts[number] if isinstance(source, Several) else source for source, _ in pairs]
                texts = [line.split("\t")[number] if len(self._sources) > 1 else line for _, line in pairs]
                watch.add(parts, texts)

    def check(self) -> None:
        """Warn even if there are only a few tokens."""
        with self._lock:
            for watch in (*self._sources, *filter(None, [self._target])):
                watch.check()

    def over(self, windows: Iterable[Window]) -> Iterator[Window]:
        """The windows, unchanged; warns at once if there are enough tokens, or else at the end."""
        for window in windows:
            if self._sources and window.lines is not None:
                self.add(window.sources, window.lines())
            if self._target and window.companions is not None and window.companion_lines is not None:
                self._target.add(window.companions, window.companion_lines())
            yield window
        self.check()
