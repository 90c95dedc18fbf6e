"""s2s-preprocess: make a store from raw parallel text, or from recordings and their transcripts."""

import signal
import sys

from s2s import registry
from s2s.config import command
from s2s.config.documents import to_json
from s2s.data.preprocess import PreprocessConfig
from s2s.data.recipe import RecipeConfig, make
from s2s.data.repeats import described
from s2s.errors import UserError

ABOUT = """Learn tokenizers from raw parallel text, and write a binary store for s2s-train and s2s-generate.
For recordings and their transcripts: task=speech_to_text (s2s-preprocess task=speech_to_text --help)."""


def _parts():
    """What the jobs of --multirun come to."""
    from s2s.config.sweep import of_parts

    return of_parts("store")


def main() -> None:
    """Run the command."""
    # SIGTERM cleans up like an interrupt.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    command.run("s2s-preprocess", PreprocessConfig, run, ABOUT, _parts, by_task=schema)


def schema(task: str) -> type:
    """The class with the options of a task. Raises UserError if the task makes no stores."""
    if task in registry.names("task") and task not in registry.names("preprocess"):
        tasks = ", ".join(registry.names("preprocess"))
        raise UserError(f"task={task} reads the stores of other tasks and makes none itself; choose {tasks}")
    return registry.find("preprocess", task).Config


def run(config: RecipeConfig) -> None:
    """Make the store and print its report."""
    recipe = registry.find("preprocess", config.task)(config)
    report = make(recipe)
    if "done" in report and config.format == "text":
        print(report["done"])
        return
    if config.format == "json":
        print(to_json(report, indent=2))
        return
    print(("{store}: {source_language} to {target_language}, " + recipe.took).format(**report))
    print(recipe.table(report))
    if lines := described(report.get("repeated", {})):
        print("", "repeated examples", *lines, sep="\n")


if __name__ == "__main__":
    main()
