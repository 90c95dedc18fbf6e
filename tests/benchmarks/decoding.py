"""Decoding with a small Transformer (3+3 layers, d256) of random weights, beside a beam search in fairseq's manner.

Every hypothesis is as long as a translation would be, 0.9 x source + 1 tokens, by least and greatest length. The
batches are the same for both: sentences of the validation text sorted by length, so many at a time. The reference
grows its caches by concatenation, gathers them at every step, keeps cross-attention's keys for every row and takes the
log-softmax of all logits. Both find the same hypotheses, which is checked.
"""

import torch
from corpus import Corpus
from measure import Row, paired
from plain_transformer import PlainState, PlainTransformer
from training import spread

from s2s.config.compose import compose
from s2s.data.store import Store
from s2s.decoding.generator import Generator
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import BOS, EOS, PAD, UNK
from s2s_cli.train import TrainCommand

REFERENCE = "a plain Transformer and beam search in fairseq's manner, the same weights and batches"
SLOPE, OFFSET = 0.9, 1  # tokens of a hypothesis: floor(SLOPE * source) + OFFSET
SENTENCES = {1: 16, 8: 48, 64: 128}  # decoded in a round, by batch size
QUICK_SENTENCES = {1: 2, 8: 8}
TIE = 1e-3  # hypotheses that score so nearly the same may change places by the rounding of sums

NEVER = float("-inf")


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Measure beam 1 and 5 at each batch size."""
    store = Store(corpus.store)
    task = TranslationTask.setup(store)
    config = compose(TrainCommand, [("model", "transformer_tiny" if quick else "transformer_small")])
    torch.manual_seed(config.seed)
    model = task.model(config.model).to(device).eval()
    plain = PlainTransformer(model).to(device).eval()
    valid = store.split("valid")
    sources = sorted((valid.source(i).tolist() for i in range(len(valid))), key=len)
    sources = [ids for ids in sources if ids]
    rows = []
    for beam_size in (1, 5):
        for batch_size, sentences in (QUICK_SENTENCES if quick else SENTENCES).items():
            chosen = spread(sources, sentences, 0, 1)
            batches = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
            rows += _measure(task, model, plain, batches, beam_size, device, rounds=1 if quick else 5)
    return rows


def _measure(task, model, plain: PlainTransformer, batches: list, beam_size: int, device: str, rounds: int) -> list:
    config = compose(
        TrainCommand,
        [
            ("decode.beam_size", str(beam_size)),
            *((f"decode.{which}_length_a", str(SLOPE)) for which in ("min", "max")),
            *((f"decode.{which}_length_b", str(OFFSET)) for which in ("min", "max")),
            ("decode.batch_tokens", str(1 << 30)),  # what is handed over is a batch
        ],
    ).decode
    generator = Generator([model], config, task.collate_sources)

    def ours() -> list[tuple[list[int], float]]:
        best = [n_best[0] for batch in batches for n_best in generator.generate(batch)]
        return [(hypothesis.ids, hypothesis.score) for hypothesis in best]

    def reference() -> list[tuple[list[int], float]]:
        return [
            best
            for batch in batches
            for best in plain_search(plain, batch, task, beam_size, config.length_penalty, device)
        ]

    same = check(ours(), reference())
    sentences = sum(map(len, batches))
    tokens = sum(_length(ids) for batch in batches for ids in batch)
    speeds = paired(
        lambda number: len(ours()),
        lambda number: len(reference()),
        rounds,
        torch.cuda.synchronize if device == "cuda" else lambda: None,
    )
    case = f"beam {beam_size}, batch {len(batches[0])}"
    return [
        speeds.row(case, "sentences/s"),
        speeds.row(case, "tokens/s", tokens / sentences),
        Row(case, "same hypotheses, %", 100 * same),
    ]


def _length(source: list[int]) -> int:
    """Tokens of a hypothesis, EOS not counted."""
    return int(SLOPE * len(source)) + OFFSET


def check(ours: list[tuple[list[int], float]], reference: list[tuple[list[int], float]]) -> float:
    """Share of the sentences, 0 to 1, with the same tokens; the others must score the same. Raises RuntimeError."""
    same = 0
    for (mine, my_score), (theirs, their_score) in zip(ours, reference, strict=True):
        same += mine == theirs
        if abs(my_score - their_score) > TIE:
            raise RuntimeError(
                f"the hypotheses differ: {mine} with {my_score} of s2s, {theirs} with {their_score} of the reference"
            )
    return same / len(ours)


@torch.no_grad()
def plain_search(
    model: PlainTransformer, batch: list[list[int]], task, K: int, length_penalty: float, device: str
) -> list[tuple[list[int], float]]:
    """Beam search in fairseq's manner over one batch: the best hypothesis of each sentence and its score."""
    source = task.collate_sources(batch, device)[0].ids
    longest = torch.tensor([_length(ids) for ids in batch], device=device)
    B, most = len(batch), int(longest.max())
    state = PlainState(model, source, K)
    tokens = torch.full((B * K, most + 2), PAD, device=device)
    tokens[:, 0] = BOS
    scores = torch.zeros(B * K, most + 1, device=device)
    finished: list[list[tuple]] = [[] for _ in batch]
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
        late = (longest <= step).repeat_interleave(K)
        values[:, EOS].masked_fill_(~late, NEVER)
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
            best, candidates, ends, longest = best[keep], candidates[keep], ends[keep], longest[keep]
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
