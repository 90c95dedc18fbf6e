"""Carries out a run: opens its folder, announces what will be done, trains, and reports the end."""

import contextlib
import json
import shlex
import signal
import sys
from pathlib import Path

import torch

from s2s import __version__, files
from s2s.backends import prepacked
from s2s.checkpoint import former as models_former
from s2s.checkpoint import runs, shapes
from s2s.config import compose, schema
from s2s.config.documents import read_json, read_yaml
from s2s.criterions import former as criterions_former
from s2s.data.iterator import BatchIterator, DataConfig
from s2s.data.store import Stores
from s2s.data.target_transforms import current
from s2s.device import choose_device, deterministic
from s2s.errors import Failure, UserError
from s2s.models.parts import counts
from s2s.registry import find
from s2s.training import checkpoints, distributed, loggers, sharding, wrapping
from s2s.training.calibrate import calibrate
from s2s.training.distributed import Ranks
from s2s.training.initialise import InitConfig, initialise, make_criterion, parents, sources
from s2s.training.log import RunLog, Silence
from s2s.training.report import duration
from s2s.training.stages import Stages
from s2s.training.trainer import Trainer
from s2s.training.validation import Validator
from s2s.training.writing import Writer

LOCK = "lock"  # file in a run's folder that a running s2s-train has locked
MARK = "run.json"  # file that marks a folder as a run
CONFIG = "config.yaml"  # written when all settings are known, including calibrated ones
UNREADABLE = "the run is damaged; its checkpoints can still be used for decoding"
# A resumed run may not change these options: weights, data position or random numbers depend on them.
FIXED = ("task.", "model.", "criterion.", "seed", "data.", "train.init.")
FIXED_KEYS = ("train.ema", "train.accumulate", "train.calibrate", "train.freeze", "train.stages")


def train(config) -> int | None:
    """Run `s2s-train`: start a run, or resume the one in its folder.

    Returns:
        The signal that interrupted the run after it had saved a checkpoint, or None.

    Raises:
        UserError: options are missing or invalid, or the store or the run's folder does not fit.
        Failure: training failed.
    """
    with (
        deterministic(config.train.deterministic),  # first: it holds from the first kernel on
        distributed.ranks(config.device, config.distributed.timeout) as ranks,
    ):
        return _train(config, ranks)


def _train(config, ranks: Ranks) -> int | None:
    """The work of each process."""
    _check_options(config, ranks)
    config.distributed.processes = ranks.size
    fsdp = config.distributed.strategy == "fsdp"
    kind = find("task", config.task.type)
    store, run = Stores(config.store, mixed=kind.mixes), Path(config.run)
    if config.data.verify and ranks.is_first:
        store.verify(["train", "valid"])
    task = kind.setup(store, config.data.target_transform, config.task)
    if not task.writes and (config.train.samples or config.train.valid_metrics != ["loss"]):
        raise UserError(f"task={config.task.type}: its models generate no text; set train.samples=0 and "
                        "train.valid_metrics=[loss]")  # fmt: skip
    device = choose_device(config.device)
    prepacked.check(config.decode.dtype, device.type)  # validation decodes
    loggers.check(config.train.loggers)
    if "train" not in store.splits:
        raise UserError(f"{', '.join(config.store)}: no train split; it has {', '.join(store.splits)}")
    if "valid" not in store.splits and (config.train.valid_metrics != ["loss"] or config.train.patience):
        raise UserError(f"{', '.join(config.store)}: no valid split for train.valid_metrics or train.patience")
    # All checks come before the folder is written to: a bad config leaves nothing behind.
    criterion = make_criterion(config, task, device)
    is_new = config.overwrite or not runs.steps(run)  # otherwise the weights are in its checkpoints
    model, copied = _first_model(config, task, device, is_new)
    criterion.check(model)
    Writer(config, task, criterion)
    Stages(config, model)
    wrapping.check(config.train, model, device)
    if fsdp:
        sharding.check(model)
    dataset = task.dataset(store.split("train"))
    _check_data(config, task, dataset, model)
    iterator = _iterator(config, dataset, device, ranks)
    origin = _origin(store, config, criterion, is_new)
    with contextlib.ExitStack() as stack:
        resumed = ranks.first(lambda: _open_folder(run, config, origin, stack))
        done = runs.update_of(resumed) if resumed else 0
        log = stack.enter_context(contextlib.closing(_log(run, config, done, ranks)))
        if ranks.watch:
            ranks.watch.note = log.note
        if ranks.is_first:
            checkpoints.sweep(run)
        if ranks.is_first and resumed:
            checkpoints.go_back(run, resumed)
        if config.train.calibrate:
            config.data.batch_tokens = ranks.first(lambda: _budget(config, task, dataset, model, log))
            # The model and the random state are as if nothing had been tried.
            model, _ = _first_model(config, task, device, is_new)
            iterator = _iterator(config, dataset, device, ranks)  # with that budget
        validator = None
        if "valid" in store.splits:
            options = config.train
            validator = Validator(task, store.split("valid"), criterion, options.valid_metrics, config.decode,
                                  config.data, options.samples, options.attention_maps, ranks)  # fmt: skip
        trainer = Trainer(config, task, model, criterion, iterator, validator, origin, ranks)
        if resumed:
            trainer.resume(resumed)
        _announce(log, trainer, store, resumed)
        for line in copied:
            log.line(line)
        if trainer.stages.ends or trainer.stages.frozen[trainer.stage]:
            log.line(trainer.stages.describe(trainer.stage))
        versions = {"s2s": __version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
                    "processes": ranks.size}  # fmt: skip
        log.metrics("resume" if resumed else "start", trainer.progress.update, versions)
        try:
            interrupted = trainer.train(log)
        except BaseException as error:
            _say_failure(log, trainer, error)
            raise
        finally:
            trainer.saver.finish(log)
        _last_words(log, trainer, interrupted)
    return interrupted


