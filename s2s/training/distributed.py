"""Training in several processes that PyTorch starts, one a device: what they are to each other, and how they end.

torchrun starts them, or `launch` with its parts; the environment says which one a process is. All of them
decide from the same numbers, so that only gradients, sums and failures pass between them. Rank 0 alone writes.
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

from s2s.config.schema import option
from s2s.criterions.criterion import Loss
from s2s.data.batch import Batch
from s2s.errors import Failure, UserError
from s2s.training.watch import Watch

Result = TypeVar("Result")
RUN_ID = "s2s-train"  # in the environment of processes that `launch` started
ENDED = "S2S_TRAIN_ENDED"  # in their environment, too: the file that says that all of them have ended well
TIMEOUT = datetime.timedelta(hours=2)  # of an exchange: rank 0 may calibrate or save meanwhile; failures end it at once


@dataclasses.dataclass
class DistributedConfig:
    """Options of training in several processes."""

    processes: int = option(
        1, "train in so many processes on this machine, each with a GPU of its own or all on the CPU; as torchrun does",
        at_least=1,
    )  # fmt: skip
    strategy: str = option(
        "ddp",
        "each process holds the whole model: ddp; or a part of its weights, gradients and optimizer state: fsdp, for "
        "models that do not fit",
        ("ddp", "fsdp"),
    )
    timeout: float = option(
        30.0, "seconds without a sign of life after which a process is given up, and the run ends; slow ones give it",
        at_least=2,
    )  # fmt: skip


class Ranks:
    """The processes that train together, on devices of a type: this one is `rank` of `size`, and `local` of those on
    its machine."""

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0, device_type: str = "cpu"):
        self.rank, self.size, self.local, self.device_type = rank, size, local, device_type
        self.watch: Watch | None = None  # where there are several

    def reached(self, update: int) -> None:
        """Let the others know how far this process has come."""
        if self.watch:
            self.watch.update = update

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, number: int) -> tuple[int, int]:
        """This rank's part of so many things: from the first up to the last, which is not among them."""
        return number * self.rank // self.size, number * (self.rank + 1) // self.size

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in place; on the host or the device, any shape."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, numbers: list[int]) -> list[int]:
        """Of each of these numbers the largest that a rank has."""
        tensor = torch.tensor(numbers, dtype=torch.int64)
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, value: Any) -> list:
        """What each rank has, in their order."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def first(self, function: Callable[[], Result]) -> Result:
        """The result of a function that rank 0 alone calls."""
        result = [function() if self.is_first else None]
        if self.size > 1:
            dist.broadcast_object_list(result)
        return result[0]

    def wrap(self, model: nn.Module, criterion) -> nn.Module:
        """The criterion of a model as a module: called with a batch, or None where there is none, it returns the Loss.
        With several ranks its backward pass leaves the mean of their gradients; parameters to be frozen are by then."""
        module = Criterion(model, criterion)
        if self.size == 1:
            return module
        # Not a static graph: a rank may be without a batch.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # from torch 2.13 on broadcast_buffers has another name
            module = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True, broadcast_buffers=False)
        # After its first backward pass it puts gradients together anew, and from then on adds them up in another order.
        # With that behind it, a resumed run has the bits of one that was not interrupted.
        module(None).sum.backward()
        module(None)
        module.zero_grad()
        return module

    def unsynced(self, module: nn.Module, really: bool):
        """A context in which, if `really`, a module of `wrap` keeps its gradients to itself."""
        return module.no_sync() if self.size > 1 and really else contextlib.nullcontext()


class Criterion(nn.Module):
    """A criterion and its model as one module, whose forward pass is all of what DistributedDataParallel looks at."""

    def __init__(self, model: nn.Module, criterion):
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, batch: Batch | None, totals: dict[str, int] | None = None) -> Loss:
        """The criterion's value; without a batch it is 0, and so is the gradient of every parameter."""
        if batch is not None:
            return self.criterion(self.model, batch, totals)
        nothing = sum(p.flatten()[:0].sum() for p in self.parameters() if p.requires_grad)
        return Loss(nothing, 0, dict.fromkeys(self.criterion.names(self.model), nothing.detach()))


