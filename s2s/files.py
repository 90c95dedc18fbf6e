"""Files and folders that appear whole or not at all, claims of their places, and errors that name them.

What is written goes to `.partial-NAME` beside its place, is flushed to the disk, and takes the place by a rename; what
was there is `.replaced-NAME` till then, and `.removed-NAME` while it is being deleted. What a killed process left of
these is cleared away, or put back, by the next one that writes to the place.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import BinaryIO

from s2s.errors import UserError

MANIFEST = "manifest.json"  # of stores and of checkpoints
OF_A_RUN = ("checkpoints", "run.json", "config.yaml", "metrics.jsonl", "train.log", "lock")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors of the system that do not say which file they are about, such as those of a full disk, say this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write(path: str | Path, content: str | bytes) -> None:
    """Write a file; text is UTF-8. Raises OSError naming it."""
    with naming(path):
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def flush(path: str | Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut, where the system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    sha = hashlib.sha256()
    with naming(path), open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def clear(path: str | Path) -> None:
    """Delete a file or a folder with all that is in it, if it is there; a warning names what cannot be deleted."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        print(f"warning: {path} is left behind, and can be deleted: {error}", file=sys.stderr)


def remove(folder: Path, place: Path | None = None) -> None:
    """Delete a folder (that was at `place`); renamed to `.removed-NAME` first, so that a half-deleted one is never
    taken for a whole one. Raises OSError when that fails."""
    doomed = _beside(place or folder)[2]
    clear(doomed)  # of a process that was killed
    os.rename(folder, doomed)
    clear(doomed)


@contextmanager
def whole_folder(place: str | Path) -> Iterator[Path]:
    """A folder that appears, or replaces the one that is there, only when it is complete and on disk.

    No other process may write to the place at the same time: see `claim`.

    Args:
        place: Its parent is made. A link to a folder stays a link.

    Yields:
        An empty folder beside it, to write to; on any error nothing of it is left, and what was there is there.
    """
    place = Path(os.path.realpath(place))
    partial, replaced, _ = _beside(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    recover(place)
    partial.mkdir()
    mine = partial.stat()
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        if place.exists():
            os.rename(place, replaced)
        os.rename(partial, place)
        flush(place.parent)
    except BaseException as error:
        if place.exists() and os.path.samestat(place.stat(), mine):  # it may not have got to the disk
            os.rename(place, partial)
        if replaced.exists() and not place.exists():
            os.rename(replaced, place)
        clear(partial)
        if isinstance(error, OSError) and str(error.filename).startswith(f"{partial}{os.sep}"):
            error.filename = f"{place}{error.filename[len(str(partial)) :]}"
        raise
    recover(place)


@contextmanager
def whole_file(path: str | Path, key: str = "output") -> Iterator[BinaryIO]:
    """A file that appears, or replaces the one that is there, only when it is complete and on disk.

    Args:
        path: The file. A link to a file stays a link.
        key: Which names it, for messages.

    Raises:
        UserError: the path is a folder, its folder is not there, it is `claim`ed or not to be written to.
        OSError: it cannot be written; nothing is left behind then.
    """
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise UserError(f"{key}={path}: is a folder; a file name is needed")
    if not place.parent.is_dir():
        raise UserError(f"{key}={path}: there is no folder {Path(path).parent}")
    if place.exists() and not place.is_file():
        raise UserError(f"{key}={path}: is no file")
    with claim(path, key):
        partial = _beside(place)[0]
        try:
            with BufferedWriter(_File(partial, path)) as file:
                yield file
                file.flush()
                with naming(path):
                    os.fsync(file.fileno())
            partial.replace(place)
        except BaseException:
            clear(partial)
            raise


class _File(FileIO):
    """A new file whose errors name the one that it is written for."""

    def __init__(self, path: Path, said: str | Path):
        super().__init__(path, "wb")
        self._said = said

    def write(self, data) -> int:
        with naming(self._said):
            return super().write(data)


def abandon(path: str | Path) -> None:
    """Clear away what a process that is about to end without another word has begun to write to a place."""
    place = Path(os.path.realpath(path))
    for left in (_beside(place)[0], _lock(place)):
        clear(left)


@contextmanager
def claim(place: str | Path, key: str) -> Iterator[None]:
    """The right to write a file or folder to a place, while the context lasts: two commands that write to one place at
    the same time would lose the work of one. It ends with the process that has it, however that ends.

    Args:
        place: Its parent is made; where nothing is written there after all, it goes again.
        key: Which names it, for messages.

    Raises:
        UserError: another process has it; the place lies in a store or a checkpoint, or is a part of a run.
    """
    real = Path(os.path.realpath(place))
    if owner := _owner(real):
        raise UserError(f"{key}={place}: lies in {owner}, which would be damaged; choose another place")
    made = [folder for folder in real.parents if not folder.exists()]
    real.parent.mkdir(parents=True, exist_ok=True)
    path = _lock(real)
    try:
        with _locked(path, f"{key}={place}: another command is writing to this place; choose another, or wait for it"):
            recover(real)
            yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def _locked(path: Path, complaint: str) -> Iterator[None]:
    """Hold a `lock` whose file goes with it."""
    while True:
        file = lock(path, complaint)
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        file.close()  # it was deleted by the one that had it
    with file:
        try:
            yield
        finally:
            clear(path)


def check_apart(place: str | Path, key: str, inputs: Iterable[str | None]) -> None:
    """See whether a folder that is going to be written holds none of the files that it is made from. Raises UserError.

    Args:
        place: The folder.
        key: Which names it, for messages.
        inputs: Files, folders, beginnings of paths; None and `-` are none.
    """
    real = Path(os.path.realpath(place))
    for path in inputs:
        if path not in (None, "-") and Path(os.path.realpath(path)).is_relative_to(real):
            raise UserError(f"{key}={place}: would replace {path}, which it is made from; choose another place")


def lock(path: Path, complaint: str) -> BinaryIO:
    """A file that is locked till it is closed, or its process ends. Raises UserError when another process has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(complaint) from None
    except OSError as error:
        print(f"warning: {path}: this file system has no locks ({error.strerror}), so that two commands that write "
              "here at the same time do not see each other", file=sys.stderr)  # fmt: skip
    return file


def recover(place: Path) -> None:
    """Clear away what a process that was killed left of a file or folder; what it had begun to replace is put back."""
    partial, replaced, removed = _beside(place)
    clear(partial)
    clear(removed)
    if replaced.exists() and not place.exists():
        os.rename(replaced, place)
    if replaced.exists():
        try:
            remove(replaced, place)
        except OSError as error:
            print(f"warning: {replaced} is left behind, and can be deleted: {error}", file=sys.stderr)


def _lock(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _beside(place: Path) -> tuple[Path, Path, Path]:
    partial, replaced, removed = (
        place.with_name(f".{kind}-{place.name}") for kind in ("partial", "replaced", "removed")
    )
    return partial, replaced, removed


def _owner(place: Path) -> str | None:
    """The store, checkpoint or run whose parts a place is among, or None."""
    for folder in place.parents:
        if _is_ours(folder / MANIFEST):
            return f"{folder}, a store or a checkpoint"
        if (folder / "run.json").is_file() and place.relative_to(folder).parts[0] in OF_A_RUN:
            return f"{folder}, a run"
    return None


def _is_ours(manifest: Path) -> bool:
    """Whether it is the manifest of a store or of a checkpoint, by its beginning."""
    try:
        with manifest.open("rb") as file:
            return file.read(64).translate(None, b" \n").startswith(b'{"format":')
    except OSError:
        return False
