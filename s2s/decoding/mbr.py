"""Minimum Bayes risk decoding: choose the hypothesis that is most similar to all hypotheses (Eikema and Aziz 2020).

Utilities are sacrebleu's sentence scores, computed for all pairs of a list at once. The k-th occurrence of an n-gram is
a feature, so the clipped matches of all pairs are one matrix product.

Shapes: N distinct texts, G features.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

CHARACTERS, BETA = 6, 2  # chrF's orders and the weight of its recall
WORDS = 4  # BLEU's orders


def most_like_all(texts: Sequence[str], utility: str) -> int:
    """The index of the text with the largest mean utility, with all texts as references; of several, the first.

    Args:
        texts: At least one text; a text that occurs several times counts as often.
        utility: `chrf` or `bleu`.
    """
    distinct = Counter(texts)  # in the order of the first occurrences
    mean = utilities(list(distinct), utility) @ np.array(list(distinct.values())) / len(texts)
    return list(texts).index(list(distinct)[mean.round(9).argmax()])


def utilities(texts: list[str], utility: str) -> np.ndarray:
    """Utilities of all pairs, float64 [N, N], 0 to 100: row i, column j is text i scored with text j as reference."""
    return {"chrf": _chrf, "bleu": _bleu}[utility](texts)


def _chrf(texts: list[str]) -> np.ndarray:
    """chrF (Popović 2015) of sentences: sacrebleu's CHRF()."""
    sequences = ["".join(text.split()) for text in texts]
    precision = recall = orders = 0
    for n in range(1, CHARACTERS + 1):
        matches, counts = _matches(sequences, n)
        both = (counts[:, None] > 0) & (counts > 0)
        precision = precision + matches / counts.clip(min=1)[:, None]
        recall = recall + matches / counts.clip(min=1)
        orders = orders + both
    precision, recall = precision / orders.clip(min=1), recall / orders.clip(min=1)
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)


def _bleu(texts: list[str]) -> np.ndarray:
    """BLEU (Papineni et al. 2002) of sentences: sacrebleu's BLEU(effective_order=True)."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()
    sequences = [tuple(tokenize(text.rstrip()).split()) for text in texts]
    logs = orders = 0
    zeros = np.zeros((len(texts), len(texts)))
    for n in range(1, WORDS + 1):
        matches, counts = _matches(sequences, n)
        there = counts[:, None] > 0
        zeros += there & (matches == 0)
        smoothed = np.where(matches > 0, matches, 0.5**zeros) / counts.clip(min=1)[:, None]
        logs = logs + np.where(there, np.log(smoothed), 0)
        orders = orders + there
        if n == 1:
            none = matches == 0
    lengths = np.array([len(sequence) for sequence in sequences])
    brevity = np.exp(np.minimum(0, 1 - lengths / lengths.clip(min=1)[:, None]))
    return np.where(none, 0, 100 * brevity * np.exp(logs / orders.clip(min=1)))


def _matches(sequences: list, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Clipped n-gram matches of all pairs, [N, N], and the number of n-grams of each text, [N]."""
    features: dict = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, sequence in enumerate(sequences):
        seen: Counter = Counter()
        for start in range(len(sequence) - n + 1):
            gram = sequence[start : start + n]
            columns.append(features.setdefault((gram, seen[gram]), len(features)))
            seen[gram] += 1
            rows.append(row)
    has = np.zeros((len(sequences), len(features)), np.float32)  # [N, G]
    has[rows, columns] = 1
    return (has @ has.T).astype(np.float64), np.bincount(rows, minlength=len(sequences))
