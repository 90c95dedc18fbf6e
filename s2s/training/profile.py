"""Profiles training: traces some updates, and compares their speed with that of a plain matrix product.

RUN/profile.json is a trace for chrome://tracing or ui.perfetto.dev.
"""

import bisect
import contextlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from s2s.data.batch import Batch, Packing
from s2s.training.log import RunLog

FILE = "profile.json"
WARM_UP, TIMED, TRACED = 10, 5, 5  # numbers of successive updates; a trace slows down traced updates
PHASES = ("data", "encoder", "decoder", "loss", "backward", "optimizer", "validation", "checkpoint")
WHOLE = "updates"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
LAUNCHES = {"cuda_runtime", "cuda_driver"}
KERNELS = {"kernel", "gpu_memcpy", "gpu_memset"}


class Span(NamedTuple):
    """An interval of time, in microseconds."""

    start: float
    end: float
    name: str


class Profile:
    """Traces TRACED updates after WARM_UP + TIMED others, and reports how their time is spent.

    The trainer marks phases with `record_function`; this class marks the phases inside of the model.

    Args:
        run: The run's folder.
        model: The model in training.
        precision: `fp32` or `bf16`, of its matrix products.
        log: The log of the run.
    """

    def __init__(self, run: Path, model: torch.nn.Module, precision: str, log: RunLog):
        self.run, self.model, self.precision, self.log = run, model, precision, log
        self.device = next(model.parameters()).device
        self.updates = self.flops = 0
        self.tracing = contextlib.ExitStack()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_) -> None:
        self.tracing.close()
        needed = WARM_UP + TIMED + TRACED
        if self.updates < needed:
            self.log.line(f"note: train.profile requires {needed} updates, and the run ended after {self.updates}")

    def step(self, batches: list[Batch], update: int) -> float:
        """To be called after each update, with its batches. Returns the seconds spent here, which are not training
        time."""
        began = time.perf_counter()
        self.updates += 1
        done = self.updates - WARM_UP
        if 0 < done <= TIMED:
            self.flops += sum(training_flops(self.model, batch) for batch in batches)
        if done == 0:
            self._synchronise()
            self.started = time.perf_counter()
        elif done == TIMED:
            self._synchronise()
            self.seconds = time.perf_counter() - self.started
            self._begin()
        elif done == TIMED + TRACED:
            self._synchronise()
            self.tracing.close()
            self._report(update)
        return time.perf_counter() - began

    def _begin(self) -> None:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
        self.profiler = self.tracing.enter_context(profile(activities=activities))
        self.tracing.enter_context(marked(self.model, {"encode": "encoder", "decode": "decoder"}))
        self.tracing.enter_context(record_function(WHOLE))

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _report(self, update: int) -> None:
        path = self.run / FILE
        self.profiler.export_chrome_trace(str(path))
        shares_by_place = breakdown(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])
        self.log.line(
            f"profile of updates {update - TRACED + 1} to {update}, traced in {shares_by_place['seconds']:.3f} s; "
            f"{path} opens in ui.perfetto.dev"
        )
        places = [place for place in ("host", "device") if place in shares_by_place]
        for phase in [*PHASES, "other", "idle"]:
            shares = [
                f"{shares_by_place[place].get(phase, 0.0):6.1%}" + f" {place}" * (len(places) > 1) for place in places
            ]
            if any(phase in shares_by_place[place] for place in places):
                self.log.line(f"  {phase:<10}  {'  '.join(shares)}")
        rate, peak = self.flops / self.seconds, product_rate(self.device, PRECISIONS[self.precision])
        self.log.line(
            f"  {shares_by_place['products']:.1%} of the time are matrix products, without those inside of attention"
        )
        first, last = update - TRACED - TIMED + 1, update - TRACED
        self.log.line(
            f"  model FLOPs utilisation {rate / peak:.1%} in updates {first} to {last}: {rate / 1e12:.3g} of the "
            f"{peak / 1e12:.3g} TFLOP/s of a large matrix product in {self.precision} on this device"
        )
        values = {"model_flops_per_second": rate, "product_flops_per_second": peak, "utilisation": rate / peak}
        self.log.metrics("profile", update, shares_by_place | values)


@contextlib.contextmanager
def marked(model: torch.nn.Module, methods: dict[str, str]) -> Iterator[None]:
    """A context in which calls of methods of a model are marked in traces; methods: method -> name in the trace."""
    before = {method: vars(model).get(method) for method in methods}
    for method, name in methods.items():
        setattr(model, method, record_function(name)(getattr(model, method)))
    try:
        yield
    finally:
        for method, function in before.items():
            delattr(model, method)
            if function is not None:
                setattr(model, method, function)


