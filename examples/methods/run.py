"""Run methods against their own baselines: python run.py NAME ... [--data FOLDER] [--output FOLDER] [--seeds 1 2]

A comparison is comparisons/NAME.yaml. Baseline and method learn from the same data for the same number of updates, once
for each seed, and are scored on the test split. A repeated command continues where it stopped. The figures go to
results/NAME.json, from which docs/methods.md takes its table (python docs/make_methods.py).
"""

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import yaml
from datasets import make

from s2s.checkpoint.loading import load_model

HERE = Path(__file__).parent
SIDES = ("baseline", "method")
PREPROCESS = (
    "tokenizer",
    "source_tokenizer",
    "target_tokenizer",
    "task",
    "languages",
    "zero_shot",
    "more_sources",
)  # first words of its keys


@dataclasses.dataclass
class Comparison:
    """A file of comparisons/; options are KEY=VALUE words, each handed to the command that has it.

    Attributes:
        title: What is compared.
        data: A data set of datasets.py.
        metric: A metric of s2s-score.
        updates: Of every run.
        expects: What the paper claims.
        common: Options of both sides.
        baseline, method: Options of one side.
        start: Updates with the common options alone, from whose weights both sides then start; 0: random weights.
        baseline_updates: Updates of the baseline, for a comparison at equal time; 0: as many as `updates`.
    """

    title: str
    data: str
    metric: str
    updates: int
    expects: str
    common: str = ""
    baseline: str = ""
    method: str = ""
    start: int = 0
    baseline_updates: int = 0

    @classmethod
    def read(cls, name: str) -> "Comparison":
        """Raises ValueError: no such file, or a field that is missing or unknown."""
        file = HERE / "comparisons" / f"{name}.yaml"
        if not file.is_file():
            names = sorted(path.stem for path in file.parent.glob("*.yaml"))
            raise ValueError(f"no comparison is called {name}; there are {', '.join(names)}")
        fields = yaml.safe_load(file.read_text(encoding="utf-8"))
        try:
            return cls(**{key: " ".join(value) if isinstance(value, list) else value for key, value in fields.items()})
        except TypeError as error:
            raise ValueError(f"{file}: {error}") from error

    def options(self, side: str) -> dict[str, list[str]]:
        """The options of a side by command: preprocess, train, generate."""
        words: dict[str, list[str]] = {"preprocess": [], "train": [], "generate": []}
        for word in f"{self.common} {getattr(self, side) or ''}".split():
            first = word.partition("=")[0].partition(".")[0]
            if first in PREPROCESS and not word.startswith("task."):
                words["preprocess"].append(word)
            if first == "task" or first not in (*PREPROCESS, "decode"):
                words["train"].append(word)
            if first == "decode":
                words["generate"].append(word)
        return words


