"""Plans batches: pure functions from arrays of lengths to lists of example numbers, without tensors.

A strategy orders the examples; the order is then cut into batches. The cost of a batch is what the device computes: its
number of sentences times the cost of its longest sides, padding included.

    token_budget  by target length, then source length, so that a batch has similar lengths
    bucket_1d     buckets of similar cost, in random order within; the bucket's longest example determines batch sizes
    bucket_2d     buckets of similar source and target lengths (Canary, 2503.05931), in random order within
    packed        several examples per row, first-fit decreasing; the rows are then cut as in token_budget
"""

import dataclasses
from bisect import bisect_right

import numpy as np

from s2s import registry
from s2s.config.schema import option

STRATEGIES = ("token_budget", "bucket_1d", "bucket_2d", "packed")


@dataclasses.dataclass
class PlanConfig:
    """Options of batch planning."""

    batching: str = option("token_budget", "which examples share a batch", STRATEGIES)
    batch_tokens: int = option(
        4096, "budget of a batch: sentences x the cost of its longest sides, padding included", at_least=1
    )
    batch_sentences: int | None = option(None, "most sentences (packed: rows) in a batch; null: no limit", at_least=1)
    batch_multiple: int = option(
        1, "make the number of sentences in a batch a multiple of this, if it is not smaller", at_least=1
    )
    cost: str = option("max", "cost of a sentence, from its source and target length", registry.Names("cost"))
    quadratic: float | None = option(
        None, "Q: a length L counts as L + L^2/Q, for the cost of attention; null: as L", at_least=1
    )
    buckets: list[int] = option(
        [], "bucket_1d: [number], bucket_2d: [source,target]; empty: about two batches per bucket", at_least=1,
        needs="batching=bucket_1d|bucket_2d",
    )  # fmt: skip
    row_tokens: int | None = option(
        None, "tokens in a packed row, doubled if a longer example begins it; null: 64, or 1/128 of the budget",
        at_least=1, needs="batching=packed",
    )  # fmt: skip


@dataclasses.dataclass
class Plan:
    """The batches of an epoch, or of one window of it.

    Attributes:
        batches: Arrays of example numbers, int64. Some are empty if there are too few examples for a group.
        rows: With packing, the number of examples in each row of each batch; otherwise None.
        source: Number of source tokens, and of positions of padding.
        target: The same for the target side.
        oversized: Number of examples that exceed the budget by themselves; each is a batch of its own.
        empty: Number of examples with a side of length zero.
    """

    batches: list[np.ndarray]
    rows: list[np.ndarray] | None
    source: tuple[int, int]
    target: tuple[int, int]
    oversized: int
    empty: int

    @property
    def source_padding(self) -> float:
        """Share of padding among all source positions, 0 to 1."""
        return self.source[1] / max(1, sum(self.source))

    @property
    def target_padding(self) -> float:
        """Share of padding among all target positions, 0 to 1."""
        return self.target[1] / max(1, sum(self.target))


def plan(
    source: np.ndarray,
    target: np.ndarray,
    config: PlanConfig,
    rng: np.random.Generator | None,
    group: int = 1,
    tags: np.ndarray | None = None,
) -> Plan:
    """Plan batches in which every example occurs exactly once.

    Args:
        source: [n] source lengths (EOS included).
        target: [n] target lengths (EOS included).
        config: Strategy, cost and budget.
        rng: Random numbers of the epoch; None: no randomness, in order of length (validation).
        group: Number of batches of a group. The batches of a group have similar lengths, and the same number of
            sentences up to one, so that ranks that take one each do not wait for each other. The number of batches is a
            multiple of it.
        tags: [n] integers; all examples of a group have the same tag. None: there are no tags.

    Raises:
        ValueError: a length is negative.
    """
    source, target = np.asarray(source, np.int64), np.asarray(target, np.int64)
    if len(source) and min(source.min(), target.min()) < 0:
        raise ValueError("a length is negative")
    groups: list[list[tuple[np.ndarray, np.ndarray]]] = []  # of (examples, number of examples in each row)
    for examples in [np.arange(len(source))] if tags is None else [np.flatnonzero(tags == t) for t in np.unique(tags)]:
        if not len(examples):
            continue
        sizes = np.ones(len(examples), np.int64)
        if config.batching == "packed":
            examples, sizes = _pack(examples, source[examples], target[examples], config, rng)
        ends = np.cumsum(sizes)
        lengths = (np.add.reduceat(side[examples], ends - sizes) for side in (source, target))
        for runs in _groups(*lengths, config, rng, group):
            groups.append([(_rows(examples, ends, sizes, rows), sizes[rows]) for rows in runs])
    if rng is not None:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    batches = [batch for members in groups for batch in members]
    padding = [sum(_padding(side, *batch) for batch in batches) for side in (source, target)]
    return Plan(
        [examples for examples, _ in batches],
        [sizes for _, sizes in batches] if config.batching == "packed" else None,
        (int(source.sum()), padding[0]),
        (int(target.sum()), padding[1]),
        int((batch_cost(config, source, target) > config.batch_tokens).sum()),
        int((np.minimum(source, target) == 0).sum()),
    )


