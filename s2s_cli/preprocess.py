"""`s2s-preprocess`: raw parallel text, or recordings and what is said in them, to a store."""

import signal
import sys
from typing import Any

from s2s import registry
from s2s.config import command
from s2s.config.documents import to_json
from s2s.data.preprocess import PreprocessConfig, preprocess
from s2s.data.report import table
from s2s.errors import UserError

ABOUT = """Learns tokenizers on raw parallel text and writes a binarised store for s2s-train and s2s-generate.
Of recordings and their transcripts: task=speech_to_text (s2s-preprocess task=speech_to_text --help)."""


def main() -> None:
    """Run the command."""
    # A polite kill cleans up like an interrupt.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    command.run("s2s-preprocess", PreprocessConfig, run, ABOUT, by_task=schema)


def schema(task: str) -> type:
    """The keys of a task."""
    if task == "speech_to_text":
        from s2s.data.speech_preprocess import SpeechPreprocessConfig

        return SpeechPreprocessConfig
    if task != "translation":
        raise UserError(f"task={task}: {registry.nearest(task, ['translation', 'speech_to_text'])}")
    return PreprocessConfig


def run(config: Any) -> None:
    """Make the store and print its report."""
    if config.task == "speech_to_text":
        from s2s.data import speech_preprocess

        report = speech_preprocess.preprocess(config)
        text, took = speech_preprocess.table, "{hours} hours in {seconds} s, {hours_per_minute} hours a minute"
    else:
        report, text, took = preprocess(config), table, "{seconds} s"
    if config.format == "json":
        print(to_json(report, indent=2))
        return
    print("{store}: {source_language} to {target_language}, ".format(**report) + took.format(**report))
    print(text(report))


if __name__ == "__main__":
    main()
