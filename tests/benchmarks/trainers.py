"""Ways to train the same Transformer on the same text, which `training.py` measures side by side.

Each makes its batches by its own rule, of the same budget, and takes the step of its toolkit: model, loss, gradients,
clipping, optimizer. Only real target tokens count.
"""

import dataclasses
import importlib.util
import multiprocessing
import resource
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from plain_batches import sorted_then_cut, unsorted
from plain_transformer import PlainTransformer
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from s2s.config.compose import compose
from s2s.data.batch import Batch
from s2s.data.iterator import BatchIterator
from s2s.data.plan import Plan
from s2s.data.spec import Spec, TokenSource
from s2s.data.store import Store
from s2s.models.transformer import Transformer
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import BOS, EOS, PAD, UNK
from s2s.training.trainer import Interval, Trainer
from s2s_cli.train import TrainCommand

PRODUCTS = {f"aten::{name}" for name in ("mm", "mm_", "addmm", "addmm_", "bmm", "baddbmm")}
SPECIAL = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}


@dataclasses.dataclass
class Setting:
    """What is trained, and how.

    Attributes:
        store: Of the text.
        preset: Of the model.
        symbols: V; None: those of the store. The text has those of the store in any case.
        budget: data.batch_tokens.
        precision: As train.precision.
        device: cpu or cuda.
    """

    store: Path
    preset: str
    symbols: int | None
    budget: int
    precision: str
    device: str

    def __post_init__(self):
        words = {"model": self.preset, "data.batch_tokens": self.budget, "train.precision": self.precision,
                 "run": "nowhere"}  # fmt: skip
        self.config = compose(TrainCommand, [(key, str(value)) for key, value in words.items()])
        store = Store(self.store)
        task = TranslationTask.setup(store)
        self.task, self.dataset = task, task.dataset(store.split("train"))
        self.lengths = self.dataset.lengths(0, len(self.dataset))
        self.symbols = self.symbols or len(task.target_tokenizer.vocabulary)

    def model(self) -> Transformer:
        """Ours, with fresh weights."""
        torch.manual_seed(self.config.seed)
        return Transformer(self.config.model, Spec((TokenSource(self.symbols),), self.symbols, shared=True))

    def autocast(self):
        """A context of the precision."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def random(self) -> np.random.Generator:
        return np.random.default_rng(self.config.seed)

    def fairseqs_plan(self) -> Plan:
        return sorted_then_cut(*self.lengths, self.budget, self.random())


class Ours:
    """s2s: the update of its trainer on the batches of its plan."""

    def __init__(self, setting: Setting):
        model, config = setting.model().to(setting.device).train(), setting.config
        criterion = setting.task.criterion(config.criterion)
        iterator = BatchIterator(setting.dataset, config.data, config.seed)
        self.trainer = Trainer(config, setting.task, model, criterion, iterator, None, {})
        self.trainer.interval = Interval()
        window = iterator.current
        self.plan = dataclasses.replace(window.plan, batches=[window.examples[one] for one in window.plan.batches])

    def update(self, batch: Batch) -> None:
        self.trainer._update([batch])
        self.trainer._settle()


class Stepwise:
    """A training step as others take it: loss, gradients, clipping, an optimizer of PyTorch.

    Args:
        setting: What is trained.
        model: The toolkit's.
        loss: Of a batch, summed over its target tokens.
        plan: Its batches.
    """

    def __init__(self, setting: Setting, model: torch.nn.Module, loss: Callable[[Batch], Tensor], plan: Plan):
        options = setting.config.optim
        self.model, self.loss, self.plan = model.to(setting.device).train(), loss, plan
        self.limit, self.setting = setting.config.train.clip_norm, setting
        self.optimizer = torch.optim.Adam(
            model.parameters(), options.lr / 100, (options.beta1, options.beta2), options.eps
        )

    def update(self, batch: Batch) -> None:
        batch = batch.to(self.setting.device)
        self.optimizer.zero_grad()
        with self.setting.autocast():
            loss = self.loss(batch) / batch.counts.target
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.limit)
        if not torch.isfinite(norm + loss.detach()):  # the host waits for the device, as ours does
            raise RuntimeError("the gradient is not finite")
        self.optimizer.step()


def smoothing(config) -> float:
    """Label smoothing of a config's cross-entropy."""
    return config.criterion.terms["cross_entropy"].label_smoothing


