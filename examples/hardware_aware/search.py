"""Search a super-transformer for the best sub-network that is fast enough on this machine (HAT, Wang et al. 2020).

    python search.py --checkpoint RUN --store STORE --milliseconds 20 --output subnet.yaml

First the time of each kind of layer is measured here. The time of a sub-network is the sum of the times of its layers,
and of what all have in common. Then an evolution changes and mixes the sub-networks of the smallest loss on the valid
split; those that take longer than the limit are left out.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.nn.functional import cross_entropy

from s2s.backends.prepacked import prepacked
from s2s.backends.prepare import prepare
from s2s.checkpoint.loading import load_model
from s2s.criterions.forward import Run
from s2s.data.batch import Batch, Source
from s2s.data.store import Stores
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.subnets import chosen, stacks
from s2s.nn.elastic import cut, light
from s2s.nn.state import TransformerState
from s2s.text.vocabulary import BOS

Candidate = dict[str, dict[str, Any]]  # by side: `layers`, and lists with a size for every layer of the whole model
FASTEST, WHOLE = min, max


def main(arguments: list[str] | None = None) -> None:
    """Search, print the sub-network, and write it."""
    options = parser().parse_args(arguments)
    model, task, _ = load_model(options.checkpoint)
    if stacks(model).keys() != {"encoder", "decoder"}:
        raise UserError(f"{options.checkpoint}: must have model.encoder=super and model.decoder=super")
    batches = batches_of(task.dataset(Stores([options.store]).split("valid")), options.examples)
    times = Times(model, options.length, options.repeats)
    limit, fastest = options.milliseconds / 1000, times(extreme(model, FASTEST))
    whole = extreme(model, WHOLE)
    print(f"whole model: {1000 * times(whole):.2f} ms, loss {loss(model, whole, batches):.4f} nats a token; "
          f"fastest sub-network: {1000 * fastest:.2f} ms")  # fmt: skip
    if fastest > limit:
        raise UserError(f"--milliseconds {options.milliseconds:g}: the fastest sub-network takes {1000 * fastest:.2f}")
    best, value = evolve(model, lambda some: loss(model, some, batches), lambda some: times(some) <= limit, options)
    found = trimmed(best)
    measured = seconds_of(chosen(model, found), options.length, options.repeats)
    Path(options.output).write_text(yaml.safe_dump(found, default_flow_style=None, sort_keys=False), encoding="utf-8")
    print(f"best sub-network: {1000 * times(best):.2f} ms, measured {1000 * measured:.2f} ms, loss {value:.4f}")
    print(f"decode with it: decode.subnet={options.output}")
    print(f"train it alone: {' '.join(alone(found))}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="run or checkpoint of model=hat_tiny or a similar model")
    parser.add_argument("--store", required=True, help="store with a valid split")
    parser.add_argument("--milliseconds", type=float, required=True, help="limit of the time for a sentence")
    parser.add_argument("--output", default="subnet.yaml", help="file for the sub-network")
    parser.add_argument("--length", type=int, default=30, help="tokens of the sentence, source and target")
    parser.add_argument("--repeats", type=int, default=5, help="measurements, of which the median counts")
    parser.add_argument("--examples", type=int, default=500, help="examples of the valid split, of all lengths")
    parser.add_argument("--population", type=int, default=40, help="sub-networks of a generation")
    parser.add_argument("--parents", type=int, default=10, help="sub-networks that live on in the next generation")
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--mutation", type=float, default=0.3, help="probability that a size is drawn anew")
    parser.add_argument("--seed", type=int, default=1)
    return parser


# --- sub-networks ----------------------------------------------------------------------------------------------------


def extreme(model: EncoderDecoder, which: Callable) -> Candidate:
    """The sub-network that has all sizes smallest (FASTEST) or largest (WHOLE)."""
    return {
        side: {"layers": which(stack.depths), **{name: [which(sizes)] * len(stack.layers)
                                                 for name, sizes in stack.choices.items()}}
        for side, stack in stacks(model).items()
    }  # fmt: skip


def changed(model: EncoderDecoder, candidate: Candidate, share: float, random: np.random.Generator) -> Candidate:
    """A candidate of which a share of the sizes is drawn anew."""

    def drawn(old: int, sizes: list[int]) -> int:
        return int(random.choice(sizes)) if random.random() < share else old

    return {
        side: {"layers": drawn(candidate[side]["layers"], stack.depths),
               **{name: [drawn(old, sizes) for old in candidate[side][name]] for name, sizes in stack.choices.items()}}
        for side, stack in stacks(model).items()
    }  # fmt: skip


def mixed(first: Candidate, second: Candidate, random: np.random.Generator) -> Candidate:
    """Each size from one of two candidates."""

    def of(one: Any, other: Any) -> Any:
        if isinstance(one, list):
            return [of(*pair) for pair in zip(one, other, strict=True)]
        return one if random.random() < 0.5 else other

    return {side: {name: of(value, second[side][name]) for name, value in sizes.items()}
            for side, sizes in first.items()}  # fmt: skip


def trimmed(candidate: Candidate) -> Candidate:
    """The candidate as `decode.subnet` reads it: lists have a size for each layer that is used."""
    return {side: {name: value if name == "layers" else value[: sizes["layers"]] for name, value in sizes.items()}
            for side, sizes in candidate.items()}  # fmt: skip


def alone(found: Candidate) -> list[str]:
    """The options of s2s-train that make a model of this sub-network alone."""
    words = [f"model.bridge.layers={max(found['decoder']['memories'])}"]
    for side, sizes in found.items():
        words += [f"model.{side}.each_layer=true", f"model.{side}.layer_counts=[]"]
        words += [f"model.{side}.{name}={str(value).replace(' ', '')}" for name, value in sizes.items()]
    return words


def evolve(model: EncoderDecoder, value: Callable[[Candidate], float], fits: Callable[[Candidate], bool],
           options) -> tuple[Candidate, float]:  # fmt: skip
    """The candidate of the smallest value among those that fit, and its value.

    Args:
        model: Has the sizes to choose from.
        value: Of a candidate; each is computed once.
        fits: Whether a candidate is allowed; the fastest one is.
        options: As `parser` makes them.
    """
    random, known = np.random.default_rng(options.seed), {}

    def new(make: Callable[[], Candidate]) -> Candidate:
        """One that fits; after many attempts the fastest."""
        return next((some for some in (make() for _ in range(1000)) if fits(some)), extreme(model, FASTEST))

    def rated(candidate: Candidate) -> float:
        key = str(trimmed(candidate))
        if key not in known:
            known[key] = value(candidate)
        return known[key]

    start = extreme(model, FASTEST)
    population = [new(lambda: changed(model, start, 1.0, random)) for _ in range(options.population)]
    for generation in range(1, options.generations + 1):
        parents = sorted(population, key=rated)[: options.parents]
        print(f"generation {generation}: {len(known)} sub-networks, smallest loss {rated(parents[0]):.4f}")
        rest = options.population - len(parents)

        def mutant(parents: list[Candidate] = parents) -> Candidate:
            return changed(model, parents[random.integers(len(parents))], options.mutation, random)

        def child(parents: list[Candidate] = parents) -> Candidate:
            return mixed(*(parents[i] for i in random.integers(len(parents), size=2)), random)

        population = [*parents, *(new(mutant if i % 2 else child) for i in range(rest))]
    best = min(population, key=rated)
    return best, rated(best)


# --- loss and time ---------------------------------------------------------------------------------------------------


def batches_of(dataset, examples: int) -> list[Batch]:
    """Batches of examples that are spread over a split, short ones together."""
    every = np.arange(len(dataset))[:: max(1, len(dataset) // examples)][:examples]
    _, target, *_ = dataset.lengths(0, len(dataset))
    every = every[np.argsort(np.asarray(target)[every], kind="stable")]
    return [dataset.collate(every[first : first + 32], None, None) for first in range(0, len(every), 32)]


@torch.inference_mode()
def loss(model: EncoderDecoder, candidate: Candidate, batches: list[Batch]) -> float:
    """Mean negative log-likelihood of a target token, in nats."""
    total, count, part = 0.0, 0, chosen(model, trimmed(candidate))
    for batch in batches:
        run = Run(part, batch)
        total += float(cross_entropy(run.output.output(run.states).float(), run.target, reduction="sum"))
        count += len(run.target)
    return total / count


def median(run: Callable[[], Any], repeats: int) -> float:
    """The median of the seconds that `run` takes, after a first time that does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@torch.inference_mode()
