"""How others batch: a fixed number of sentences, or of tokens, in random order, and fairseq's scheme (sort by length,
then cut)."""

import numpy as np

from s2s.data.plan import Plan


def fixed_size(source: np.ndarray, target: np.ndarray, batches: int, rng: np.random.Generator) -> Plan:
    """Random order, in so many batches of as many sentences each."""
    return as_plan(np.array_split(rng.permutation(len(source)), batches), source, target)


def sorted_then_cut(
    source: np.ndarray, target: np.ndarray, budget: int, rng: np.random.Generator, multiple: int = 8
) -> Plan:
    """fairseq's batches: examples by source and then target length, ties at random, as many as the budget holds
    (sentences x the longer side's longest), cut to a multiple where there are so many; then the batches shuffled."""
    order = rng.permutation(len(source))
    order = order[np.lexsort((target[order], source[order]))]
    longer = np.maximum(source, target)[order].tolist()
    batches, start, longest = [], 0, 0
    for place, length in enumerate(longer):
        size = place - start
        if size and (size + 1) * max(longest, length) > budget:
            size = max(multiple * (size // multiple), size % multiple)
            batches.append(order[start : start + size])
            start, longest = start + size, max(longer[start + size : place], default=0)
        longest = max(longest, length)
    batches.append(order[start:])
    return as_plan([batches[i] for i in rng.permutation(len(batches))], source, target)


def unsorted(source: np.ndarray, target: np.ndarray, budget: int, rng: np.random.Generator) -> Plan:
    """JoeyNMT's batches of tokens: examples in random order, cut as soon as sentences x the longer side's longest
    reaches the budget."""
    order, batches, start, longest = rng.permutation(len(source)), [], 0, 0
    for place, length in enumerate(np.maximum(source, target)[order].tolist()):
        longest = max(longest, length)
        if longest * (place + 1 - start) >= budget:
            batches.append(order[start : place + 1])
            start, longest = place + 1, 0
    batches += [order[start:]] if start < len(order) else []
    return as_plan(batches, source, target)


def padding_share(plan: Plan) -> float:
    """Padded share of the positions of both sides together, 0 to 1."""
    padded = plan.source[1] + plan.target[1]
    return padded / (padded + plan.source[0] + plan.target[0])


def as_plan(batches: list[np.ndarray], source: np.ndarray, target: np.ndarray) -> Plan:
    """These batches and their padding."""
    padding = [sum(len(batch) * int(side[batch].max()) - int(side[batch].sum()) for batch in batches)
               for side in (source, target)]  # fmt: skip
    return Plan(batches, None, (int(source.sum()), padding[0]), (int(target.sum()), padding[1]), 0, 0)
