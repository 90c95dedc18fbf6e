"""Slow, obvious references for CTC: every alignment; and the textbook recursion of prefix probabilities."""

import itertools
import math
from collections import defaultdict

import slow_search
import torch
from torch import nn

from s2s.decoding.ctc import BLANK
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import EOS


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
    """The textbook recursion: the state (gn, gb) of a prefix of labels `ids`, and what it becomes by one more label.

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


class TinyJoint(Transformer):
    """A Transformer over token ids, each of which is also a frame of CTC."""

    has_ctc = True

    def ctc_log_probabilities(self, memory):
        return self.ctc(memory.top).log_softmax(2)


def tiny_joint(seed, vocabulary=9, scale=3.0, **options):
    """`slow_search.tiny_model`, with CTC."""
    model = slow_search.tiny_model(seed, vocabulary, **options)
    model.__class__, model.ctc = TinyJoint, nn.Linear(16, vocabulary).double()
    with torch.no_grad():
        model.ctc.weight *= scale
    return model


def ctc_frames(model, source):
    """Log-probabilities [S][V] of one source."""
    with torch.no_grad():
        return model.ctc_log_probabilities(model.encode(*slow_search.collate([source])))[0].tolist()


def joint_beam_search(models, source, config, prefix=(), forbidden=(), lm=None):
    """As `slow_search.beam_search`, with CTC's prefix scores of the candidates, and perhaps a language model's."""
    K, w, (model,) = config.beam_size, config.ctc_weight, models
    x = ctc_frames(model, source) if w else None
    least, most = slow_search.bounds(source, prefix, config)
    live, finished = [([], 0.0, [], w and empty(x), 0.0)], []
    for length in range(most + 1):
        rates = {"temperature": config.temperature, "eos_scale": config.eos_scale}
        rated = slow_search.next_log_probabilities(models, source, [ids for ids, *_ in live], **rates)
        rated = [[(1 - w) * value for value in row] for row in rated]
        if lm is not None:
            other = slow_search.next_log_probabilities([lm], source, [ids for ids, *_ in live])
            pairs = zip(rated, other, strict=True)
            rated = [[a + config.language_model_weight * b for a, b in zip(*pair, strict=True)] for pair in pairs]
        candidates = []
        for (ids, total, values, state, psi), row in zip(live, rated, strict=True):
            tokens = slow_search.choices(ids, row, least, most, prefix, config, forbidden)
            best = sorted((token for token in tokens if token != EOS), key=lambda token: -row[token])
            if w:
                best = [(token, *extended(x, state, ids, token)) for token in best[: max(int(1.5 * K), 8)]]
            else:
                best = [(token, 0, 0.0) for token in best]
            best = [one for one in best if one[2] > -math.inf]
            for token, new, new_psi in best:
                value = row[token] + w * (new_psi - psi)
                candidates.append((total + value, ids, token, [*values, value], new, new_psi))
            if EOS in tokens or not best:
                value = row[EOS] + (w * (ended(state) - psi) if w else 0)
                candidates.append((total + value, ids, EOS, [*values, value], None, None))
        candidates.sort(key=lambda candidate: -candidate[0])
        live = []
        for rank, (total, ids, token, values, *state) in enumerate(candidates):
            if token != EOS and len(live) < K:
                live.append(([*ids, token], total, values, *state))
            if token == EOS and rank < K:
                finished.append((ids, slow_search.normalised(total, length, config), values))
        if slow_search.ended(config, finished, live, length):
            break
    return sorted(finished, key=lambda hypothesis: -hypothesis[1])[: config.n_best]
