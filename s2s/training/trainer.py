"""The training loop: updates, validations and checkpoints. A run is resumed by repeating its command.

The state of a run is in `Progress` and in the position of the iterator. Random numbers depend only on the seed and the
number of the update, and learning rates only on the number of the update. So a resumed run is bit-identical.
"""

import contextlib
import dataclasses
import functools
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from s2s.checkpoint import loading, runs
from s2s.checkpoint.loading import like
from s2s.checkpoint.progress import Progress
from s2s.config.compose import to_yaml
from s2s.config.documents import to_json
from s2s.criterions.criterion import TOKENS
from s2s.data.batch import Batch, Counts
from s2s.data.iterator import BatchIterator
from s2s.device import half, out_of_memory
from s2s.errors import Failure
from s2s.nn.elastic import choose_parts, elastic_modules
from s2s.training import checkpoints
from s2s.training.average import ExponentialMovingAverage
from s2s.training.distributed import Ranks
from s2s.training.divergence import GIVE_UP_AFTER, ROLLBACKS, Diverged, not_finite
from s2s.training.half_weights import HalfWeights, autocast
from s2s.training.interrupt import Interrupt
from s2s.training.log import RunLog
from s2s.training.pending import Pending
from s2s.training.profile import Profile
from s2s.training.report import Interval, report_epoch, report_interval, report_validation
from s2s.training.saving import Saver
from s2s.training.sharding import Shards, unsharded
from s2s.training.splitting import OutOfMemory, pieces, shape, split_to_fit, too_large
from s2s.training.stages import Stages
from s2s.training.validation import Stopped, Validation, Validator, higher_is_better
from s2s.training.wrapping import checkpoint_activations, compile_layers
from s2s.training.writing import Writer


