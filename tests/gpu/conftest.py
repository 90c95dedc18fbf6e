"""Fixtures of the tests on the stand-in for a GPU: a process for it, and small runs of all kinds."""

import concurrent.futures
import multiprocessing
import shutil
from pathlib import Path

import pytest

from tests.golden import cases
from tests.golden.cases import COMMON, SMALL, Golden
from tests.gpu import work

BASE = ["model=transformer_base", *(f"model.{side}.{key}" for side in ("encoder", "decoder")
                                    for key in ("width=16", "heads=2", "ffn_width=16")), *COMMON]  # fmt: skip
# The terms that learn from texts of models. The numbers that samples are drawn by are the same on every device.
WRITES = [*SMALL, "model.encoder.layers=1", "model.decoder.layers=1", "data.batch_tokens=60", "train.max_updates=2",
          "decode.max_length_a=0", "decode.max_length_b=2"]  # fmt: skip
TRAININGS = {
    **cases.TRAININGS,
    "base": ("text", BASE),
    "base bf16": ("text", [*BASE, "train.precision=bf16"]),
    "deletion": ("text", [*SMALL, "model.encoder=deletion", "model.encoder.gate_layer=1", "criterion=deletion",
                          "criterion.deletion.target=0.5"]),
    "depth": ("text", [*SMALL, "model.encoder=dynamic_depth", "criterion=depth"]),
    "contrastive": ("text", [*SMALL, "model.decoder=some_cross", "model.decoder.cross_layers=[2]",
                             "model.auxiliary_heads=[1]", "criterion=contrastive"]),
    "multilabel": ("text", [*SMALL, "model.output=multilabel", "model.output.rows=200", "model.tie_embeddings=none",
                            "criterion=multilabel"]),
    "auto-encoding": ("text", [*cases.COMMON, "model=red_tiny", "model.decoder.layers=2", "model.encoder.width=32",
                               "model.decoder.width=32", "criterion=source_auto_encoding"]),
    "minimum_risk": ("text", [*WRITES, "criterion=minimum_risk", "criterion.minimum_risk.samples=2",
                              "criterion.minimum_risk.sharpness=0.5", "criterion.minimum_risk.reward=chrf"]),
    "reinforce": ("text", [*WRITES, "criterion=reinforce", "criterion.reinforce.reward=chrf"]),
    "sequence_distillation": ("text", [*WRITES, "criterion=sequence_distillation",
                                       "criterion.sequence_distillation.teachers=[{folder}/text]",
                                       "criterion.sequence_distillation.decode.beam_size=2",
                                       "criterion.sequence_distillation.decode.max_length_b=2"]),
    "back_translation": ("text", [*WRITES, "criterion=back_translation",
                                  "criterion.back_translation.teachers=[{folder}/text]"]),
    "scheduled_sampling": ("text", [*SMALL, "criterion=scheduled_sampling", "criterion.scheduled_sampling.updates=1",
                                    "criterion.scheduled_sampling.decay=linear"]),
    "frozen": ("text", [*SMALL, "train.freeze=[embeddings]", "optim=adamw", "train.clip_norm=0"]),
}  # fmt: skip
for name in ("r_drop", "distillation"):  # R-Drop requires dropout
    TRAININGS[name] = "text", [*TRAININGS[name][1], "model.dropout=0.1"]

# Further options of the trainings: as short as they can be, and without random numbers, which differ between devices.
KEPT = ("train.precision=bf16", "model.dropout=0.1", "train.max_updates=2")  # what a training needs all the same
FEW = ["train.max_updates=3", "train.valid_updates=3", "train.log_updates=3", "model.dropout=0"]


@pytest.fixture(scope="session")
def child():
    """child(function, ...) calls a function of tests.gpu.inside in the process of the stand-in."""
    if not shutil.which("c++"):
        pytest.skip("the stand-in for a GPU needs a C++ compiler")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        yield lambda name, *arguments, **options: pool.submit(work.call, name, *arguments, **options).result()


class Runs(Golden):
    """The trainings of tests/golden/cases.py, with a few updates each.

    Args:
        folder: For stores and runs.
        child: The fixture.
    """

    def __init__(self, folder: Path, child):
        super().__init__(folder)
        self.child = child

    def run(self, name: str) -> Path:
        run = self.folder / name
        if not run.exists():
            self.train(name, run, "cpu")
        return run

    def words(self, name: str, run: Path, *options: str) -> list[str]:
        """The options of a training."""
        store, words = TRAININGS[name]
        return merged([f"store={self.store(store)}", f"run={run}", *self._placed(words), *FEW, "train.precision=fp32",
                       *(word for word in words if word in KEPT), *options])  # fmt: skip

    def train(self, name: str, run: Path, device: str, *options: str):
        """Train a run on a device; returns what `inside.command` does."""
        ended = self.child("command", "train", device, *self.words(name, run, *options))
        assert ended.code == 0, ended.error[-3000:]
        return ended

    def placed(self, words: list[str]) -> list[str]:
        """Words with the stores and runs that they name, made."""
        for run in TRAININGS:
            if f"checkpoint={{folder}}/{run}" in words:
                self.run(run)
        return self._placed(words)

    def generate(self, words: list[str], output: Path, device: str, *options: str):
        """Decode on a device; returns what `inside.command` does."""
        ended = self.child("command", "generate", device, *merged([*self.placed(words), f"output={output}", *options]))
        assert ended.code == 0, ended.error[-3000:]
        return ended


def merged(words: list[str]) -> list[str]:
    """Words of which the last for each key counts, without a device."""
    return [word for key, word in {word.partition("=")[0]: word for word in words}.items() if key != "device"]


@pytest.fixture(scope="session")
def gpu_runs(tmp_path_factory, child) -> Runs:
    return Runs(tmp_path_factory.mktemp("gpu"), child)
