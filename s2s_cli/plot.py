"""s2s-plot: draw the curves of runs on the terminal and into a picture."""

import dataclasses
import shutil
import sys

from s2s.config import command, streams
from s2s.config.schema import option
from s2s.errors import UserError

ABOUT = """Draw the curves of runs beside each other: loss, decoded metrics, throughput.
Example: s2s-plot RUN RUN output=curves.png
Scaling: s2s-plot fit=scaling RUN RUN RUN RUN RUN fits a law of the loss to the sizes of encoder and decoder"""


@dataclasses.dataclass
class PlotCommand:
    """Schema of s2s-plot."""

    path: list[str] = option([], "folders of runs; arguments without = are paths")
    output: str | None = option(None, "file to draw to, in addition to the terminal: .png, .svg or .pdf")
    fit: str | None = option(
        None, "scaling: fit the loss to the sizes of encoder and decoder, in place of curves", ("scaling",)
    )
    metric: str = option("nll", "metric of validation to fit; the lower the better", needs="fit")


def _plot(config: PlotCommand) -> None:
    from s2s import figures
    from s2s.training import curves

    if not config.path:
        raise UserError("no run is given; s2s-plot RUN RUN")
    if config.output:
        figures.kind_of(config.output)
    if config.fit:
        _fit(config)
        return
    panels = curves.read(config.path)
    if config.output:
        curves.to_picture(panels, config.path, config.output)
        print(f"{config.output}: {len(panels)} panels", file=sys.stderr)
    text = curves.to_text(panels, config.path, shutil.get_terminal_size((100, 24)).columns)
    if not config.output or not streams.is_standard_output(config.output):
        print(text, file=None if config.output else streams.results())


def _fit(config: PlotCommand) -> None:
    from s2s.training import scaling

    points = scaling.read(config.path, config.metric)
    law = scaling.fit(points)
    if config.output:
        scaling.to_picture(points, law, config.metric, config.output)
        print(config.output, file=sys.stderr)
    if not config.output or not streams.is_standard_output(config.output):
        print(scaling.to_text(points, law, config.metric), file=None if config.output else streams.results())


def main() -> None:
    """Run the command."""
    command.run("s2s-plot", PlotCommand, _plot, ABOUT, plain="path")


if __name__ == "__main__":
    main()
