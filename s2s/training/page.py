"""The page of s2s-report: runs side by side, as one HTML file that needs nothing else, no network and no script."""

import dataclasses
import re
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from s2s import figures, scoring
from s2s.checkpoint import runs
from s2s.config.documents import read_json, read_yaml
from s2s.data.store import Store
from s2s.errors import UserError
from s2s.scoring import compare, details
from s2s.scoring.edits import ErrorRate
from s2s.training import curves, outcomes
from s2s.training.metrics import read_metrics

SHOWN = 10  # samples, worst lines and confusions
RESAMPLES, TRIALS = 1000, 10_000
BARS = 30  # bars of a histogram
STYLE = """body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}
td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{background:#f2f2f2}pre{overflow-x:auto;background:#f8f8f8;padding:.6em}svg{max-width:100%;height:auto}
small{color:#555;overflow-wrap:anywhere}h2{border-bottom:1px solid #ccc;margin-top:2em}"""


@dataclasses.dataclass
class Outputs:
    """The decoded lines that a page shows.

    Attributes:
        hypotheses: Lines of each run, in the order of the runs; empty: none are given.
        reference: The reference lines.
        source: The source lines, or None.
        metrics: Names of metrics.
    """

    hypotheses: list[list[str]]
    reference: list[str]
    source: list[str] | None
    metrics: list[str]


@dataclasses.dataclass
class Run:
    """What a page knows of a run: its name, its events by kind, the content of run.json and config.yaml."""

    name: str
    path: Path
    events: dict[str, list[dict[str, Any]]]
    origin: dict[str, Any]
    config: dict[str, Any]


def read(path: str) -> Run:
    """Read a run. Raises UserError: it is none, or one of its files is damaged."""
    folder = Path(path)
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{path}: not a run (no metrics.jsonl){runs.inside(Path(path))}")
    events: dict[str, list[dict[str, Any]]] = {}
    for event in read_metrics(folder / "metrics.jsonl", []):
        events.setdefault(event["kind"], []).append(event)
    origin = read_json(folder / "run.json", dict) if (folder / "run.json").is_file() else {}
    return Run(path, folder, events, origin, read_yaml(folder / "config.yaml"))


def page(paths: list[str], outputs: Outputs) -> str:
    """The HTML of runs.

    Raises:
        UserError: a path is no run, or the metrics cannot compare the hypotheses.
    """
    runs = [read(path) for path in paths]
    sections = {
        "Runs": _runs(runs),
        "Curves": _svg(curves.to_figure(curves.read(paths), paths), paths),
        "Differences of the configs": _differences(runs),
        "Metrics of the last validation": _validations(runs),
        "Scores": _scores(runs, outputs),
        "Samples": _samples(runs, outputs),
        "Worst lines": _worst(runs, outputs),
        "Lengths": _lengths(runs, outputs),
        "Padding": _padding(runs),
        "Speed": _speed(runs),
    }
    sections = {title: body for title, body in sections.items() if body}
    content = "".join(f'<li><a href="#{_anchor(title)}">{escape(title)}</a></li>' for title in sections)
    body = "".join(f'<h2 id="{_anchor(title)}">{escape(title)}</h2>{text}' for title, text in sections.items())
    title = escape(", ".join(paths))
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>s2s: {title}</title><style>{STYLE}'
            f"</style></head><body><h1>{title}</h1><ul>{content}</ul>{body}</body></html>\n")  # fmt: skip


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{lines}</table>"


def _svg(picture: Any, texts: Iterable[str] = ()) -> str:
    """A figure as an element of a page, without the head of a file."""
    return re.sub(r"^.*?(?=<svg)", "", figures.content(picture, "svg", texts).decode(), flags=re.DOTALL)


def _runs(runs: list[Run]) -> str:
    rows = []
    for run in runs:
        last = max((event["update"] for events in run.events.values() for event in events), default=0)
        best = outcomes.best(run.path)
        seconds = run.events["train"][-1].get("seconds", 0) if run.events.get("train") else 0
        rows.append([
            run.name, f"{last:,}", f"{best[0]} {best[1]:.4g}" if best else "", f"{seconds / 60:.1f} min",
            run.origin.get("store_digest", ""), f"s2s {run.origin.get('s2s', '')}, torch {run.origin.get('torch', '')}",
        ])  # fmt: skip
    return _table(["run", "updates", "best", "training", "hash of the data", "versions"], rows)


