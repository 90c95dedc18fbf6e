"""Parts of an output that several machines make, each by `shard=K/N`; `shard=join` makes the output of them.

    OUTPUT.parts/3-of-64        part 3
    OUTPUT.parts/3-of-64.json   how it was made, its size and SHA-256; a part without it is not complete

The folder is on a file system that all machines share, or its files are copied into one folder.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2s import files
from s2s.config.documents import read_json, to_json
from s2s.config.shapes import whole
from s2s.errors import UserError
from s2s.manifests import SHA256

FORMAT = 1
JOIN, LEARN = "join", "learn"
NAME = re.compile(r"(\d+)-of-(\d+)\.json")
SHAPE = {"format": int, "task": {...: object}, "size": whole(0), "sha256": SHA256, "facts": {...: object}}
SHOWN = 5  # missing parts that a message names


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `of` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str, others: Iterable[str] = (JOIN,)) -> "Shard":
        """The shard of `shard=K/N`. Raises UserError; `others` are further values, for the message."""
        match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            others = " or ".join(f"shard={other}" for other in others)
            several = "; several shards need --multirun" * ("," in text)
            raise UserError(f"shard={text}: K/N is needed, such as shard=1/4, with K from 1 to N; or {others}{several}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def share(self, total: int) -> range:
        """The items of this part, of `total` items."""
        return range(total * (self.number - 1) // self.of, total * self.number // self.of)


class Parts:
    """The parts of an output.

    Args:
        key: The option that names the output, for messages.
        output: Path of the output.
    """

    def __init__(self, key: str, output: str):
        self.key, self.output = key, output
        self.folder = Path(f"{output.rstrip(os.sep)}.parts")

    def place(self, shard: Shard) -> Path:
        """The path of a part."""
        return self.folder / f"{shard.number}-of-{shard.of}"

    def begin(self, shard: Shard, task: dict[str, Any], overwrite: bool) -> bool:
        """Whether to make a part; False: it is there.

        Args:
            shard: The part.
            task: How it is made, as JSON has it.
            overwrite: Whether to make it again in any case.

        Raises:
            UserError: it was made in another way.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        place, seal = self.place(shard), self._seal(shard)
        if overwrite or not place.exists():
            files.clear(seal)  # before the content changes
        if not seal.exists():
            return True
        if words := difference(self._read(shard)["task"], task):
            raise UserError(f"{place}: shard={shard} was made with {words}; overwrite=true makes it again")
        return False

    def finish(self, shard: Shard, task: dict[str, Any], facts: dict[str, Any]) -> None:
        """Complete a part whose content is written.

        Args:
            shard: The part.
            task: How it was made.
            facts: What `read` returns.
        """
        place = self.place(shard)
        content = {"format": FORMAT, "task": task, "size": place.stat().st_size, "sha256": files.file_hash(place),
                   "facts": facts}  # fmt: skip
        files.replace(self._seal(shard), to_json(content, indent=1) + "\n")

    def read(self, task: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
        """The path and the facts of each part in order, all checked.

        Raises:
            UserError: there are none, some are missing or damaged, or they were made in another way than `task` says.
        """
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        there = {Shard(int(match[1]), int(match[2])) for match in map(NAME.fullmatch, names) if match}
        if not there:
            raise UserError(f"{self.key}={self.output}: there are no parts in {self.folder}; make them by shard=1/4, "
                            "shard=2/4, shard=3/4, shard=4/4")  # fmt: skip
        if len(numbers := sorted({shard.of for shard in there})) > 1:
            raise UserError(f"{self.folder}: has parts of {' and of '.join(map(str, numbers))}; delete those that are "
                            "not wanted")  # fmt: skip
        every = [Shard(number, numbers[0]) for number in range(1, numbers[0] + 1)]
        if missing := [f"shard={shard}" for shard in every if shard not in there or not self.place(shard).exists()]:
            more = f" and {len(missing) - SHOWN:,} more" * (len(missing) > SHOWN)
            raise UserError(f"{self.folder}: {len(missing):,} of {len(every):,} parts are missing: "
                            f"{', '.join(missing[:SHOWN])}{more}")  # fmt: skip
        parts = []
        for shard in every:
            place, content = self.place(shard), self._read(shard)
            if words := difference(content["task"], task):
                raise UserError(f"{place}: shard={shard} was made with {words}; make it again by shard={shard} "
                                "overwrite=true, or repeat the command with which it was made")  # fmt: skip
            if place.stat().st_size != content["size"] or files.file_hash(place) != content["sha256"]:
                raise UserError(f"{place}: truncated or changed since it was made; shard={shard} overwrite=true makes "
                                "it again")  # fmt: skip
            parts.append((place, content["facts"]))
        return parts

    def clear(self) -> None:
        """Delete all parts."""
        files.clear(self.folder)

    def _seal(self, shard: Shard) -> Path:
        return self.folder / f"{self.place(shard).name}.json"

    def _read(self, shard: Shard) -> dict[str, Any]:
        content = read_json(self._seal(shard), SHAPE, f"shard={shard} overwrite=true makes the part again")
        if content["format"] != FORMAT:
            raise UserError(f"{self._seal(shard)}: of another version; shard={shard} overwrite=true makes it again")
        return content


def contents(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Size and SHA-256 of files, and of the files in folders, by path."""
    facts = {}
    for path in map(Path, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                facts[str(file)] = {"size": file.stat().st_size, "sha256": files.file_hash(file)}
    return facts


def difference(before: Any, given: Any, key: str = "") -> str:
    """The first difference of two descriptions of a task, in words; empty: none."""
    if isinstance(before, dict) and isinstance(given, dict):
        for name in [*before, *(given.keys() - before.keys())]:
            if words := difference(before.get(name), given.get(name), f"{key}.{name}" if key else name):
                return words
        return ""
    return "" if before == given else f"{key.removeprefix('options.')}={_word(before)}, now {_word(given)}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)
