"""Decoding in each decode.dtype, and with decode.shortlist: linear maps, the search at beam 5, the loss in BLEU.

The reference is the same model with PyTorch's own linear maps in fp32.

- Linear maps by themselves, of Transformer-base, by the number of rows: those of decode.backend=eager and native, and
  int8 with one scale for all rows (PyTorch's `linear_dynamic`), with which a sentence's hypotheses depend on the others
  of its batch.
- Decoding with random weights, small (3+3 layers, d256, 8,000 symbols) and base (6+6, d512, 32,000), so many
  sentences side by side; hypotheses have 0.9 x source + 1 tokens, so that all do the same work.
- Decoding the validation text with a trained model, without and with a shortlist learned from the training text: BLEU,
  and how many hypotheses are those of the reference. The model is small and trained here for some minutes, unless
  --checkpoint=runs/m30k names another.
"""

import time
from dataclasses import replace
from functools import partial

import torch
from corpus import Corpus
from measure import Paired, Row, Work, interleaved
from torch import nn
from trainers import spread

from s2s import scoring
from s2s.backends import prepacked
from s2s.backends.native import NativeLinear
from s2s.checkpoint.loading import load_model
from s2s.config.compose import compose
from s2s.data.spec import Spec, TokenSource
from s2s.data.store import Store
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.decoding.shortlist import Shortlist
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.tasks.translation import TranslationTask
from s2s.training.run import train
from s2s_cli.shortlist import ShortlistCommand
from s2s_cli.train import TrainCommand

REFERENCE = "the same model, plain linear maps in fp32"
SHAPES = ((512, 512), (512, 2048), (2048, 512), (512, 32000))  # inputs x outputs
ROWS = (1, 5, 40, 320)
MODELS = (("transformer_small", 8000), ("transformer_base", 32000))
SENTENCES = {1: 8, 8: 24, 64: 96}  # decoded in a round, by how many at a time
FORCED = {"min_length_a": 0.9, "max_length_a": 0.9, "min_length_b": 1, "max_length_b": 1}


def run(corpus: Corpus, device: str, quick: bool, checkpoint: str | None = None) -> list[Row]:
    """Linear maps (on a CPU), speed of the search, quality."""
    types = [dtype for dtype in ("fp32", "bf16", "fp16", "int8") if _computes(dtype, device)]
    rows = _products(types, quick) if device == "cpu" else []
    return rows + _speeds(corpus, types, device, quick) + _quality(corpus, types, device, quick, checkpoint)


def _computes(dtype: str, device: str) -> bool:
    try:
        prepacked.check(dtype, device)
    except UserError:
        return False
    return True


def _products(types: list[str], quick: bool) -> list[Row]:
    """Rates of linear maps by themselves."""
    found = []
    for inputs, outputs in SHAPES[:1] if quick else SHAPES:
        linear = nn.Linear(inputs, outputs).requires_grad_(False)
        maps = {dtype: prepacked.LINEAR[dtype](linear) for dtype in types}
        maps |= {f"{dtype}, native": NativeLinear(linear, int8=dtype == "int8") for dtype in types if dtype != "bf16"}
        if "int8" in maps:
            maps["int8, one scale"] = _one_scale(linear)
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            operations = 2e-9 * rows * inputs * outputs
            times = 1 if quick else int(0.2 / operations) + 1
            works = [partial(_repeat, one, x, times) for one in (linear, *maps.values())]
            with torch.inference_mode():
                plain, *speeds = interleaved(works, 1 if quick else 9)
            for name, speed in zip(maps, speeds, strict=True):
                case = f"{inputs} x {outputs}, {rows} rows, {name}"
                found.append(Paired(speed, plain).row(case, "GFLOP/s", operations))
    return found


def _repeat(linear: nn.Module, x: torch.Tensor, times: int, number: int) -> int:
    for _ in range(times):
        linear(x)
    return times


def _one_scale(linear: nn.Linear):
    """int8 as PyTorch has it: weights with a scale for each output, inputs with one for all rows."""
    int8 = prepacked.Int8Linear(nn.Linear(linear.in_features, linear.out_features))
    return lambda x: torch.ops.quantized.linear_dynamic(x, int8.fbgemm, not int8.vnni)