def _check_options(config, ranks: Ranks) -> None:
    """Check options against each other, before any file is read. Raises UserError."""
    if config.distributed.processes not in (1, ranks.size):
        started = f"distributed.processes={config.distributed.processes}, and {ranks.size} were started by torchrun"
        raise UserError(f"{started}: leave distributed.processes out")
    fsdp = config.distributed.strategy == "fsdp"
    if fsdp and ranks.size == 1:
        raise UserError("distributed.strategy=fsdp: requires several processes; see distributed.processes")
    if fsdp and config.train.calibrate:
        raise UserError("distributed.strategy=fsdp: does not go with train.calibrate, which runs in a single process")
    if not config.store or not config.run:
        raise UserError("store=FOLDER and run=FOLDER are required")
    if not config.train.valid_metrics:
        raise UserError("train.valid_metrics=[]: requires at least one metric, such as loss")
    if config.train.best_metric and config.train.best_metric not in config.train.valid_metrics:
        raise UserError(f"train.best_metric={config.train.best_metric} is not in train.valid_metrics")
    if getattr(config.model, "adapter", None) and not sources(config.train.init):
        raise UserError(f"model.adapter={config.model.adapter.type}: trains only the adapters of a trained model; "
                        "train.init.checkpoint=RUN supplies its weights")  # fmt: skip
    if config.train.attention_maps and not config.train.samples:
        raise UserError("train.attention_maps: requires samples, and train.samples=0")
    config.decode.check_alignment(config.train.attention_maps, "train.attention_maps=true")


def _iterator(config, dataset, device: torch.device, ranks: Ranks) -> BatchIterator:
    pin = device.type == "cuda"
    return BatchIterator(dataset, config.data, config.seed, config.workers, pin, ranks.rank, ranks.size)


def _log(run: Path, config, done: int, ranks: Ranks) -> RunLog | Silence:
    return RunLog(run, config.train.max_updates, done, config.train.loggers) if ranks.is_first else Silence()


def _budget(config, task, dataset, model: torch.nn.Module, log: RunLog) -> int:
    """The calibrated data.batch_tokens: found when the run started, or now."""
    file = Path(config.run) / CONFIG
    if not file.is_file():
        config.data.batch_tokens = calibrate(config, task, dataset, model, log.line)
        _write(file, compose.to_yaml(config))
    return config.data.batch_tokens


def _first_model(config, task, device: torch.device, is_new: bool) -> tuple[torch.nn.Module, list[str]]:
    """The model with its initial weights, and lines about weights that were copied (only if `is_new`). Random weights
    depend only on the seed."""
    torch.manual_seed(config.seed)
    model = task.model(config.model)
    copied = initialise(model, task, config) if is_new else []
    # With fsdp, it is moved to the device layer by layer.
    return model if config.distributed.strategy == "fsdp" else model.to(device), copied


