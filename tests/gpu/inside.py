"""What the tests do on the stand-in for a GPU, in a process of its own: the stand-in must be loaded before torch."""

# isort: off
from tests.gpu import stand_in
# isort: on

import collections
import contextlib
import copy
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch

from s2s.decoding import engine
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.nn.attention import attend
from s2s.training.trainer import Trainer
from s2s.training.writing import Writer
from tests.gpu.counts import Counts, Ended
from tests.gpu.stand_in import gpu


def command(name: str, device: str, *words: str) -> Ended:
    """Run a command, on the stand-in if the device is `cuda`."""
    each: list[Counts] = []
    polls: list[Counts] = []
    written: list[Counts] = []  # what the texts that terms of the loss want did; it is no part of an update
    with contextlib.ExitStack() as stack:
        error = stack.enter_context(contextlib.redirect_stderr(_Kept()))
        stack.enter_context(mock.patch.object(sys, "argv", [f"s2s-{name}", *words, f"device={device}"]))
        counts = None
        if device == "cuda":
            counts = stack.enter_context(gpu())
            if name == "train":
                _watch(stack, Writer, "__call__", written)
                _watch(stack, Trainer, "_update", each, written)
            else:
                _watch(stack, engine._Run, "step", each)
            _watch(stack, engine._Run, "collect", polls)
        try:
            importlib.import_module(f"s2s_cli.{name}").main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    return Ended(code, error.text, each, polls, counts and counts.copy())


def _watch(
    stack: contextlib.ExitStack, owner: type, name: str, each: list[Counts], apart: Sequence[Counts] = ()
) -> None:
    """Add to `each` what each call of a method does, without what it adds to `apart`."""
    plain = getattr(owner, name)

    def watched(self, *arguments, **options):
        before, known = stand_in.now().copy(), len(apart)
        result = plain(self, *arguments, **options)
        made = stand_in.now().since(before)
        for other in apart[known:]:
            made = made.since(other)
        each.append(made)
        return result

    stack.enter_context(mock.patch.object(owner, name, watched))


class _Kept:
    """Standard error, which is kept."""

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def flags(name: str, *words: str) -> tuple[int, str, list[dict]]:
    """Run a command on the stand-in. Returns its exit code, its standard error, and what decides the bits of results:
    before the command, at its first operator on the device, and after it."""
    seen = [_flags()]
    plain = stand_in._start

    def first(operator, args, kwargs):
        if len(seen) == 1 and "cuda" in str(kwargs.get("device")):
            seen.append(_flags())
        return plain(operator, args, kwargs)

    with mock.patch.object(stand_in, "_start", first):
        ended = command(name, "cuda", *words)
    return ended.code, ended.error, [*seen, _flags()]


def _flags() -> dict:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "only warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": (cudnn.deterministic, cudnn.benchmark),
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "cuDNN's attention": cuda.cudnn_sdp_enabled(),
        "TF32": cuda.matmul.allow_tf32 or cudnn.allow_tf32,
        "flash": cuda.flash_sdp_enabled() and cuda.mem_efficient_sdp_enabled(),
    }


def weight_types(words: list[str], bf16: bool) -> tuple[int, str, set[str], set[int]]:
    """Decode on a GPU with or without bf16. Returns the exit code, the standard error, the types of the weights that
    are used, and the memory budgets."""
    from s2s.decoding.generator import Generator

    types, budgets = set(), set()
    plain = Generator.generate

    def watched(self, *arguments, **options):
        types.update(str(p.dtype).removeprefix("torch.") for p in self.setting.models[0].parameters())
        budgets.add(self.config.batch_tokens)
        return plain(self, *arguments, **options)

    has = mock.patch.dict(stand_in.CUDA, is_bf16_supported=lambda including_emulation=True: bf16)
    with has, mock.patch.object(Generator, "generate", watched):
        ended = command(words[0], "cuda", *words[1:])
    return ended.code, ended.error, types, budgets


