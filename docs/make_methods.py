"""Write docs/methods.md from docstrings and the figures of comparisons: python docs/make_methods.py

A method is a module of s2s/ whose docstring has a paragraph `Paper:`. Its other paragraphs are the mechanism, `Use:`
and `Left out:`. Its figures are those of examples/methods/results/NAME.json, where NAME is the module's name, perhaps
followed by an underscore and something more. The last section is made from the measurements of examples/methods/ratios/
and their figures in examples/methods/results/ratios/.
"""

import ast
import dataclasses
import importlib
import json
import re
import statistics
from pathlib import Path

import yaml

from s2s import registry

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
RESULTS = ROOT / "examples" / "methods" / "results"
RATIOS = ROOT / "examples" / "methods" / "ratios"
ROOMS = {
    "frontends": "Front-ends", "encoders": "Encoders", "nn": "Layers and attention", "bridges": "Bridges",
    "decoders": "Decoders", "outputs": "Output layers", "terms": "Loss terms", "text": "Tokenizers and text units",
    "pretokenizers": "Pre-tokenizers", "adapters": "Adapters",
    "noises": "Noise for denoising",
    "data": "Data", "tasks": "Tasks", "optim": "Optimizers", "training": "Training", "search": "Search",
    "scorers": "Scorers", "rules": "Rules", "decoding": "Decoding",
}  # fmt: skip
HEAD = """# Methods

Published methods, from their docstrings. Each is one file. `examples/methods/run.py` has run every comparison below:
baseline and method learn from the same data for the same number of updates, with two seeds. A method that does not
help here is reported so. Models and data are small: a figure says little about larger ones. Perplexity is that of the
validation split by token; it is left out where the two sides divide text differently.

`Use:` names the options that a method adds to those of your own commands. Options of tokenizers (`tokenizer=`,
`source_tokenizer=`, `target_tokenizer=` and their keys) are those of `s2s-preprocess`, `decode.*` those of
`s2s-generate`, `task=` of both `s2s-preprocess` and `s2s-train`, and all others of `s2s-train`:

    s2s-preprocess source=de target=en train=corpus/train valid=corpus/val store=data-bin/bytes tokenizer=bytes
    s2s-train store=data-bin/bytes run=runs/gbst model=transformer_small model.frontend=gbst model.frontend.stride=2

Without `model=PRESET` the model is `transformer_base`, and options count from its sizes: `model.encoder.gate_layer=3`
needs an encoder of more than three layers. The table of each method lists its options with their defaults;
`s2s-train model.frontend=gbst --help` shows them together with all others.

This page is written by `python docs/make_methods.py`.
"""
RATIOS_HEAD = """## Ratios of speed and size

`examples/methods/ratios.py` has measured every table below in one run. All sides of a table did the same work in turn,
five rounds, on one thread of a CPU, and the first side is the baseline. A time is the median of CPU seconds over the
rounds; a ratio is the median of the rounds' ratios to the baseline, with the lowest and the highest. "Noise" is a case
whose rounds differed too much to quote. Models have random weights unless there is a score. The papers measured on
GPUs and other accelerators.
"""
OPTION = re.compile(r"(?:s2s-[a-z]+|[a-z][a-z_.]*=\S*[^\s,;])(?:\s+[a-z][a-z_.]*=\S*[^\s,;])*")


@dataclasses.dataclass
class Method:
    """A module and what its docstring says."""

    path: Path
    title: str
    paper: str
    mechanism: list[str]
    use: str
    left_out: str

    @property
    def room(self) -> str:
        return self.path.parent.name

    @property
    def name(self) -> str:
        return self.path.stem


