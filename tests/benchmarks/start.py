"""Seconds from typing a command to its result on almost no work, beside Python's own start."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from corpus import Corpus
from measure import Row

REFERENCE = "python -c pass"
ROUNDS = 5


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Seconds of whole processes, medians; the corpus is not used."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "line"
        file.write_text("one line of text\n", encoding="utf-8")
        words = {
            "s2s-score, BLEU of one line": ["score", f"hypothesis={file}", f"reference={file}", "metrics=bleu"],
            "s2s-score, WER of one line": ["score", f"hypothesis={file}", f"reference={file}", "metrics=wer"],
            "s2s-preprocess --help": ["preprocess", "--help"],
            "s2s-train --help": ["train", "--help"],
        }
        rounds = 1 if quick else ROUNDS
        python = _seconds(["-c", "pass"], rounds)
        return [
            Row(case, "seconds", _seconds(["-m", f"s2s_cli.{name}", *rest], rounds), python)
            for case, (name, *rest) in words.items()
        ]


def _seconds(words: list[str], rounds: int) -> float:
    """Median wall time of a process, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