def examples() -> dict:
    """What the stand-in refuses and counts in small examples; see test_stand_in.py."""
    seen = {}

    def refused(name: str, function) -> None:
        try:
            function()
        except (stand_in.DeviceMismatch, TypeError) as error:
            seen[name] = str(error)

    def kinds(counter) -> dict[str, int]:
        """Counts without places."""
        sums = collections.Counter()
        for key, count in counter.items():
            sums[key.rpartition(" ")[0]] += count
        return dict(sums)

    def gradient(device: str) -> list:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2).to(device)
        torch.nn.functional.dropout(layer(torch.ones(2, 3).to(device)), 0.5, training=False).square().sum().backward()
        return layer.weight.grad.tolist()

    def attended(device: str) -> list:
        q, k, v = torch.arange(24.0).view(3, 1, 2, 2, 2).to(device)
        return attend(q, k, v, torch.tensor([[True, False], [True, True]]).to(device)).tolist()

    seen["gradient on the CPU"], seen["attention on the CPU"] = gradient("cpu"), attended("cpu")
    with gpu() as counts:
        x = torch.ones(3, device="cuda")
        x.mul(2).add_(1).view(3, 1)
        seen["operators"] = dict(counts.operators)
    with gpu() as counts:
        x = torch.ones(3, device="cuda")
        mask = x > 0
        x.sum().item(), x.tolist(), x.cpu(), x.nonzero(), x[mask], x.long().repeat_interleave(x.long())
        seen["waits"] = {key.replace("_local_scalar_dense", "item"): n for key, n in kinds(counts.waits).items()}
    with gpu() as counts:
        y = torch.tensor([1, 2], device="cuda")
        y.copy_(torch.ones(2))
        torch.ones(2).to("cuda", non_blocking=True)
        y[torch.tensor([0])]
        seen["copies"] = kinds(counts.copies)
    with gpu():
        refused("two devices", lambda: x + torch.ones(3))
        refused("value of an assignment", lambda: x.index_put_((y - 1,), torch.ones(2)))
        refused("numpy", x.numpy)
        seen["gradient"], seen["attention"] = gradient("cuda"), attended("cuda")
    seen["after"] = [torch.cuda.is_available(), torch.ones(1).device.type]
    return seen


def part(words: tuple[str, ...], size: list[str] | None) -> dict[str, float]:
    """The largest difference between the CPU and the stand-in in what a model of tests/models/test_parts.py computes:
    logits by teacher forcing and by steps, and gradients."""
    from tests.models.test_parts import BOS, Inputs, model_of, sources_of

    model = model_of(*words, **({} if size is None else {"size": size}))
    sources = sources_of(model, [9, 4, 7])

    def computed(device: str) -> dict[str, torch.Tensor]:
        shown, own = torch.tensor([[BOS, 5, 6, 7]] * 3).to(device), copy.deepcopy(model).to(device)
        inputs = Inputs(tuple(source.to(device) for source in sources))
        memory = own.encode(*inputs)
        logits = own.decode(memory, shown).logits()
        logits.square().mean().backward()
        results = {"logits": logits, **{f"gradient of {name}": p.grad for name, p in own.named_parameters()}}
        with torch.no_grad():
            state = own.start(own.encode(*inputs), 1)
            results |= {f"step {t}": own.step(shown[:, t].contiguous(), state) for t in range(3)}
        return {name: value.detach().cpu() for name, value in results.items() if value is not None}

    expected = computed("cpu")
    with gpu():
        found = computed("cuda")
    assert found.keys() == expected.keys()
    return {name: float((found[name] - value).abs().max()) for name, value in expected.items()}