def _origin(store: Stores, config, criterion, is_new: bool) -> dict:
    """The origin of a run in addition to its config: store, versions, and parents."""
    mark = Path(config.run) / MARK
    before = read_json(mark, shapes.RUN, UNREADABLE) if not is_new and mark.is_file() else {}
    roles = {
        # A resumed run does not need the initial checkpoints; they may have been deleted.
        "initialised_from": parents(sources(config.train.init)) if is_new else before.get("initialised_from"),
        "teachers": parents(criterion.checkpoints),
    }
    made = {"store_digest": store.digest, "s2s": __version__, "torch": torch.__version__}
    return made | {role: checkpoints_of_role for role, checkpoints_of_role in roles.items() if checkpoints_of_role}


def _open_folder(run: Path, config, origin: dict, stack: contextlib.ExitStack) -> Path | None:
    """Create the run's folder, or find the checkpoint to resume from. The folder is locked until the stack is closed.

    Raises:
        UserError: the folder has something else in it, or a run with other data or another model.
    """
    if run.exists() and not run.is_dir():
        raise UserError(f"run={run}: is a file")
    if not (run / MARK).is_file() and _content(run):
        raise UserError(f"run={run}: the folder holds something that is not a run; choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    stack.enter_context(files.lock(run / LOCK, f"run={run}: another s2s-train is running in this folder"))
    if (run / MARK).is_file():
        if config.overwrite:
            for folder in (folder for role in ("initialised_from", "teachers") for folder in origin.get(role, {})):
                if Path(folder).resolve().is_relative_to(run.resolve()):
                    raise UserError(
                        f"overwrite=true: would delete {folder}, which is needed; choose another run folder"
                    )
            for path in sorted(_content(run), key=lambda path: path.name == MARK):  # the mark last: it stays a run
                files.clear(path)
        elif (run / CONFIG).is_file() or runs.steps(run):  # otherwise it was stopped during calibration
            return _resume_from(run, config, origin)
    _write(run / MARK, json.dumps(origin, indent=1))  # first, so that a killed process leaves a run
    if not config.train.calibrate:
        _write(run / CONFIG, compose.to_yaml(config))
    return None


def _content(run: Path) -> list[Path]:
    """The content of a run's folder, without its lock, and without an incomplete mark of a killed process."""
    return [path for path in run.iterdir() if path.name not in (LOCK, f".{MARK}")] if run.is_dir() else []


def _write(file: Path, text: str) -> None:
    """Write a file, which appears only when it is complete."""
    fresh = file.with_name(f".{file.name}")
    try:
        files.write(fresh, text)
        files.flush(fresh)
        fresh.replace(file)
    except OSError:
        files.clear(fresh)
        raise


def _resume_from(run: Path, config, origin: dict) -> Path | None:
    """The checkpoint to resume from; None: there is none yet. A calibrated budget is restored into the config."""

    def report(text: str) -> None:
        print(text, file=sys.stderr)

    before = read_yaml(run / CONFIG, shapes.CONFIG, UNREADABLE)
    before["criterion"] = criterions_former.current(before)
    kind = find("model", before["model"]["type"]).Config  # options that did not exist then have their defaults
    before["model"] = schema.values(schema.load(kind, models_former.current(before["model"]), str(run / CONFIG)))
    before["data"] = {**schema.values(DataConfig()), **current(before["data"])}
    before["task"] = {**schema.values(find("task", before["task"]["type"]).Config()), **before["task"]}
    before["train"]["init"] = {**schema.values(InitConfig()), **(before["train"].get("init") or {})}
    mark = read_json(run / MARK, shapes.RUN, UNREADABLE)
    if mark["store_digest"] != origin["store_digest"]:
        raise UserError(f"run={run}: was trained on other data than store={','.join(config.store)}; choose another run "
                        "folder, or overwrite=true to delete this run and start anew")  # fmt: skip
    teachers = [list(record.get("teachers", {}).values()) for record in (mark, origin)]
    if teachers[0] != teachers[1] and list(config.criterion.terms) == before["criterion"]["terms"]:
        raise UserError(
            f"run={run}: the weights of its teachers have changed since it started; give the checkpoints with which it "
            f"started: {', '.join(mark.get('teachers', {}))}"
        )
    if config.train.calibrate and before["train"].get("calibrate"):
        config.data.batch_tokens = before["data"]["batch_tokens"]
        report(f"note: data.batch_tokens={config.data.batch_tokens}, as calibrated when the run started")
    now, then = _flat(schema.values(config)), _flat(before)
    changed = {key: (then.get(key), value) for key, value in now.items() if then.get(key) != value}
    fixed = [key for key in changed if key.startswith(FIXED) or key in FIXED_KEYS]
    fixed = [key for key in fixed if key != "data.verify"]
    processes = before.get("distributed", {}).get("processes", 1), config.distributed.processes
    if processes[0] != processes[1]:  # another number of accumulated batches can keep the size of an update
        fixed = [key for key in fixed if key != "train.accumulate"]
    if fixed:
        detail = ", ".join(f"{key} was {changed[key][0]} and is now {changed[key][1]}" for key in fixed[:3])
        detail += f" and {len(fixed) - 3} more" if len(fixed) > 3 else ""
        raise UserError(
            f"run={run}: holds a run with other settings ({detail}); choose another folder, or overwrite=true"
        )
    for key, (old, new) in changed.items():
        if key not in ("overwrite", "store", "run"):
            report(f"note: {key} changes from {old} to {new}")
    if processes[0] != processes[1]:
        accumulate = before["train"]["accumulate"], config.train.accumulate
        old, new = (batches * ranks for batches, ranks in zip(accumulate, processes, strict=True))
        report("note: the number of processes has changed: training continues at the same place in the data, but "
               "results will not be bit-identical")  # fmt: skip
        if old != new:
            report(f"note: an update had {old} batches and now has {new}; see train.accumulate")
    folder = checkpoints.newest_whole(run, report)
    if folder is None and runs.steps(run):
        raise UserError(
            f"run={run}: training cannot be resumed from any of its checkpoints; overwrite=true starts over"
        )
    _write(run / CONFIG, compose.to_yaml(config))
    _write(run / MARK, json.dumps(origin, indent=1))
    return folder


def _flat(mapping: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in mapping.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _check_data(config, task, dataset, model) -> None:
    """Check the data before training starts. Raises UserError."""
    where = ", ".join(config.store)
    if not len(dataset):
        raise UserError(f"{where}: the train split is empty")
    longest = dataset.longest
    limit = getattr(config.model, "max_positions", None)
    if getattr(config.model, "positions", None) == "learned" and longest > limit:
        raise UserError(f"model.max_positions={limit}: {where} holds a line of {longest} tokens")
    if not model.has_decoder and any(stage.prev_output_mask for stage in config.data.with_stages):
        raise UserError("data.prev_output_mask: requires a decoder, and the model has none (model.decoder.layers=0)")
    for name, options in config.data.transforms.items():
        if not model.has_decoder and find("transform", options.type).stream == "shown":
            raise UserError(f"data.transforms: {name} requires a decoder, and the model has none "
                            "(model.decoder.layers=0)")  # fmt: skip
    task.check(config.data, dataset)


def _announce(log: RunLog, trainer: Trainer, store: Stores, resumed: Path | None) -> None:
    """Log what will be done: model, data, batches and limits."""
    config, task, iterator = trainer.config, trainer.task, trainer.iterator
    parts = counts(trainer.model)
    sizes = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    each = f" in each of {trainer.ranks.size} processes" if trainer.ranks.size > 1 else ""
    log.line(f"s2s {__version__}, torch {torch.__version__}, {_device_name(trainer.device)}{each}, {trainer.precision}")
    log.line(f"model: {config.model.type}, {sum(parts.values()):,} parameters ({sizes})")
    log.line(task.describe())
    log.line(f"data: {len(iterator.dataset):,} pairs of {store.source_language}-{store.target_language}")
    if len(iterator.dataset.corpora) > 1:
        visited = zip(iterator.dataset.corpora, iterator.visited, strict=True)
        log.line("an epoch visits " + ", ".join(f"{count:,} of {corpus.name}" for corpus, count in visited))
    _announce_plan(log, config, iterator)
    limit = f"{config.train.max_updates:,} updates" + (
        f" or {config.train.max_epochs} epochs" if config.train.max_epochs else ""
    )
    log.line(f"run: {config.run}, until {limit}, seed {config.seed}")
    warmup, most = config.optim.warmup_updates, config.train.max_updates
    if warmup > most:
        log.line(f"warning: optim.warmup_updates={warmup} exceeds train.max_updates={most}: the learning rate never "
                 f"reaches optim.lr={config.optim.lr:g}")  # fmt: skip
    languages = task.tag_values.get("target_language", [])
    if len(languages) > 1 and "target_language" not in task.tags:
        log.line(f"warning: the targets are in {', '.join(languages)}, and nothing tells the model in which; "
                 "task.first_tag=target_language or task.source_tags=[target_language] does")  # fmt: skip
    if trainer.validator is None:
        log.line("note: the store has no valid split, so there is no validation")
    if coupled := trainer.coupled:
        log.line(f"note: the term {coupled} compares the examples of a batch, so batches that do not fit into memory "
                 "are not split")  # fmt: skip
    if resumed:
        log.line(f"resuming from {resumed.name}, update {trainer.progress.update:,}")


def _announce_plan(log: RunLog, config, iterator: BatchIterator) -> None:
    """Log the batches of the first window, and how much of them will stay together in the next epoch."""
    window, windows = iterator.current, iterator.windows
    plan = window.plan
    batches = len(plan.batches) * windows
    updates = -(-batches // config.train.accumulate)
    about = "about " if windows > 1 else ""
    unit = "tokens" if config.data.cost == "target" else iterator.unit
    log.line(
        f"batches: {config.data.batching} of at most {config.data.batch_tokens:,} {unit}; {about}{batches:,} batches, "
        f"{updates:,} updates an epoch; padding {plan.source_padding:.1%} source, {plan.target_padding:.1%} target; "
        f"{iterator.kept_together():.0%} of the pairs of examples that share a batch do so in the next epoch"
        + (f"; planned in {windows:,} windows of {len(window.examples):,} examples" if windows > 1 else "")
    )
    of = " of the first window" if windows > 1 else ""
    if plan.oversized:
        log.line(f"note: {plan.oversized:,} pairs{of} exceed data.batch_tokens; each is a batch of its own")
    if plan.empty:
        log.line(f"note: {plan.empty:,} pairs{of} have an empty side")
    if window.left_out:
        longest = iterator.stage(iterator.epoch).max_length
        log.line(f"note: {window.left_out:,} pairs{of} are left out by max_length={longest}")


def _device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu with {torch.get_num_threads()} threads"
    )


def _say_failure(log: RunLog, trainer: Trainer, error: BaseException) -> None:
    """Record the error that ended the run in its files; the command prints it itself."""
    why = str(error) if isinstance(error, (Failure, UserError, OSError)) else f"{type(error).__name__}: {error}"
    why = why.partition("\n")[0]
    log.note(f"failed: {why}")
    log.metrics("end", trainer.progress.update, {"reason": "failure", "error": why})


def _last_words(log: RunLog, trainer: Trainer, interrupted: int | None) -> None:
    run, progress, patience = trainer.run, trainer.progress, trainer.options.patience
    reason = signal.Signals(interrupted).name if interrupted else trainer.finished()
    log.metrics("end", progress.update, {"reason": reason})
    if interrupted:
        words = [word for word in sys.argv[1:] if not word.startswith("overwrite=")]
        words += ["overwrite=false"] * trainer.config.overwrite  # otherwise the repeated command would delete the run
        command = f"{distributed.command(trainer.ranks)} {shlex.join(words)}"
        log.line(
            f"stopped by {reason} at update {progress.update:,}; a checkpoint is saved. To resume, repeat: {command}"
        )
        return
    how = "done: "
    if reason == "train.patience":
        validations = f"{progress.bad_validations} validation{'s' * (progress.bad_validations > 1)}"
        how = f"stopped by {reason}={patience}: no new best {trainer.best_metric} in {validations}; raise it to go on. "
    best = "" if progress.best is None else f"; best {trainer.best_metric} {progress.best:.3f}"
    skipped = f"; {progress.skipped} updates skipped, not finite" if progress.skipped else ""
    log.line(
        f"{how}{progress.update:,} updates in {duration(progress.seconds)} of training{best}{skipped}. "
        f"To decode: s2s-generate checkpoint={run}"
    )
