"""s2s-average: average the weights of several checkpoints into a new checkpoint."""

import dataclasses
import sys
from pathlib import Path

from s2s.config import command
from s2s.config.schema import option
from s2s.errors import UserError
from s2s.files import claim


@dataclasses.dataclass
class AverageCommand:
    """Schema of s2s-average."""

    checkpoint: list[str] = option([], "a run, or a list of checkpoint folders")
    last: int | None = option(None, "average the newest N checkpoints of a run", at_least=1)
    best: int | None = option(None, "average the best N checkpoints of a run", at_least=1)
    output: str | None = option(None, "folder of the new checkpoint")
    overwrite: bool = option(False, "replace an existing checkpoint")


def _average(config: AverageCommand) -> None:
    from s2s.checkpoint import runs
    from s2s.training.average import average_checkpoints, choose, strangers

    if not config.checkpoint or not config.output:
        raise UserError(
            "checkpoint=RUN with last=N or best=N (or a list of checkpoints), and output=FOLDER, are required"
        )
    output = Path(config.output)
    if (config.last or config.best) and (len(config.checkpoint) != 1 or (config.last and config.best)):
        raise UserError("give either last=N or best=N, with a single run: checkpoint=RUN")

    def chosen() -> list[Path]:
        if config.last or config.best:
            return choose(Path(config.checkpoint[0]), config.last, config.best)
        folders = [runs.resolve(path) for path in config.checkpoint]
        if output.exists() and any(output.samefile(folder) for folder in folders):
            raise UserError(f"output={output} is one of the averaged checkpoints; choose another folder")
        return folders

    with claim(output, "output"):
        if output.exists() and not (config.overwrite and (output / "model.safetensors").is_file()):
            raise UserError(f"output={output} exists; overwrite=true replaces a checkpoint")
        folders, warning = runs.reread(
            chosen,
            lambda folders: (average_checkpoints(folders, output), strangers(folders)),
            named=config.checkpoint,
        )
    if warning:
        print(warning, file=sys.stderr)
    print(output)
    print(f"averaged {len(folders)}: {', '.join(folder.name for folder in folders)}", file=sys.stderr)


def main() -> None:
    """Run the command."""
    command.run("s2s-average", AverageCommand, _average, "Average the weights of several checkpoints into a new one.")


if __name__ == "__main__":
    main()
