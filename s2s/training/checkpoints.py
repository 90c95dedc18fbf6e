"""Writes checkpoints: each is a folder that is complete in itself, and appears only when it is complete. Loading one
runs no code from it.

RUN/checkpoints/step_00004000/
    model.safetensors        the weights to decode with (the averaged ones under train.ema)
    training.safetensors     optimizer state, and the raw weights under train.ema; with distributed.strategy=fsdp a
    training/                folder with a file of each process
    training_terms.safetensors   states of the terms of the loss, if there are any
    state.json               update, data position, metrics, patience: what a resumed run needs
    config.yaml              the resolved config
    source.*, target.*       tokenizers and vocabularies
    manifest.json            size and sha256 of every file above
    manifest.sha256          sha256 of the manifest
RUN/last, RUN/best           links to the last and the best checkpoint
"""

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from s2s import __version__, files, manifests
from s2s.checkpoint import loading, shapes
from s2s.checkpoint.runs import TERMS, read_state, steps, update_of, verify
from s2s.errors import UserError
from s2s.training import sharding
from s2s.training.sharding import Part

LISTED = 5  # tensors that a message lists
MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye}
SPARE = 1 << 26  # numbers that a model may hold beside its weights: tables of positions and the like


def write(
    folder: Path, tensors: dict[str, dict[str, Tensor]], texts: dict[str, str], task, part: Part | None = None
) -> None:
    """Write a checkpoint under a temporary name, flush it to the disk, and rename it.

    Args:
        folder: The checkpoint's folder; its parent is created.
        tensors: File name -> tensors by name.
        texts: File name -> content.
        task: Saves its tokenizers into the folder.
        part: This rank's part of sharded states, which are neither in `tensors` nor in `texts`.

    Raises:
        OSError: writing fails, for example because there is too little space. Then nothing is left behind.
    """
    with files.whole_folder(folder) as partial:
        needed = sum(value.nbytes for content in tensors.values() for value in content.values())
        needed += part.nbytes if part else 0
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise OSError(
                errno.ENOSPC, f"requires {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free", str(folder)
            )
        for name, content in tensors.items():
            try:
                save_file({key: value.detach().cpu().contiguous() for key, value in content.items()}, partial / name)
            except SafetensorError as error:  # it wraps the system's errors
                number = re.search(r"os error (\d+)", str(error))
                number = int(number[1]) if number else errno.EIO
                raise OSError(number, os.strerror(number), str(partial / name)) from error
        for name, content in texts.items():
            files.write(partial / name, content)
        task.save(partial)
        if part:
            part.write(partial)
        written = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": files.file_hash(path)}
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        manifests.write_manifest(partial, {"format": shapes.FORMATS[-1], "s2s": __version__, "files": written})


def newest_whole(run: Path, report: Callable[[str], None], until: int | None = None) -> Path | None:
    """The newest undamaged checkpoint of a run from which training can be resumed; None: there is none.

    Args:
        run: Folder of the run.
        report: Called with a line about each checkpoint that is skipped.
        until: Consider only checkpoints up to this update.
    """
    for folder in reversed(steps(run)):
        try:
            if until is None or update_of(folder) <= until:
                verify(folder)
                if not {"progress", "iterator"} <= read_state(folder).keys():
                    raise UserError(f"{folder}: has weights and no training state, as averages of checkpoints do")
                return folder
        except (UserError, OSError) as error:
            report(f"warning: {error}; trying the previous checkpoint")
    return None


def go_back(run: Path, folder: Path) -> None:
    """Make a checkpoint the last one of its run. Newer checkpoints are kept, but renamed to `aside_...`."""
    for newer in steps(run):
        if update_of(newer) > update_of(folder):
            aside = newer.with_name(f"aside_{newer.name}")
            files.clear(aside)
            newer.rename(aside)
    if (run / "best").is_symlink() and not (run / "best").exists():
        (run / "best").unlink()  # the next save sets it again
    link(run, "last", folder)


def sweep(run: Path) -> None:
    """Clean up after a killed process: delete incomplete folders, and restore what they were to replace."""
    for leftover in (run / "checkpoints").glob(".*-step_*"):
        files.recover(leftover.with_name(leftover.name.partition("-")[2]))


def link(run: Path, name: str, folder: Path) -> None:
    """Point RUN/name at a checkpoint, atomically. Raises OSError that names RUN/name."""
    fresh = run / f".{name}"
    files.clear(fresh)
    try:
        fresh.symlink_to(folder.relative_to(run))
        fresh.replace(run / name)
    except OSError as error:  # it names the target of the link
        files.clear(fresh)
        raise OSError(error.errno, error.strerror, str(run / name)) from error


def load_training(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read the optimizer state of a checkpoint, and its raw weights: `kind.NAME` -> tensor, for parameter NAME. Tensors
    are sharded as the model's parameters are. Raises UserError if the checkpoint is damaged."""
    parameters = dict(model.named_parameters())
    if (folder / sharding.FOLDER).is_dir():
        return sharding.read(folder, parameters)
    if not (folder / "training.safetensors").is_file():  # sharded states before the first update have no files
        return {}
    file = folder / "training.safetensors"
    states = {}
    for key, value in loading.load_tensors(file, states=True).items():
        parameter = parameters.get(key.partition(".")[2])
        if parameter is None or (value.dim() and value.shape != parameter.shape):
            raise UserError(f"{file}: does not fit the model: {key} of shape {list(value.shape)}")
        states[key] = loading.like(value, parameter)
    return states


def load_terms(folder: Path) -> dict[str, Tensor]:
    """Read the states of a checkpoint's loss terms, by `TERM.NAME`. Raises UserError if the file is damaged."""
    file = folder / TERMS
    try:
        return load_file(file) if file.is_file() else {}
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{file}: damaged or unreadable: {error}") from error
