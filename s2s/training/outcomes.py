"""What runs have come to, and how their configs differ: for a sweep's table and for comparisons of runs."""

from pathlib import Path
from typing import Any

from s2s import scoring
from s2s.checkpoint.runs import STATE, read_state
from s2s.config.documents import read_yaml, to_json
from s2s.files import write
from s2s.scoring.details import columns

PLACES = ("run", "workers", "device", "overwrite")  # keys that do not change the weights of a run


def metric_of(train: Any) -> str:
    """The metric that selects the best checkpoint, by the options of `train`."""
    return train.best_metric or train.valid_metrics[-1]


def maximise(config: Any) -> bool:
    """Whether higher values of a run's best metric are better."""
    metric = metric_of(config.train)
    return metric != "loss" and scoring.higher_is_better(metric)


def best(run: Path) -> tuple[str, float] | None:
    """The best metric of a run and its best value; None: the run has no validated checkpoint."""
    if not (run / "last" / STATE).is_file():
        return None
    progress = read_state(run / "last").get("progress", {})
    return (progress["best_metric"], progress["best"]) if progress.get("best") is not None else None


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as values by dotted keys."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return result


def differences(runs: list[Path]) -> dict[str, list[str]]:
    """The keys whose values differ between runs, with the value of each run as text; empty if a run lacks the key.

    Raises:
        UserError: a config.yaml is missing or damaged.
    """
    configs = [flat(read_yaml(run / "config.yaml")) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config if key not in PLACES)
    texts = {key: ["" if key not in config else _text(config[key]) for config in configs] for key in keys}
    return {key: values for key, values in texts.items() if len(set(values)) > 1}


def _text(value: Any) -> str:
    """A value as a user would type it."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return to_json(value) if value is None or isinstance(value, bool) else str(value)


def table(folder: Path) -> str:
    """The runs of a sweep as a table, the best first, with the keys that differ. It is also written to
    FOLDER/results.tsv.

    Args:
        folder: Folder of the sweep, in which each run has a folder.
    """
    runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
    outcomes = {run: best(run) for run in runs}
    metrics = list(dict.fromkeys(outcome[0] for outcome in outcomes.values() if outcome))
    sign = {metric: -1 if metric != "loss" and scoring.higher_is_better(metric) else 1 for metric in metrics}

    def rank(run: Path) -> tuple:
        outcome = outcomes[run]
        return (metrics.index(outcome[0]), sign[outcome[0]] * outcome[1]) if outcome else (len(metrics), 0)

    runs.sort(key=rank)
    different = differences(runs) if runs else {}
    rows = [["run", *different, "metric", "best"]]
    for number, run in enumerate(runs):
        metric, value = outcomes[run] or ("", "")
        rows.append([run.name, *(values[number] for values in different.values()), metric, _number(value)])
    write(folder / "results.tsv", "".join("\t".join(row) + "\n" for row in rows).encode())
    short = [key.rpartition(".")[2] for key in different]
    rows[0] = ["run", *(short if len({*short}) == len(short) else different), "metric", "best"]
    return columns(rows)


def _number(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
