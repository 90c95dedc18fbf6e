"""s2s-preprocess, from text files to a store, and sampling, beside SentencePiece; its memory on ten million pairs.

Speed: with given tokenizers. SentencePiece encodes the same lines, both sides, from memory to memory with as many
threads as s2s-preprocess has processes, 10,000 lines a call, which is its fastest. s2s-preprocess also reads, decodes,
normalises, filters, counts, hashes, writes, and draws its report. Sampling: in one thread, 1,024 lines a call; of s2s
each line has a seed, of SentencePiece all lines share one. Memory: the whole command with its default settings, the
learning of the tokenizer included, all processes added up; the text is repeated, each line with a number at its end.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import sentencepiece
from corpus import Corpus
from measure import Row, paired
from memory import run_and_watch

from s2s.data.preprocess import PreprocessConfig
from s2s.data.preprocess import preprocess as make_store
from s2s.data.store import Store
from s2s.text.sentencepiece import SentencePieceConfig, SentencePieceTokenizer

REFERENCE = "SentencePiece's encode() with as many threads, sampling in one"
COPIES = 10  # of the corpus, read one after the other: enough for the start of the workers not to be all there is
CALL, SAMPLING_CALL = 10_000, 1024  # lines
PAIRS = 10_000_000


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Measure; `device` means nothing here."""
    lines = []
    for language in (corpus.source, corpus.target):
        with open(f"{corpus.prefix}.{language}", encoding="utf-8", newline="\n") as file:
            lines += [line.rstrip("\n") for line in file]
    rows = _encoding(corpus, lines, 1 if quick else COPIES, 1 if quick else 5) + _sampling(lines, quick)
    return rows if quick else rows + _memory(corpus)


def _encoding(corpus: Corpus, lines: list[str], copies: int, rounds: int) -> list[Row]:
    """Throughput of s2s-preprocess with 1 and 2 workers."""
    lines = copies * lines
    tokenizer, _ = Store(corpus.store).tokenizers().values()  # one for both sides
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)

    def theirs(workers: int) -> int:
        calls = (lines[i : i + CALL] for i in range(0, len(lines), CALL))
        return sum(sum(map(len, processor.encode(call, out_type=int, num_threads=workers))) for call in calls)

    tokens, rows = theirs(1), []
    for workers in (1, 2):
        speeds = paired(
            lambda number, workers=workers: _ours(corpus, copies, workers, tokens),
            lambda number, workers=workers: theirs(workers),
            rounds,
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


def _sampling(lines: list[str], quick: bool) -> list[Row]:
    """Lines a second of sampled segmentations."""
    rows = []
    for algorithm, name in (("unigram", "sampled unigram, alpha 0.1"), ("bpe", "BPE-dropout 0.1")):
        config = SentencePieceConfig(algorithm=algorithm, vocab_size=500 if quick else 8000, sampling=0.1)
        tokenizer = SentencePieceTokenizer.learn(config, [lines])
        processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
        calls = [lines[i : i + SAMPLING_CALL] for i in range(0, len(lines), SAMPLING_CALL)]

        def ours(number: int, tokenizer=tokenizer, calls=calls) -> int:
            for call in calls:
                tokenizer.sample(call, np.arange(len(call), dtype=np.uint64) + np.uint64(number))
            return len(lines)

        def theirs(number: int, processor=processor, calls=calls) -> int:
            for call in calls:
                processor.encode(call, enable_sampling=True, nbest_size=-1, alpha=0.1, num_threads=1)
            return len(lines)

        rows.append(paired(ours, theirs, 1 if quick else 5).row(name, "lines/s"))
    return rows


def _memory(corpus: Corpus) -> list[Row]:
    """Seconds and peak memory of the whole command on `PAIRS` pairs."""
    prefix, store = (str(Path(corpus.store).with_name(name)) for name in ("large", "large-store"))
    for language in (corpus.source, corpus.target):
        with open(f"{corpus.prefix}.{language}", encoding="utf-8", newline="\n") as file:
            lines = [line.rstrip("\n") for line in file]
        with open(f"{prefix}.{language}", "w", encoding="utf-8", newline="\n") as file:
            for first in range(0, PAIRS, len(lines)):
                file.writelines(f"{line} {i}\n" for i, line in zip(range(first, PAIRS), lines, strict=False))
    command = [sys.executable, "-m", "s2s_cli.preprocess", f"source={corpus.source}", f"target={corpus.target}"]
    seconds, peak = run_and_watch([*command, f"train={prefix}", f"store={store}", "workers=2"])
    pairs = len(Store(store).split("train"))
    shutil.rmtree(store)
    for language in (corpus.source, corpus.target):
        os.remove(f"{prefix}.{language}")
    case = f"{pairs:,} pairs, 2 workers, default settings"
    return [Row(case, "seconds", seconds), Row(case, "peak memory, MiB", peak)]
