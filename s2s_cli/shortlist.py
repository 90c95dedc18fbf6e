"""s2s-shortlist: learn from a store the likely translations of each source symbol, for `decode.shortlist`."""

import dataclasses
import sys
import time

from s2s.config import command, streams
from s2s.config.schema import option
from s2s.errors import UserError

ABOUT = """Learn a vocabulary shortlist from a store: the likely translations of each source symbol, by IBM model 1.
Example: s2s-shortlist store=STORE output=FILE, and then s2s-generate checkpoint=RUN decode.shortlist=FILE"""


@dataclasses.dataclass
class ShortlistCommand:
    """Schema of s2s-shortlist."""

    store: list[str] = option([], "a store with the checkpoint's tokenizers, or a list of such stores")
    split: str = option("train", "split to learn from")
    output: str | None = option(None, "file to write, replaced when complete")
    candidates: int = option(30, "most probable target symbols to keep for each source symbol", at_least=1)
    frequent: int = option(
        1000, "number of most frequent target symbols, which are candidates for every sentence", at_least=0
    )
    iterations: int = option(5, "iterations of expectation maximisation", at_least=1)
    pairs: int = option(1_000_000, "most sentence pairs to learn from", at_least=1)


def _learn(config: ShortlistCommand) -> None:
    if not config.store or not config.output:
        raise UserError("store=STORE and output=FILE are required")
    from tqdm import tqdm

    from s2s.data.store import Stores
    from s2s.decoding.shortlist import Shortlist

    began = time.perf_counter()
    store = Stores(config.store)
    total = min(len(store.split(config.split)), config.pairs)
    passes = (config.iterations + 1) * total
    with tqdm(total=passes, unit=" pairs", dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
        shortlist = Shortlist.learn(store, config.split, config.candidates, config.frequent, config.iterations,
                                    config.pairs, bar.update)  # fmt: skip
    shortlist.save(config.output)
    if not streams.is_standard_output(config.output):
        print(config.output)
    print(f"learned from {total:,} pairs in {time.perf_counter() - began:.1f} s: {config.candidates} candidates for "
          f"each of {len(shortlist.translations):,} symbols, and {len(shortlist.frequent):,} frequent ones",
          file=sys.stderr)  # fmt: skip


def main() -> None:
    """Run the command."""
    command.run("s2s-shortlist", ShortlistCommand, _learn, ABOUT)


if __name__ == "__main__":
    main()
