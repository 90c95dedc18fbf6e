"""The text of all benchmarks: Multi30k where it lies beside the repository, otherwise made-up text of its size."""

import dataclasses
import random
from itertools import accumulate
from pathlib import Path

from s2s.data.preprocess import PreprocessConfig, preprocess
from s2s.text.sentencepiece import SentencePieceConfig

MULTI30K = Path(__file__).resolve().parents[3] / "shared" / "data" / "multi30k" / "raw"
PAIRS, QUICK_PAIRS = 29_000, 600


@dataclasses.dataclass
class Corpus:
    """A parallel training text and its store.

    Attributes:
        name: What it is.
        prefix: The files are PREFIX.source and PREFIX.target, with the languages' names as endings.
        source, target: The languages.
        store: Splits train and valid, joint SentencePiece unigram pieces.
    """

    name: str
    prefix: Path
    source: str
    target: str
    store: Path


def prepare(folder: Path, quick: bool) -> Corpus:
    """Find or make up the text, and make its store in `folder`; quick: little text, few pieces."""
    real = MULTI30K / "train.de"
    if real.is_file() and not quick:
        corpus = Corpus("Multi30k, German-English", real.with_suffix(""), "de", "en", folder / "store")
        valid = MULTI30K / "val"
    else:
        corpus = Corpus("made-up text", folder / "train", "src", "tgt", folder / "store")
        valid = folder / "valid"
        words = _words(random.Random(1))
        make_up(corpus.prefix, QUICK_PAIRS if quick else PAIRS, 2, words)
        make_up(valid, 200 if quick else 1000, 3, words)
    preprocess(
        PreprocessConfig(
            source=corpus.source,
            target=corpus.target,
            train=[str(corpus.prefix)],
            valid=[str(valid)],
            store=str(corpus.store),
            tokenizer=SentencePieceConfig(vocab_size=500 if quick else 8000),
        )
    )
    return corpus


def make_up(prefix: Path, pairs: int, seed: int, words: tuple[list[str], list[str]]) -> None:
    """Write PREFIX.src and PREFIX.tgt: words by Zipf's law, lengths as in captions, word by word a translation."""
    rng = random.Random(seed)
    weights = list(accumulate(1 / rank for rank in range(1, len(words[0]) + 1)))
    with open(f"{prefix}.src", "w", encoding="utf-8") as source, open(f"{prefix}.tgt", "w", encoding="utf-8") as target:
        for _ in range(pairs):
            length = max(3, round(rng.lognormvariate(2.4, 0.35)))
            chosen = rng.choices(range(len(words[0])), cum_weights=weights, k=length)
            source.write(" ".join(words[0][i] for i in chosen) + ".\n")
            kept = [i for i in chosen if rng.random() > 0.1]
            target.write(" ".join(words[1][i] for i in kept or chosen) + ".\n")


def _words(rng: random.Random) -> tuple[list[str], list[str]]:
    """The same number of different words for each side, the frequent ones shorter."""

    def side(consonants: str, vowels: str) -> list[str]:
        words: dict[str, None] = {}
        while len(words) < 20_000:
            syllables = 1 + rng.randrange(1 + min(3, len(words) // 30))
            words["".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables))] = None
        return list(words)

    return side("bcdfghjklmnprstvwz", "aeiouäöü"), side("bcdfghklmnprstvwy", "aeiou")
