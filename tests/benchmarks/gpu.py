"""What the project does on a GPU, in about ten minutes: python tests/benchmarks/gpu.py [--quick] [--output=FILE.json]

Each section prints its figures as it goes, and a section that fails is reported and does not stop the others:

- attention: milliseconds of a forward and a backward pass by backend, shape and mask; the backend that torch chooses;
  and how long the first call at a new shape takes, which is long where a backend plans for each shape.
- updates: milliseconds of an update of base and big, and the share of the GPU's rate of products (MFU). A host that
  waits for the device is an error.
- steps: milliseconds of a step of base in beam search, with 128 sentences of 5 rows; a host that waits is an error.
- half: hypotheses in bf16 and fp16 that are those of fp32, and the mean difference of scores.
- resume: whether a run that was stopped ends with the same bits, with and without train.deterministic=true.
- others: target tokens/s of base at 128 x 5 beside CTranslate2 and Hugging Face.

With --quick all shapes are tiny: the figures mean nothing.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from contenders import Job, Ours, all_contenders, timed
from contenders import Setting as Decoding
from corpus import Corpus, prepare
from decoding import _random
from quantization import trained_briefly
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from trainers import Ours as Training
from trainers import Setting

from s2s.checkpoint.loading import load_model
from s2s.config.compose import compose
from s2s.data.store import Store
from s2s.decoding import engine
from s2s.device import choose_device
from s2s.training.profile import training_flops
from s2s.training.run import train
from s2s_cli.train import TrainCommand

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}  # fmt: skip
# Sentences, heads, queries, keys, head width: an encoder, a decoder's step, and long rows.
SHAPES = [(256, 8, 32, 32, 64), (64, 16, 128, 128, 64), (640, 8, 1, 64, 64), (8, 16, 1024, 1024, 64)]
TINY = [(2, 2, 8, 8, 8), (4, 2, 1, 8, 8)]
DEVICE = "cuda"


def milliseconds(work: Callable[[], Any], times: int) -> list[float]:
    """Of each of several calls, the first one included."""
    found = []
    for _ in range(times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(1000 * (time.perf_counter() - began))
    return found


@contextlib.contextmanager
def without_waits() -> Iterator[None]:
    """Where the host waits for the device, an error is raised."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def attention(corpus: Corpus, quick: bool) -> dict:
    """By backend, shape and mask: milliseconds of the first call, and the median of later ones."""
    rows = {}
    for shape in TINY if quick else SHAPES:
        B, H, T, S, d = shape
        q, k, v = (torch.randn(B, H, n, d, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for n in (T, S, S))
        lengths = torch.arange(1, B + 1, device=DEVICE).remainder(S) + 1
        keys = (torch.arange(S, device=DEVICE) < lengths[:, None])[:, None, None].expand(B, 1, T, S)
        masks = {"no mask": None, "mask": torch.zeros_like(keys, dtype=q.dtype).masked_fill(~keys, float("-inf"))}
        for name, mask in masks.items():
            for backend, kind in (*BACKENDS.items(), ("as chosen", None)):

                def work(mask=mask, kind=kind, q=q, k=k, v=v) -> None:
                    with sdpa_kernel(kind) if kind is not None else contextlib.nullcontext():
                        scaled_dot_product_attention(q, k, v, mask).sum().backward()

                case = f"{'x'.join(map(str, shape))}, {name}, {backend}"
                try:
                    first, *later = milliseconds(work, 3 if quick else 20)
                except RuntimeError as error:  # not every backend takes every mask
                    rows[case] = str(error).splitlines()[0][:80]
                else:
                    rows[case] = {"first ms": first, "ms": statistics.median(later)}
    return rows


def updates(corpus: Corpus, quick: bool) -> dict:
    """By model and batch: milliseconds of an update, and the share of a large product's rate."""
    rows = {}
    size = 64 if quick else 8192
    a = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    peak = 2 * size**3 / (min(milliseconds(lambda: a @ a, 20)) / 1000)
    rows["TFLOP/s of a large product in bf16"] = peak / 1e12
    cases = [("transformer_tiny", 500)] if quick else [("transformer_base", 8_000), ("transformer_base", 64_000),
                                                       ("transformer_big", 32_000)]  # fmt: skip
    for preset, budget in cases:
        setting = Setting(corpus.store, preset, None if quick else 32_000, budget, "bf16", DEVICE)
        training = Training(setting)
        batches = [setting.dataset.collate(examples, None, None) for examples in training.plan.batches[:12]]
        for batch in batches:  # not measured
            training.update(batch)

        def run(batches=batches, trainer=training.trainer) -> None:
            with without_waits():
                for batch in batches:
                    trainer._update([batch])

        (took,) = milliseconds(run, 1)
        training.trainer._settle()
        flops = sum(training_flops(training.trainer.model, batch) for batch in batches)
        rows[f"{preset}, {budget} tokens"] = {"ms": took / len(batches), "MFU": flops / (took / 1000) / peak}
    return rows


def steps(corpus: Corpus, quick: bool) -> dict:
    """Milliseconds of a step, with the host's own and without waiting."""
    setting, jobs = decoding_setting(quick)
    plain, seconds = engine._Run.step, []

    def step(run) -> None:
        with without_waits() if run.clock else contextlib.nullcontext():  # the first step makes the state
            began = time.perf_counter()
            plain(run)
            seconds.append(1000 * (time.perf_counter() - began))

    decode = Ours(setting)
    timed(decode, jobs, DEVICE)
    with mock.patch.object(engine._Run, "step", step):
        whole = timed(decode, jobs, DEVICE)[0].wall
    return {"ms of the host": statistics.median(seconds), "ms in all": 1000 * whole / len(seconds),
            "steps": len(seconds)}  # fmt: skip


def half(corpus: Corpus, quick: bool) -> dict:
    """The share of equal hypotheses, and the mean difference of scores."""
    model, task, _ = load_model(trained_briefly(corpus, DEVICE, quick), torch.device(DEVICE))
    from s2s.decoding.config import DecodeConfig
    from s2s.decoding.generator import Generator
    from s2s.decoding.setting import Sides

    sources = task.encode(Store(corpus.store).split("valid").lines("source.text"))[: 4 if quick else 1000]
    found = {}
    for dtype in ("fp32", "bf16", "fp16"):
        generator = Generator([model], DecodeConfig(dtype=dtype, max_length_a=1.5, max_length_b=5), Sides.of(task))
        found[dtype] = [n_best[0] for n_best in generator.generate(sources)]
    rows = {}
    for dtype in ("bf16", "fp16"):
        pairs = list(zip(found[dtype], found["fp32"], strict=True))
        equal = statistics.mean(one.ids == other.ids for one, other in pairs)
        apart = statistics.mean(abs(one.score - other.score) for one, other in pairs)
        rows[dtype] = {"equal, %": 100 * equal, "difference of scores": apart}
    return rows


def resume(corpus: Corpus, quick: bool) -> dict:
    """Whether the weights of a run in two pieces are those of a run in one."""
    from safetensors.torch import load_file

    rows = {}
    for option in ("false", "true"):
        weights = []
        first, last = (2, 4) if quick else (9, 20)
        for name, ends in (("whole", (last,)), ("pieces", (first, last))):
            run = corpus.store.with_name(f"{name}-{option}")
            for end in ends:
                words = {"store": f"[{corpus.store}]", "run": run, "device": DEVICE, "model": "transformer_tiny",
                         "data.batch_tokens": 500 if quick else 4000, "train.samples": 0, "train.loggers": "[]",
                         "train.max_updates": end, "train.deterministic": option}  # fmt: skip
                train(compose(TrainCommand, [(key, str(value)) for key, value in words.items()]))
            weights.append(load_file(run / "last" / "model.safetensors"))
        same = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
        rows[f"train.deterministic={option}"] = "same bits" if same else "other bits"
    return rows


def others(corpus: Corpus, quick: bool) -> dict:
    """Target tokens per second, of each of these in turn."""
    setting, jobs = decoding_setting(quick)
    rows = {}
    for name in ("s2s-bf16", "s2s-fp16", "s2s-fp32", "ctranslate2-fp16", "huggingface-bf16"):
        try:
            decode = all_contenders(setting)[name](setting)
            timed(decode, jobs[-1:], DEVICE)
            sample, found = timed(decode, jobs, DEVICE)
        except Exception as error:
            rows[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        else:
            rows[name] = sum(len(ids) + 1 for ids in found) / sample.wall
    return rows


def decoding_setting(quick: bool) -> tuple[Decoding, list[Job]]:
    """Base with random weights, 128 sentences at a time and beam 5; quick: small, and few short sentences."""
    model, task, jobs_of = _random("small" if quick else "base", DEVICE)
    batch = 4 if quick else 128
    jobs = jobs_of(batch if quick else 512, batch)
    jobs = [Job([ids[:6] for ids in job.sources], 5) for job in jobs] if quick else jobs
    return Decoding(model, task, DEVICE, 5, batch), jobs


SECTIONS = {"attention": attention, "updates": updates, "steps": steps, "half": half, "resume": resume,
            "others": others}  # fmt: skip


def main(*words: str) -> dict:
    """Run the sections; returns their figures, or what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that all works")
    parser.add_argument("--output", type=Path, help="JSON file of the figures")
    options = parser.parse_args(words)
    choose_device(DEVICE)
    figures: dict = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "quick": options.quick}
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(Path(folder), options.quick)
        for name in options.sections or SECTIONS:
            print(f"== {name}: {SECTIONS[name].__doc__}", flush=True)
            began = time.perf_counter()
            try:
                figures[name] = SECTIONS[name](corpus, options.quick)
            except Exception:
                traceback.print_exc()
                figures[name] = f"failed: {traceback.format_exc().splitlines()[-1]}"
            print(json.dumps(figures[name], indent=1, default=str))
            print(f"   {time.perf_counter() - began:.0f} s", flush=True)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1, default=str) + "\n", encoding="utf-8")
    return figures


if __name__ == "__main__":
    main(*sys.argv[1:])