def command(name: str, words: list[str]) -> tuple[float, str]:
    """Run a command; returns CPU seconds and its standard output. Raises RuntimeError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run([sys.executable, "-m", f"s2s_cli.{name}", *words], capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"s2s-{name} {' '.join(words)}\n{process.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, process.stdout


def digest(*what) -> str:
    """A name for a run or a store: the same for the same options only."""
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def folder_of(comparison: Comparison, side: str, seed: int, folder: Path) -> Path:
    """The folder of a run."""
    options = comparison.options(side)
    also = [comparison.start] if comparison.start else []
    return (
        folder / f"run-{digest(comparison.data, comparison.metric, updates_of(comparison, side), options, seed, *also)}"
    )


def updates_of(comparison: Comparison, side: str) -> int:
    """The updates of a side."""
    return comparison.updates if side == "method" else comparison.baseline_updates or comparison.updates


def started(comparison: Comparison, seed: int, folder: Path, words: list[str]) -> list[str]:
    """The option of the weights from which both sides start; they are trained if they are not there yet.

    Args:
        comparison: It has `start`.
        seed: Seed of the run.
        folder: Of stores and runs.
        words: Options of s2s-train that name the store and the common configuration.
    """
    common = dataclasses.replace(comparison, baseline="", method="").options("method")
    own = folder / f"start-{digest(comparison.data, comparison.start, common, seed)}"
    lasting = [f"train.max_updates={comparison.start}", f"train.valid_updates={comparison.start}",
               f"optim.warmup_updates={comparison.start // 10}", f"seed={seed}", f"run={own}"]  # fmt: skip
    command("train", [*words, *lasting, *common["train"]])
    return [f"train.init.checkpoint={own}"]


def run(comparison: Comparison, side: str, seed: int, folder: Path, published: Path | None) -> dict:
    """Preprocess, train, decode and score one side with one seed. Comparisons with the same baseline share its runs."""
    options, updates = comparison.options(side), updates_of(comparison, side)
    corpus = folder / "data" / comparison.data
    store = folder / f"store-{digest(comparison.data, options['preprocess'])}"
    own = folder_of(comparison, side, seed, folder)
    finished = own / "figures.json"
    if finished.is_file():
        return json.loads(finished.read_text(encoding="utf-8")) | {"side": side}
    make(comparison.data, published, corpus)
    if not (store / "manifest.json").is_file():
        files = [f"{split}={corpus / split}.tsv" for split in ("train", "valid", "test")]
        several = any(word.startswith("languages=") for word in options["preprocess"])
        names = [] if several else ["source=source", "target=target"]
        command("preprocess", [*names, *files, f"store={store}", *options["preprocess"]])
    words = [f"store={store}", f"run={own / 'run'}", f"seed={seed}", f"train.max_updates={updates}",
             f"train.valid_updates={updates}", f"optim.warmup_updates={updates // 10}"]  # fmt: skip
    shared = ["--config", str(HERE / "config.yaml"), f"store={store}"]
    start = started(comparison, seed, folder, shared) if comparison.start else []
    began = time.perf_counter()
    training, _ = command("train", ["--config", str(HERE / "config.yaml"), *words, *options["train"], *start])
    wall = time.perf_counter() - began
    hypothesis, reference = own / "test.hyp", own / "test.ref"
    decoding, _ = command("generate", [f"checkpoint={own / 'run'}", f"store={store}", "split=test",
                                       f"output={hypothesis}", *options["generate"]])  # fmt: skip
    lines = (corpus / "test.tsv").read_text(encoding="utf-8").splitlines()
    reference.write_text("".join(line.split("\t")[-1] + "\n" for line in lines), encoding="utf-8")
    _, scored = command("score", [f"hypothesis={hypothesis}", f"reference={reference}",
                                  f"metrics=[{comparison.metric}]", "format=json"])  # fmt: skip
    score = json.loads(scored)[comparison.metric]
    model, _, _ = load_model(str(own / "run"), "cpu")
    lines = (own / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    validations = [record for record in map(json.loads, lines) if record["kind"] == "valid"]
    figures = {"side": side, "seed": seed, "score": score["value"], "signature": score["signature"],
               "parameters": sum(p.numel() for p in model.parameters()), "train_cpu_seconds": round(training, 1),
               "train_wall_seconds": round(wall, 1), "generate_cpu_seconds": round(decoding, 1)}  # fmt: skip
    if "perplexity" in validations[-1]:  # a loss that is no likelihood has none
        figures["perplexity"] = round(validations[-1]["perplexity"], 3)
    finished.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def main() -> None:
    """Run the comparisons that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="comparisons")
    parser.add_argument("--data", type=Path, help="folder of the published data sets")
    parser.add_argument("--output", type=Path, default=Path("outputs/methods"), help="stores, runs, hypotheses")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON files")
    options = parser.parse_args()
    try:
        comparisons = {name: Comparison.read(name) for name in options.names}
        for name, comparison in comparisons.items():
            rows = [
                run(comparison, side, seed, options.output, options.data) for seed in options.seeds for side in SIDES
            ]
            write(name, comparison, rows, options.results)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def write(name: str, comparison: Comparison, rows: list[dict], results: Path) -> None:
    """Print a line for each run and write the JSON file."""
    import torch

    from s2s import __version__

    for row in rows:
        figures = f"{comparison.metric} {row['score']:.2f}, {row['parameters']:,} parameters"
        if "perplexity" in row:
            figures += f", perplexity {row['perplexity']:.2f}"
        seconds = f"{row['train_cpu_seconds']:.0f} s of training"
        print(f"{name}: {row['side']}, seed {row['seed']}: {figures}, {seconds}", flush=True)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    report = dataclasses.asdict(comparison) | {
        "runs": rows,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}",
        "version": __version__,
    }
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    (results / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
