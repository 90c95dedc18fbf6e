"""Training in several processes, one per device: starting and ending them, and the exchange between them.

torchrun starts the processes, or `launch` does, in the same way; environment variables give each its rank. All
processes decide from the same numbers, so they exchange only gradients, sums and failures. Only rank 0 writes files.
"""

import contextlib
import dataclasses
import datetime
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2s.config.cores import share
from s2s.config.schema import option
from s2s.criterions.criterion import Loss
from s2s.data.batch import Batch
from s2s.errors import Failure, UserError
from s2s.training.watch import Watch

Result = TypeVar("Result")
TRAIN = "s2s-train"  # the name of the command, which `launch` sets in the environment of its processes
ENDED = "S2S_TRAIN_ENDED"  # variable with the path of a file that exists when all processes have ended without failure
TIMEOUT = datetime.timedelta(hours=2)  # of an exchange: rank 0 may calibrate or save meanwhile; failures end it at once


@dataclasses.dataclass
class DistributedConfig:
    """Options of training in several processes."""

    processes: int = option(
        1, "number of processes on this machine, each with its own GPU, or all on the CPU; as with torchrun",
        at_least=1,
    )  # fmt: skip
    strategy: str = option(
        "ddp",
        "ddp: each process has the whole model; fsdp: weights, gradients and optimizer state are sharded over the "
        "processes, for models that do not fit into memory",
        ("ddp", "fsdp"),
    )
    timeout: float = option(
        30.0, "seconds without a heartbeat after which a process counts as dead, and the run ends",
        at_least=2,
    )  # fmt: skip


class Ranks:
    """The processes that train together.

    Args:
        rank: Rank of this process, from 0.
        size: Number of processes.
        local: Rank of this process on its machine, from 0.
        device_type: `cpu` or `cuda`.

    Attributes:
        watch: Detects failures of other processes; None: there is only one process.
        store: What all processes can read and write; None: there is only one process.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0, device_type: str = "cpu"):
        self.rank, self.size, self.local, self.device_type = rank, size, local, device_type
        self.watch: Watch | None = None
        self.store: dist.Store | None = None

    def count(self, name: str, number: int) -> int:
        """Add a number to a count that all ranks share; returns the new count. Ranks need not call it together."""
        return self.store.add(name, number)

    def reached(self, update: int) -> None:
        """Tell the other processes the update that this one has reached."""
        if self.watch:
            self.watch.update = update

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files."""
        return self.rank == 0

    def share(self, number: int) -> tuple[int, int]:
        """This rank's share of `number` items: the range first ... last - 1, as (first, last)."""
        return number * self.rank // self.size, number * (self.rank + 1) // self.size

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor of any shape over the ranks, in place; it may be on the host or on the device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, numbers: list[int]) -> list[int]:
        """The maximum of each number over the ranks."""
        tensor = torch.tensor(numbers, dtype=torch.int64)
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, value: Any) -> list:
        """The value of each rank, in the order of ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def first(self, function: Callable[[], Result]) -> Result:
        """The result of a function that only rank 0 calls."""
        result = [function() if self.is_first else None]
        if self.size > 1:
            dist.broadcast_object_list(result)
        return result[0]

    def wrap(self, model: nn.Module, criterion) -> nn.Module:
        """A module that computes the criterion of a model: it takes a batch (or None) and returns the Loss.

        With several ranks, its backward pass averages gradients over the ranks. Parameters must be frozen before.
        """
        module = Criterion(model, criterion)
        if self.size == 1:
            return module
        # The graph is not static: a rank may have no batch.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames broadcast_buffers
            module = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True, broadcast_buffers=False)
        # After its first backward pass it regroups gradients, which changes the order of sums. This is done now, so
        # that a resumed run has the same bits as one that was not interrupted.
        module(None).sum.backward()
        module(None)
        module.zero_grad()
        return module

    def unsynced(self, module: nn.Module, active: bool):
        """A context in which a module of `wrap` does not average its gradients over the ranks, if `active`."""
        return module.no_sync() if self.size > 1 and active else contextlib.nullcontext()


class Criterion(nn.Module):
    """A criterion and its model as one module, for DistributedDataParallel."""

    def __init__(self, model: nn.Module, criterion):
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, batch: Batch | None, totals: dict[str, int] | None = None) -> Loss:
        """The value of the criterion. Without a batch, the loss and all gradients are 0."""
        if batch is not None:
            return self.criterion(self.model, batch, totals)
        nothing = sum(p.flatten()[:0].sum() for p in self.parameters() if p.requires_grad)
        return Loss(nothing, 0, dict.fromkeys(self.criterion.names(self.model), nothing.detach()))


# --- starting and ending ---------------------------------------------------------------------------------------------


def launched() -> bool:
    """Whether torchrun or a similar launcher has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def command(ranks: Ranks) -> str:
    """The command that started this process, without the arguments of s2s-train."""
    by_torchrun = ranks.size > 1 and os.environ.get("TORCHELASTIC_RUN_ID") != TRAIN
    return "torchrun ... -m s2s_cli.train" if by_torchrun else "s2s-train"


