"""Sharded training: weights, gradients and optimizer state are divided over the ranks.

This is PyTorch's FSDP2 (`fully_shard`; Zhao et al. 2023): the weights of a layer are gathered when it is computed,
forward and backward, and freed afterwards.

In a checkpoint the weights are a single file as usual, gathered one parameter at a time, so that it can be decoded
anywhere. The optimizer's state, which is at least twice as large, is never gathered: each rank writes its part by
torch.distributed.checkpoint, and any number of ranks, or a single process, can read it. The default format of that
library has a pickle as index, and reading it could run code. So its other format is used: safetensors files whose JSON
headers say which part of which tensor they contain. Names and sizes are read from there.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2s.checkpoint.names import current
from s2s.criterions.criterion import Loss
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.training.distributed import Criterion, Ranks
from s2s.training.wrapping import layers

KEY = "distributed.strategy=fsdp"
FOLDER = "training"  # folder in a checkpoint with the parts of all ranks


def check(model: nn.Module) -> None:
    """Check that a model can be sharded. Raises UserError if it has no layers, or PyTorch is too old."""
    layers(model, KEY)
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageWriter  # noqa: F401
    except ImportError as error:
        raise UserError(f"{KEY}: requires PyTorch 2.8 or later") from error


class Shards:
    """A sharded model and its criterion; it is called with a batch, as the module of `Ranks.wrap`.

    All ranks compute at the same time, because layers are gathered from all of them: a rank without a batch computes a
    filler batch that does not count. Gradients are exchanged after each batch, even if an update has several: to add
    them up first, as replicas do, each rank would need memory for all gradients.

    Args:
        model: On the host; its parameters become DTensors on the device, of which each rank has a part.
        criterion: Called as criterion(model, batch) -> Loss.
        ranks: More than one rank.
        bf16: Whether layers (except their norms) are gathered in bf16; their gradients are added up in fp32. Embeddings
            and the output stay in fp32, because the loss has their dtype.
        filler: Makes the batch of a rank that has none.
    """

    def __init__(self, model: nn.Module, criterion, ranks: Ranks, bf16: bool, filler: Callable[[], Batch]):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.model, self.ranks, self.filler = model, ranks, filler
        # A copy of the model without weights: deepcopy takes the entries of its memo for the copies of parameters.
        memo = {id(p): nn.Parameter(p.new_empty(0), requires_grad=False) for p in model.parameters()}
        self.plain = copy.deepcopy(model, memo)
        self.mesh = init_device_mesh(ranks.device_type, (ranks.size,))
        self.host_mesh = init_device_mesh("cpu", (ranks.size,))
        self.group = dist.new_group(backend="gloo")  # a thread saves while others exchange gradients
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for part in layers(model, KEY):
            if bf16:
                fully_shard(_norms(part), mesh=self.mesh)
            fully_shard(part, mesh=self.mesh, mp_policy=half if bf16 else MixedPrecisionPolicy())
        self.module = fully_shard(_Root(model, criterion), mesh=self.mesh)
        device = next(model.parameters()).device
        self.plain.to(device)

    def __call__(self, batch: Batch | None, totals: dict[str, int] | None = None) -> Loss:
        if batch is not None:
            return Loss(*self.module(batch, totals))
        device = next(self.model.parameters()).device
        loss, _, metrics = self.module(self.filler().to(device))
        return Loss(0 * loss, 0, {name: 0 * value for name, value in metrics.items()})

    def no_sync(self):
        """As in DistributedDataParallel; does nothing here."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def gathered_model(self) -> Iterator[nn.Module]:
        """A context with the complete model in fp32 on every rank, for validation and decoding, not for training."""
        plain = dict(self.plain.named_parameters())
        try:
            for name, p in self.model.named_parameters():
                plain[name].data = p.detach().full_tensor()
            yield self.plain
        finally:
            for p in plain.values():
                p.data = p.data.new_empty(0)

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sharded tensors, gathered on the host of rank 0; empty on the other ranks."""
        complete = {}
        for name, tensor in tensors.items():
            value = unsharded(tensor.detach())
            if self.ranks.is_first:
                complete[name] = value.cpu()
        return complete

    def copied(self, tensors: dict[str, Tensor]) -> "Part":
        """A copy of this rank's part of tensors, which can be saved while training goes on."""
        from torch.distributed.tensor import DTensor

        copies = {}
        for name, tensor in tensors.items():
            if not isinstance(tensor, DTensor):
                copies[name] = tensor.to("cpu", copy=True)
                continue
            local = tensor.detach().to_local().to("cpu", copy=True)
            copies[name] = DTensor.from_local(
                local, self.host_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
            )
        return Part(copies, self.group)


