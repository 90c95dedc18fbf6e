"""Decoding with connectionist temporal classification (Graves et al. 2006): frames to hypotheses, and times of tokens.

Every frame has a label or the blank. The blank is PAD, which no target contains. An alignment of frames becomes a
hypothesis by merging repeated labels and dropping blanks. The probability of a hypothesis is the sum over its
alignments.

Shapes: B sentences, S frames, V symbols, K prefixes per sentence, C candidate labels at a frame, L labels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.hypothesis import NEVER, Hypothesis
from s2s.decoding.noise import mix
from s2s.text.vocabulary import BOS, EOS, PAD, UNK

BLANK = PAD
NOBODY = -1  # in place of a prefix number: there is no prefix

Ids = list[int]


def best_path(log_probabilities: Tensor, lengths: Tensor, unknown: bool = False) -> list[Hypothesis]:
    """The hypothesis of each sentence's most probable alignment.

    Args:
        log_probabilities: [B, S, V].
        lengths: [B] int64, frames.
        unknown: Whether the unknown symbol may be a label.

    Returns:
        Hypotheses with the log-probability of that alignment. The log-probability of a token is that of the frames
        after the first frame of the token before it, up to its own first frame.
    """
    values, labels = _allowed(log_probabilities, unknown).max(dim=2)
    valid = torch.arange(labels.size(1), device=labels.device) < lengths[:, None]
    previous = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=BLANK)
    begins = (labels != BLANK) & (labels != previous) & valid
    owner = begins.cumsum(1) - begins.long()
    shares = torch.zeros_like(values, dtype=torch.float64)
    shares = torch.nn.functional.pad(shares, (0, 1)).scatter_add(1, owner, values.double().masked_fill(~valid, 0))
    everything = zip(labels.cpu(), begins.cpu(), shares.tolist(), strict=True)
    return [_hypothesis(row[where].tolist(), share[: int(where.sum()) + 1]) for row, where, share in everything]


def _hypothesis(ids: Ids, each: list[float], score: float | None = None) -> Hypothesis:
    total = float(sum(each))
    return Hypothesis(ids, total if score is None else score, total, each)


def _allowed(log_probabilities: Tensor, unknown: bool) -> Tensor:
    """Log-probabilities [B, S, V] with -inf for symbols that are never a label."""
    never = [BOS, EOS] if unknown else [UNK, BOS, EOS]
    return log_probabilities.index_fill(2, torch.tensor(never, device=log_probabilities.device), NEVER)


class Prefixes(NamedTuple):
    """K prefixes of each sentence, each [B, K].

    Attributes:
        number: int64, number of the prefix: a hash of its labels.
        parent: int64, number of the prefix without its last label; NOBODY: it has no label, or the row is not live.
        last: int64, its last label; BLANK: it has no label.
        blank, label: Log-probability of its alignments so far that end in the blank, and in a label.
        bonus: Added to the log-probability to rank prefixes.
    """

    number: Tensor
    parent: Tensor
    last: Tensor
    blank: Tensor
    label: Tensor
    bonus: Tensor

    @property
    def total(self) -> Tensor:
        return torch.logaddexp(self.blank, self.label)


# A further score of prefixes. Arguments: the row of its sentence that each row continues, and the label by which it
# does so (BLANK: none), both int64 [B, K]; and how many sentences are left. Returns what each label would add to the
# score of each prefix, [B, K, V].
Bonus = Callable[[Tensor, Tensor, int], Tensor]


def prefix_beam_search(
    log_probabilities: Tensor,
    lengths: Tensor,
    beam_size: int,
    unknown: bool = False,
    bonus: Bonus | None = None,
    reward: float = 0.0,
) -> list[list[tuple[Ids, float, float]]]:
    """The most probable hypotheses, by prefix beam search (Graves and Jaitly 2014; Hannun et al. 2014).

    At each frame a prefix stays as it is, or grows by one of the K + 1 most probable labels. Without a bonus no other
    label could be among the K best.

    Args:
        log_probabilities: [B, S, V], sentences by falling length.
        lengths: [B] int64, frames.
        beam_size: K.
        unknown: Whether the unknown symbol may be a label.
        bonus: Further score of each label, and of EOS at the end.
        reward: Added for each label.

    Returns:
        Up to K hypotheses of each sentence: labels, log-probability of the alignments that stayed in the beam, and
        bonus. The hypothesis with the largest sum of the two is first.

    Raises:
        ValueError: sentences are not sorted by falling length.
    """
    B, S = log_probabilities.shape[:2]
    K, device = beam_size, log_probabilities.device
    x, ends = _allowed(log_probabilities, unknown), lengths.tolist()
    if ends != sorted(ends, reverse=True):
        raise ValueError("sentences must be sorted by falling length")
    number = torch.zeros(B, K, dtype=torch.int64, device=device)
    blank = x.new_full((B, K), NEVER)
    blank[:, 0] = 0
    state = Prefixes(number, number + NOBODY, number + BLANK, blank, x.new_full((B, K), NEVER), x.new_zeros(B, K))
    own = torch.arange(K, device=device)
    parents = own.repeat(S, B, 1)
    labels = torch.full_like(parents, BLANK)
    added = None if bonus is None else bonus(own.expand(B, K), labels[0], B)
    final = Prefixes(*(tensor.clone() for tensor in state))
    candidates = x.index_fill(2, torch.tensor([BLANK], device=device), NEVER).topk(min(K + 1, x.size(2)), dim=2)
    for t in range(ends[0] if B else 0):
        live = sum(end > t for end in ends)
        if live < len(state.last):
            state = Prefixes(*(tensor[:live] for tensor in state))
            added = None if added is None else added[:live]
        state, parents[t, :live], labels[t, :live] = _frame(
            state, x[:live, t], candidates.values[:live, t], candidates.indices[:live, t], added, reward
        )
        if bonus is not None:
            added = bonus(parents[t, :live], labels[t, :live], live)
        if live and ends[live - 1] == t + 1:  # this was the last frame of some sentences
            for result, tensor in zip(final, state, strict=True):
                result[:live] = tensor
            if bonus is not None:
                final.bonus[:live] += added[:, :, EOS]
    order = (final.total + final.bonus).argsort(dim=1, descending=True, stable=True)
    paths = _follow(labels.cpu().numpy(), parents.cpu().numpy(), order.cpu().numpy())
    values = torch.stack([final.total, final.bonus], dim=2).gather(1, order[:, :, None].expand(-1, -1, 2))
    return [
        [(ids[ids != BLANK].tolist(), *both) for ids, both in zip(path, row, strict=True) if both[0] > NEVER]
        for path, row in zip(paths, values.tolist(), strict=True)
    ]


def _frame(
    state: Prefixes, x: Tensor, values: Tensor, labels: Tensor, added: Tensor | None, reward: float
) -> tuple[Prefixes, Tensor, Tensor]:
    """One frame of the search.

    Args:
        state: The prefixes so far.
        x: [B, V] log-probabilities.
        values, labels: [B, C], the most probable labels and their log-probabilities, without the blank.
        added: [B, K, V] bonus of each label; None: there is no bonus.
        reward: Added for each label.

    Returns:
        The new prefixes; for each the row that it continues, [B, K]; and its new label, [B, K], BLANK for none.
    """
    (B, K), C, total = state.last.shape, labels.size(1), state.total

    def extended(row_total: Tensor, row_blank: Tensor, row_last: Tensor, label: Tensor, value: Tensor) -> Tensor:
        """Log-probability after adding a label. A repeated label needs a blank before it."""
        return value + torch.where(label == row_last, row_blank, row_total)

    # A prefix that stays may equal its parent extended by its last label: their probabilities are added.
    of_last = x.gather(1, state.last).masked_fill(state.last == BLANK, NEVER)
    kin = (state.parent[:, :, None] == state.number[:, None]) & (total > NEVER)[:, None]  # [B, child, parent]
    has, who = kin.max(dim=2)
    of_parents = (tensor.gather(1, who) for tensor in (total, state.blank, state.last))
    from_parent = extended(*of_parents, state.last, of_last)
    stays = state._replace(
        blank=total + x[:, BLANK, None],
        label=torch.logaddexp(state.label + of_last, torch.where(has, from_parent, NEVER)),
    )
    known = (kin[:, :, :, None] & (state.last[:, :, None] == labels[:, None])[:, :, None]).any(1)  # [B, K, C]
    rows = (tensor[:, :, None] for tensor in (total, state.blank, state.last))
    goes = extended(*rows, labels[:, None], values[:, None]).masked_fill(known, NEVER)
    bonus = state.bonus[:, :, None].expand(B, K, C) + reward
    if added is not None:
        bonus = bonus + added.gather(2, labels[:, None].expand(B, K, C))

    ranked = torch.cat([stays.total + stays.bonus, (goes + bonus).flatten(1)], dim=1)
    best, place = ranked.topk(K, dim=1)
    new = place >= K
    at = (place - K).clamp(min=0)
    parent = torch.where(new, at.div(C, rounding_mode="floor"), place)
    label = torch.where(new, labels.gather(1, at % C), BLANK)
    stays = Prefixes(*(tensor.gather(1, parent) for tensor in stays))
    dead = best == NEVER
    number = torch.where(new, mix(stays.number, label), stays.number)
    return (
        Prefixes(
            number.masked_fill(dead, NOBODY - 1),
            torch.where(new, stays.number, stays.parent).masked_fill(dead, NOBODY),
            torch.where(new, label, stays.last),
            stays.blank.masked_fill(new, NEVER),
            torch.where(new, goes.flatten(1).gather(1, at), stays.label),
            torch.where(new, bonus.flatten(1).gather(1, at), stays.bonus),
        ),
        parent,
        label,
    )


def _follow(labels: np.ndarray, parents: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Labels [B, K, S] of the paths that end in rows [B, K], by back-pointers; labels and parents: [S, B, K]."""
    paths = np.empty((*rows.shape, len(labels)), np.int64)
    for t in reversed(range(len(labels))):
        paths[:, :, t] = np.take_along_axis(labels[t], rows, 1)
        rows = np.take_along_axis(parents[t], rows, 1)
    return paths