def fairseqs_scheme(setting: Setting) -> Stepwise:
    """The reference in this folder: fairseq's batches, a plain Transformer, log-softmax of [B, T, V] in fp32."""
    model = PlainTransformer(setting.model())

    def loss(batch: Batch) -> Tensor:
        return plain_loss(model, batch, smoothing(setting.config))

    return Stepwise(setting, model, loss, setting.fairseqs_plan())


def plain_loss(model: PlainTransformer, batch: Batch, smoothing: float) -> Tensor:
    """Label-smoothed cross-entropy summed over real tokens, from the log-probabilities of all positions in fp32."""
    log_probabilities = model(batch.sources[0].values, batch.decoder_input).float().log_softmax(dim=-1)
    log_probabilities = log_probabilities.view(-1, log_probabilities.size(-1))
    target = batch.target.view(-1, 1)
    padding = target.eq(PAD)
    nll = -log_probabilities.gather(1, target)
    smooth = -log_probabilities.sum(dim=1, keepdim=True)
    nll, smooth = nll.masked_fill(padding, 0.0).sum(), smooth.masked_fill(padding, 0.0).sum()
    return (1 - smoothing) * nll + smoothing / log_probabilities.size(1) * smooth


def joeynmt(setting: Setting) -> Stepwise:
    """JoeyNMT's model, batch and loss; its batches of tokens are of examples in random order."""
    from joeynmt.batch import Batch as Theirs
    from joeynmt.model import build_model

    sizes, config = setting.config.model, setting.config
    side = {
        "type": "transformer", "num_heads": sizes.encoder.heads, "num_layers": sizes.encoder.layers,
        "hidden_size": sizes.encoder.width, "ff_size": sizes.encoder.ffn_width, "dropout": sizes.dropout,
        "layer_norm": "pre", "embeddings": {"embedding_dim": sizes.encoder.width, "scale": True},
    }  # fmt: skip

    class Vocabulary(SimpleNamespace):
        def __len__(self) -> int:
            return setting.symbols

        def lookup(self, symbol: str) -> int:
            return UNK

    symbols = Vocabulary(pad_index=PAD, bos_index=BOS, eos_index=EOS, unk_index=UNK, sep_index=None, specials=[],
                         lang_tags=[])  # fmt: skip
    model = build_model({"encoder": dict(side), "decoder": dict(side), "tied_embeddings": True, "tied_softmax": True},
                        symbols, symbols)  # fmt: skip
    model.loss_function = ("crossentropy", smoothing(config))
    model.log_parameters_list = None

    def loss(batch: Batch) -> Tensor:
        target = torch.cat([batch.decoder_input[:, :1], batch.target], 1)
        source, device = batch.sources[0], batch.target.device
        theirs = Theirs(source.values, source.lengths, None, target, None, batch.ids, device, PAD, EOS)
        theirs.sort_by_src_length()
        return model(return_type="loss", **vars(theirs))[0]

    return Stepwise(setting, model, loss, unsorted(*setting.lengths, setting.budget, setting.random()))