def seconds_of(model: EncoderDecoder, length: int, repeats: int) -> float:
    """Seconds for a sentence of `length` tokens, by greedy search without kernels."""
    ready = prepare(model, "fp32", "eager")
    source = Source(torch.full((1, length), BOS), torch.tensor([length]))
    token = torch.tensor([BOS])

    def run() -> None:
        state = ready.start(ready.encode((source,)), 1)
        for _ in range(length):
            ready.step(token, state)

    return median(run, repeats)


class Times:
    """The time of sub-networks on this machine.

    Args:
        model: The whole model.
        length: Tokens of the source and of the target.
        repeats: Measurements.

    Attributes:
        table: Seconds of a layer, by its side and sizes.
        base: Seconds of the rest.
    """

    def __init__(self, model: EncoderDecoder, length: int, repeats: int):
        self.model, self.length, self.repeats, self.table = model, length, repeats, {}
        whole = extreme(model, WHOLE)
        self.base = 0.0
        self.base = max(0.0, seconds_of(model, length, repeats) - self(whole))  # measurements vary

    def __call__(self, candidate: Candidate) -> float:
        """Seconds of a candidate."""
        parts = stacks(self.model)
        layers = [(side, *sizes) for side, choice in trimmed(candidate).items()
                  for sizes in zip(*(choice[name] for name in parts[side].lists), strict=True)]  # fmt: skip
        return self.base + sum(self._layer(*layer) for layer in layers)

    @torch.inference_mode()
    def _layer(self, side: str, *sizes: int) -> float:
        """Seconds of a layer of these sizes, over a sentence."""
        if (key := (side, *sizes)) not in self.table:
            layer = light(stacks(self.model)[side].layers[0])
            layer.use(*sizes, *layer.whole[len(sizes) :])
            layer = prepacked(cut(layer), "fp32")
            run = self._encoding(layer) if side == "encoder" else self._decoding(layer)
            self.table[key] = median(run, self.repeats)
        return self.table[key]

    def _encoding(self, layer) -> Callable[[], Any]:
        x = torch.randn(1, self.length, self.model.encoder.width)
        mask = torch.ones(1, 1, 1, self.length, dtype=torch.bool)
        return lambda: layer(x, mask)

    def _decoding(self, layer) -> Callable[[], Any]:
        positions = self.length * layer.cross.copies
        memory, x = torch.randn(1, positions, self.model.bridge.width), torch.randn(1, 1, self.model.decoder.width)
        mask = torch.ones(1, 1, 1, positions, dtype=torch.bool)

        def run() -> None:
            state = TransformerState(layer.cross.project(memory)[None], mask, 1)
            for _ in range(self.length):
                state.begin()
                layer.step(x, state, 0)
                state.advance()

        return run


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"search.py: error: {error}")
