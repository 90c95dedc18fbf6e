"""Files and folders that appear only when they are complete; claims of paths; and errors that name files.

Output is written to `.partial-NAME` in the same folder, flushed to the disk, and renamed to NAME. Until then an
existing NAME is kept as `.replaced-NAME`; it is called `.removed-NAME` while it is being deleted. If a process was
killed, the next one that writes to NAME deletes these files, or restores the old NAME.
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

MANIFEST = "manifest.json"  # in stores and checkpoints
OF_A_RUN = ("checkpoints", "run.json", "config.yaml", "metrics.jsonl", "train.log", "lock")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add the name of this file to errors of the system that do not name a file, such as those of a full disk."""
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
    """Flush the content of a file, or the names in a folder, to the disk, if the system supports it."""
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
    """SHA-256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with naming(path), open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def clear(path: str | Path) -> None:
    """Delete a file, or a folder with its contents, if it exists. A warning names it if it cannot be deleted."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        print(f"warning: {path} could not be deleted; delete it yourself: {error}", file=sys.stderr)


def remove(folder: Path, place: Path | None = None) -> None:
    """Delete a folder. It is renamed to `.removed-NAME` first, so that an incomplete folder is never taken for a
    complete one.

    Args:
        folder: The folder.
        place: Its former path, if it was renamed.

    Raises:
        OSError: it cannot be renamed.
    """
    doomed = _beside(place or folder)[2]
    clear(doomed)  # a killed process may have left it
    os.rename(folder, doomed)
    clear(doomed)


@contextmanager
def whole_folder(place: str | Path) -> Iterator[Path]:
    """A folder that appears, or replaces an existing one, only when it is complete and on disk.

    No other process may write to the same path at the same time: see `claim`.

    Args:
        place: Path of the folder; its parent is created. A link to a folder stays a link.

    Yields:
        An empty folder to write to. After an error nothing of it is left, and an existing folder is unchanged.
    """
    place = Path(os.path.realpath(place))
    partial, replaced, _ = _beside(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    recover(place)
    partial.mkdir()
    status = partial.stat()
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        if place.exists():
            os.rename(place, replaced)
        os.rename(partial, place)
        flush(place.parent)
    except BaseException as error:
        if place.exists() and os.path.samestat(place.stat(), status):  # it may not have reached the disk
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
    """A file that appears, or replaces an existing one, only when it is complete and on disk.

    Args:
        path: The file. A link to a file stays a link.
        key: The option that names it, for messages.

    Raises:
        UserError: the path is a folder or no regular file, its folder does not exist, or `claim` fails.
        OSError: it cannot be written; then nothing is left behind.
    """
    place = regular(path, key)
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


def regular(path: str | Path, key: str) -> Path:
    """The real path of a file to write, which need not exist. `key` is the option that names it.

    Raises:
        UserError: the path is a folder or no regular file, or its folder does not exist.
    """
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise UserError(f"{key}={path}: is a folder; a file name is needed")
    if not place.parent.is_dir():
        raise UserError(f"{key}={path}: there is no folder {Path(path).parent}")
    if place.exists() and not place.is_file():
        raise UserError(f"{key}={path}: is not a regular file")
    return place


def replace(path: Path, content: str | bytes) -> None:
    """Write a small file that has the old or the new content whenever the process is killed. Raises OSError naming
    it."""
    partial = _beside(path)[0]
    write(partial, content)
    flush(partial)
    with naming(path):
        partial.replace(path)


class _File(FileIO):
    """A new file whose errors name the file that it will become."""

    def __init__(self, path: Path, name: str | Path):
        super().__init__(path, "wb")
        self._name = name

    def write(self, data) -> int:
        with naming(self._name):
            return super().write(data)


def abandon(path: str | Path) -> None:
    """Delete what this process has begun to write to a path, before it exits without cleaning up."""
    place = Path(os.path.realpath(path))
    for left in (_beside(place)[0], _lock(place)):
        clear(left)


@contextmanager
def claim(place: str | Path, key: str) -> Iterator[None]:
    """The exclusive right to write a file or folder, while the context lasts. Without it, two commands that write to
    the same path at the same time would lose the work of one. It ends with its process, however that ends.

    Args:
        place: Path of the file or folder. Its parent is created, and deleted again if nothing is written.
        key: The option that names it, for messages.

    Raises:
        UserError: another process has the right; or the path is inside of a store, a checkpoint, or part of a run.
    """
    target = Path(os.path.realpath(place))
    if owner := _owner(target):
        raise UserError(f"{key}={place}: lies in {owner}, which would be damaged; choose another path")
    created = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    path = _lock(target)
    try:
        with _locked(path, f"{key}={place}: another command is writing to this path; choose another, or wait for it"):
            recover(target)
            yield
    finally:
        for folder in created:
            with suppress(OSError):  # not empty
                folder.rmdir()


@contextmanager
def _locked(path: Path, complaint: str) -> Iterator[None]:
    """Hold a `lock`, and delete its file afterwards."""
    while True:
        file = lock(path, complaint)
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        file.close()  # the process that held the lock has deleted the file
    with file:
        try:
            yield
        finally:
            clear(path)


def check_apart(place: str | Path, key: str, inputs: Iterable[str | None]) -> None:
    """Check that a folder to be written contains none of its own inputs. Raises UserError.

    Args:
        place: The folder.
        key: The option that names it, for messages.
        inputs: Files, folders and prefixes of paths; None and `-` are ignored.
    """
    target = Path(os.path.realpath(place))
    for path in inputs:
        if path not in (None, "-") and Path(os.path.realpath(path)).is_relative_to(target):
            raise UserError(f"{key}={place}: would replace its own input {path}; choose another path")


def lock(path: Path, complaint: str) -> BinaryIO:
    """Open and lock a file, until it is closed or the process ends. Raises UserError if another process has the
    lock."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(complaint) from None
    except OSError as error:
        print(f"warning: {path}: this file system has no locks ({error.strerror}), so two commands that write here at "
              "the same time cannot notice each other", file=sys.stderr)  # fmt: skip
    return file


def recover(place: Path) -> None:
    """Clean up after a killed process that was writing a file or folder; if it was replacing one, that is restored."""
    partial, replaced, removed = _beside(place)
    clear(partial)
    clear(removed)
    if replaced.exists() and not place.exists():
        os.rename(replaced, place)
    if replaced.exists():
        try:
            remove(replaced, place)
        except OSError as error:
            print(f"warning: {replaced} could not be deleted; delete it yourself: {error}", file=sys.stderr)


def _lock(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _beside(place: Path) -> tuple[Path, Path, Path]:
    partial, replaced, removed = (
        place.with_name(f".{kind}-{place.name}") for kind in ("partial", "replaced", "removed")
    )
    return partial, replaced, removed


def _owner(place: Path) -> str | None:
    """The store, checkpoint or run that a path is part of, for messages; or None."""
    for folder in place.parents:
        if _is_ours(folder / MANIFEST):
            return f"{folder}, a store or a checkpoint"
        if (folder / "run.json").is_file() and place.relative_to(folder).parts[0] in OF_A_RUN:
            return f"{folder}, a run"
    return None


def _is_ours(manifest: Path) -> bool:
    """Whether a file is the manifest of a store or a checkpoint, judged by its beginning."""
    try:
        with manifest.open("rb") as file:
            return file.read(64).translate(None, b" \n").startswith(b'{"format":')
    except OSError:
        return False
