"""s2s-preprocess, from text files to a store with given tokenizers, beside SentencePiece's own batch encoding.

SentencePiece encodes the same lines, both sides, from memory to memory with as many threads as s2s-preprocess has
processes. s2s-preprocess also reads, decodes, normalises, filters, counts, hashes and writes.
"""

import shutil
from pathlib import Path

import sentencepiece
from corpus import Corpus
from measure import Row, paired

from s2s.data.preprocess import PreprocessConfig
from s2s.data.preprocess import preprocess as make_store
from s2s.data.store import Store
from s2s.text.sentencepiece import SentencePieceConfig

REFERENCE = "SentencePiece's encode() with as many threads"
COPIES = 4  # of the corpus, read one after the other: enough for the start of the workers not to be all there is


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Measure with 1 and 2 workers. `device` means nothing here."""
    copies = 1 if quick else COPIES
    lines = []
    for language in (corpus.source, corpus.target):
        with open(f"{corpus.prefix}.{language}", encoding="utf-8", newline="\n") as file:
            lines += copies * [line.rstrip("\n") for line in file]
    tokenizer, _ = Store(corpus.store).tokenizers()  # one for both sides
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    tokens = sum(map(len, processor.encode(lines, out_type=int, num_threads=1)))
    rows = []
    for workers in (1, 2):
        speeds = paired(
            lambda number, workers=workers: _ours(corpus, copies, workers, tokens),
            lambda number, workers=workers: sum(map(len, processor.encode(lines, num_threads=workers))),
            rounds=1 if quick else 5,
        )
        case = f"{len(lines):,} lines, {workers} worker{'s' * (workers > 1)}"
        rows.append(speeds.row(case, "lines/s", len(lines) / tokens))
        rows.append(speeds.row(case, "tokens/s"))
    return rows


def _ours(corpus: Corpus, copies: int, workers: int, expected: int) -> int:
    """Make a store of the corpus and delete it; returns its number of tokens.

    Raises:
        RuntimeError: the tokens are not SentencePiece's.
    """
    store = Path(corpus.store).with_name("again")
    shutil.rmtree(store, ignore_errors=True)
    report = make_store(
        PreprocessConfig(
            source=corpus.source,
            target=corpus.target,
            train=copies * [str(corpus.prefix)],
            store=str(store),
            tokenizer=SentencePieceConfig(),
            tokenizer_from=str(corpus.store),
            workers=workers,
        )
    )
    tokens = sum(report["splits"]["train"][side]["tokens"] for side in ("source", "target"))
    if tokens != expected:
        raise RuntimeError(f"s2s-preprocess wrote {tokens} tokens, SentencePiece makes {expected}")
    return tokens
