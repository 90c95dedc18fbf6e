"""Ways to decode the same sentences with the same weights, which `decoding.py` measures side by side.

Each is made for a setting, which costs what it costs, and then decodes jobs. A contender with options that change its
speed gets the ones that are fastest for the case.
"""

import dataclasses
import multiprocessing
import os
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from plain_search import plain_search
from plain_transformer import PlainTransformer
from torch import nn

from s2s.backends.native import NativeLinear
from s2s.config import cores
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.decoding.shortlist import Shortlist
from s2s.decoding.translator import Translator
from s2s.interop import ctranslate2 as export
from s2s.models.transformer import Transformer
from s2s.nn.positions import sinusoidal
from s2s.tasks.translation import TranslationTask
from s2s.text.sentencepiece import SentencePieceTokenizer
from s2s.text.vocabulary import BOS, EOS, PAD

Ids = list[int]
POSITIONS = 1024  # of the tables of others


@dataclasses.dataclass
class Job:
    """Sentences that are handed over at once.

    Attributes:
        sources: Ids of each, without EOS, in falling order of length.
        length: Tokens of every hypothesis, its last one counted; None: the model decides.
        lines: Text to text: the sentences as lines, in any order, in place of `sources`.
    """

    sources: list[Ids]
    length: int | None = None
    lines: list[str] | None = None

    def __len__(self) -> int:
        return len(self.sources if self.lines is None else self.lines)


@dataclasses.dataclass
class Setting:
    """What is decoded with, and how.

    Attributes:
        batch: Sentences side by side; None: each contender batches as it does best.
        shortlist: For decode.shortlist, where there is one.
        threads: Of each contender.
    """

    model: Transformer
    task: TranslationTask
    device: str
    beam_size: int
    batch: int | None
    shortlist: Shortlist | None = None
    threads: int = 1


Decode = Callable[[list[Job]], list]  # the best hypothesis of each sentence: ids without EOS, or a line


class Ours:
    """s2s, with as many slots as the batch has sentences; where lengths are free, freed slots are refilled.

    Args:
        setting: What is decoded with.
        short: With the shortlist.
        options: Of DecodeConfig.
    """

    def __init__(self, setting: Setting, short: bool = False, **options):
        config = DecodeConfig(beam_size=setting.beam_size, slots=setting.batch, **options)
        self.generator = Generator([setting.model], config, Sides.of(setting.task),
                                   loaded={"shortlist": setting.shortlist} if short else None)  # fmt: skip
        self.config = self.generator.config
        self.options = {"beam_size": setting.beam_size, "slots": setting.batch, **options}
        self.translator = partial(Translator, [setting.model], setting.task)
        self.made: Translator | None = None

    def __call__(self, jobs: list[Job]) -> list:
        found: list = []
        for job in jobs:
            if job.lines is not None:
                self.made = self.made or self.translator()
                found += self.made.translate(job.lines, **self.options)
                continue
            bounds = (2.0, 1, 50) if job.length is None else (0.0, job.length - 1, job.length - 1)
            self.config.max_length_a, self.config.min_length_b, self.config.max_length_b = bounds
            found += [n_best[0].ids for n_best in self.generator.generate(job.sources)]
        return found


def fairseq(setting: Setting) -> Decode:
    """The reference in this folder."""
    plain = PlainTransformer(setting.model).to(setting.device).eval()

    def decode(jobs: list[Job]) -> list[Ids]:
        found = []
        for batch, length in _batches(jobs, setting.batch):
            bounds = [(1, 2 * len(ids) + 50) if length is None else (length - 1, length - 1) for ids in batch]
            source = setting.task.collate_sources(batch, setting.device).sources[0].values
            found += [ids for ids, _ in plain_search(plain, source, bounds, setting.beam_size)]
        return found

    return decode


