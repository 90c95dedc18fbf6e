"""Reports of a run: a line for each interval of updates and for each epoch, and a few lines after each validation."""

import dataclasses
import functools
import resource
import sys
import time

import torch

from s2s.training.attention import draw
from s2s.training.log import RunLog
from s2s.training.validation import Validation, metrics_of

LONGEST = 300  # maximum length of a sample's line, in characters


@dataclasses.dataclass
class Interval:
    """Sums since the last report, and the values of each step."""

    loss: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    source: int = 0
    target: int = 0
    norm: float = 0.0
    updates: int = 0
    skipped: int = 0
    source_padding: list[float] = dataclasses.field(default_factory=list)
    target_padding: list[float] = dataclasses.field(default_factory=list)
    waited: list[float] = dataclasses.field(default_factory=list)
    started: float = dataclasses.field(default_factory=time.perf_counter)

    def count(self, counts: dict[str, int], waited: float, epoch: dict) -> None:
        """Record the counts of an update, its padding, and the seconds that it waited for data; also in the sums of the
        epoch."""
        for side in ("source", "target"):
            padding = counts[f"{side}_padding"]
            getattr(self, f"{side}_padding").append(padding / (padding + counts[side]))
        self.waited.append(waited)
        for key, value in {**counts, "waited": waited}.items():
            epoch[key] = epoch.get(key, 0) + value

    def add(self, counts: dict[str, int], loss: float, sums: dict[str, float], norm: float) -> None:
        """Record an update that was not skipped: the sum of its loss, the sums of the criterion's metrics and counts,
        and the norm of the gradient before clipping."""
        self.updates, self.norm = self.updates + 1, self.norm + norm
        self.loss += loss
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.source, self.target = self.source + counts["source"], self.target + counts["target"]

    def course(self) -> str:
        """The loss and the speed, for a progress bar."""
        speed = (self.source + self.target) / (time.perf_counter() - self.started)
        return f"loss {self.loss / self.target:.3f}, {speed:,.0f} tokens/s" if self.target else ""


