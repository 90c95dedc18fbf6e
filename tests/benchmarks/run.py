"""Measure the speed of s2s beside other ways to do the same: `make bench`, or python tests/benchmarks/run.py NAME ...

Prints tables and writes NAME-DEVICE.json for each benchmark. Nothing is asserted about a time. A ratio is that of two
measurements of one round, taken one right after the other; shown are the median over the rounds and the range.
"""

import argparse
import dataclasses
import datetime
import importlib
import inspect
import json
import os
import platform
import re
import tempfile
from importlib.metadata import version
from pathlib import Path

from corpus import Corpus, prepare
from measure import table

from s2s import __version__

# In this order: s2s-preprocess forks its workers, which a process without PyTorch's threads does best.
NAMES = (
    "start", "preprocess", "padding", "planning", "scaling", "busy", "training", "batching", "unpad", "decoding",
    "quantization", "joint",
)  # fmt: skip
ON_CPU = ("start", "preprocess", "padding", "planning", "scaling", "busy")  # PyTorch, if at all, in other processes
RESULTS = Path(__file__).with_name("results")
PACKAGES = ("torch", "sentencepiece", "numpy", "ctranslate2", "transformers")
KEYS = {
    "checkpoint": "a run, trained on the text that is measured on; decoding, quantization",
    "text": "file of lines that the checkpoint decodes, in place of the text that is measured on; decoding",
    "cases": "patterns, with commas between, of the cases; decoding, training",
    "contenders": "patterns of what is measured side by side; decoding, training",
    "rounds": "how often each is measured; decoding, training, joint, scaling, busy",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them by default")
    for key, text in KEYS.items():
        parser.add_argument(f"--{key}", help=text)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that all works: the figures mean nothing")
    parser.add_argument(
        "--results", type=Path, help=f"folder of the JSON files; {RESULTS.name}/ here, none if --quick or a part"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    keys = {key: value for key in KEYS if (value := getattr(options, key)) is not None}
    results = options.results or (None if options.quick or set(keys) - {"checkpoint"} else RESULTS)
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(Path(folder), options.quick)
        for name in NAMES:
            if name in options.names or not options.names:
                measure(name, corpus, options, results, keys)


def measure(name: str, corpus: Corpus, options: argparse.Namespace, results: Path | None, keys: dict[str, str]) -> None:
    """Run one benchmark with those of the keys that it has, print its table, write its file."""
    module = importlib.import_module(name)
    device = "cpu" if name in ON_CPU else _choose(options.device)
    facts = _device_facts(device, torch=name not in ON_CPU)
    print(f"{name}: {module.__doc__.splitlines()[0]}", flush=True)
    print(f"{facts['name']}, {facts['threads']} threads; {corpus.name}; reference: {module.REFERENCE}", flush=True)
    mine = {key: value for key, value in keys.items() if key in inspect.signature(module.run).parameters}
    rows = module.run(corpus, device, options.quick, **mine)
    print(table(rows), end="\n\n", flush=True)
    if results is None:
        return
    report = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": facts,
        "versions": {"s2s": __version__, "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "text": corpus.name,
        "quick": options.quick,
        "reference": module.REFERENCE,
        "rows": [],
    }
    lines = ",\n".join(f"    {json.dumps(dataclasses.asdict(row))}" for row in rows)  # a line each: some are hundreds
    text = json.dumps(report, indent=2).replace('"rows": []', f'"rows": [\n{lines}\n  ]')
    results.mkdir(parents=True, exist_ok=True)
    slug = "cpu" if device == "cpu" else re.sub(r"[^a-z0-9]+", "-", facts["name"].lower()).strip("-")
    path = results / f"{name}-{slug}.json"
    path.write_text(text + "\n", encoding="utf-8")


def _choose(device: str) -> str:
    from s2s.device import choose_device

    return choose_device(device).type


def _device_facts(device: str, torch: bool) -> dict:
    """What the figures depend on. `torch`: the benchmark computes with PyTorch."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"type": device, "name": _processor(), "cores": cores, "threads": cores}
    if torch:
        import torch

        facts["threads"] = torch.get_num_threads()
        if device == "cuda":
            facts["name"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
