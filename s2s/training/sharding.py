"""A model of which each process holds a part: its weights, gradients and optimizer state are spread over the ranks.

This is PyTorch's FSDP2 (`fully_shard`; Zhao et al. 2023): a layer's weights are gathered when it is computed, forward
and backward, and forgotten after it.

In a checkpoint the weights are one file as ever, gathered a parameter at a time, so that it decodes anywhere. The
optimizer's state, which is twice as large or more, is never gathered: each rank writes its part by
torch.distributed.checkpoint, and any number of ranks, or one process without any, reads it. That library's own format
has an index that is a pickle, and reading it could run code; so the format is its other one, safetensors files whose
headers say in JSON which part of which tensor they hold. Names and sizes come from there.
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
FOLDER = "training"  # of a checkpoint, where the ranks' parts are


def check(model: nn.Module) -> None:
    """Whether a model can be sharded. Raises UserError: it has no layers, or this PyTorch is too old."""
    layers(model, KEY)
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageWriter  # noqa: F401
    except ImportError as error:
        raise UserError(f"{KEY}: needs PyTorch 2.8 or later") from error


class Shards:
    """A model that is spread over the ranks, and its criterion; called with a batch as `Ranks.wrap`'s module is.

    Every rank computes at the same time, because every layer is gathered from all: a rank without a batch computes one
    that counts nothing. Gradients are exchanged after each batch, also where an update has several: to add them up
    first, as replicas do, each rank would have to hold all of them.

    Args:
        model: On the host; its parameters become parts of it, DTensors on the device.
        criterion: Called as criterion(model, batch) -> Loss.
        ranks: More than one.
        bf16: Layers are gathered in bf16, but for their norms; their gradients are added up in fp32. Embeddings and the
            output stay in fp32, because the loss has their type.
        filler: Makes the batch of a rank that has none.
    """

    def __init__(self, model: nn.Module, criterion, ranks: Ranks, bf16: bool, filler: Callable[[], Batch]):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.model, self.ranks, self.filler = model, ranks, filler
        # A model like it, without weights: what deepcopy finds in its memo it takes for the copy.
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
        """As of DistributedDataParallel; see above."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The model with all of its weights, in fp32, on every rank, to validate and decode with; not to be trained."""
        plain = dict(self.plain.named_parameters())
        try:
            for name, p in self.model.named_parameters():
                plain[name].data = p.detach().full_tensor()
            yield self.plain
        finally:
            for p in plain.values():
                p.data = p.data.new_empty(0)

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of which the ranks have parts, whole and on the host of rank 0; nothing on the others."""
        found = {}
        for name, tensor in tensors.items():
            value = whole(tensor.detach())
            if self.ranks.is_first:
                found[name] = value.cpu()
        return found

    def copied(self, tensors: dict[str, Tensor]) -> "Part":
        """This rank's part of tensors as they are now, to be saved while training goes on."""
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
    """The modules of a layer that have vectors only."""
    own = {module: list(module.parameters(recurse=False)) for module in layer.modules()}
    return [module for module, found in own.items() if found and all(p.ndim == 1 for p in found)]


class _Root(Criterion):
    """A criterion and its model; what it returns is a tuple, in which FSDP finds the tensors."""

    def forward(self, batch: Batch, totals: dict[str, int] | None = None) -> tuple:
        loss = super().forward(batch, totals)
        return loss.sum, loss.count, loss.metrics


class Part:
    """This rank's part of what a checkpoint holds of the optimizer's state, written by all ranks together.

    Args:
        tensors: On the host.
        group: Of all ranks, for this only.
    """

    def __init__(self, tensors: dict[str, Tensor], group: dist.ProcessGroup):
        self.tensors, self.group, self.begun = tensors, group, False

    @property
    def nbytes(self) -> int:
        """Bytes of all ranks' parts, nearly."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def write(self, folder: Path | None) -> None:
        """Write all parts into a checkpoint that is being made, where rank 0 says; without one, write nothing.

        Raises:
            OSError: on all ranks, when one could not write.
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
        """A context in which rank 0 writes the rest; the others learn it when it does not come to their parts."""
        try:
            yield
        finally:
            if not self.begun:
                self.write(None)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which the ranks have parts, or any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def read(folder: Path, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the ranks have written into a checkpoint, by whatever number of them.

    Args:
        folder: The checkpoint, which has been verified.
        parameters: By name; a tensor `kind.NAME` of the size of parameter NAME comes back spread as that one is.

    Raises:
        UserError: an old PyTorch.
    """
    try:
        from torch.distributed.checkpoint import HuggingFaceStorageReader, load
    except ImportError as error:
        raise UserError(f"{folder}: was saved with distributed.strategy=fsdp; PyTorch 2.8 can read it") from error
    reader = HuggingFaceStorageReader(str(folder / FOLDER))
    tensors = {}
    for key, found in reader.read_metadata().state_dict_metadata.items():
        p = parameters.get(current(key, kind=True).split(".", 1)[1])
        same = p is not None and p.shape == found.size
        dtype = found.properties.dtype
        tensors[key] = torch.empty_like(p, dtype=dtype) if same else torch.empty(found.size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it reads without the other ranks, as it should
        load(tensors, storage_reader=reader, no_dist=True)
    return {current(key, kind=True): tensor for key, tensor in tensors.items()}
