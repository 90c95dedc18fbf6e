"""`s2s-preprocess`: raw parallel text to a store."""

import json
import signal
import sys

from s2s.config import command
from s2s.data.preprocess import PreprocessConfig, preprocess
from s2s.data.report import table

ABOUT = "Learns tokenizers on raw parallel text and writes a binarised store for s2s-train and s2s-generate."


def main() -> None:
    """Run the command."""
    # A polite kill cleans up like an interrupt.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    command.run("s2s-preprocess", PreprocessConfig, run, ABOUT)


def run(config: PreprocessConfig) -> None:
    """Make the store and print its report."""
    report = preprocess(config)
    if config.format == "json":
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    print(f"{report['store']}: {report['source_language']} to {report['target_language']}, {report['seconds']} s")
    print(table(report))


if __name__ == "__main__":
    main()
