"""s2s-report: one page about runs, side by side."""

import dataclasses
import sys

from s2s import registry
from s2s.config import command, streams
from s2s.config.schema import option
from s2s.errors import UserError

ABOUT = """Write a page about runs, side by side: curves, differences of their configs, scores, samples, errors, speed.
The page is one HTML file that needs no network. Example: s2s-report RUN RUN output=report.html
With outputs: s2s-report RUN RUN hypothesis=[a.en,b.en] reference=ref.en output=report.html"""


@dataclasses.dataclass
class ReportCommand:
    """Schema of s2s-report."""

    path: list[str] = option([], "folders of runs; arguments without = are paths")
    output: str | None = option(None, "HTML file to write, replaced when complete; null: standard output")
    hypothesis: list[str] = option([], "file of hypotheses of each run, in the order of the runs", needs="reference")
    reference: str | None = option(None, "file of references")
    source: str | None = option(None, "file of source lines, shown with the samples")
    metrics: list[str] = option(["bleu", "chrf", "wer"], "metrics of the hypotheses", choices=registry.Names("metric"),
                                needs="hypothesis")  # fmt: skip


def _report(config: ReportCommand) -> None:
    from s2s import scoring
    from s2s.scoring.lines import read_lines
    from s2s.training.page import Outputs, page

    if not config.path:
        raise UserError("no run is given; s2s-report RUN RUN output=report.html")
    if twice := [path for path in config.path if config.path.count(path) > 1]:
        raise UserError(f"{twice[0]}: the run is given twice")
    if config.hypothesis and len(config.hypothesis) != len(config.path):
        raise UserError(f"hypothesis= has {len(config.hypothesis)} files, and there are {len(config.path)} runs; "
                        "a file of each run is needed")  # fmt: skip
    for key in ("reference", "source"):
        if getattr(config, key) and not config.hypothesis:
            raise UserError(f"{key}= does nothing without hypothesis=, the outputs of the runs")
    for name in config.metrics if config.hypothesis else ():
        needed = [key for key in getattr(scoring.metric(name), "needs", ()) if not key.endswith("?")]
        if others := [key for key in needed if key != "source"]:
            raise UserError(f"metric '{name}' needs {others[0]}=, which s2s-report does not have; s2s-score has it")
        if needed and not config.source:
            raise UserError(f"metric '{name}' needs source=, the file of source lines")
    hypotheses = [read_lines(path) for path in config.hypothesis]
    reference = read_lines(config.reference) if config.reference else []
    source = read_lines(config.source) if config.source else None
    sides = {
        **dict(zip(config.hypothesis, hypotheses, strict=True)),
        config.reference: reference,
        config.source: source,
    }
    for path, lines in sides.items():
        if config.hypothesis and lines is not None and len(lines) != len(reference):
            raise UserError(f"{path} has {len(lines)} lines and {config.reference} has {len(reference)}; "
                            "line N of one belongs to line N of the other")  # fmt: skip
    with streams.opened(config.output) as output:
        output.write(page(config.path, Outputs(hypotheses, reference, source, config.metrics)).encode())
    if config.output and not streams.is_standard_output(config.output):
        print(f"{config.output}: a page about {', '.join(config.path)}", file=sys.stderr)


def main() -> None:
    """Run the command."""
    command.run("s2s-report", ReportCommand, _report, ABOUT, plain="path")


if __name__ == "__main__":
    main()
