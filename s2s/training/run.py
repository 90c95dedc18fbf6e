"""A run from its config: the folder, what will be done, training, and the last words."""

import fcntl
import json
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from omegaconf import OmegaConf

from s2s import __version__
from s2s.config import compose
from s2s.data.iterator import BatchIterator
from s2s.data.store import Store
from s2s.errors import UserError
from s2s.registry import find
from s2s.training import checkpoint
from s2s.training.log import RunLog
from s2s.training.trainer import Trainer
from s2s.training.validation import Validator

MARK = "run.json"  # the file that a run's folder is known by
# A resumed run may change anything but what its weights, its data position or its random numbers depend on.
FIXED = ("task", "model", "criterion", "seed", "data")


def train(config) -> int | None:
    """Run `s2s-train`: start a run, or go on with it when its folder holds one.

    Returns:
        The signal that interrupted the run after it had saved a checkpoint, or None.

    Raises:
        UserError: missing keys, a store or a run folder that does not fit.
        Failure: training went wrong.
    """
    if not config.store or not config.run:
        raise UserError("store=FOLDER and run=FOLDER are needed")
    if config.train.best_metric and config.train.best_metric not in config.train.valid_metrics:
        raise UserError(f"train.best_metric={config.train.best_metric} is not in train.valid_metrics")
    store, run = Store(config.store), Path(config.run)
    store.verify()
    task = find("task", config.task.type).setup(store)
    device = choose_device(config.device)
    if "train" not in store.splits:
        raise UserError(f"{config.store}: no train split; it holds {', '.join(store.splits)}")
    torch.manual_seed(config.seed)
    model = task.model(config.model).to(device)  # before the folder is touched: a bad config leaves nothing behind
    resumed = _open_folder(run, config, store)
    with _lock(run):
        criterion = task.criterion(config.criterion)
        dataset = task.dataset(store.split("train"))
        _check_lengths(config, store, dataset)
        pin = device.type == "cuda"
        iterator = BatchIterator(dataset, config.data.batch_tokens, config.seed, config.workers, pin)
        validator = None
        if "valid" in store.splits:
            options = config.train
            validator = Validator(task, store.split("valid"), criterion, options.valid_metrics, config.decode,
                                  config.data.batch_tokens, options.samples)  # fmt: skip
        elif config.train.valid_metrics != ["loss"] or config.train.patience:
            raise UserError(f"{config.store}: no valid split for train.valid_metrics or train.patience")
        trainer = Trainer(config, task, model, criterion, iterator, validator, _origin(store))
        if resumed:
            trainer.resume(resumed)
        log = RunLog(run, config.train.max_updates, trainer.progress.update)
        try:
            _announce(log, trainer, store, resumed)
            versions = {"s2s": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
            log.metrics("resume" if resumed else "start", trainer.progress.update, versions)
            interrupted = trainer.train(log)
            _last_words(log, trainer, interrupted)
        finally:
            log.close()
    return interrupted


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one. Raises UserError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU is available to torch; use device=cpu")
    return torch.device(name)


def _origin(store: Store) -> dict[str, str]:
    """What made a run, beside its config."""
    return {"store_digest": store.digest, "s2s": __version__, "torch": torch.__version__}


def _open_folder(run: Path, config, store: Store) -> Path | None:
    """Make the run's folder, or find the checkpoint to go on from.

    Raises:
        UserError: the folder holds something else, or a run with other data or another model.
    """
    if run.exists() and not run.is_dir():
        raise UserError(f"run={run}: is a file")
    if run.exists() and any(run.iterdir()):
        if not (run / MARK).is_file():
            raise UserError(f"run={run}: the folder holds something that is not a run; choose another one")
        if config.overwrite:
            with _lock(run):
                pass  # not under the feet of a living run
            shutil.rmtree(run)
        else:
            return _resume_from(run, config, store)
    run.mkdir(parents=True, exist_ok=True)
    _write_origin(run, config, store)
    return None


def _write_origin(run: Path, config, store: Store) -> None:
    """RUN/config.yaml and RUN/run.json; the latter, written last, marks the folder as a run."""
    for name, text in (("config.yaml", compose.to_yaml(config)), (MARK, json.dumps(_origin(store), indent=1))):
        fresh = run / f".{name}"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(run / name)


def _resume_from(run: Path, config, store: Store) -> Path | None:
    def report(text: str) -> None:
        print(text, file=sys.stderr)

    before = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    if json.loads((run / MARK).read_text(encoding="utf-8"))["store_digest"] != store.digest:
        raise UserError(f"run={run}: was trained on other data than store={config.store}; choose another run folder")
    now, then = (_flat(c) for c in (OmegaConf.to_container(OmegaConf.create(compose.to_yaml(config))), before))
    changed = {key: (then.get(key), value) for key, value in now.items() if then.get(key) != value}
    fixed = [key for key in changed if key.split(".")[0] in FIXED or key in ("train.ema", "train.accumulate")]
    if fixed:
        detail = ", ".join(f"{key} is {changed[key][0]} there and {changed[key][1]} here" for key in fixed[:3])
        detail += f" and {len(fixed) - 3} more" if len(fixed) > 3 else ""
        raise UserError(
            f"run={run}: holds a run with other settings ({detail}); choose another folder or overwrite=true"
        )
    for key, (old, new) in changed.items():
        if key not in ("overwrite", "store", "run"):
            report(f"note: {key} changes from {old} to {new}")
    folder = checkpoint.newest_whole(run, report)
    if folder is None and checkpoint.steps(run):
        raise UserError(f"run={run}: every checkpoint in it is damaged; overwrite=true starts over")
    _write_origin(run, config, store)
    return folder


def _flat(mapping: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


class _lock:
    """Holds RUN/lock, so that two processes never train in one folder. Raises UserError when another one holds it."""

    def __init__(self, run: Path):
        self.path = run / "lock"

    def __enter__(self) -> None:
        self.file = self.path.open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"run={self.path.parent}: another s2s-train is at work in this folder") from None

    def __exit__(self, *_) -> None:
        self.file.close()


def _check_lengths(config, store: Store, dataset) -> None:
    """Learned positions end somewhere: say so before training, not in the middle."""
    if not len(dataset):
        raise UserError(f"{config.store}: the train split is empty")
    limit = getattr(config.model, "max_positions", None)
    longest = max(int(dataset.source_lengths.max()), int(dataset.target_lengths.max()))
    if getattr(config.model, "positions", None) == "learned" and longest > limit:
        raise UserError(f"model.max_positions={limit}: {config.store} holds a line of {longest} tokens")


def _announce(log: RunLog, trainer: Trainer, store: Store, resumed: Path | None) -> None:
    """What is going to be done."""
    config, task, plan = trainer.config, trainer.task, trainer.iterator.plan
    parts = trainer.model.parts()
    sizes = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    source, target = (len(t.vocabulary) for t in (task.source_tokenizer, task.target_tokenizer))
    shared = "shared" if task.shared_vocabulary else f"{source:,} source and"
    updates = -(-len(plan.batches) // config.train.accumulate)
    log.line(f"s2s {__version__}, torch {torch.__version__}, {_device_name(trainer.device)}, {trainer.precision}")
    log.line(f"model: {config.model.type}, {sum(parts.values()):,} parameters ({sizes})")
    log.line(f"vocabulary: {shared} {target:,} {'' if task.shared_vocabulary else 'target '}symbols")
    log.line(
        f"data: {len(trainer.iterator.dataset):,} pairs of {store.source_language}-{store.target_language}; "
        f"{len(plan.batches):,} batches of at most {config.data.batch_tokens:,} tokens, {updates:,} updates an epoch; "
        f"padding {plan.source_padding:.1%} source, {plan.target_padding:.1%} target"
    )
    if plan.oversized:
        log.line(f"note: {plan.oversized:,} pairs are longer than data.batch_tokens; each is a batch of its own")
    limit = f"{config.train.max_updates:,} updates" + (
        f" or {config.train.max_epochs} epochs" if config.train.max_epochs else ""
    )
    log.line(f"run: {config.run}, until {limit}, seed {config.seed}")
    if trainer.validator is None:
        log.line("note: the store has no valid split; nothing is validated")
    if resumed:
        log.line(f"resuming from {resumed.name}, update {trainer.progress.update:,}")


def _device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu with {torch.get_num_threads()} threads"
    )


def _last_words(log: RunLog, trainer: Trainer, interrupted: int | None) -> None:
    run, update = trainer.run, trainer.progress.update
    if interrupted:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        name = signal.Signals(interrupted).name
        log.line(f"stopped by {name} at update {update:,}; a checkpoint is saved. To go on, repeat: {command}")
        return
    best = "" if trainer.progress.best is None else f"; best {trainer.best_metric} {trainer.progress.best:.3f}"
    skipped = f"; {trainer.progress.skipped} updates skipped, not finite" if trainer.progress.skipped else ""
    duration = time.strftime("%H:%M:%S", time.gmtime(trainer.progress.seconds))
    log.line(
        f"done: {update:,} updates in {duration} of training{best}{skipped}. To decode: s2s-generate checkpoint={run}"
    )
