"""Checkpoints: one folder for each, whole or absent, complete in itself; loading runs no code.

RUN/checkpoints/step_00004000/
    model.safetensors        the weights to decode with (the averaged ones under train.ema)
    training.safetensors     optimizer state, and the raw weights under train.ema; with distributed.strategy=fsdp a
    training/                folder with a file of each process
    state.json               update, data position, metrics, patience: what a resumed run needs
    config.yaml              the resolved config
    source.*, target.*       tokenizers and vocabularies
    manifest.json            size and sha256 of every file above
RUN/last, RUN/best           links to the checkpoints of these names
"""

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from s2s import __version__, registry
from s2s.config import compose
from s2s.data.store import file_hash, flush
from s2s.errors import UserError
from s2s.models.names import current
from s2s.training import sharding
from s2s.training.sharding import Part

FORMAT = 1


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder that appears, or replaces the one that is there, only when it is complete and on disk.

    Args:
        folder: Its parent is made.

    Yields:
        An empty folder beside it, to write to; on any error nothing of it is left.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        if folder.exists():
            remove(folder)
        partial.rename(folder)
        flush(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write(
    folder: Path, tensors: dict[str, dict[str, Tensor]], texts: dict[str, str], task, part: Part | None = None
) -> None:
    """Write a checkpoint beside its place, flush it to disk, and rename it into place.

    Args:
        folder: The checkpoint's folder; its parent is made.
        tensors: File name -> tensors by name.
        texts: File name -> content.
        task: Saves its tokenizers into the folder.
        part: With the other ranks' parts, what is neither in `tensors` nor in `texts`.

    Raises:
        OSError: there is too little space on the disk, say; nothing is left behind then.
    """
    with whole(folder) as partial:
        needed = sum(value.nbytes for content in tensors.values() for value in content.values())
        needed += part.nbytes if part else 0
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise OSError(
                errno.ENOSPC, f"{needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free", str(folder)
            )
        for name, content in tensors.items():
            try:
                save_file({key: value.detach().cpu().contiguous() for key, value in content.items()}, partial / name)
            except SafetensorError as error:  # it wraps the system's errors
                number = re.search(r"os error (\d+)", str(error))
                raise OSError(int(number[1]) if number else errno.EIO, str(error), str(partial / name)) from error
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        task.save(partial)
        if part:
            part.write(partial)
        files = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        manifest = {"format": FORMAT, "s2s": __version__, "files": files}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def verify(folder: Path) -> None:
    """Compare a checkpoint's files with its manifest. Raises UserError naming the file that disagrees."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: not a checkpoint (no readable manifest.json)") from error
    if manifest["format"] > FORMAT:
        raise UserError(f"{folder}: written by a newer s2s ({manifest['s2s']}); this is {__version__}")
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; the checkpoint is damaged")
        if path.stat().st_size != entry["bytes"] or file_hash(path) != entry["sha256"]:
            raise UserError(f"{path}: its content is not what was saved; the checkpoint is damaged")


def steps(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step_*"))


def newest_whole(run: Path, report: Callable[[str], None], until: int | None = None) -> Path | None:
    """The newest undamaged checkpoint of a run, or of those until an update; `report` hears of each damaged one that
    is passed over, in a line."""
    for folder in reversed(steps(run)):
        try:
            if until is None or update_of(folder) <= until:
                verify(folder)
                return folder
        except UserError as error:
            report(f"warning: {error}; trying the one before")
    return None


def update_of(folder: Path) -> int:
    """The update that a checkpoint was saved after."""
    return int(folder.name.removeprefix("step_"))


def go_back(run: Path, folder: Path) -> None:
    """Make a run's checkpoint the last one. Newer ones get out of the way: they are kept, as `aside_...`, beside it."""
    for newer in steps(run):
        if update_of(newer) > update_of(folder):
            aside = newer.with_name(f"aside_{newer.name}")
            shutil.rmtree(aside, ignore_errors=True)
            newer.rename(aside)
    link(run, "last", folder)


def sweep(run: Path) -> None:
    """Delete what a process that was killed has left half-written or half-deleted."""
    for leftover in [*run.glob("checkpoints/.partial-*"), *run.glob("checkpoints/.removed-*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def validated(folder: Path, metric: str) -> float | None:
    """The value of a metric, if the checkpoint is readable and was saved at a validation that had it."""
    try:
        progress = json.loads((folder / "state.json").read_text(encoding="utf-8"))["progress"]
        metrics = progress["last_metrics"]
        return metrics.get(metric) if metrics.get("update") == progress["update"] else None
    except (OSError, ValueError, KeyError):
        return None


def link(run: Path, name: str, folder: Path) -> None:
    """Point RUN/name at a checkpoint, atomically."""
    fresh = run / f".{name}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.relative_to(run))
    fresh.replace(run / name)


def resolve(path: str) -> Path:
    """The checkpoint folder that a user means: itself, RUN/best or RUN/last, or a run (its best, else its last).

    Raises:
        UserError: nothing there.
    """
    folder = Path(path)
    if not folder.exists() and not folder.is_symlink():
        raise UserError(f"checkpoint={path}: no such folder")
    candidates = [folder, folder / "best", folder / "last", *reversed(steps(folder))]
    for candidate in candidates:
        if (candidate / "manifest.json").is_file() and (candidate / "model.safetensors").exists():
            return candidate.resolve() if candidate.is_symlink() else candidate
    raise UserError(
        f"checkpoint={path}: neither a checkpoint nor a run with one (no manifest.json and model.safetensors)"
    )


def remove(folder: Path) -> None:
    """Delete a checkpoint; renamed first, so that a half-deleted one is never taken for a whole one."""
    doomed = folder.with_name(f".removed-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def load_tensors(path: Path, device: torch.device | str = "cpu", states: bool = False) -> dict[str, Tensor]:
    """A safetensors file of parameters, or of an optimizer's `states`, by today's names. Raises UserError when it is
    damaged."""
    try:
        return {current(name, states): value for name, value in load_file(path, device=str(device)).items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or unreadable: {error}") from error


def load_training(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Optimizer state of a checkpoint, and raw weights, as `kind.NAME` of parameter NAME, spread over the ranks as
    the model's parameters are. Raises UserError when it is damaged."""
    parameters = dict(model.named_parameters())
    if (folder / sharding.FOLDER).is_dir():
        return sharding.read(folder, parameters)
    if not (folder / "training.safetensors").is_file():  # of parts before the first update there are none
        return {}
    tensors = load_tensors(folder / "training.safetensors", states=True)
    return {key: sharding.like(value, parameters[key.split(".", 1)[1]]) for key, value in tensors.items()}


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Copy weights into a model by name. Raises UserError listing all names that do not fit."""
    parameters = dict(model.named_parameters())
    wrong = [f"{name} missing" for name in parameters.keys() - tensors.keys()]
    wrong += [f"{name} unknown" for name in tensors.keys() - parameters.keys()]
    wrong += [
        f"{name} is {list(tensors[name].shape)}, not {list(parameters[name].shape)}"
        for name in parameters.keys() & tensors.keys()
        if tensors[name].shape != parameters[name].shape
    ]
    if wrong:
        raise UserError(f"{where}: does not fit the model: {'; '.join(sorted(wrong))}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(sharding.like(tensors[name], parameter))


def load_model(path: str, device: torch.device | str = "cpu") -> tuple:
    """A checkpoint's model, ready to decode.

    Args:
        path: As for `resolve`.
        device: Where the weights go.

    Returns:
        (model in evaluation mode, task, the config as a dict)

    Raises:
        UserError: missing or damaged files, or a config that this version does not know.
    """
    folder = resolve(path)
    verify(folder)
    where = f"{folder / 'config.yaml'}"
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    task = registry.find("task", config["task"]["type"]).load(folder, config["data"]["target_transform"])
    kind = registry.find("model", config["model"]["type"])
    model = task.model(compose.load(kind.Config, config["model"], where))
    load_weights(model, load_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    return model.to(device).eval(), task, config
