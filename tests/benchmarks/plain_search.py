"""Beam search in fairseq's manner, which ours is measured beside: whole log-probabilities, hypotheses moved each step.

Shapes: B sentences, K rows a sentence, V vocabulary.
"""

import torch
from plain_transformer import PlainState, PlainTransformer
from torch import Tensor

from s2s.text.vocabulary import BOS, EOS, PAD, UNK

NEVER = float("-inf")

Best = tuple[list[int], float]


@torch.no_grad()
def plain_search(
    model: PlainTransformer, source: Tensor, bounds: list[tuple[int, int]], K: int, length_penalty: float = 1.0
) -> list[Best]:
    """One batch; a sentence is done when K hypotheses have finished.

    Args:
        model: What is searched.
        source: [B, S] ids with EOS, right padded.
        bounds: Least and greatest length of a hypothesis of each sentence, EOS not counted.
        K: Beam size.
        length_penalty: A score is the log-probability over length^this.

    Returns:
        The best hypothesis of each sentence, without EOS, and its score.
    """
    device, B = source.device, len(source)
    shortest, longest = torch.tensor(bounds, device=device).T
    most = int(longest.max())
    state = PlainState(model, source, K)
    tokens = torch.full((B * K, most + 2), PAD, device=device)
    tokens[:, 0] = BOS
    scores = torch.zeros(B * K, most + 1, device=device)
    finished: list[list[tuple]] = [[] for _ in range(B)]
    numbers = list(range(B))  # which sentence of the batch each active one is
    order = None
    for step in range(most + 1):
        if order is not None:
            state.reorder(order)
        values = state.step(tokens[:, : step + 1]).float().log_softmax(dim=-1)
        V = values.size(1)
        values[values != values] = NEVER
        for token in (PAD, UNK, BOS):
            values[:, token] = NEVER
        values[:, EOS].masked_fill_((shortest > step).repeat_interleave(K), NEVER)
        late = (longest <= step).repeat_interleave(K)
        if late.any():
            values[:, :EOS].masked_fill_(late[:, None], NEVER)
            values[:, EOS + 1 :].masked_fill_(late[:, None], NEVER)
        values = values.view(B, K, V)
        values = values[:, ::K].contiguous() if step == 0 else values + scores[:, step - 1].view(B, K, 1)
        values = values.view(B, -1)
        best, places = values.topk(min(2 * K, values.size(1) - 1), dim=1)
        parents, candidates = places // V, places % V
        rows = parents + torch.arange(0, B * K, K, device=device)[:, None]
        ends = candidates.eq(EOS) & best.ne(NEVER)
        gone: list[int] = []
        end_rows = rows[:, :K].masked_select(ends[:, :K])
        if end_rows.numel():
            end_scores = best[:, :K].masked_select(ends[:, :K])
            gone = _finish(finished, numbers, tokens, scores, end_rows, end_scores, step, K, length_penalty)
        if len(gone) == B:
            break
        moved = None
        if gone:
            keep = torch.tensor([b for b in range(B) if b not in set(gone)], device=device)
            moved = (keep - torch.arange(len(keep), device=device)).repeat_interleave(K) * K
            numbers, B = [numbers[b] for b in keep.tolist()], len(keep)
            best, candidates, ends, shortest, longest = (x[keep] for x in (best, candidates, ends, shortest, longest))
            rows = parents[keep] + torch.arange(0, B * K, K, device=device)[:, None]
            tokens = tokens.view(-1, K, most + 2)[keep].view(B * K, -1)
            scores = scores.view(-1, K, most + 1)[keep].view(B * K, -1)
        rank = ends.long() * ends.size(1) + torch.arange(ends.size(1), device=device)
        active = rank.topk(K, dim=1, largest=False).indices
        order = rows.gather(1, active).view(-1)
        tokens[:, : step + 1] = tokens[:, : step + 1].index_select(0, order)
        tokens[:, step + 1] = candidates.gather(1, active).view(-1)
        scores[:, :step] = scores[:, :step].index_select(0, order)
        scores[:, step] = best.gather(1, active).view(-1)
        if moved is not None:
            order = order + moved  # the caches still have the rows of the sentences that are gone
    chosen = [max(hypotheses, key=lambda hypothesis: float(hypothesis[1])) for hypotheses in finished]
    return [(ids.tolist(), float(score)) for ids, score, _ in chosen]


def _finish(
    finished: list, numbers: list[int], tokens, scores, rows, end_scores, step: int, K: int, length_penalty: float
) -> list[int]:
    """Take in the hypotheses that ended in this step; returns the places of the sentences that are done."""
    ids = tokens.index_select(0, rows)[:, 1 : step + 1]
    each = scores.index_select(0, rows)[:, : step + 1]
    each[:, step] = end_scores
    each[:, 1:] = each[:, 1:] - each[:, :-1]
    normalised = end_scores / (step + 1) ** length_penalty
    touched = []
    for i, row in enumerate(rows.tolist()):
        hypotheses = finished[numbers[row // K]]
        if len(hypotheses) < K:
            hypotheses.append((ids[i], normalised[i], each[i]))
        touched.append(row // K)
    return [b for b in sorted(set(touched)) if len(finished[numbers[b]]) == K]