def _speeds(corpus: Corpus, types: list[str], device: str, quick: bool) -> list[Row]:
    """Speed of the search with random weights."""
    store = Store(corpus.store)
    task = TranslationTask.setup(store)
    valid = store.split("valid")
    sources = (valid.row("source.tokens", i).tolist() for i in range(len(valid)))
    sources = sorted(filter(None, sources), key=len)
    rows = []
    for preset, symbols in (("transformer_tiny", 8000),) if quick else MODELS:
        torch.manual_seed(1)
        config = compose(TrainCommand, [("model", preset)]).model
        model = Transformer(config, Spec((TokenSource(symbols),), symbols, shared=True)).to(device).eval()
        for slots, sentences in ((8, 8),) if quick else SENTENCES.items():
            chosen = spread(sources, sentences, 0, 1)
            generators = _generators(model, types, task, DecodeConfig(slots=slots, **FORCED))
            works: list[Work] = [partial(_decode, generator, chosen) for generator in generators.values()]
            synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
            plain, *speeds = interleaved(works, 1 if quick else 5, synchronize)
            for dtype, speed in zip(types, speeds, strict=True):
                case = f"{preset.removeprefix('transformer_')}, {slots} at a time, {dtype}"
                rows.append(Paired(speed, plain).row(case, "sentences/s"))
    return rows


def shortlist_of(corpus: Corpus, task) -> Shortlist | None:
    """Learned from the training text, if its tokenizers are the task's."""
    store = Store(corpus.store)
    if difference := task.fits(store):
        print(f"no shortlist: the checkpoint is of another tokenizer: {difference}", flush=True)
        return None
    options = ShortlistCommand()
    began = time.perf_counter()
    shortlist = Shortlist.learn(store, "train", options.candidates, options.frequent, options.iterations, options.pairs)
    print(f"learned a shortlist in {time.perf_counter() - began:.1f} s", flush=True)
    return shortlist


def _generators(
    model: nn.Module, types: list[str], task, config: DecodeConfig, shortlist: Shortlist | None = None
) -> dict[str, Generator]:
    """One with the model as it is, and one for each type."""

    def make(dtype: str, backend: str = "auto", **options) -> Generator:
        return Generator([model], replace(config, dtype=dtype, backend=backend), Sides.of(task), **options)

    plain = make("fp32", "eager")
    plain.setting.scorer.model = model
    found = {"plain": plain} | {dtype: make(dtype) for dtype in types}
    if not shortlist:
        return found
    return found | {f"{dtype}, shortlist": make(dtype, loaded={"shortlist": shortlist}) for dtype in types}


def _decode(generator: Generator, sources: list[list[int]], number: int) -> int:
    return len(list(generator.generate(sources)))


def _quality(corpus: Corpus, types: list[str], device: str, quick: bool, checkpoint: str | None) -> list[Row]:
    """BLEU of the validation text."""
    name = "a model trained for minutes" if checkpoint is None else "the checkpoint"
    model, task, _ = load_model(checkpoint or trained_briefly(corpus, device, quick), device)
    valid = Store(corpus.store).split("valid")
    count = 20 if quick else len(valid)
    sources, references = task.encode(valid.lines("source.text")[:count]), valid.lines("target.text")[:count]
    found, rows = {}, []
    for dtype, generator in _generators(model, types, task, DecodeConfig(), shortlist_of(corpus, task)).items():
        began = time.perf_counter()
        lines = [task.text(n_best[0].ids, None) for n_best in generator.generate(sources)]
        speed = count / (time.perf_counter() - began)
        found[dtype] = lines, speed, scoring.score("bleu", lines, [references])
        print(f"{name}, {dtype}: {found[dtype][2]}", flush=True)
    plain_lines, plain_speed, plain_bleu = found.pop("plain")
    for dtype, (lines, speed, bleu) in found.items():
        case = f"{name}, {dtype}"
        same = sum(map(str.__eq__, lines, plain_lines))
        rows += [
            Row(case, f"BLEU|{bleu.signature}", bleu.value, plain_bleu.value),
            Row(case, "the reference's hypotheses, %", 100 * same / count),
            Row(case, "sentences/s", speed, plain_speed, speed / plain_speed),
        ]
    return rows


def trained_briefly(corpus: Corpus, device: str, quick: bool) -> str:
    """The folder of a run of 2+2 layers, d128, some minutes long."""
    run = corpus.store.with_name("run")
    options = {
        "store": f"[{corpus.store}]", "run": run, "device": device, "model": "transformer_tiny", "optim.lr": 3e-3,
        "optim.warmup_updates": 100, "data.batch_tokens": 2048, "train.samples": 0, "train.log_updates": 1000,
        "train.max_updates": 10 if quick else 600,
    }  # fmt: skip
    train(compose(TrainCommand, [(key, str(value)) for key, value in options.items()]))
    return str(run)
