"""A logger: every number of a run as a line of RUN/numbers.csv."""

from pathlib import Path


class Csv:
    """Lines of kind, update, name and value.

    Args:
        run: The run's folder.
        done: Updates done before.
    """

    def __init__(self, run: Path, done: int):
        self.file = (run / "numbers.csv").open("a", encoding="utf-8")

    def add(self, kind: str, update: int, values: dict[str, float]) -> None:
        """Numbers of an update."""
        for name, value in values.items():
            self.file.write(f"{kind},{update},{name},{value}\n")
        self.file.flush()

    def close(self) -> None:
        """The run is over."""
        self.file.close()