def ctranslate2(setting: Setting, compute_type: str, threads: str = "1 x 1", batch: str = "") -> Decode:
    """CTranslate2 by its own means: it sorts and batches, and a finished sentence leaves its batch.

    Args:
        setting: What is decoded with.
        compute_type: As in CTranslate2.
        threads: Batches side by side x threads of each.
        batch: Size and unit of a batch, such as "1024 tokens"; nothing: the sentences of the setting.
    """
    from ctranslate2 import Translator

    inter, intra = map(int, threads.split(" x "))
    with tempfile.TemporaryDirectory() as folder:
        export.write(setting.model, setting.task, Path(folder) / "model")
        translator = Translator(f"{folder}/model", setting.device, compute_type=compute_type, inter_threads=inter,
                                intra_threads=intra)  # fmt: skip
    source, target = setting.task.source_tokenizer.vocabulary, setting.task.target_tokenizer.vocabulary
    size, unit = batch.split() if batch else (setting.batch, "examples")
    options = {"beam_size": setting.beam_size, "max_batch_size": int(size), "batch_type": unit, "max_input_length": 0}
    split, join = _own_pieces(setting.task)

    def decode(jobs: list[Job]) -> list:
        found: list = []
        for job in jobs:
            if job.lines is not None:
                results = translator.translate_batch(list(map(split, job.lines)), **options)
                found += [join(result.hypotheses[0]) for result in results]
                continue
            bounds = {} if job.length is None else {f"{m}_decoding_length": job.length for m in ("min", "max")}
            inputs = [[source.symbols[i] for i in ids] for ids in job.sources]
            results = translator.translate_batch(inputs, **options, **bounds)
            found += [[target.index(symbol) for symbol in result.hypotheses[0]] for result in results]
        return found

    return decode


def _own_pieces(task: TranslationTask) -> tuple[Callable[[str], list[str]], Callable[[list[str]], str]]:
    """How a user of CTranslate2 splits a line and joins pieces: by SentencePiece itself; other tokenizers are ours."""
    source, target = task.source_tokenizer, task.target_tokenizer
    if type(source) is type(target) is SentencePieceTokenizer:
        import sentencepiece

        reading, writing = (sentencepiece.SentencePieceProcessor(model_proto=one.model) for one in (source, target))
        return partial(reading.encode, out_type=str), writing.decode
    symbols, index = source.vocabulary.symbols, target.vocabulary.index
    return (
        lambda line: [symbols[i] for i in source.encode(line)],
        lambda pieces: target.decode(list(map(index, pieces))),
    )


def huggingface(setting: Setting, dtype: torch.dtype = torch.float32) -> Decode:
    """`generate` of Hugging Face's M2M100, which is the same Transformer."""
    model = m2m100(setting.model).to(setting.device, dtype)
    options = {"num_beams": setting.beam_size, "do_sample": False, "early_stopping": True, "length_penalty": 1.0}

    @torch.no_grad()
    def decode(jobs: list[Job]) -> list[Ids]:
        found = []
        for batch, length in _batches(jobs, setting.batch):
            source = setting.task.collate_sources(batch, setting.device).sources[0].values
            least, most = (1, 2 * source.size(1) + 50) if length is None else (length, length)
            output = model.generate(source, attention_mask=source.ne(PAD).long(), min_new_tokens=least,
                                    max_new_tokens=most, **options)  # fmt: skip
            found += [_before_end(row) for row in output[:, 1:].tolist()]
        return found

    return decode


def _batches(jobs: list[Job], size: int):
    """Batches of sentences, each with its length."""
    for job in jobs:
        for first in range(0, len(job), size):
            yield job.sources[first : first + size], job.length


def _before_end(ids: Ids) -> Ids:
    return ids[: ids.index(EOS)] if EOS in ids else ids


