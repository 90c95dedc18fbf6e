"""s2s-inspect: explain a store, a run, a checkpoint or a shortlist, and check that it is intact."""

import dataclasses

from s2s.config import command, streams
from s2s.config.documents import to_json
from s2s.config.schema import option
from s2s.errors import Failure, UserError

ABOUT = """Explain stores, runs, checkpoints and shortlists: contents, sizes, config, metrics, parents, hashes.
Damaged files are named, and make the exit code 1. Example: s2s-inspect RUN RUN/best STORE"""


@dataclasses.dataclass
class InspectCommand:
    """Schema of s2s-inspect."""

    path: list[str] = option([], "folders or files to explain; arguments without = are paths")
    verify: bool = option(True, "read every file and compare it with its hash; false: sizes only")
    format: str = option("text", "text: lines to read; json: one JSON object for each path", ("text", "json"))


def _inspect(config: InspectCommand) -> None:
    from s2s.inspection import inspect, text

    if not config.path:
        raise UserError("no path is given; s2s-inspect FOLDER")
    damaged, output = [], streams.results()
    for number, path in enumerate(config.path):
        facts = inspect(path, config.verify)
        damaged += facts["damaged"]
        if config.format == "json":
            print(to_json(facts, indent=2), file=output)
        else:
            print(("\n" if number else "") + text(facts), file=output)
    if damaged:
        raise Failure(f"{len(damaged)} damaged: {'; '.join(damaged)}")


def main() -> None:
    """Run the command."""
    command.run("s2s-inspect", InspectCommand, _inspect, ABOUT, plain="path")


if __name__ == "__main__":
    main()