def _differences(runs: list[Run]) -> str:
    if len(runs) < 2:
        return ""
    different = outcomes.differences([run.path for run in runs])
    if not different:
        return "<p>none</p>"
    return _table(["key", *(run.name for run in runs)], ([key, *values] for key, values in different.items()))


def _validations(runs: list[Run]) -> str:
    last = [run.events["valid"][-1] if run.events.get("valid") else {} for run in runs]
    signatures = {name: text for event in last for name, text in event.get("signatures", {}).items()}
    names = dict.fromkeys(name for event in last for name, value in event.items()
                          if isinstance(value, (int, float)) and name not in ("update", "session", "time"))  # fmt: skip
    if not names:
        return ""
    rows = [[name, *(f"{event[name]:.4g}" if event.get(name) is not None else "" for event in last)] for name in names]
    notes = "".join(f"<p><small>{escape(f'{name}: {text}')}</small></p>" for name, text in signatures.items())
    return _table(["metric", *(run.name for run in runs)], rows) + notes


def _scores(runs: list[Run], outputs: Outputs) -> str:
    """Scores of the hypotheses, with intervals, and p-values against the first run."""
    if not outputs.hypotheses:
        return ""
    systems = dict(zip((run.name for run in runs), outputs.hypotheses, strict=True))
    inputs = {"source": outputs.source}
    parts = []
    for name in outputs.metrics:
        if len(runs) > 1:
            found = compare.compare(name, systems, [outputs.reference], RESAMPLES, TRIALS, inputs=inputs)
            parts.append(f"<pre>{escape(compare.as_text(found) + compare.note([found]))}</pre>")
        else:
            score = scoring.score(name, outputs.hypotheses[0], [outputs.reference], resamples=RESAMPLES, inputs=inputs)
            parts.append(f"<pre>{escape(str(score))}</pre>")
    return "".join(parts)