class Trainer:
    """Trains a model, in one process or in several that do the same.

    Args:
        config: The resolved train config (train, data, optim, decode, seed, run ...).
        task: The task.
        model: The model on its device.
        criterion: Called as criterion(model, batch, totals) -> Loss.
        iterator: The training batches.
        validator: Validates the model; None: there is no valid split.
        origin: Hash of the data and versions, which are saved with each checkpoint.
        ranks: The processes that train together.
    """

    def __init__(self, config, task, model, criterion, iterator: BatchIterator, validator: Validator | None,
                 origin: dict[str, str], ranks: Ranks | None = None):  # fmt: skip
        self.config, self.task, self.model, self.criterion = config, task, model, criterion
        self.names, self.divisors = criterion.names(model), criterion.divisors(model)
        self.iterator, self.validator, self.origin = iterator, validator, origin
        self.ranks = ranks or Ranks()
        self.run, self.options = Path(config.run), config.train
        sharded = config.distributed.strategy == "fsdp" and self.ranks.size > 1
        device = torch.device(self.ranks.device_type) if sharded else next(model.parameters()).device
        bf16 = self.options.precision == "bf16" or (self.options.precision == "auto" and half(device) == "bf16")
        self.precision = "bf16" if bf16 else "fp32"
        # With shards, layers are gathered in bf16. Compiled layers cast weights where they use them.
        self.half = HalfWeights(model if bf16 and not (sharded or self.options.compile) else None)
        self.shards = Shards(model, criterion, self.ranks, bf16, self._any_batch) if sharded else None
        self.device = next(model.parameters()).device
        if self.options.compile:
            compile_layers(model)
        if self.options.checkpoint_activations:
            checkpoint_activations(model)
        self.elastic = elastic_modules(model)
        self.stages, self.optimizer = Stages(config, model), None
        self._enter(self.stages.at(1))
        self.ema = ExponentialMovingAverage(model, self.options.ema) if self.options.ema else None
        self.progress = Progress()
        self.best_metric = self.options.best_metric or self.options.valid_metrics[-1]
        self.saver = Saver(self.run, task, self.options.keep_last, self.options.keep_best, self.best_metric)
        self.coupled = criterion.couples_examples  # name of a term that forbids splitting batches, or None
        self.writer = Writer(config, task, criterion)
        self.may_split = not self.coupled  # whether a batch that does not fit into memory may be split
        self.pending: list[Pending] = []  # updates whose numbers are still on the device
        self.norms: list[float] = []  # norms of consecutive non-finite updates, for the message when giving up

    # --- saving --------------------------------------------------------------------------------------------------

    @record_function("checkpoint")
    def save(self, log: RunLog) -> None:
        """Begin to save a checkpoint of the present state."""
        self.last_save, self.saved = time.monotonic(), self.progress.update
        if not (self.ranks.is_first or self.shards):
            return
        names = {id(p): name for name, p in self.model.named_parameters()}
        training = {
            f"{key}.{names[id(p)]}": value for p, state in self.optimizer.state.items() for key, value in state.items()
        }
        weights = {name: p.detach() for name, p in self.model.named_parameters()}
        if self.ema:
            training |= {f"raw.{name}": p for name, p in weights.items()}
            weights = self.ema.average
        part = self.shards and self.shards.copied(training)
        weights = self.shards.gathered(weights) if self.shards else weights
        progress, position = dataclasses.asdict(self.progress), self.iterator.state_dict()
        state = {"progress": progress, "iterator": position, "origin": self.origin}
        tensors = {"model.safetensors": weights} | ({} if self.shards else {"training.safetensors": training})
        if terms := self.criterion.state_dict():
            tensors[runs.TERMS] = terms
        texts = {"state.json": to_json(state, indent=1), "config.yaml": to_yaml(self.config)}
        tensors = tensors if self.ranks.is_first else {}
        self.saver.begin(self.progress.update, tensors, texts, log, self.progress.trusted, part)

    def resume(self, folder: Path) -> None:
        """Restore the state of a checkpoint."""
        tensors = checkpoints.load_training(folder, self.model)
        weights = loading.load_tensors(folder / "model.safetensors")
        if self.ema:
            self.ema.average = {name: like(weights[name], p) for name, p in self.model.named_parameters()}
            weights = {name[4:]: value for name, value in tensors.items() if name.startswith("raw.")}
        loading.load_weights(self.model, weights, folder / "model.safetensors")
        saved = runs.read_state(folder)
        self.progress = Progress(**saved["progress"])
        if self.progress.best_metric != self.best_metric:  # values of different metrics are not compared
            self.progress.best, self.progress.bad_validations = None, 0
        self.iterator.load_state_dict(saved["iterator"])
        self.criterion.load_state_dict(checkpoints.load_terms(folder), str(folder))
        self.optimizer = None
        self._enter(self.stages.at(max(1, self.progress.update)))
        for name, p in self.model.named_parameters():
            state = {key.split(".", 1)[0]: value for key, value in tensors.items() if key.split(".", 1)[1] == name}
            state.pop("raw", None)
            if state:  # nothing before the first update
                self.optimizer.state[p] = {key: value.to(self.device) for key, value in state.items()}

    # --- the loop ------------------------------------------------------------------------------------------------

    def train(self, log: RunLog) -> int | None:
        """Train until a limit, patience or a signal ends it.

        Returns:
            The signal that interrupted the run; None: the run is complete.

        Raises:
            Failure: the loss stays non-finite, a batch does not fit into memory, or the last save has failed.
        """
        self.model.train()
        self.log = log
        self.interval, self.last_save, self.saved = Interval(), time.monotonic(), self.progress.update
        if self.options.compile:
            self._compile(log)
        profile = Profile(self.run, self.model, self.precision, log) if self.options.profile else None
        with Interrupt(self.ranks.size > 1) as self.interrupt, profile or contextlib.nullcontext():
            if self._due() and self._unvalidated():  # a signal has prevented it
                if stop := self._validate(log):
                    return stop
                self.save(log)
            while not self.finished():
                for batches, waited in self._groups():
                    started = time.perf_counter()
                    stage = self.stages.at(self.progress.update + 1)
                    if stage != self.stage:
                        self._enter(stage)
                        log.line(self.stages.describe(stage))
                    try:
                        self._update(batches, waited)
                        stop, save = self.ranks.largest(
                            [self.interrupt.signal or 0, self._time_to_save()]
                        )  # for all ranks
                        if stop or save or self._waits():
                            self._settle()
                        self._look_at_course(log)
                    except Diverged as error:
                        self._roll_back(error, log)
                        break
                    self.progress.seconds += time.perf_counter() - started
                    log.advance(1, self.interval.course)
                    update = self.progress.update
                    if profile:
                        self.interval.started += profile.step([b for b in batches if b is not None], update)
                    if update % self.options.log_updates == 0 or self._out_of_updates():
                        self._report(log, self.iterator.epoch)
                    if self._due() and not stop:
                        stop = self._validate(log)
                    if self._due() or stop or save:
                        self.save(log)
                    self.saver.poll(log)
                    if stop:
                        self.saver.close(log)
                        return stop
                    if self.finished():
                        break
                else:
                    epoch = self.iterator.epoch - 1
                    if self.progress.epoch:
                        report_epoch(log, self.progress.update, self.progress.epoch, epoch, self.config.data.batching,
                                     self.iterator.dataset.source_seconds)  # fmt: skip
                    self.progress.epoch = {}
            self._settle()
            if self.interval.waited:
                self._report(log, min(self.iterator.epoch, self.options.max_epochs or self.iterator.epoch))
            stop = None
            if self.saved != self.progress.update or self._unvalidated():  # an end by max_epochs
                stop = self._validate(log)
                self.save(log)
            self.saver.close(log)
        return stop

    def _report(self, log: RunLog, epoch: int) -> None:
        """Report the updates since the last report, and begin a new interval."""
        rate, seconds = self.stages.learning_rate(self.progress.update), self.iterator.dataset.source_seconds
        report_interval(log, self.interval, self.progress, self.config, epoch, rate, self.device,
                        self.divisors, seconds)  # fmt: skip
        self.interval = Interval()

    def _enter(self, stage: int) -> None:
        """Begin a stage; its optimizer takes over the states of the previous one."""
        self.stage, self.optimizer = stage, self.stages.enter(stage, self.optimizer)
        self.loss = None  # the previous module must release the parameters first
        self.loss = self.shards or self.ranks.wrap(self.model, self.criterion)

    def _compile(self, log: RunLog) -> None:
        """Compile before the first update, and log the time that it takes."""
        started = time.perf_counter()
        (batch,) = self.writer(self.model, [self._any_batch()], 0)
        self._gradients([batch], self.criterion.counts(batch))
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - started
        log.line(f"compiled in {seconds:.1f} s; batches of other shapes may need some more")
        log.metrics("compile", self.progress.update, {"seconds": seconds})

    def _out_of_updates(self) -> bool:
        return self.progress.update >= self.options.max_updates

    def finished(self) -> str | None:
        """The option whose limit is reached; or None."""
        epochs, patience = self.options.max_epochs, self.options.patience
        if self._out_of_updates():
            return "train.max_updates"
        if epochs is not None and self.iterator.epoch > epochs:
            return "train.max_epochs"
        return "train.patience" if patience and self.progress.bad_validations >= patience else None

    def _due(self) -> bool:
        """Whether to validate and save after this update."""
        update = self.progress.update
        return update > 0 and (update % self.options.valid_updates == 0 or self._out_of_updates())

    def _unvalidated(self) -> bool:
        return self.validator is not None and self.progress.last_metrics.get("update") != self.progress.update

    def _waits(self) -> bool:
        """Whether the host must now read the numbers of the last updates; on a CPU this costs nothing."""
        reports = self.progress.update % self.options.log_updates == 0 or bool(self.criterion.learning)
        return self.device.type == "cpu" or reports or self._due() or len(self.pending) == GIVE_UP_AFTER

    def _time_to_save(self) -> bool:
        every, minutes = self.options.checkpoint_updates, self.options.checkpoint_minutes
        if every and self.progress.update % every == 0:
            return True
        return bool(minutes) and time.monotonic() - self.last_save > 60 * minutes

    def _groups(self):
        """The batches of each update, to the end of the epoch, and the seconds spent waiting for them."""
        updates = self.iterator.updates(self.options.accumulate)
        while True:
            started = time.perf_counter()
            with record_function("data"):
                batches = next(updates, None)
            if batches is None:
                return
            yield batches, time.perf_counter() - started

    def _count(self, batches: list[Batch | None]) -> tuple[dict[str, int], dict[str, int]]:
        """Sums over the batches of an update on all ranks: the number of batches with their counts, and the counts of
        the criterion."""
        names, terms = ("batches", *Counts._fields), self.criterion.count_names
        here = [batch for batch in batches if batch is not None]
        own = [[0] * (len(names) + len(terms))]
        own += [[1, *batch.counts, *self.criterion.counts(batch).values()] for batch in here]
        sums = self.ranks.total(torch.tensor(own).sum(0)).tolist()
        return dict(zip(names, sums, strict=False)), dict(zip(terms, sums[len(names) :], strict=True))

    def _seed(self, place: int) -> None:
        """Seed the random numbers of a batch by its place in the update, independently of the number of ranks."""
        rank = place * self.ranks.size + self.ranks.rank
        seed = np.random.SeedSequence([self.config.seed, self.progress.update, rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0] >> 1))

    def _any_batch(self) -> Batch:
        """A batch of some examples of the data."""
        examples = np.arange(min(2, len(self.iterator.dataset)))
        return self.iterator.dataset.collate(examples, None, None)

    def _update(self, batches: list[Batch | None], waited: float = 0.0) -> None:
        """Make one update: gradients of the sums over all batches, divided by the counts of all batches."""
        update = self.progress.update = self.progress.update + 1
        self.ranks.reached(update)
        batches = self.writer(self.model, batches, update)
        counts, totals = self._count(batches)
        self.interval.count(counts, waited, self.progress.epoch)
        self.stages.set_rates(self.optimizer, update)
        choose_parts(self.elastic, self.config.seed, update)
        compute = functools.partial(self._gradients, totals=totals)
        split: list[Batch] = []
        may_split = self.may_split and not self.shards  # with shards, ranks compute batches together
        loss, metrics = split_to_fit(compute, batches, split.append) if may_split else compute(batches)
        limit = self.options.clip_norm or math.inf
        with record_function("optimizer"):
            norm = unsharded(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
            sums = self.ranks.total(torch.stack([loss, loss.new_full((), len(split)), *metrics]))
            skipped = ~(norm + sums[0]).isfinite()
            if fused := getattr(self.optimizer, "_step_supports_amp_scaling", False):
                self.optimizer.found_inf = skipped.float()  # the optimizer then changes nothing; the host does not wait
            if fused or not skipped:
                self.optimizer.step()
            if self.ema:
                self.ema.update(update)
        self.pending.append(Pending(update, batches, split, counts, totals, torch.cat([norm[None], sums])))

    def _settle(self) -> None:
        """Read and record the numbers of the updates since the last call; the host waits for the device here.

        Raises:
            Diverged: GIVE_UP_AFTER updates in a row were skipped.
        """
        pending, self.pending = self.pending, []
        numbers = torch.stack([made.numbers for made in pending]).tolist() if pending else []
        for made, (norm, loss, splits, *metrics) in zip(pending, numbers, strict=True):
            if splits:
                self._note(made)
            if not math.isfinite(norm + loss):
                self._skip(made, norm, loss)
                continue
            self.progress.skipped_in_a_row = 0
            sums = {**made.totals, **dict(zip(self.names, metrics, strict=True))}
            self.criterion.updated(self.model, made.update, sums)
            self.interval.add(made.counts, loss, sums, norm)
            self.progress.course.add(loss, made.counts["target"])

    def _gradients(self, batches: list[Batch | None], totals: dict[str, int]) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the loss of an update.

        Args:
            batches: The batches of this rank.
            totals: Counts of the criterion over the whole update, which divide its sums.

        Returns:
            The sum of the loss, times target tokens; and the sums of the criterion's metrics, [M].

        Raises:
            OutOfMemory: a batch does not fit into memory.
        """
        self.optimizer.zero_grad()
        self.half.cast()
        loss, metrics = torch.zeros((), device=self.device), torch.zeros(len(self.names), device=self.device)
        work = [(place, piece) for place, batch in enumerate(batches) for piece in self._pieces(batch)]
        seeded = None
        for number, (place, batch) in enumerate(work):
            is_last = number == len(work) - 1  # a rank without a batch still exchanges gradients
            if batch is None and not (is_last or self.shards):
                continue
            if place != seeded:
                self._seed(place)
                seeded = place
            exchanged = False
            try:
                with record_function("data"):
                    moved = batch and batch.to(self.device)
                with self.ranks.unsynced(self.loss, not is_last), self.half.in_use():
                    with record_function("loss"), autocast(self.device, self.precision):
                        result = self.loss(moved, totals)
                    exchanged = is_last and self.ranks.size > 1
                    with record_function("backward"):
                        (result.sum * self.ranks.size / totals[TOKENS]).backward()
            except (RuntimeError, MemoryError) as error:
                if batch is None or not out_of_memory(error):
                    raise
                message = f"update {self.progress.update}: {too_large(batch, self.coupled)}"
                # An incomplete exchange with other ranks cannot be undone.
                raise Failure(message) if exchanged else OutOfMemory(message, batches[place]) from error
            loss = loss + result.sum.detach()
            metrics = metrics + torch.stack([result.metrics[name].to(loss.dtype) for name in self.names])
        return loss, metrics

    def _pieces(self, batch: Batch | None) -> list[Batch | None]:
        """The pieces of a batch that are computed one after another: on a CPU they are as fast, and need less
        memory."""
        undivided = batch is None or self.device.type != "cpu" or self.shards or self.coupled
        return [batch] if undivided else pieces(batch)

    def _note(self, made: Pending) -> None:
        """Count and log the batches that were split in two, on all ranks."""
        shapes = [text for own in self.ranks.gather([shape(batch) for batch in made.split]) for text in own]
        self.progress.split += len(shapes)
        self.log.line(
            f"update {made.update}: split in two, because it did not fit into memory: a batch of "
            f"{', one of '.join(shapes)} ({self.progress.split} so far); train.calibrate avoids it"
        )

    def _look_at_course(self, log: RunLog) -> None:
        """Check for divergence at the end of an interval. Raises Diverged, or warns."""
        if self.progress.update % self.options.log_updates:
            return
        message = self.progress.course.end_interval(self.progress.update)
        if message and self.options.on_divergence != "skip":
            raise Diverged(message)
        if message:
            log.line(f"warning: {message}; train.on_divergence decides what happens in this case")
            self.progress.course.accept()

    def _roll_back(self, error: Diverged, log: RunLog) -> None:
        """Go back to the last checkpoint before a divergence, and continue with the data in another order.

        Raises:
            Failure: train.on_divergence is not rollback, there is no such checkpoint, or rollbacks did not help.
        """
        if self.options.on_divergence != "rollback":
            raise error
        diverged, rollbacks = self.progress.update, self.progress.rollbacks + 1
        if rollbacks > ROLLBACKS:
            raise Failure(f"{error}; {ROLLBACKS} rollbacks did not help") from error
        self.saver.finish(log)
        folder = self.ranks.first(lambda: checkpoints.newest_whole(self.run, log.line, self.progress.trusted))
        if folder is None:
            raise Failure(f"{error}; there is no earlier checkpoint for a rollback") from error
        if self.ranks.is_first:
            checkpoints.go_back(self.run, folder)
        self.resume(folder)
        self.progress.rollbacks = rollbacks
        self.iterator.reorder(rollbacks)
        self.interval, self.norms, self.pending, self.saved = Interval(), [], [], self.progress.update
        log.advance(self.progress.update - diverged + 1)
        log.line(f"{error}; going back to {folder.name}, and continuing with the data in another order ({rollbacks} of "
                 f"{ROLLBACKS} rollbacks)")  # fmt: skip
        log.metrics("rollback", diverged, {"to": self.progress.update, "rollbacks": rollbacks, "reason": str(error)})

    def _skip(self, made: Pending, norm: float, loss: float) -> None:
        """Count a skipped update. Raises Diverged after GIVE_UP_AFTER consecutive ones."""
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        self.interval.skipped += 1
        self.norms = [*self.norms, norm][-progress.skipped_in_a_row :]
        if progress.skipped_in_a_row >= GIVE_UP_AFTER:
            own_ids = [int(i) for batch in made.batches if batch is not None for i in batch.ids]
            ids = [i for rank_ids in self.ranks.gather(own_ids) for i in rank_ids]
            raise not_finite(made.update, loss, self.norms, ids)

    def _validate(self, log: RunLog) -> int | None:
        """Validate and report. If validation fails, a checkpoint is saved before the error is raised. Returns the
        signal that interrupted it, or None."""
        if self.validator is None:
            return None
        started, update = time.perf_counter(), self.progress.update
        try:
            validation = self._validation()
        except Stopped as stopped:
            return stopped.signal
        except Exception:
            if self.saved != update and not self.shards:  # shards would have to be saved by all ranks
                self.save(log)
                log.line(f"the validation failed; update {update:,} is saved before it")
            raise
        seconds = time.perf_counter() - started
        better = self.progress.validated(self.best_metric, higher_is_better(self.best_metric), validation.values)
        report_validation(log, update, validation, seconds, better)
        self.interval.started += seconds  # validation is not training speed
        return None

    @record_function("validation")
    def _validation(self) -> Validation:
        if self.ema:
            self.ema.swap()
        try:
            with self.shards.gathered_model() if self.shards else contextlib.nullcontext(self.model) as model:
                return self.validator(
                    model, self.device, autocast(self.device, self.precision), lambda: self.interrupt.signal
                )
        finally:
            if self.ema:
                self.ema.swap()
