"""Training on the stand-in for a GPU: no device mismatch, the losses of the CPU, and a host that does not wait.

Operators are counted and held as ratchets: who lowers a number lowers it here; who raises it says why.
"""

import json

import pytest

from s2s import registry
from tests.gpu.conftest import TRAININGS
from tests.training.test_resume import same_bits

# Training -> the most operators of an update.
# "base" has 66 linear maps, each with a product and three operators of its gradient, and of 18 attentions, 32 norms, 30
# residual connections and 12 activations one each way: 264 + 36 + 64 + 60 + 24; 18 join the gradients of queries, keys
# and values, and 106 are embeddings, loss and optimizer. "base bf16" has 121 more: what 36 products read is cast from
# fp32, and so are gradients, 67 times, where a residual connection meets a block; all weights are cast by one operator,
# and their gradients by one a layer; the loss has 5. Fewer need kernels that cast what they read or write.
OPERATORS = {"text": 260, "packed": 328, "unpad": 319, "bf16": 309, "joint": 443, "ctc": 344, "lm": 146, "heads": 313,
             "distillation": 681, "r_drop": 588, "stages": 244, "ema": 661, "bytes": 258, "deletion": 309,
             "depth": 345, "contrastive": 310, "multilabel": 232,
             "auto-encoding": 302, "frozen": 252, "minimum_risk": 557, "reinforce": 315,
             "scheduled_sampling": 479, "sequence_distillation": 319, "back_translation": 600,
             "base": 572, "base bf16": 693}  # fmt: skip
# Trainings in which devices differ by more than the order of sums: in half precision, and with random numbers.
ROUGH = ("bf16", "base bf16", "r_drop", "distillation", "deletion")
# Where the host may wait in an update, and how often; elsewhere it does not. The lengths of texts
# that are written in training are read once; what happens while they are written is no part of an update.
WAITS = {
    "unpad": 1,
    "joint": 1,
    "ctc": 1,
    "minimum_risk": 1,
    "reinforce": 1,
    "sequence_distillation": 1,
    "back_translation": 1,
}


def losses(run) -> list[float]:
    """The training and validation losses of a run."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["kind"] in ("train", "valid")]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_has_the_losses_of_the_cpu_and_does_not_wait(gpu_runs, tmp_path, name):
    ended = gpu_runs.train(name, tmp_path / "run", "cuda")
    assert losses(tmp_path / "run") == pytest.approx(losses(gpu_runs.run(name)), rel=1e-2 if name in ROUGH else 1e-5)
    for update in ended.each[1:]:  # the first one also makes the state of the optimizer
        assert sum(update.waits.values()) <= WAITS.get(name, 0), update.waits
        assert update.started <= OPERATORS[name], (update.started, update.operators)
        assert not any(kind.startswith("blocking") for kind in update.copies), update.copies


def test_every_loss_term_is_tried():
    words = " ".join(word for _, words in TRAININGS.values() for word in words)
    assert not [name for name in registry.COMPONENTS["term"] if name not in words]


def test_a_resumed_training_ends_with_the_same_bits(gpu_runs, tmp_path):
    for run, updates in (("whole", 3), ("pieces", 1), ("pieces", 3)):
        gpu_runs.train("text", tmp_path / run, "cuda", f"train.max_updates={updates}", "train.valid_updates=1")
    same_bits(tmp_path / "whole", tmp_path / "pieces")