def m2m100(ours: Transformer) -> nn.Module:
    """One of ours as Hugging Face's class; the config is that of the presets."""
    from transformers import GenerationConfig, M2M100Config, M2M100ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    encoder, decoder, symbols = ours.config.encoder, ours.config.decoder, ours.target_vocabulary_size
    config = M2M100Config(
        vocab_size=symbols, max_position_embeddings=POSITIONS, d_model=decoder.width,
        encoder_layers=encoder.layers, encoder_ffn_dim=encoder.ffn_width, encoder_attention_heads=encoder.heads,
        decoder_layers=decoder.layers, decoder_ffn_dim=decoder.ffn_width, decoder_attention_heads=decoder.heads,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = M2M100ForConditionalGeneration(config).eval().requires_grad_(False)
    theirs.generation_config = GenerationConfig(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS
    )
    theirs.model.shared.weight.copy_(ours.output.weight.detach())
    for to, layers, norm in ((theirs.model.encoder, ours.encoder.layers, ours.encoder.norm),
                             (theirs.model.decoder, ours.decoder.layers, ours.decoder.norm)):  # fmt: skip
        to.embed_positions.weights[1 : POSITIONS + 1] = sinusoidal(torch.arange(POSITIONS), decoder.width)
        _copy(to.layer_norm, norm)
        for one, layer in zip(to.layers, layers, strict=True):
            attention = one.self_attn
            _copy((attention.q_proj, attention.k_proj, attention.v_proj), layer.attention.qkv)
            _copy(attention.out_proj, layer.attention.output)
            _copy(one.self_attn_layer_norm, layer.attention_norm)
            _copy(one.fc1, layer.feedforward.inner)
            _copy(one.fc2, layer.feedforward.outer)
            _copy(one.final_layer_norm, layer.feedforward_norm)
            if hasattr(layer, "cross"):
                attention = one.encoder_attn
                _copy(attention.q_proj, layer.cross.query)
                _copy((attention.k_proj, attention.v_proj), layer.cross.key_value)
                _copy(attention.out_proj, layer.cross.output)
                _copy(one.encoder_attn_layer_norm, layer.cross_norm)
    return theirs


def _copy(to: nn.Module | tuple[nn.Module, ...], ours: nn.Module) -> None:
    """Weights and biases; of a fused map to its parts."""
    parts = to if isinstance(to, tuple) else (to,)
    for name in ("weight", "bias"):
        for part, share in zip(parts, getattr(ours, name).detach().chunk(len(parts)), strict=True):
            getattr(part, name).copy_(share)


def candidates(name: str, setting: Setting) -> list[dict[str, str]]:
    """Options of a contender, of which the fastest are measured; one set of none where there is nothing to choose.

    Two threads serve CTranslate2 as two batches side by side or inside of one, and either can be far slower. The unit
    of its batches is free where the case does not say how many sentences are side by side.
    """
    if not name.startswith("ctranslate2") or setting.device != "cpu":
        return [{}]
    threads = [f"{setting.threads // within} x {within}" for within in sorted({1, setting.threads})]
    if setting.batch == 1:
        threads = [f"1 x {within}" for within in sorted({1, setting.threads})]
    batches = ["64 examples", "1024 tokens", "2048 tokens"] if setting.batch is None else [f"{setting.batch} examples"]
    return [{"threads": thread, "batch": batch} for thread in threads for batch in batches]


def all_contenders(setting: Setting) -> dict[str, Callable[[Setting], Decode]]:
    """All of them by name. Those that share what follows the dash compute in one type."""
    device = setting.device
    types = {"cpu": {"fp32": "float32", "int8": "int8"}, "cuda": {"fp32": "float32", "fp16": "float16"}}[device]
    found: dict[str, Callable[[Setting], Decode]] = {}
    ours: dict[str, dict] = {"s2s": {}} | ({"s2s eager": {"backend": "eager"}} if device == "cpu" else {})
    if setting.shortlist:
        ours["s2s shortlist"] = {"short": True}
    for name, options in ours.items():
        found |= {f"{name}-{dtype}": partial(Ours, dtype=dtype, **options) for dtype in types}
        if device == "cuda":
            found[f"{name}-bf16"] = partial(Ours, dtype="bf16", **options)
    found |= {f"ctranslate2-{dtype}": partial(ctranslate2, compute_type=theirs) for dtype, theirs in types.items()}
    found["fairseq's scheme-fp32"] = fairseq
    found["huggingface-fp32"] = huggingface
    if device == "cuda":
        found["huggingface-bf16"] = partial(huggingface, dtype=torch.bfloat16)
    return found


@dataclasses.dataclass
class Sample:
    """One measurement.

    Attributes:
        wall: Seconds.
        cpu: Seconds of all threads of the process together.
        pages: Pages of memory that were touched for the first time.
    """

    wall: float
    cpu: float
    pages: int


class Contender:
    """One of `all_contenders`, here in this process.

    Args:
        name: Of it.
    """

    def __init__(self, name: str):
        self.name = name

    def prepare(self, file: Path, beam_size: int, batch: int | None, threads: int, jobs: list[Job]) -> str:
        """Get ready to decode.

        Args:
            file: A Setting, in which the next three are replaced.
            beam_size, batch, threads: As in Setting.
            jobs: By which the fastest of several candidates is chosen.

        Returns:
            The options that were chosen.
        """
        # Our own file of a moment ago, which holds a model and its task.
        setting = torch.load(file, weights_only=False)
        self.setting = dataclasses.replace(setting, beam_size=beam_size, batch=batch, threads=threads)
        make = all_contenders(self.setting)[self.name]
        fastest = float("inf")
        several = candidates(self.name, self.setting)
        for options in several:
            decoder = make(self.setting, **options)
            decoder(jobs)  # the first time costs more
            seconds = timed(decoder, jobs, self.setting.device)[0].wall if len(several) > 1 else 0.0
            if seconds < fastest:
                fastest, self.decoder, chosen = seconds, decoder, options
        return ", ".join(chosen.values())

    def decode(self, jobs: list[Job]) -> tuple[Sample, list]:
        """What it cost, and what was found."""
        return timed(self.decoder, jobs, self.setting.device)

    def floor(self, jobs: list[Job]) -> float:
        """Seconds of the matrix products of s2s alone, each at the best rate of any kernel here.

        Which maps are called on how many rows is seen by decoding without kernels that call them themselves.
        """
        dtype = self.decoder.config.dtype
        seen = Ours(self.setting, dtype=dtype, backend="eager")
        calls: Counter[tuple[nn.Module, torch.Size, int]] = Counter()

        def note(part: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            calls[part, inputs[0].shape, output.size(-1)] += 1

        for part in seen.generator.setting.scorer.model.modules():
            if type(part).__name__.endswith("Linear"):
                part.register_forward_hook(note)
        seen(jobs)
        seconds = 0.0
        for (part, shape, outputs), count in calls.items():
            ways = [part]
            if self.setting.device == "cpu":
                ways.append(NativeLinear(nn.Linear(shape[-1], outputs), int8=dtype == "int8"))
            seconds += count * min(self._fastest(way, shape) for way in ways)
        return seconds

    def _fastest(self, way: nn.Module, shape: torch.Size) -> float:
        kind = next((parameter.dtype for parameter in way.parameters()), torch.float32)
        x = torch.randn(shape, device=self.setting.device, dtype=kind)
        with torch.inference_mode():
            samples = [timed(lambda _: [way(x)], [], self.setting.device)[0] for _ in range(5)]
        # Seconds of the CPU, because wall seconds have the work of others in them.
        return min(sample.cpu if self.setting.threads == 1 else sample.wall for sample in samples)

    def close(self) -> None:
        """No more is asked of it."""


def timed(decode: Decode, jobs: list[Job], device: str) -> tuple[Sample, list]:
    """What decoding cost, and what was found."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    pages, cpu, wall = _pages(), time.process_time(), time.perf_counter()
    found = decode(jobs)
    synchronize()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu, _pages() - pages), found


def _pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Apart:
    """A Contender in a process of its own: where threads of several libraries wait in one process, all are slower.

    Args:
        name: Of it.
        threads: Of the process.
    """

    def __init__(self, name: str, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(name, threads, theirs), daemon=True)
        if name.startswith("s2s"):  # as every command does
            cores.prepare()
        self.process.start()
        os.environ.pop("GOMP_SPINCOUNT", None)

    def __getattr__(self, verb: str) -> Callable:
        def ask(*arguments):
            self.pipe.send((verb, arguments))
            done, result = self.pipe.recv()
            if not done:
                raise RuntimeError(result)
            return result

        return ask


def _serve(name: str, threads: int, pipe) -> None:
    """What happens in that process."""
    # Beside threads of PyTorch CTranslate2's own are four times slower.
    torch.set_num_threads(1 if name.startswith("ctranslate2") else threads)
    contender, verb = Contender(name), ""
    while verb != "close":
        verb, arguments = pipe.recv()
        try:
            pipe.send((True, getattr(contender, verb)(*arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