def breakdown(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The shares of phases in the time of a trace.

    Args:
        events: `traceEvents` of a trace of torch.profiler, in which PHASES are marked inside of one WHOLE.

    Returns:
        `seconds`: the total time. `host`: phase -> its share of this time (the innermost phase counts; `other` is the
        rest). `products`: the share of matrix products. With a GPU also `device`: phase -> share of the time of the
        kernels that it launched, and `idle`; `products` is then the share of kernels.
    """
    events = [event for event in events if event.get("ph") == "X"]
    spans = [_span(e) for e in events if e.get("cat") == "user_annotation" and e["name"] in (*PHASES, WHOLE)]
    whole = next(span for span in spans if span.name == WHOLE)
    length = whole.end - whole.start
    phases = innermost([span for span in spans if whole.start <= span.start and span.end <= whole.end])
    host = _sums((span.name, span.end - span.start) for span in phases)
    products = {tid: innermost(map(_span, own)) for tid, own in _by_thread(events)}
    found = {"seconds": length / 1e6, "host": _shares(host, length)}
    kernels = [event for event in events if event.get("cat") in KERNELS]
    if not kernels:
        spent = sum(span.end - span.start for spans in products.values() for span in spans)
        return found | {"products": spent / length}
    launches = {e["args"].get("correlation"): e for e in events if e.get("cat") in LAUNCHES}
    device: dict[str, float] = {}
    spent = 0.0
    for kernel in kernels:
        launch = launches.get(kernel["args"].get("correlation"))
        phase = _at(phases, launch["ts"]) if launch else None
        name = phase.name if phase else WHOLE
        device[name] = device.get(name, 0.0) + kernel["dur"]
        if launch and _at(products.get(launch["tid"], []), launch["ts"]):
            spent += kernel["dur"]
    shares = _shares(device, length)
    busy = _union(_span(kernel) for kernel in kernels)
    return found | {"device": shares | {"idle": max(0.0, 1 - busy / length)}, "products": spent / length}


def innermost(spans: Iterable[Span]) -> list[Span]:
    """Divide nested intervals into disjoint ones, each with the name of the innermost interval that covers it;
    sorted."""
    cut: list[Span] = []
    stack: list[Span] = []
    at = 0.0
    for span in [*sorted(spans, key=lambda s: (s.start, -s.end)), Span(float("inf"), float("inf"), "")]:
        while stack and stack[-1].end <= span.start:
            inner = stack.pop()
            cut.append(Span(at, inner.end, inner.name))
            at = inner.end
        if stack:
            cut.append(Span(at, span.start, stack[-1].name))
        at = span.start
        stack.append(span)
    return [span for span in cut if span.end > span.start]


def training_flops(model: torch.nn.Module, batch: Batch) -> int:
    """The floating-point operations of the matrix products of a forward and a backward pass (twice as many), without
    padding: what the model needs, however it is computed."""
    first, *more = (example_lengths(source.lengths, source.packing) for source in batch.sources)
    return 3 * model.flops(first, example_lengths(batch.target_lengths, batch.target_packing), *more)


def example_lengths(lengths: Tensor, packing: Packing | None) -> Tensor:
    """The length of each example, int64 [examples], from the lengths of rows [B] and their packing."""
    if packing is None:
        return lengths
    segments = packing.segments
    valid = torch.arange(segments.size(1), device=lengths.device) < lengths[:, None]
    first = torch.cumsum(segments.amax(dim=1) + 1, 0) - segments.amax(dim=1) - 1  # examples in the rows before
    return torch.bincount((segments + first[:, None])[valid], minlength=int(first[-1] + segments[-1].amax() + 1))


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The speed of a large square matrix product, in floating-point operations per second; the best of several."""
    size, most = (8192, 20) if device.type == "cuda" else (1024, 5)
    random = torch.Generator(device).manual_seed(0)  # a separate generator: the run's random numbers are not affected
    a, b = (torch.rand(size, size, generator=random, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(most + 1):
        started = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # waits until a GPU has finished
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _span(event: dict[str, Any]) -> Span:
    return Span(event["ts"], event["ts"] + event["dur"], event["name"])


def _sums(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for name, value in pairs:
        total[name] = total.get(name, 0.0) + value
    return total


def _shares(spent: dict[str, float], length: float) -> dict[str, float]:
    """Shares of a length, in the order of PHASES; `other` is what belongs to no phase."""
    names = [name for name in PHASES if name in spent]
    return {name: spent[name] / length for name in names} | {"other": spent.get(WHOLE, 0.0) / length}


def _by_thread(events: list[dict[str, Any]]) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """The matrix products of each thread."""
    ops = [event for event in events if event.get("cat") == "cpu_op" and event["name"] in PRODUCTS]
    ops.sort(key=lambda event: str(event["tid"]))
    for _, group in itertools.groupby(ops, key=lambda event: str(event["tid"])):
        own = list(group)
        yield own[0]["tid"], own


def _at(spans: list[Span], moment: float) -> Span | None:
    """The interval, of disjoint and sorted ones, that contains a moment; or None."""
    place = bisect.bisect_right(spans, moment, key=lambda span: span.start) - 1
    return spans[place] if place >= 0 and moment <= spans[place].end else None


def _union(spans: Iterable[Span]) -> float:
    """The length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for span in sorted(spans):
        total += max(0.0, span.end - max(span.start, end))
        end = max(end, span.end)
    return total
