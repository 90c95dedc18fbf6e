"""Finds and verifies the checkpoints of runs. Imports no torch."""

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
TERMS = "training_terms.safetensors"  # states of the terms of the loss
OURS = (
    WEIGHTS,
    STATE,
    CONFIG,
    "training",
    "source.",
    "target.",
    "features.json",
)  # prefixes of names
DAMAGED = "the checkpoint is damaged"
NAMED = 3  # runs that a message names
PATIENCE = 60.0  # seconds in which to read checkpoints that their run may delete meanwhile

T = TypeVar("T")


def verify(folder: Path, training: bool = True) -> None:
    """Compare the files of a checkpoint with its manifest, and its state with the update in the name of its folder.

    Args:
        folder: Folder of the checkpoint.
        training: Whether to verify the files that only training needs, too.

    Raises:
        UserError: a file is missing or damaged; the message names it.
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
            raise UserError(f"{path}: its content differs from what was saved; {DAMAGED}")
    if complaint := misnamed(folder, read_state(folder)):
        raise UserError(complaint)


def unlisted(folder: Path, entries: dict[str, Any]) -> str | None:
    """A message about a file that would be read but is not in the manifest; or None."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted({WEIGHTS, STATE, CONFIG, *(name for name in present if name.startswith(OURS))} - entries.keys()):
        return f"{folder / manifests.MANIFEST}: {name} is not among its files; {DAMAGED}"
    return None


def misnamed(folder: Path, state: dict[str, Any]) -> str | None:
    """A message about a checkpoint of another update than the name of its folder says; or None."""
    update = state.get("progress", {}).get("update")
    if update is None or not is_step(folder) or update == update_of(folder):
        return None
    return f"{folder}: holds the checkpoint of update {update}; give the folder its name back"


def read_state(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state.json. Raises UserError if it is damaged."""
    return read_json(folder / STATE, shapes.STATE, DAMAGED, finite=False)


def weights_hash(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, from its manifest. Raises UserError if that is damaged."""
    return manifests.read_manifest(folder, shapes.MANIFEST, shapes.FORMATS, DAMAGED)["files"][WEIGHTS]["sha256"]


def steps(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(filter(is_step, (run / "checkpoints").glob("step_*")), key=update_of)


def is_step(folder: Path) -> bool:
    """Whether a folder has the name of a run's checkpoint, `step_N`."""
    return re.fullmatch(r"step_[0-9]{1,18}", folder.name) is not None


def update_of(folder: Path) -> int:
    """The update after which a checkpoint was saved, from the name of its folder."""
    return int(folder.name.removeprefix("step_"))


def validated(folder: Path, metric: str) -> float | None:
    """The value of a metric at the validation when the checkpoint was saved; None: there is none, or it is damaged."""
    try:
        progress = read_state(folder).get("progress", {})
    except UserError:
        return None
    metrics = progress.get("last_metrics", {})
    value = metrics.get(metric) if metrics.get("update") == progress.get("update") else None
    return value if isinstance(value, (int, float)) else None


def resolve(path: str) -> Path:
    """The folder of a checkpoint.

    Args:
        path: A checkpoint, RUN/best or RUN/last, or a run (its best checkpoint, or else its last one).

    Raises:
        UserError: there is no checkpoint.
    """
    folder = Path(path)
    if not folder.exists() and not folder.is_symlink():
        raise UserError(f"checkpoint={path}: no such folder")
    if folder.suffix in (".pt", ".npz", ".ckpt") or (
        any((folder / name).is_file() for name in ("config.json", "src_vocab.txt")) and not is_checkpoint(folder)
    ):
        raise UserError(f"checkpoint={path}: looks like a model of another toolkit; s2s-import from={path} output=RUN "
                        "makes a checkpoint of it")  # fmt: skip
    links = [place for place in (folder, folder / "best", folder / "last") if place.is_symlink()]
    for link in links:
        while True:
            target = link.resolve()
            if target.is_dir() and (link != folder or is_checkpoint(target)):
                return target
            if target.is_dir():
                break  # a link to a run
            if link.resolve() == target:  # otherwise the run has saved another checkpoint meanwhile
                raise UserError(f"{link}: points to a checkpoint that does not exist; name another one of the run")
    for candidate in (folder, *reversed(steps(folder))):
        if is_checkpoint(candidate):
            return candidate
    raise UserError(
        f"checkpoint={path}: neither a checkpoint nor a run with one (no manifest.json and model.safetensors)"
        + inside(folder)
    )


def inside(folder: Path) -> str:
    """The end of a message about a folder that is no run: what the runs in it are, such as those of a sweep."""
    found = sorted(mark.parent for mark in folder.glob("*/run.json"))
    if not found:
        return ""
    names = ", ".join(run.name for run in found[:NAMED]) + ", ..." * (len(found) > NAMED)
    return f"; it is a folder of runs ({names}): give one of them, such as {found[0]}"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint, even if one of its files is missing."""
    return sum((folder / name).is_file() for name in (manifests.MANIFEST, WEIGHTS, STATE)) >= 2


def read(path: str, reader: Callable[[Path], T]) -> T:
    """The result of `reader` on the checkpoint `resolve(path)`; see `reread`."""
    return reread(lambda: [resolve(path)], lambda folders: reader(folders[0]), [path])


def reread(choose: Callable[[], list[Path]], reader: Callable[[list[Path]], T], named: Iterable[str] = ()) -> T:
    """The result of a function that reads checkpoints. A run in training may delete a checkpoint while it is read; then
    checkpoints are chosen and read again.

    Args:
        choose: Returns the folders of the checkpoints.
        reader: Reads them.
        named: The paths that the user has given.

    Raises:
        UserError: as `choose` and `reader`; a folder that the user has named was deleted; PATIENCE is over.
    """
    end = time.monotonic() + PATIENCE
    while True:
        folders = choose()
        before = [_identity(folder) for folder in folders]
        try:
            result = reader(folders)
        except (UserError, OSError):
            after = [_identity(folder) for folder in folders]
            if after == before and None not in after:
                raise
        else:
            if all(_identity(folder) in (was, None) for folder, was in zip(folders, before, strict=True)):
                return result
        for folder in folders:
            if folder in map(Path, named) and not folder.exists():
                raise UserError(f"checkpoint={folder}: was deleted while it was being read")
        if time.monotonic() > end:
            places = ", ".join(map(str, folders))
            raise UserError(f"{places}: deleted while being read, again and again: the run saves faster than its "
                            "checkpoints can be read; a larger train.keep_last keeps more of them")  # fmt: skip


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
