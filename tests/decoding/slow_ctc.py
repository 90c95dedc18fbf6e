"""Slow, obvious references for CTC: every alignment; and the textbook recursion of prefix probabilities."""

import itertools
import math
from collections import defaultdict

from s2s.decoding.ctc import BLANK


def collapsed(labels):
    """Repeated labels merged, blanks dropped."""
    return tuple(label for label, _ in itertools.groupby(labels) if label != BLANK)


def alignments(x, symbols):
    """(labels, log-probability) of every way through the frames; x: [S][V]."""
    for labels in itertools.product(symbols, repeat=len(x)):
        yield labels, sum(frame[label] for frame, label in zip(x, labels, strict=True))


def log_sum(values):
    values = [value for value in values if value > -math.inf]
    most = max(values, default=-math.inf)
    return most + math.log(sum(math.exp(value - most) for value in values)) if values else -math.inf


def totals(x, symbols):
    """Hypothesis -> log-probability, by brute force."""
    found = defaultdict(list)
    for labels, value in alignments(x, symbols):
        found[collapsed(labels)].append(value)
    return {ids: log_sum(values) for ids, values in found.items()}


def extended(x, state, ids, label):
    """S079's recursion: the state (gn, gb) of a prefix of labels `ids`, and what it becomes by one more label.

    Returns:
        (gn', gb'), and psi', the log-probability that a hypothesis begins with the longer prefix.
    """
    gn, gb = state
    S = len(x)
    if len(ids) >= S:  # only EOS may follow
        return ([-math.inf] * S, [-math.inf] * S), -math.inf
    phi = [gb[t] if ids and ids[-1] == label else log_sum([gn[t], gb[t]]) for t in range(S)]
    new_gn, new_gb = [-math.inf] * S, [-math.inf] * S
    if not ids:
        new_gn[0] = x[0][label]
    start = max(len(ids), 1)
    psi = new_gn[start - 1]
    for t in range(start, S):
        new_gn[t] = log_sum([new_gn[t - 1], phi[t - 1]]) + x[t][label]
        new_gb[t] = log_sum([new_gn[t - 1], new_gb[t - 1]]) + x[t][BLANK]
        psi = log_sum([psi, phi[t - 1] + x[t][label]])
    return (new_gn, new_gb), psi


def empty(x):
    """The state of the empty prefix; its psi is 0."""
    return [-math.inf] * len(x), list(itertools.accumulate(frame[BLANK] for frame in x))


def ended(state):
    """Log-probability of a prefix as a whole hypothesis."""
    return log_sum([state[0][-1], state[1][-1]])