def align(log_probabilities: Tensor, lengths: Tensor, targets: Sequence[Ids]) -> list[np.ndarray | None]:
    """The frames of each label of given targets, by their most probable alignment (Viterbi).

    Args:
        log_probabilities: [B, S, V].
        lengths: [B] int64, frames.
        targets: Labels of each sentence.

    Returns:
        For each sentence the first frame of each label and the frame after its last one, [L, 2] int64; None: there
        are too few frames for the labels.
    """
    B, S, _ = log_probabilities.shape
    device = log_probabilities.device
    counts = torch.tensor([len(ids) for ids in targets], device=device)
    N = 2 * max(map(len, targets), default=0) + 1
    states = torch.full((B, N), BLANK, device=device)  # a blank before, between and after the labels
    for row, ids in zip(states, targets, strict=True):
        row[1 : 2 * len(ids) : 2] = torch.as_tensor(ids, device=device)
    skips = torch.zeros_like(states, dtype=torch.bool)  # whether the blank before a label may be left out
    skips[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    x = log_probabilities.gather(2, states[:, None].expand(B, S, N))
    score = x.new_full((B, N), NEVER)
    score[:, 0] = 0
    back = torch.zeros(S, B, N, dtype=torch.int8, device=device)
    for t in range(S):
        step = torch.nn.functional.pad(score[:, :-1], (1, 0), value=NEVER)
        skip = torch.nn.functional.pad(score[:, :-2], (2, 0), value=NEVER)[:, :N].masked_fill(~skips, NEVER)
        if not t:  # begins with the first blank or the first label
            step[:, 2:] = NEVER
        best, back[t] = torch.stack([score, step, skip]).max(dim=0)
        score = torch.where((t < lengths)[:, None], best + x[:, t], score)
    rows = torch.arange(B, device=device)
    end = 2 * counts
    end = torch.where(score[rows, (end - 1).clamp(min=0)] > score[rows, end], (end - 1).clamp(min=0), end)
    possible = (score[rows, end] > NEVER).tolist()
    paths, back, end = np.zeros((S, B), np.int64), back.cpu().numpy(), end.cpu().numpy()
    frames = lengths.cpu().numpy()
    for t in reversed(range(S)):
        paths[t] = end
        end = end - np.where(t < frames, back[t, np.arange(B), end], 0)
    spans: list[np.ndarray | None] = []
    for b, ids in enumerate(targets):
        path, positions = paths[: frames[b], b], 2 * np.arange(len(ids)) + 1
        sides = [np.searchsorted(path, positions, side) for side in ("left", "right")]
        spans.append(np.stack(sides, axis=1) if possible[b] else None)
    return spans