def _samples(runs: list[Run], outputs: Outputs) -> str:
    """Lines spread over the hypotheses; without hypotheses, the samples of each run's last validation."""
    if outputs.hypotheses:
        count = len(outputs.reference)
        places = range(0, count, max(1, count // SHOWN))[:SHOWN]
        columns = [("source", outputs.source)] if outputs.source else []
        columns += _sides(runs, outputs)
        rows = ([i + 1, *(lines[i] for _, lines in columns)] for i in places)
        return _table(["line", *(name for name, _ in columns)], rows)
    parts = []
    for run in runs:
        log = run.path / "train.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        last = text.rpartition(" valid at update ")[2]
        rows = re.findall(r"  source:     (.*)\n  reference:  (.*)\n  hypothesis: (.*)", last)
        if rows and last != text:
            parts.append(f"<h3>{escape(run.name)}</h3>{_table(['source', 'reference', 'hypothesis'], rows)}")
    return "".join(parts)


def _worst(runs: list[Run], outputs: Outputs) -> str:
    """The lines with the most errors, aligned, and the most frequent confusions, of each run."""
    kinds = (scoring.metric(name) for name in outputs.metrics) if outputs.hypotheses else ()
    rate = next((metric for metric in kinds if isinstance(metric, ErrorRate)), None)
    parts = []
    for run, lines in zip(runs, outputs.hypotheses, strict=False):
        wrong = list(details.aligned(lines, outputs.reference, rate.units if rate else str.split))
        text = "\n\n".join(map(str, details.worst(wrong, SHOWN)))
        pairs = "".join(f"{times} times {ref} -> {hyp}\n" for ref, hyp, times in details.confused(wrong, SHOWN))
        parts.append(f"<h3>{escape(run.name)}: {len(wrong):,} of {len(lines):,} lines are wrong</h3>"
                     f"<pre>{escape(text)}</pre><p>Confusions</p><pre>{escape(pairs)}</pre>")  # fmt: skip
    return "".join(parts)


def _lengths(runs: list[Run], outputs: Outputs) -> str:
    """Histograms of the lengths of the training data, and of the hypotheses, in words."""
    parts = []
    for folder in dict.fromkeys(store for run in runs for store in _listed(run.config.get("store"))):
        try:
            split = Store(folder).manifest["splits"]["train"]
        except KeyError:
            parts.append(f"<p>{escape(folder)}: the store has no training split</p>")
            continue
        except (UserError, OSError) as error:
            parts.append(f"<p>{escape(str(error))}</p>")
            continue
        sides = {side: split[side]["histogram"] for side in ("source", "target")
                 if isinstance(split.get(side), dict) and "histogram" in split[side]}  # fmt: skip
        picture = figures.figure(curves.WIDTH, curves.HEIGHT)
        for ax, (side, histogram) in zip(picture.subplots(1, max(1, len(sides)), squeeze=False)[0], sides.items(),
                                         strict=False):  # fmt: skip
            unit, counts = histogram.values()
            ax.stairs(counts, [unit * n for n in range(len(counts) + 1)], fill=True, color=figures.COLORS[0])
            ax.set(title=figures.literal(f"{side} of {folder}"), xlabel="tokens of a line", ylabel="lines")
        parts.append(_svg(picture, [folder]) if sides else "")
    if outputs.hypotheses:
        words = [(name, [len(line.split()) for line in lines]) for name, lines in _sides(runs, outputs)]
        parts.append(_histogram(words, "words of a line", "lines"))
    return "".join(parts)


def _sides(runs: list[Run], outputs: Outputs) -> list[tuple[str, list[str]]]:
    """The names and lines of the reference and of each run, which may be called `reference` too."""
    return [("reference", outputs.reference), *zip((run.name for run in runs), outputs.hypotheses, strict=True)]


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _padding(runs: list[Run]) -> str:
    values = [
        (
            f"{run.name}, {side}",
            [
                100 * share
                for event in run.events.get("train", [])
                for share in event.get("steps", {}).get(f"{side}_padding", ())
            ],
        )
        for run in runs
        for side in ("source", "target")
    ]
    return _histogram([(name, shares) for name, shares in values if shares], "padding of an update, in %", "updates")


def _histogram(values: Sequence[tuple[str, Sequence[float]]], label: str, what: str) -> str:
    """Outlines of the histograms of several lists of numbers, over the same bars."""
    if not values:
        return ""
    import numpy as np

    low, high = min(min(numbers) for _, numbers in values), max(max(numbers) for _, numbers in values)
    picture = figures.figure(curves.WIDTH, curves.HEIGHT + curves.LINE * len(values))
    ax = picture.subplots()
    for number, (name, numbers) in enumerate(values):
        counts, ends = np.histogram(numbers, BARS, (low, high if high > low else low + 1))
        ax.stairs(
            counts, ends, label=figures.literal(name), color=figures.COLORS[number % len(figures.COLORS)], linewidth=2
        )
    ax.set(xlabel=label, ylabel=what)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return _svg(picture, [name for name, _ in values])


def _speed(runs: list[Run]) -> str:
    columns = {"source tokens/s": "source_tokens_per_second", "target tokens/s": "target_tokens_per_second"}
    rows = []
    for run in runs:
        events = run.events.get("train", [])
        if events:
            medians = (statistics.median(event.get(key) or 0 for event in events) for key in columns.values())
            waited, seconds = (
                sum(event.get("seconds_waiting") or 0 for event in events),
                events[-1].get("seconds") or 0,
            )
            share = f"{waited / seconds:.1%}" if seconds else ""
            peak = f"{max(event.get('memory_peak') or 0 for event in events) / 2**30:.2f} GiB"
            rows.append([run.name, *(f"{value:,.0f}" for value in medians), share, peak])
    return (
        _table(["run", *(f"{name} (median)" for name in columns), "waiting for data", "peak memory"], rows)
        if rows
        else ""
    )