def batch_cost(config: PlanConfig, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The cost of a sentence of these lengths, in tokens (`product`: pairs of tokens); arrays or integers."""
    if config.quadratic is not None:
        source, target = source + source**2 / config.quadratic, target + target**2 / config.quadratic
    return registry.find("cost", config.cost)(source, target)


def kept_together(before: Plan, after: Plan) -> float:
    """The share of pairs of examples in the same batch of one plan that are so in another plan, too, 0 to 1. It
    measures how little a shuffle changes."""

    def batch_of(plan: Plan) -> np.ndarray:
        numbers = np.repeat(np.arange(len(plan.batches)), [len(batch) for batch in plan.batches])
        return numbers[np.argsort(np.concatenate(plan.batches))]

    first, second = batch_of(before), batch_of(after)
    _, both = np.unique(first * len(after.batches) + second, return_counts=True)
    _, own = np.unique(first, return_counts=True)
    return float((both * (both - 1)).sum() / max(1, (own * (own - 1)).sum()))


def _rows(examples: np.ndarray, ends: np.ndarray, sizes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The examples of some rows."""
    if len(ends) == len(examples):
        return examples[rows]
    places = np.arange(sizes[rows].sum()) + np.repeat(ends[rows] - np.cumsum(sizes[rows]), sizes[rows])
    return examples[places]


def _padding(lengths: np.ndarray, examples: np.ndarray, sizes: np.ndarray) -> int:
    """Positions of padding on one side of a batch."""
    if not len(examples):
        return 0
    rows = np.add.reduceat(lengths[examples], np.cumsum(sizes) - sizes)
    return int(len(rows) * rows.max() - rows.sum())


def _groups(source: np.ndarray, target: np.ndarray, config: PlanConfig, rng, group: int) -> list[list[np.ndarray]]:
    """Row numbers of the batches of each group, from the lengths of rows."""
    order, *bounds = ORDERS[config.batching](source, target, config, rng, group)
    # A first batch of random size shifts all cuts, so that neighbours do not share a batch in every epoch.
    first = config.batch_tokens if rng is None else int(rng.integers(1, config.batch_tokens + 1))
    sizes = _cut(bounds[0][order], bounds[1][order], config, first, group)
    runs = np.split(order, np.cumsum(sizes)[:-1])
    return [[run[member::group] for member in range(group)] for run in runs]


def _cut(source: np.ndarray, target: np.ndarray, config: PlanConfig, first: int, group: int) -> list[int]:
    """Sizes of consecutive runs of rows. Each run is divided into `group` batches, which must keep to the budget (those
    of the first run to `first`)."""
    sizes: list[int] = []
    start, window = 0, 64
    while start < len(source):
        budget = config.batch_tokens if start else first
        end = start + window
        longest = [np.maximum.accumulate(side[start:end]) for side in (source, target)]
        limit = np.maximum(1, budget // np.maximum(1, batch_cost(config, *longest))).astype(np.int64)
        limit = np.minimum(limit, config.batch_sentences or limit)
        limit = np.where(limit >= config.batch_multiple, limit - limit % config.batch_multiple, limit)
        fits = np.arange(1, len(limit) + 1) <= group * limit  # true, then false: costs only rise
        size = int(fits.sum())
        if size == window and end < len(source):
            window *= 2
            continue
        sizes.append(size)
        start, window = start + size, max(64, 2 * size)
    if len(sizes) > 1 and sizes[-1] < group <= sizes[-1] + sizes[-2] - group:
        sizes[-2:] = [sizes[-2] + sizes[-1] - group, group]  # otherwise a batch of the last group would be empty
    return sizes


# Orders. Each returns row numbers [rows], and the source and target length with which each row counts, [rows]


def _by_length(source: np.ndarray, target: np.ndarray, config: PlanConfig, rng, group: int):
    """By target length, then by source length; ties are in random order.

    Source lengths rise and fall in turn, so that a batch that spans two target lengths does not span all source
    lengths. If only the source counts in the cost, source and target change places.

    If there are many more lengths than batches, strips of similar target lengths replace target lengths; otherwise
    nearly all padding would be on the source side. If a batch spans several source lengths, these are blurred by up to
    a quarter of the span. This costs a little padding, but with few ties nearly the same examples would share a batch
    in every epoch.
    """
    major, minor = (source, target) if config.cost in ("source", "frames") else (target, source)
    if rng is None:
        return np.lexsort((np.where(major % 2, -minor, minor), major)), source, target
    batches = max(1, batch_cost(config, source, target).sum() / config.batch_tokens / group)
    strip = major
    if len(np.unique(major)) > 5 * batches**0.5:
        strip = _equal_cost(major, batch_cost(config, source, target), max(1, round(2 * batches**0.5)))
    spanned = len(np.unique(strip * (minor.max() + 1) + minor)) / batches
    blurred = minor + rng.uniform(-1, 1, len(minor)) * max(0, spanned - 1) / 4
    ties = rng.permutation(len(major))
    order = ties[np.lexsort((np.where(strip % 2, -blurred, blurred)[ties], strip[ties]))]
    return order, source, target


def _by_cost(source: np.ndarray, target: np.ndarray, config: PlanConfig, rng, group: int):
    """By buckets of similar cost."""
    cost = batch_cost(config, source, target)
    number = config.buckets[0] if config.buckets else _few(cost, config, group)
    bucket = _equal_cost(cost, cost, number)
    return _by_bucket(bucket, source, target, rng)


def _by_both(source: np.ndarray, target: np.ndarray, config: PlanConfig, rng, group: int):
    """By buckets of similar target lengths, each divided into buckets of similar source lengths, rising and falling in
    turn."""
    cost = batch_cost(config, source, target)
    side = max(1, round(_few(cost, config, group) ** 0.5))
    across, down = config.buckets if config.buckets else (side, side)
    bucket = _equal_cost(target, cost, down)
    for number in np.unique(bucket):
        members = np.flatnonzero(bucket == number)
        within = _equal_cost(source[members], cost[members], across)
        bucket[members] = number * across + (across - 1 - within if number % 2 else within)
    return _by_bucket(bucket, source, target, rng)


ORDERS = {"token_budget": _by_length, "bucket_1d": _by_cost, "bucket_2d": _by_both, "packed": _by_length}


def _by_bucket(bucket: np.ndarray, source: np.ndarray, target: np.ndarray, rng):
    """By bucket, in random order within. Every row counts with its bucket's largest lengths, so that a bucket has a
    single batch size."""
    bucket = np.unique(bucket, return_inverse=True)[1]
    order = np.argsort(bucket, kind="stable") if rng is None else np.lexsort((rng.random(len(bucket)), bucket))
    starts = np.searchsorted(bucket[order], np.arange(bucket.max() + 1))
    longest = (np.maximum.reduceat(side[order], starts)[bucket] for side in (source, target))
    return order, *longest


def _few(cost: np.ndarray, config: PlanConfig, group: int) -> int:
    """The number of buckets if each has about two batches."""
    return max(1, round(cost.sum() / config.batch_tokens / group / 2))


def _equal_cost(lengths: np.ndarray, cost: np.ndarray, number: int) -> np.ndarray:
    """The bucket of each row [n]: at most `number` buckets by length, of about equal total cost. Rows of the same
    length are in the same bucket."""
    order = np.argsort(lengths, kind="stable")
    total = np.cumsum(cost[order])
    edges = np.searchsorted(total, total[-1] * np.arange(1, number) / number)
    return np.searchsorted(np.unique(lengths[order][edges]), lengths)


def _pack(examples: np.ndarray, source: np.ndarray, target: np.ndarray, config: PlanConfig, rng):
    """First-fit decreasing in two dimensions, one row at a time. The longest example left opens a row. Then the longest
    target that fits is added, with the source length nearest to the row's proportion of source and target.

    Args:
        examples: [n] example numbers.
        source, target: [n] their lengths.
        config: Cost and budget.
        rng: Random order of ties; None: no randomness.

    Returns:
        The examples in the order of the rows, and the number of examples in each row.
    """
    width = _row_width(source, target, config)
    order = np.arange(len(source)) if rng is None else rng.permutation(len(source))
    order = order[np.lexsort((source[order], target[order]))]
    source, target = source[order], target[order]
    # For each target length, in rising order: the source lengths, in rising order, and the examples of each.
    alike = np.flatnonzero(np.diff(source, prepend=-1) | np.diff(target, prepend=-1))
    stacks = [same.tolist() for same in np.split(examples[order], alike[1:])]
    values, starts = np.unique(target[alike], return_index=True)
    sources = [same.tolist() for same in np.split(source[alike], starts[1:])]
    numbers = [stacks[first:last] for first, last in zip(starts, [*starts[1:], len(alike)], strict=True)]
    targets, packed, sizes = values.tolist(), [], []

    def take(place: int, number: int) -> tuple[int, int]:
        stack = numbers[place][number]
        packed.append(stack.pop())
        taken = sources[place][number], targets[place]
        if not stack:
            del sources[place][number], numbers[place][number]
            if not sources[place]:
                del sources[place], numbers[place], targets[place]
        return taken

    while targets:
        before = len(packed)
        opening = take(-1, -1)
        room = [most - length for most, length in zip(_room(width, opening, config), opening, strict=True)]
        place = bisect_right(targets, room[1]) - 1
        while place >= 0 and room[1] > 0:
            lengths = sources[place]
            wanted = room[0] * targets[place] / room[1]
            number = bisect_right(lengths, wanted)
            if number and (number == len(lengths) or wanted - lengths[number - 1] <= lengths[number] - wanted):
                number -= 1
            if lengths[number] > room[0]:
                place -= 1
                continue
            taken = take(place, number)
            room = [most - length for most, length in zip(room, taken, strict=True)]
            place = min(place, bisect_right(targets, room[1]) - 1)
        sizes.append(len(packed) - before)
    return np.array(packed, np.int64), np.array(sizes, np.int64)


def _row_width(source: np.ndarray, target: np.ndarray, config: PlanConfig) -> tuple[int, int]:
    """Capacity of a row in source and target tokens, in their proportion in the data, and within the budget."""
    longer = max(1, source.sum(), target.sum())
    width = config.row_tokens or max(64, config.batch_tokens // 128)
    while True:
        sides = tuple(int(np.ceil(width * side.sum() / longer)) for side in (source, target))
        if width == 1 or batch_cost(config, *sides) <= config.batch_tokens:
            return sides
        width = max(1, width // 2)


def _room(width: tuple[int, int], opening: tuple[int, int], config: PlanConfig) -> tuple[int, int]:
    """Capacity of the row that an example opens: `width`, doubled until the example fits; or the size of the example,
    if that would exceed the budget."""
    room = width
    while room[0] < opening[0] or room[1] < opening[1]:
        room = 2 * max(1, room[0]), 2 * max(1, room[1])
    return room if batch_cost(config, *room) <= config.batch_tokens else opening