# --- starting and ending ---------------------------------------------------------------------------------------------


def launched() -> bool:
    """Whether torchrun, or something like it, has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def command(ranks: Ranks) -> str:
    """How this process was started, up to the words of s2s-train."""
    by_torchrun = ranks.size > 1 and os.environ.get("TORCHELASTIC_RUN_ID") != RUN_ID
    return "torchrun ... -m s2s_cli.train" if by_torchrun else "s2s-train"


def launch(processes: int, module: str, words: list[str]) -> int:
    """Run `python -m module words` in so many processes, as `torchrun --standalone --nproc-per-node` does.

    Returns:
        The exit code of the process that failed first, or 0. After a signal 0 means that all ended well, saved.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")  # after a signal they validate no more, but save
    logging.disable(logging.ERROR)  # the processes speak for themselves
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # of nohup; torchrun would end at it all the same
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=RUN_ID, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        os.environ[ENDED] = os.path.join(folder, "ended")
        try:
            elastic_launch(config, sys.executable)("-m", module, *words)
        except SignalException as error:  # which it has passed on to them, and they have ended
            if not os.path.exists(os.environ[ENDED]):
                print(f"{RUN_ID}: failed: {error.sigval.name} has ended the processes before they had saved",
                      file=sys.stderr)  # fmt: skip
                return 1
            return 0 if error.sigval == signal.SIGTERM else 128 + error.sigval
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                print(f"{RUN_ID}: failed: process {rank} was ended by {name}", file=sys.stderr)
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


@contextlib.contextmanager
def ranks(device: str, timeout: float) -> Iterator[Ranks]:
    """Meet the other processes that torchrun has started; one alone is a group of one.

    A failure in here ends all of them within seconds, with the message and the exit code of the one that was first.

    Args:
        device: As in the options.
        timeout: Seconds without a sign of life after which a process is given up.

    Raises:
        UserError: fewer GPUs than processes on this machine.
        Failure: another process is gone, or did not come.
    """
    if not launched():
        yield Ranks()
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    group = Ranks(rank, size, int(os.environ.get("LOCAL_RANK", rank)))
    try:
        store, *_ = next(dist.rendezvous("env://"))
        group.watch = Watch(dist.PrefixStore("s2s", store), rank, size, timeout)
        cuda = device != "cpu" and torch.cuda.is_available()
        if cuda:
            if group.local >= torch.cuda.device_count():
                there = f"{torch.cuda.device_count()} here"
                raise UserError(f"process {group.local + 1} of this machine needs a GPU of its own; there are {there}")
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
        if first is not None:  # another one has said it, and this is what came of it
            sys.exit(first)
        if lost or isinstance(error, (Failure, UserError)):
            kind = Failure if lost else type(error)
            raise kind(f"{lost or error} (process {rank} of {size})") from error
        raise
    group.watch.stop()
    dist.destroy_process_group()


def _lost(error: BaseException, group: Ranks) -> str | None:
    """What has become of the others, where an error is of an exchange with them."""
    if not isinstance(error, dist.DistError) and "gloo" not in str(error):
        return None
    if not group.watch:
        return f"the other processes have not come: {str(error).splitlines()[0]}"
    others = [rank for rank in range(group.size) if rank != group.rank]
    quiet = group.watch.quiet()
    if quiet:
        gone = ", ".join(group.watch.name(rank) for rank in quiet)
        return f"the connection to {gone} is lost; it was killed, or its machine is gone"
    alive = ", ".join(group.watch.name(rank) for rank in others)
    return f"an exchange with the other processes has failed, though they live; perhaps one hangs: {alive}: {error}"


def _code(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, (UserError, OSError)) else 1