def _norms(layer: nn.Module) -> list[nn.Module]:
    """The modules of a layer whose parameters are vectors only."""
    own = {module: list(module.parameters(recurse=False)) for module in layer.modules()}
    return [module for module, parameters in own.items() if parameters and all(p.ndim == 1 for p in parameters)]


class _Root(Criterion):
    """A criterion and its model. It returns a tuple, in which FSDP can find tensors."""

    def forward(self, batch: Batch, totals: dict[str, int] | None = None) -> tuple:
        loss = super().forward(batch, totals)
        return loss.sum, loss.count, loss.metrics


class Part:
    """This rank's part of the optimizer's state in a checkpoint, which all ranks write together.

    Args:
        tensors: Name -> tensor on the host.
        group: A process group of all ranks, used only for this.
    """

    def __init__(self, tensors: dict[str, Tensor], group: dist.ProcessGroup):
        self.tensors, self.group, self.begun = tensors, group, False

    @property
    def nbytes(self) -> int:
        """Approximate size of the parts of all ranks, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, folder: Path | None) -> None:
        """Write the parts of all ranks into a new checkpoint.

        Args:
            folder: On rank 0, the folder of the checkpoint (None: write nothing); ignored on other ranks.

        Raises:
            OSError: a rank could not write; it is raised on all ranks.
        """
        from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter, save

        self.begun, place = True, [folder]
        dist.broadcast_object_list(place, src=0, group=self.group)
        if place[0] is None or not self.tensors:  # before the first update there is nothing
            return
        writer = HuggingFaceStorageWriter(str(place[0] / FOLDER), save_distributed=True)
        try:
            save(self.tensors, storage_writer=writer, process_group=self.group)
        except CheckpointException as error:
            rank, (reason, _) = next(iter(error.failures.items()))
            raise OSError(f"{reason} (process {rank})") from error

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """A context in which rank 0 writes the rest of a checkpoint. If it fails before `write`, the other ranks are
        told to write nothing."""
        try:
            yield
        finally:
            if not self.begun:
                self.write(None)


def unsharded(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered; any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def read(folder: Path, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read the parts that ranks have written into a checkpoint, whatever their number.

    Args:
        folder: A verified checkpoint.
        parameters: Parameters by name. A tensor `kind.NAME` with the shape of parameter NAME is sharded as that is.

    Raises:
        UserError: PyTorch is too old.
    """
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageReader, load
    except ImportError as error:
        raise UserError(f"{folder}: was saved with distributed.strategy=fsdp; PyTorch 2.8 can read it") from error
    reader = HuggingFaceStorageReader(str(folder / FOLDER))
    tensors = {}
    for key, entry in reader.read_metadata().state_dict_metadata.items():
        p = parameters.get(current(key, kind=True).split(".", 1)[1])
        same = p is not None and p.shape == entry.size
        dtype = entry.properties.dtype
        tensors[key] = torch.empty_like(p, dtype=dtype) if same else torch.empty(entry.size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it reads without the other ranks, as intended
        load(tensors, storage_reader=reader, no_dist=True)
    return {current(key, kind=True): tensor for key, tensor in tensors.items()}