def read(path: Path) -> Method | None:
    """The method of a module; None: it is not one. Raises ValueError: a paragraph is missing."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    title, *paragraphs = [" ".join(paragraph.split()) for paragraph in docstring.split("\n\n")]
    labelled = {}
    for label in ("Paper", "Use", "Left out"):
        text = [paragraph for paragraph in paragraphs if paragraph.startswith(f"{label}: ")]
        if not text and label == "Paper":
            return None
        if len(text) != 1:
            raise ValueError(f"{path}: the docstring needs one paragraph '{label}: ...'")
        labelled[label] = text[0].partition(": ")[2]
    mechanism = [p for p in paragraphs if not p.startswith(tuple(f"{label}: " for label in labelled))]
    if not mechanism:
        raise ValueError(f"{path}: the docstring needs a paragraph on the mechanism")
    return Method(path, title.rstrip("."), labelled["Paper"], mechanism, labelled["Use"], labelled["Left out"])


def methods() -> list[Method]:
    """All of them, by room and name. Raises ValueError: a room that has no heading."""
    all_methods = [method for path in sorted((ROOT / "s2s").rglob("*.py")) if (method := read(path))]
    if strange := {method.room for method in all_methods} - set(ROOMS):
        raise ValueError(f"docs/make_methods.py: no heading for {', '.join(sorted(strange))}")
    return sorted(all_methods, key=lambda method: (list(ROOMS).index(method.room), method.name))


def code(text: str) -> str:
    """Options and commands of a text as code, and the words between them as they are."""
    return OPTION.sub(lambda match: f"`{match.group()}`", text.replace("`", ""))


def options(method: Method) -> list[str]:
    """Rows of the options of the components that the module holds."""
    dotted = ".".join(method.path.relative_to(ROOT).with_suffix("").parts)
    rows = []
    for kind, components in registry.COMPONENTS.items():
        for name, place in components.items():
            module, attribute = place.split(":")
            if module != dotted:
                continue
            config = getattr(getattr(importlib.import_module(module), attribute), "Config", None)
            own = vars(config).get("__annotations__", {}) if config else {}
            for field in dataclasses.fields(config) if config else ():
                if field.name in own and "help" in field.metadata and field.name != "type":
                    rows.append(f"| `{kind} {name}` | `{field.name}` | {_default(field)} | {field.metadata['help']} |")
    return ["| component | option | default | |", "|---|---|---|---|", *rows, ""] if rows else []


def _default(field: dataclasses.Field) -> str:
    if "group" in field.metadata:
        return f"`{field.metadata['preset']}`"
    value = field.default_factory() if field.default is dataclasses.MISSING else field.default
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def comparison(report: dict) -> list[str]:
    """Lines of a comparison: what was done, and a row for each side."""
    lines = [
        f"{report['title']}: {report['data']}, {trained_for(report)}. Expected: {report['expects']}", "",
        f"| | {report['metric']} by seed | mean | perplexity | parameters | training, CPU s | decoding, CPU s |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    # Perplexities by token say nothing of two tokenizers, and older results have none.
    comparable = all("perplexity" in run for run in report["runs"]) and not re.search(
        r"(?:^|[ _])tokenizer", f"{report['baseline']} {report['method']}"
    )
    for side in ("baseline", "method"):
        runs = [run for run in report["runs"] if run["side"] == side]
        scores = [run["score"] for run in runs]
        perplexity = f"{statistics.mean(run['perplexity'] for run in runs):.2f}" if comparable else "-"
        train, generate = (statistics.mean(run[f"{key}_cpu_seconds"] for run in runs) for key in ("train", "generate"))
        lines.append(
            f"| {side}: `{report[side] or 'as above'}` | {', '.join(f'{score:.2f}' for score in scores)} | "
            f"{statistics.mean(scores):.2f} | {perplexity} | {runs[0]['parameters']:,} | {train:.0f} | {generate:.0f} |"
        )
    common = f"Both: `{report['common']}`. " if report["common"] else ""
    return [*lines, "", f"{common}Signature: `{report['runs'][0]['signature']}`. {report['machine']}.", ""]


COLUMNS = {  # of a table of ratios: heading, and text of a value
    "bytes": ("MiB of state", lambda n: f"{n / 2**20:.1f}"),
    "positions": ("positions of the memory a source token", lambda share: f"{share:.2f}"),
    "computed": ("share of blocks computed", lambda share: f"{share:.2f}"),
    "score": ("score", lambda score: f"{score:.2f}"),
}


def trained_for(report: dict) -> str:
    """The updates of both sides of a comparison."""
    updates, baseline, start = (report.get(key) for key in ("updates", "baseline_updates", "start"))
    after = f" after {start:,} of the common options" if start else ""
    return f"{updates:,} updates" + (f" against {baseline:,} of the baseline" if baseline else "") + after


def ratios(measurement: dict, report: dict) -> list[str]:
    """Lines of a measurement: claim and result, and a row for each side of each case."""
    cells = report["cells"]
    shown = [key for key in COLUMNS if len({cell.get(key) for cell in cells}) > 1]  # what differs
    headings = [COLUMNS[key][0] if key != "score" else report["metric"] for key in shown]
    lines = [
        f"### {measurement['title']}", "", f"Claim: {measurement['claim']}. Measured: {measurement['reached']}.", "",
        " | ".join(["| case | side", f"{report['work']}, CPU ms", "ratio", *headings]) + " |",
        "|---" * (4 + len(shown)) + "|",
    ]  # fmt: skip
    for cell in cells:
        ratio = "noise" if cell["noise"] else "{:.2f} ({:.2f} to {:.2f})".format(cell["ratio"], *cell["ratio_range"])
        ratio = "1" if cell["ratio_range"] == [1, 1] else ratio
        values = ["" if cell.get(key) is None else COLUMNS[key][1](cell[key]) for key in shown]
        median = 1000 * cell["seconds"][1]
        milliseconds = "noise" if cell["noise"] else f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
        lines.append("| " + " | ".join([cell["case"], cell["side"], milliseconds, ratio, *values]) + " |")
    trained = f" {report['data']}, {report['updates']} updates." if report["data"] else ""
    return [*lines, "", f"All sides: `{measurement['common']}`.{trained} {report['machine']}.", ""]


def owner(name: str, names: list[str]) -> str | None:
    """The method that a result belongs to: the longest name that the result's begins with."""
    matching = [method for method in names if name == method or name.startswith(f"{method}_")]
    return max(matching, key=len, default=None)


def page() -> str:
    """The whole page."""
    everything = methods()
    reports = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    lines = [HEAD]
    room = None
    for method in everything:
        if method.room != room:
            room = method.room
            lines += [f"## {ROOMS[room]}", ""]
        lines += [f"### {method.title}", "", f"`{method.path.relative_to(ROOT).as_posix()}`. {method.paper}", ""]
        lines += [line for paragraph in method.mechanism for line in (paragraph, "")]
        lines += [f"Use: {code(method.use)}", "", *options(method), f"Left out: {method.left_out}", ""]
        for name in list(reports):
            if owner(name, [other.name for other in everything]) == method.name:
                lines += comparison(reports.pop(name))
    lines += [RATIOS_HEAD]
    for path in sorted((RESULTS / "ratios").glob("*.json")):
        measurement = yaml.safe_load((RATIOS / f"{path.stem}.yaml").read_text(encoding="utf-8"))
        lines += ratios(measurement, json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