def eole(setting: Setting) -> Stepwise:
    """eole's model and loss; its batches are of a bucket of sentences, sorted."""
    import pyonmttok
    from eole.config.run import TrainConfig
    from eole.models.model import EncoderDecoderModel
    from eole.utils.loss import LossCompute

    sizes, config = setting.config.model, setting.config
    names = dict(zip(("<unk>", "<pad>", "<s>", "</s>"), (UNK, PAD, BOS, EOS), strict=True))
    specials = sorted(names, key=names.get)
    if sorted(names.values()) != list(range(4)):
        raise RuntimeError("the special symbols are not the first four")
    words = [f"w{i}" for i in range(setting.symbols - 4)]
    vocabulary = pyonmttok.build_vocab_from_tokens(words, special_tokens=specials)
    vocabularies = {
        "src": vocabulary, "tgt": vocabulary, "data_task": "seq2seq",
        "specials": {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocabulary"
        file.write_text("\n".join(vocabulary.ids_to_tokens), encoding="utf-8")
        positions = {"position_encoding_type": "SinusoidalInterleaved"}
        theirs = TrainConfig(
            data={"corpus_1": {"path_src": str(file), "path_tgt": str(file)}},
            src_vocab=str(file), tgt_vocab=str(file), share_vocab=True,
            model={
                "architecture": "transformer", "layers": sizes.encoder.layers, "hidden_size": sizes.encoder.width,
                "heads": sizes.encoder.heads, "transformer_ff": sizes.encoder.ffn_width, "share_embeddings": True,
                "share_decoder_embeddings": True, "mlp_activation_fn": "relu", "add_qkvbias": True,
                "add_ffnbias": True, "add_final_linear_bias": True, **positions,
                "embeddings": {"word_vec_size": sizes.encoder.width, **positions},
            },
            training={
                "dropout": [sizes.dropout], "dropout_steps": [0], "attention_dropout": [0.0], "world_size": 0,
                "gpu_ranks": [], "compute_dtype": "fp32", "label_smoothing": smoothing(config),
                "batch_type": "tokens", "normalization": "tokens",
            },
        )  # fmt: skip
    model = EncoderDecoderModel.for_training(theirs.model, vocabularies, theirs.training)
    compute = LossCompute.from_config(theirs, model, vocabularies)

    def loss(batch: Batch) -> Tensor:
        source = batch.sources[0]
        target = torch.cat([batch.decoder_input[:, :1], batch.target], 1)
        output = model(source.values, target, source.lengths)
        parts = {"src": source.values, "tgt": target, "srclen": source.lengths, "tgtlen": batch.target_lengths + 1,
                 "cid": ["corpus_1"] * len(target), "cid_line_number": list(range(len(target)))}  # fmt: skip
        return compute(parts, output.dec_out, output.attns)[0]

    return Stepwise(setting, model, loss, setting.fairseqs_plan())


CONTENDERS = {"s2s": Ours, "fairseq's scheme": fairseqs_scheme, "joeynmt": joeynmt, "eole": eole}


def installed() -> list[str]:
    """Those of the contenders that are here."""
    return [name for name in CONTENDERS if name not in ("joeynmt", "eole") or importlib.util.find_spec(name)]


class Contender:
    """One of them in this process.

    Args:
        name: Which one.
        setting: The arguments of a Setting.
    """

    def __init__(self, name: str, setting: dict):
        warnings.simplefilter("ignore")
        self.setting = Setting(**setting)
        before = _peak()
        self.contender = CONTENDERS[name](self.setting)
        self.before = before
        target = self.setting.lengths[1]
        self.batches = sorted(self.contender.plan.batches, key=lambda examples: target[examples].mean())

    def round(self, number: int, rounds: int, batches: int) -> tuple[int, float]:
        """Updates on batches at even distances from the shortest to the longest, others in each round.

        Returns:
            Real target tokens, and seconds.
        """
        self._synchronize()
        began, tokens = time.perf_counter(), 0
        for examples in spread(self.batches, batches, number, rounds):
            batch = self.setting.dataset.collate(examples)
            self.contender.update(batch)
            tokens += batch.counts.target
        self._synchronize()
        return tokens, time.perf_counter() - began

    def memory(self) -> float:
        """MiB at the peak, over those before there was a model (on a GPU: of tensors)."""
        if self.setting.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return (_peak() - self.before) / 1024

    def products(self, batches: int) -> float:
        """Share of the device's busy time, 0 to 1, that the matrix products of linear layers (and of a plain attention)
        take; those inside PyTorch's fused attention are not seen."""
        cuda = self.setting.device == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
        with profile(activities=activities) as profiler:
            self.round(0, 1, batches)
        events = [event for event in profiler.key_averages() if event.device_type == torch.autograd.DeviceType.CPU]

        def busy(event) -> float:
            return event.self_device_time_total if cuda else event.self_cpu_time_total

        return sum(busy(event) for event in events if event.key in PRODUCTS) / sum(map(busy, events))

    def _synchronize(self) -> None:
        if self.setting.device == "cuda":
            torch.cuda.synchronize()


def _peak() -> int:
    """Peak of this process's resident memory, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def has_bf16(device: str) -> bool:
    """Whether the device multiplies in bf16 by itself."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "bf16" in flags.read_text(encoding="utf-8")


def spread(items: Sequence, count: int, number: int, rounds: int) -> list:
    """`count` of the items at even distances; every round takes others."""
    places = (np.arange(count) + (number + 0.5) / rounds) * len(items) / count
    return [items[int(place)] for place in places]


class Apart:
    """A Contender in a process of its own, whose memory is its own."""

    def __init__(self, name: str, setting: dict):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, name, setting), daemon=True)
        self.process.start()

    def ask(self, verb: str, *arguments):
        """Call a method of the Contender."""
        self.pipe.send((verb, arguments))
        done, result = self.pipe.recv()
        if not done:
            raise RuntimeError(result)
        return result

    def close(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve(pipe, name: str, setting: dict) -> None:
    """What happens in that process."""
    contender = None
    while True:
        verb, arguments = pipe.recv()
        try:
            contender = contender or Contender(name, setting)
            pipe.send((True, getattr(contender, verb)(*arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
