"""Ratios of speed and size: python ratios.py NAME ... [--data FOLDER] [--output FOLDER]

A measurement is ratios/NAME.yaml: several sides, which differ by options, do the same work under several cases. The
first side is the baseline. In each of five rounds all sides work in turn, in one process with one thread, and their CPU
seconds are compared; so what else the machine does hits all alike. If the slowest round of a side takes more than 1.5
times as long as its fastest, the case is measured again, three times at most; after that it is marked as noise. Models
have random weights and write outputs of a given length, unless the measurement names data: then each side is trained
and scored first, as run.py does, and works on sources of the test split. The figures go to results/ratios/NAME.json,
from which docs/methods.md takes a table (python docs/make_methods.py).
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import yaml
from run import Comparison, folder_of, run
from torch.nn.functional import cross_entropy

from s2s import __version__, registry
from s2s.checkpoint.loading import load_model
from s2s.config.compose import compose
from s2s.data.batch import Inputs, Source
from s2s.data.spec import FeatureSource, Spec, TokenSource
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError
from s2s.text.vocabulary import BOS, EOS, PAD, SPECIALS
from s2s_cli.train import TrainCommand

HERE = Path(__file__).parent
FEATURES = 80  # of a frame
SECONDS = 0.2  # least time of a round
NOISE, TRIES = 1.5, 3


@dataclasses.dataclass
class Case:
    """What all sides do.

    Attributes:
        batch: Sentences side by side.
        beam: Hypotheses of each sentence.
        source: Length of a source, in tokens or frames; with `spread`, the median.
        spread: Standard deviation of the logarithm of source lengths.
        target: Length of a target, in tokens; for a step, its position.
    """

    batch: int = 1
    beam: int = 1
    source: int = 32
    spread: float = 0.0
    target: int = 16


@dataclasses.dataclass
class Measurement:
    """A file of ratios/; options are KEY=VALUE words of s2s-preprocess, s2s-train (`model.*` ...) and `decode.*`.

    Attributes:
        title: What is compared.
        claim: What the paper claims.
        reached: What the figures say about it.
        work: update (of training, with cross-entropy and Adam), encode, step (of the decoder) or decode.
        sides: Name -> options; the first is the baseline.
        cases: Each is the fields of a Case.
        common: Options of all sides.
        symbols: Size of the vocabulary that source and target share, for random weights.
        data, metric, updates: As of a Comparison, for trained sides.
    """

    title: str
    claim: str
    reached: str
    work: str
    sides: dict[str, str]
    cases: list[dict]
    common: str = ""
    symbols: int = 8000
    data: str = ""
    metric: str = ""
    updates: int = 0

    @classmethod
    def read(cls, name: str) -> "Measurement":
        """Raises ValueError: no such file, or a field that is missing or unknown."""
        file = HERE / "ratios" / f"{name}.yaml"
        if not file.is_file():
            names = sorted(path.stem for path in file.parent.glob("*.yaml"))
            raise ValueError(f"no measurement is called {name}; there are {', '.join(names)}")
        try:
            measurement = cls(**yaml.safe_load(file.read_text(encoding="utf-8")))
            [Case(**case) for case in measurement.cases]
        except TypeError as error:
            raise ValueError(f"{file}: {error}") from error
        if measurement.work not in WORKS:
            raise ValueError(f"{file}: work is one of {', '.join(WORKS)}, not {measurement.work}")
        return measurement

    def words(self, side: str) -> tuple[list[str], list[str]]:
        """The options of a side: those of the model (and of training), and those of decoding."""
        words = f"{self.common} {self.sides[side] or ''}".split()
        return [word for word in words if not word.startswith("decode.")], [
            word.removeprefix("decode.") for word in words if word.startswith("decode.")
        ]


class Side:
    """A side under a case: a model and its input.

    Args:
        measurement: The measurement.
        side: Name of the side.
        case: The case.
        trained: Checkpoint, and file of test pairs; None: the weights are random.
    """

    def __init__(self, measurement: Measurement, side: str, case: Case, trained: tuple[Path, Path] | None = None):
        torch.manual_seed(1)
        words, decode = measurement.words(side)
        self.case, self.symbols = case, measurement.symbols
        if trained:
            self.model, task, _ = load_model(str(trained[0]), "cpu")
            lines = trained[1].read_text(encoding="utf-8").splitlines()[: case.batch]
            sides, self.sources = Sides.of(task), task.encode([line.split("\t")[0] for line in lines])
        else:
            config = compose(TrainCommand, [tuple(word.split("=", 1)) for word in words]).model
            speech = config.frontend.type == "subsampling"
            source = FeatureSource(FEATURES) if speech else TokenSource(self.symbols, (4,))
            self.model = registry.find("model", config.type)(config, Spec((source,), self.symbols, not speech)).eval()
            sides, self.sources = Sides(_collate, seconds=0.01 if speech else None), self._drawn(speech)
        length = {"min_length_b": case.target, "max_length_a": 0, "max_length_b": case.target}
        if not self.model.has_decoder:
            length = {}
        options = length | {"beam_size": case.beam, "slots": case.batch, "batch_tokens": 10**8, "max_source": 10**6}
        written = [(key, str(value)) for key, value in options.items()] + [tuple(w.split("=", 1)) for w in decode]
        self.generator = Generator([self.model], compose(DecodeConfig, written), sides)
        self.inputs = sides.collate(self.sources, "cpu")
        self.bytes: int | None = None

    def _drawn(self, speech: bool) -> list:
        """Random sources, the same for all sides."""
        rng = torch.Generator().manual_seed(1)
        factors = (self.case.spread * torch.randn(self.case.batch, generator=rng)).exp()
        lengths = (self.case.source * factors).round().clamp(min=1).int().tolist()
        if speech:
            return [torch.randn(length, FEATURES, generator=rng).numpy() for length in lengths]
        return [torch.randint(len(SPECIALS), self.symbols, (n - 1,), generator=rng).tolist() for n in lengths]

    def update(self) -> Callable[[], object]:
        """The work of an update of training."""
        target = torch.randint(len(SPECIALS), self.symbols, (self.case.batch, self.case.target))
        shown = torch.nn.functional.pad(target[:, :-1], (1, 0), value=BOS)
        optimizer = torch.optim.Adam(self.model.train().parameters(), lr=1e-4)

        def work() -> None:
            memory = self.model.encode(*self.inputs)
            cross_entropy(self.model.decode(memory, shown).logits().flatten(0, 1), target.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()

        return work

    def encode(self) -> Callable[[], object]:
        """The work of encoding the sources."""
        return torch.inference_mode()(lambda: self.generator.model.encode(*self.inputs))

    @torch.inference_mode()
    def step(self) -> Callable[[], object]:
        """The work of a step of the decoder, always at the same position."""
        model, rows = self.generator.model, self.case.batch * self.case.beam
        state = model.start(model.encode(*self.inputs), self.case.beam)
        tokens, one = torch.full((rows,), len(SPECIALS)), torch.ones(self.case.batch, dtype=torch.int64)
        for _ in range(self.case.target):
            model.step(tokens, state)
        self.bytes = state.nbytes

        def work() -> None:
            state.rewind(one)
            model.step(tokens, state)

        return torch.inference_mode()(work)

    def decode(self) -> Callable[[], object]:
        """The work of decoding all sentences."""
        return lambda: list(self.generator.generate(self.sources))

    @torch.inference_mode()
    def shares(self) -> dict[str, float]:
        """Positions of the memory for a token or frame of the source; computed blocks of dynamic_depth."""
        memory = self.model.eval().encode(*self.inputs)
        shares = {"positions": float(memory.lengths.sum() / self.inputs.sources[0].lengths.sum())}
        if "computed" in memory.auxiliary:
            shares["computed"] = float(memory.auxiliary["computed"].mean())
        return {name: round(share, 3) for name, share in shares.items()}


WORKS = ("update", "encode", "step", "decode")


def _collate(sources: list, device: torch.device | str = "cpu") -> Inputs:
    """A batch of token ids, to which EOS is added, or of frames."""
    rows = [torch.tensor([*x, EOS]) if isinstance(x, list) else torch.from_numpy(x) for x in sources]
    values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    return Inputs((Source(values, torch.tensor([len(row) for row in rows])).to(device),))


def rounds_of(works: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """CPU seconds of each work in each round, measured in turn after an unmeasured round."""

    def seconds(work: Callable[[], object], times: int) -> float:
        began = time.process_time()
        for _ in range(times):
            work()
        return (time.process_time() - began) / times

    times = []
    for work in works:
        seconds(work, 1)
        times.append(max(1, round(SECONDS / max(seconds(work, 1), 1e-6))))
    measured = [[seconds(work, n) for work, n in zip(works, times, strict=True)] for _ in range(rounds)]
    return list(map(list, zip(*measured, strict=True)))


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def cells(measurement: Measurement, options: dict, rounds: int, trained: dict[str, dict]) -> list[dict]:
    """Measure a case, whose options are given: a cell for each side."""
    case, label = Case(**options), ", ".join(f"{key} {value}" for key, value in options.items())
    paths = {name: figures.pop("paths") for name, figures in trained.items()} if trained else {}
    sides = {name: Side(measurement, name, case, paths.get(name)) for name in measurement.sides}
    sizes = {name: side.shares() for name, side in sides.items()}
    works = [getattr(side, measurement.work)() for side in sides.values()]
    for _ in range(TRIES):
        seconds = rounds_of(works, rounds)
        noise = [max(each) > NOISE * min(each) for each in seconds]
        if not any(noise):
            break
    made = []
    for (name, side), own, noisy in zip(sides.items(), seconds, noise, strict=True):
        ratios = [a / b for a, b in zip(own, seconds[0], strict=True)]
        marked = noisy or noise[0]
        cell = {"case": label, "side": name, "noise": marked,
                "seconds": [rounded(each) for each in (min(own), statistics.median(own), max(own))],
                "ratio": None if marked else rounded(statistics.median(ratios)),
                "ratio_range": None if marked else [rounded(min(ratios)), rounded(max(ratios))],
                "parameters": sum(p.numel() for p in side.model.parameters()), "bytes": side.bytes}  # fmt: skip
        made.append(cell | sizes[name] | trained.get(name, {}))
        print(f"{label}: {name}: " + ("noise" if marked else f"{cell['ratio']:.2f} of the baseline's time"), flush=True)
    return made


def train(measurement: Measurement, output: Path, published: Path | None) -> dict[str, dict]:
    """Train and score each side with seed 1, or take what is there; empty: the measurement names no data."""
    trained = {}
    for side, options in measurement.sides.items() if measurement.data else ():
        comparison = Comparison(measurement.title, measurement.data, measurement.metric, measurement.updates, "",
                                measurement.common, options)  # fmt: skip
        figures = run(comparison, "baseline", 1, output, published)
        folder = folder_of(comparison, "baseline", 1, output) / "run"
        paths = folder, output / "data" / measurement.data / "test.tsv"
        trained[side] = {"score": figures["score"], "signature": figures["signature"], "paths": paths}
    return trained


def main() -> None:
    """Run the measurements that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="measurements")
    parser.add_argument("--data", type=Path, help="folder of the published data sets")
    parser.add_argument("--output", type=Path, default=Path("outputs/methods"), help="runs, as those of run.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "ratios", help="folder of the JSON files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        for name, measurement in {name: Measurement.read(name) for name in options.names}.items():
            report = {key: getattr(measurement, key) for key in ("work", "data", "metric", "updates")}
            report |= {"rounds": options.rounds, "cells": []}
            for case in measurement.cases:
                trained = train(measurement, options.output, options.data)
                report["cells"] += cells(measurement, case, options.rounds, trained)
            report["machine"] = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
            report["version"] = __version__
            options.results.mkdir(parents=True, exist_ok=True)
            (options.results / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except (ValueError, RuntimeError, UserError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
