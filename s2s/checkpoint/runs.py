"""Which checkpoints there are, which one is meant, and whether it is whole: all that is known of them without torch."""

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from s2s import files, manifests
from s2s.checkpoint import shapes
from s2s.config.documents import read_json
from s2s.errors import UserError

WEIGHTS, STATE, CONFIG = "model.safetensors", "state.json", "config.yaml"
TERMS = "training_terms.safetensors"  # what terms of the loss remember
OURS = (WEIGHTS, STATE, CONFIG, "training", "source.", "target.", "features.json")  # beginnings of what is read
DAMAGED = "the checkpoint is damaged"
PATIENCE = 60.0  # seconds to read checkpoints that their run may delete meanwhile

T = TypeVar("T")


def verify(folder: Path, training: bool = True) -> None:
    """Compare a checkpoint's files with its manifest, and its state with the update that its folder is named after.

    Args:
        folder: Of the checkpoint.
        training: Read what only training needs, too.

    Raises:
        UserError: naming the file that is wrong.
    """
    if not (folder / manifests.MANIFEST).is_file():
        raise UserError(f"{folder / manifests.MANIFEST}: missing; {DAMAGED}")
    entries = manifests.read_manifest(folder, shapes.MANIFEST, shapes.FORMATS, DAMAGED)["files"]
    if complaint := unlisted(folder, entries):
        raise UserError(complaint)
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; {DAMAGED}")
        hashed = training or not name.startswith("training")
        if path.stat().st_size != entry["bytes"] or (hashed and files.file_hash(path) != entry["sha256"]):
            raise UserError(f"{path}: its content is not what was saved; {DAMAGED}")
    if complaint := misnamed(folder, read_state(folder)):
        raise UserError(complaint)


def unlisted(folder: Path, entries: dict[str, Any]) -> str | None:
    """A complaint of a file that would be read and is not among those of the manifest."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted({WEIGHTS, STATE, CONFIG, *(name for name in there if name.startswith(OURS))} - entries.keys()):
        return f"{folder / manifests.MANIFEST}: {name} is not among its files; {DAMAGED}"
    return None


def misnamed(folder: Path, state: dict[str, Any]) -> str | None:
    """A complaint of a run's checkpoint that is of another update than its folder's name says."""
    update = state.get("progress", {}).get("update")
    if update is None or not is_step(folder) or update == update_of(folder):
        return None
    return f"{folder}: holds the checkpoint of update {update}; give the folder its name back"


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint's state.json holds. Raises UserError when it is damaged."""
    return read_json(folder / STATE, shapes.STATE, DAMAGED, finite=False)


def weights_hash(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, by its manifest. Raises UserError."""
    return manifests.read_manifest(folder, shapes.MANIFEST, shapes.FORMATS, DAMAGED)["files"][WEIGHTS]["sha256"]


def steps(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(filter(is_step, (run / "checkpoints").glob("step_*")), key=update_of)


def is_step(folder: Path) -> bool:
    """Whether a folder is named as a run's checkpoints are."""
    return re.fullmatch(r"step_[0-9]{1,18}", folder.name) is not None


def update_of(folder: Path) -> int:
    """The update that a checkpoint was saved after."""
    return int(folder.name.removeprefix("step_"))


def validated(folder: Path, metric: str) -> float | None:
    """The value of a metric, if the checkpoint is readable and was saved at a validation that had it."""
    try:
        progress = read_state(folder).get("progress", {})
    except UserError:
        return None
    metrics = progress.get("last_metrics", {})
    value = metrics.get(metric) if metrics.get("update") == progress.get("update") else None
    return value if isinstance(value, (int, float)) else None


def resolve(path: str) -> Path:
    """The checkpoint folder that a user means: itself, RUN/best or RUN/last, or a run (its best, else its last).

    Raises:
        UserError: nothing there.
    """
    folder = Path(path)
    if not folder.exists() and not folder.is_symlink():
        raise UserError(f"checkpoint={path}: no such folder")
    links = [place for place in (folder, folder / "best", folder / "last") if place.is_symlink()]
    for link in links:
        while True:
            target = link.resolve()
            if target.is_dir() and (link != folder or is_checkpoint(target)):
                return target
            if target.is_dir():
                break  # a link to a run
            if link.resolve() == target:  # else the run has saved another one meanwhile
                raise UserError(f"{link}: points to a checkpoint that is not there; name another one of the run")
    for candidate in (folder, *reversed(steps(folder))):
        if is_checkpoint(candidate):
            return candidate
    raise UserError(
        f"checkpoint={path}: neither a checkpoint nor a run with one (no manifest.json and model.safetensors)"
    )


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of a checkpoint, even if a file of it is missing."""
    return sum((folder / name).is_file() for name in (manifests.MANIFEST, WEIGHTS, STATE)) >= 2


def read(path: str, reader: Callable[[Path], T]) -> T:
    """What a reader makes of the checkpoint that a user means, as in `resolve`. See `reread`."""
    return reread(lambda: [resolve(path)], lambda folders: reader(folders[0]), [path])


def reread(choose: Callable[[], list[Path]], reader: Callable[[list[Path]], T], named: Iterable[str] = ()) -> T:
    """What a reader makes of some checkpoints. A run that is being trained deletes its older checkpoints: where that
    happens to one that is being read, it is chosen anew.

    Args:
        choose: Says which checkpoints.
        reader: Reads them.
        named: What the user calls them.

    Raises:
        UserError: what the two raise; a folder that the user named itself is gone; PATIENCE is over.
    """
    end = time.monotonic() + PATIENCE
    while True:
        folders = choose()
        before = [_identity(folder) for folder in folders]
        try:
            found = reader(folders)
        except (UserError, OSError):
            after = [_identity(folder) for folder in folders]
            if after == before and None not in after:
                raise
        else:
            if all(_identity(folder) in (was, None) for folder, was in zip(folders, before, strict=True)):
                return found
        for folder in folders:
            if folder in map(Path, named) and not folder.exists():
                raise UserError(f"checkpoint={folder}: was deleted while it was being read")
        if time.monotonic() > end:
            places = ", ".join(map(str, folders))
            raise UserError(f"{places}: deleted while being read, again and again: the run saves faster than it can "
                            "be read; train.keep_last says how many checkpoints it keeps")  # fmt: skip


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