def memory_peak(device: torch.device) -> int:
    """Peak memory so far, in bytes: of tensors on a GPU; on a CPU, the peak resident size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def report_interval(log: RunLog, i: Interval, progress, config, epoch: int, rate: float, device: torch.device,
                    divisors: dict[str, str | None], source_seconds: float | None) -> None:  # fmt: skip
    """Report an interval, as a line and as an event. The loss, `nll` and other terms are in nats per target token;
    `perplexity` is e^nll.

    Args:
        log: The log of the run.
        i: The sums of the interval.
        progress, config, epoch, rate, device: Of the run; rate is the learning rate.
        divisors: Name of each metric of the criterion -> its divisor.
        source_seconds: Seconds of audio per source position; None: sources are text.
    """
    update, most = progress.update, config.train.max_updates
    seconds = time.perf_counter() - i.started
    tokens = max(1, i.target)
    values = {
        "epoch": epoch,
        **({"loss": i.loss / tokens} if i.updates else {}),
        **metrics_of(i.sums, divisors),
        "lr": rate,
        "gradient_norm": i.norm / max(1, i.updates),
        "source_tokens_per_second": i.source / seconds,
        "target_tokens_per_second": i.target / seconds,
        "source_padding": sum(i.source_padding) / len(i.source_padding),
        "target_padding": sum(i.target_padding) / len(i.target_padding),
        "seconds_waiting": sum(i.waited),
        "memory_peak": memory_peak(device),
        "skipped": progress.skipped,
        "seconds": progress.seconds,
        "seconds_left": (most - update) * seconds / max(1, i.updates + i.skipped),
    }
    speed = f"{values['source_tokens_per_second']:.0f}+{values['target_tokens_per_second']:.0f} tokens/s"
    if source_seconds is not None:
        values["rtfx"] = i.source * source_seconds / seconds
        speed = f"RTFx {values['rtfx']:.1f}, {values['target_tokens_per_second']:.0f} tokens/s"
    course = "every update was skipped"
    if i.updates:
        course = f"loss {values['loss']:.3f}"
        if "nll" in values:
            course += f", nll {values['nll']:.3f} nats, perplexity {values['perplexity']:.2f} (base e)"
        course += _terms(values, divisors)
    skipped = f" | {i.skipped} updates skipped, not finite" if i.skipped else ""
    log.line(
        f"update {update} | epoch {epoch}"
        f" | {course}"
        f" | lr {values['lr']:.2e} | gradient {values['gradient_norm']:.2f} before clipping"
        f" | {speed}"
        f" | padding {values['source_padding']:.1%}+{values['target_padding']:.1%}"
        f" | waiting {sum(i.waited):.1f} s, at most {max(i.waited):.2f}"
        f" | memory {values['memory_peak'] / 2**30:.2f} GiB"
        f" | {duration(values['seconds_left'])} to update {most}{skipped}"
    )
    steps = {"source_padding": i.source_padding, "target_padding": i.target_padding, "seconds_waiting": i.waited}
    log.metrics("train", update, {**values, "steps": {k: [round(x, 5) for x in v] for k, v in steps.items()}})


def _terms(values: dict[str, float], divisors: dict[str, str | None]) -> str:
    """The further metrics of a criterion, as text."""
    means = [name for name, divisor in divisors.items() if divisor and name in values and name != "nll"]
    text = ", ".join(f"{name} {values[name]:.3f}" for name in means)
    text = f" ({text})" if means else ""
    numbers = [name for name, divisor in divisors.items() if divisor is None and name in values]
    return text + "".join(f" | {values[name]:,} examples {name}" for name in numbers)


def report_epoch(log: RunLog, update: int, sums: dict, epoch: int, batching: str,
                 source_seconds: float | None) -> None:  # fmt: skip
    """Report a finished epoch, from the sums that `Interval.count` has made."""
    padding = {s: sums[f"{s}_padding"] / (sums[s] + sums[f"{s}_padding"]) for s in ("source", "target")}
    amount = f"{sums['source']:,}+{sums['target']:,}"
    if source_seconds is not None:
        amount = f"{sums['source'] * source_seconds / 3600:.2f} hours of audio, {sums['target']:,}"
    log.line(
        f"epoch {epoch} is over | {batching}: {sums['sentences']:,} pairs in {sums['batches']:,} batches"
        f" | {amount} tokens | padding {padding['source']:.1%} source,"
        f" {padding['target']:.1%} target | waited {sums['waited']:.1f} s"
    )
    values = {**sums, "source_padding": padding["source"], "target_padding": padding["target"]}
    log.metrics("epoch", update, {"epoch": epoch, "batching": batching, **values})


def report_validation(log: RunLog, update: int, validation: Validation, seconds: float, better: bool) -> None:
    """Report a validation: its values, the signatures of metrics, and a few samples."""
    numbers = " | ".join(f"{n} {v:.3f}" if isinstance(v, float) else f"{v:,} {n}" for n, v in validation.values.items())
    log.line(f"valid at update {update} | {numbers} | {seconds:.1f} s{' | best so far' if better else ''}")
    for name, signature in validation.signatures.items():
        log.line(f"  {name} signature: {signature}")
    for sample in validation.samples:
        source, reference, hypothesis = (t if len(t) <= LONGEST else f"{t[:LONGEST]} ..." for t in sample)
        log.line(f"  source:     {source}\n  reference:  {reference}\n  hypothesis: {hypothesis}")
    for number, (source, reference, hypothesis) in enumerate(validation.samples, 1):
        # Indented lines are plain text in Markdown.
        shown = f"    source:     {source}\n    reference:  {reference}\n    hypothesis: {hypothesis}"
        log.show("text", f"samples/{number}", update, shown)
    for number, attention_map in enumerate(validation.maps, 1):
        title = f"update {update:,}, sample {number}"
        file, drawn = f"attention/update_{update:08d}_{number}.png", functools.partial(draw, attention_map, title=title)
        log.picture(file, drawn, f"attention/{number}", update)
    log.metrics(
        "valid", update, {**validation.values, "seconds_validating": seconds, "signatures": validation.signatures}
    )


def duration(seconds: float) -> str:
    """Format seconds as H:MM:SS; there may be many hours."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
