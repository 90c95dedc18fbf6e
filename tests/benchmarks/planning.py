"""Planning epochs of 100 million and of a billion made-up pairs: seconds and peak memory.

A fresh process plans all windows through BatchIterator; its dataset computes lengths where a store would read them, and
its collation only checks that every example comes once. Packing and the billion plan their first windows, and `an
epoch` is scaled up from these. Memory is the process's peak beyond what it had after its imports.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import NormalDist

import numpy as np
from corpus import Corpus
from measure import Row

from s2s.data.iterator import BatchIterator, DataConfig
from s2s.data.split import CorpusRange

REFERENCE = "none"
MEDIAN, SPREAD, RATIO_SPREAD = 20, 0.6, 0.15  # of log-normal source lengths, and of target over source


class MadeUp:
    """Pairs of which only lengths exist: those of pair i are quantiles that 32 bits of a hash of i choose."""

    source_seconds = None

    def __init__(self, pairs: int):
        self.pairs = pairs
        self.corpora = [CorpusRange("made-up", 0, pairs, "src", "tgt")]
        normal = np.array([NormalDist().inv_cdf((rank + 0.5) / 65536) for rank in range(65536)])
        self._source, self._ratio = MEDIAN * np.exp(SPREAD * normal), np.exp(RATIO_SPREAD * normal)

    def __len__(self) -> int:
        return self.pairs

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        bits = np.arange(first, last, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(29)
        bits *= np.uint64(0xBF58476D1CE4E5B9)
        source = self._source[bits >> np.uint64(48)]
        target = source * self._ratio[bits >> np.uint64(32) & np.uint64(65535)]
        return tuple(np.rint(side).astype(np.int32) + 1 for side in (source, target))

    def collate(self, examples: np.ndarray, rows: np.ndarray | None, draw) -> np.ndarray:
        """No tensors: the examples' numbers are the batch."""
        return examples


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Neither the corpus nor the device means anything here."""
    if quick:
        return _case("token_budget", 100_000, 10_000, None) + _case("packed", 100_000, 10_000, 2)
    rows = _case("token_budget", 100_000_000, 1 << 20, None)
    rows += _case("packed", 100_000_000, 1 << 20, 2)
    return rows + _case("token_budget", 1_000_000_000, 1 << 20, 4)


def _case(batching: str, pairs: int, pool: int, windows: int | None) -> list[Row]:
    words = [f"--batching={batching}", f"--pairs={pairs}", f"--pool={pool}"]
    words += [f"--windows={windows}"] if windows else []
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    case = f"{batching}, {pairs:,} pairs, {windows or 'all'} of {found.pop('windows')} windows"
    return [Row(case, figure, value) for figure, value in found.items()]


def plan_epoch(batching: str, pairs: int, pool: int, windows: int | None) -> dict[str, float]:
    """Plan an epoch, or its first windows, in this process, and resume at a random place of the epoch.

    Raises:
        RuntimeError: an example was missing or came twice, or another batch came after resuming.
    """
    before, dataset, config = _memory("VmRSS"), MadeUp(pairs), DataConfig(batching=batching, pool=pool)
    began = time.perf_counter()
    iterator = BatchIterator(dataset, config, seed=1, workers=0)
    total = iterator.windows
    place = {"epoch": 1, "window": random.Random(1).randrange(total), "position": 50, "group": 1}
    batches, expected, count, numbers = iterator.rest_of_epoch(), None, 0, 0
    started = [began]  # when the first batch of each window was there
    while (windows is None or len(started) <= windows + 1) and iterator.epoch == 1:
        here = iterator.state_dict() == place
        batch = next(batches, None)
        if batch is None:
            break
        count, numbers = count + len(batch), numbers + int(batch.sum())
        expected = batch if here else expected
        if iterator.position == 1:
            started.append(time.perf_counter())
    seconds = time.perf_counter() - began
    batches.close()
    peak = _memory("VmHWM") - before
    if windows is None and (count, numbers) != (pairs, pairs * (pairs - 1) // 2):
        raise RuntimeError("an example was missing or came twice")
    if windows is not None:  # the first window is planned alone, the others while the one before is handed out
        seconds = (started[1] - began) + (started[-1] - started[1]) / (len(started) - 2) * (total - 1)
    began = time.perf_counter()
    resumed = BatchIterator(dataset, config, seed=1, workers=0)
    resumed.load_state_dict(place)
    batches = resumed.rest_of_epoch()
    batch, resuming = next(batches), time.perf_counter() - began
    batches.close()
    if expected is not None and not np.array_equal(batch, expected):
        raise RuntimeError("another batch came after resuming")
    return {
        "windows": total,
        "an epoch, seconds": seconds,
        "pairs/s": pairs / seconds,
        "peak memory, MB": peak / 1e6,
        "first batch, seconds": started[1] - started[0],
        "resuming, seconds": resuming,
    }


def _memory(key: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the most."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split(f"{key}:")[1].split()[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batching", required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--pool", type=int, required=True)
    parser.add_argument("--windows", type=int)
    print(json.dumps(plan_epoch(**vars(parser.parse_args()))))