def benchmark(*words: str) -> dict:
    """Run tests/benchmarks/gpu.py on the stand-in."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    with gpu(), contextlib.redirect_stdout(_Kept()), contextlib.redirect_stderr(_Kept()):
        return importlib.import_module("gpu").main(*words)


def process_of_several(local: int, devices: int) -> tuple[str, str, list[int]] | str:
    """Start process number `local` of two on a machine with so many GPUs. Returns the type of its device, the backend
    of exchanges, and the device that it sets; or the error."""
    from s2s.errors import UserError
    from s2s.training import distributed

    backends, chosen = [], []
    environment = {"RANK": str(local), "WORLD_SIZE": "2", "LOCAL_RANK": str(local), "TORCHELASTIC_RUN_ID": "none"}
    with contextlib.ExitStack() as stack:
        for name in ("Watch", "dist.barrier", "dist.destroy_process_group", "dist.PrefixStore"):
            stack.enter_context(mock.patch(f"s2s.training.distributed.{name}"))
        stack.enter_context(mock.patch.object(distributed.dist, "rendezvous", return_value=iter([(None, 0, 2)])))
        stack.enter_context(
            mock.patch.object(distributed.dist, "init_process_group", lambda backend, **_: backends.append(backend))
        )
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.dict(stand_in.CUDA, device_count=lambda: devices, set_device=chosen.append))
        stack.enter_context(gpu())
        distributed.Watch.return_value.fail.return_value = None
        try:
            with distributed.ranks("auto", 10.0) as group:
                return group.device_type, backends[0], chosen
        except UserError as error:
            return str(error)


class Averaged(torch.nn.Module):
    """In place of DistributedDataParallel, which reads the memory of gradients: it averages them after the backward
    pass, each in an exchange of its own."""

    def __init__(self, module: torch.nn.Module, **_):
        super().__init__()
        self.module, self.synced = module, True

    def forward(self, *arguments):
        loss = self.module(*arguments)
        if self.synced:
            queue = torch.autograd.Variable._execution_engine.queue_callback
            loss.sum.register_hook(lambda _: queue(self._average))
        return loss

    def _average(self) -> None:
        for p in filter(lambda p: p.requires_grad, self.module.parameters()):
            torch.distributed.all_reduce(p.grad)
            p.grad /= torch.distributed.get_world_size()

    @contextlib.contextmanager
    def no_sync(self):
        self.synced = False
        yield
        self.synced = True


def process(rank: int, port: int, name: str, *words: str) -> tuple[Ended, str, list[str], set[str]]:
    """Run a command as one of two processes, each with its own GPU.

    Returns:
        How it ended; the backend that it asked for; each exchange, with the type of device of tensors, in order; and
        the devices of the weights that were trained or that decoded.
    """
    import torch.distributed as dist

    backends, exchanges, devices, encode = [], [], set(), EncoderDecoder.encode
    start, plain = dist.init_process_group, {name: getattr(dist, name) for name in
                                             ("all_reduce", "all_gather_object", "broadcast_object_list")}  # fmt: skip
    environment = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost",
                   "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}  # fmt: skip

    def started(backend: str, **options) -> None:
        backends.append(backend)
        start("gloo", **options)

    def reduced(tensor: torch.Tensor, *arguments) -> None:
        exchanges.append(f"all_reduce {tensor.device.type}")
        plain["all_reduce"](tensor.values if tensor.is_cuda else tensor, *arguments)

    def objects(name: str):
        def exchanged(*arguments) -> None:
            exchanges.append(name)
            plain[name](*arguments)

        return exchanged

    def wrapped(module, *arguments, **options):
        devices.update(str(p.device) for p in module.parameters())
        return encode(module, *arguments, **options)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.dict(stand_in.CUDA, device_count=lambda: 2))
        stack.enter_context(mock.patch.object(dist, "init_process_group", started))
        stack.enter_context(mock.patch.object(dist, "all_reduce", reduced))
        for one in ("all_gather_object", "broadcast_object_list"):
            stack.enter_context(mock.patch.object(dist, one, objects(one)))
        stack.enter_context(mock.patch("torch.nn.parallel.DistributedDataParallel", Averaged))
        stack.enter_context(mock.patch.object(EncoderDecoder, "encode", wrapped))
        stack.callback(stand_in.CUDA["set_device"], 0)
        return command(name, "cuda", *words), *backends, exchanges, devices


def ctc_beam(language_model: bool) -> tuple[list, list, Counts, int]:
    """Prefix beam search over made-up frames, with or without a language model. Returns the hypotheses of the CPU,
    those of the stand-in, what happened there, and the number of frames."""
    from s2s.decoding.ctc import prefix_beam_search
    from s2s.decoding.scorers.language_model import PrefixBonus
    from tests.models.test_language_model import language_model as made

    torch.manual_seed(3)
    lengths, width, vocabulary = torch.tensor([30, 21, 8]), 3, 12
    x = (3 * torch.randn(3, 30, vocabulary)).log_softmax(-1)
    model = made() if language_model else None

    def found(device: str) -> list:
        own = copy.deepcopy(model).to(device) if language_model else None
        bonus = PrefixBonus(own, 0.5, (3, width)) if own else None
        with torch.inference_mode():
            beams = prefix_beam_search(x.to(device), lengths.to(device), width, bonus=bonus)
        return [[(ids, round(score, 3), round(added, 3)) for ids, score, added in beam] for beam in beams]

    expected = found("cpu")
    with gpu() as counts:
        return expected, found("cuda"), counts.copy(), int(lengths[0])