def launch(processes: int, module: str, words: list[str], name: str = TRAIN, saves: bool = True) -> int:
    """Run `python -m module words` in several processes, as `torchrun --standalone --nproc-per-node` does.

    Args:
        processes: Their number.
        module: The module of a command.
        words: Its arguments.
        name: Its name in messages.
        saves: Whether the processes save after a signal, and end without failure then.

    Returns:
        The exit code of the process that failed first, or 0. After a signal, 0 means that all processes have saved
        and ended without failure.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    share(processes)
    os.environ.setdefault(
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600"
    )  # after a signal they still save, but do not validate
    logging.disable(logging.ERROR)  # the processes report errors themselves
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; torchrun would end at it nevertheless
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=name, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        os.environ[ENDED] = os.path.join(folder, "ended")
        try:
            elastic_launch(config, sys.executable)("-m", module, *words)
        except SignalException as error:  # it has passed the signal on to the processes, and they have ended
            if not saves:
                return 128 + error.sigval
            if not os.path.exists(os.environ[ENDED]):
                print(f"{name}: failed: {error.sigval.name} has ended the processes before they had saved",
                      file=sys.stderr)  # fmt: skip
                return 1
            return 0 if error.sigval == signal.SIGTERM else 128 + error.sigval
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                by = signal.Signals(-failure.exitcode).name
                print(f"{name}: failed: process {rank} was ended by {by}", file=sys.stderr)
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


@contextlib.contextmanager
def ranks(device: str, timeout: float, name: str = TRAIN, unit: str = "update") -> Iterator[Ranks]:
    """Connect to the other processes that the launcher has started; a single process is a group of its own.

    A failure inside of the context ends all processes within seconds, with the message and the exit code of the process
    that failed first.

    Args:
        device: As in the options.
        timeout: Seconds without a heartbeat after which a process counts as dead.
        name: The name of the command, for messages.
        unit: What `Ranks.reached` counts, for messages.

    Raises:
        UserError: there are fewer GPUs than processes on this machine.
        Failure: another process has died, or has not started.
    """
    if not launched():
        yield Ranks()
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    group = Ranks(rank, size, int(os.environ.get("LOCAL_RANK", rank)))
    try:
        store, *_ = next(dist.rendezvous("env://"))
        group.watch = Watch(dist.PrefixStore("s2s", store), rank, size, timeout, name, unit)
        group.store = dist.PrefixStore("s2s-counts", store)
        cuda = device != "cpu" and torch.cuda.is_available()
        if cuda:
            if group.local >= torch.cuda.device_count():
                count = torch.cuda.device_count()
                raise UserError(f"each process on this machine requires its own GPU; there are only {count}, not "
                                f"{group.local + 1} or more")  # fmt: skip
            torch.cuda.set_device(group.local)
            group.device_type = "cuda"
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        yield group
        dist.barrier()
        if group.is_first and ENDED in os.environ:
            with contextlib.suppress(OSError), open(os.environ[ENDED], "w"):  # the launcher may be gone
                pass
    except BaseException as error:
        lost = _lost(error, group)
        code = 1 if lost else _code(error)
        first = group.watch and group.watch.fail(code)
        if first is not None:  # another process has failed before, and has reported its failure
            sys.exit(first)
        if lost or isinstance(error, (Failure, UserError)):
            kind = Failure if lost else type(error)
            raise kind(f"{lost or error} (process {rank} of {size})") from error
        raise
    group.watch.stop()
    dist.destroy_process_group()


def _lost(error: BaseException, group: Ranks) -> str | None:
    """A message about the other processes, if the error is of an exchange with them; or None."""
    if not isinstance(error, dist.DistError) and "gloo" not in str(error):
        return None
    if not group.watch:
        return f"the other processes have not started: {str(error).splitlines()[0]}"
    others = [rank for rank in range(group.size) if rank != group.rank]
    quiet = group.watch.quiet()
    if quiet:
        gone = ", ".join(group.watch.name(rank) for rank in quiet)
        return f"the connection to {gone} is lost; it was killed, or its machine has failed"
    alive = ", ".join(group.watch.name(rank) for rank in others)
    return f"an exchange with the other processes has failed, though they are alive; one may hang: {alive}: {error}"


def _code(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, (UserError, OSError)) else 1
