"""Calibration: its decisions by themselves, its tries on simulated memory, and a run that shows no trace of it."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2s.config import compose
from s2s.config.documents import read_yaml
from s2s.criterions.criterion import Criterion
from s2s.data.iterator import BatchIterator
from s2s.data.plan import STRATEGIES
from s2s.data.store import Stores
from s2s.errors import Failure, UserError
from s2s.tasks.translation import TranslationTask
from s2s.training import calibrate
from s2s.training.calibrate import Tries, fastest, head_room, largest_that_fits, out_of_memory
from s2s_cli.train import TrainCommand
from tests.training.test_resume import same_bits, words
from tests.training.test_trainer import one_error_line

# --- the decisions ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 10**9))
def test_the_largest_budget_is_found_to_five_percent_in_logarithmically_many_tries(limit, first, ceiling):
    tried = []

    def fits(budget):
        tried.append(budget)
        return budget <= limit

    found, best = largest_that_fits(fits, first, ceiling), min(limit, ceiling)
    assert 0.95 * best <= found <= best
    assert found in tried or found == 1
    assert all(1 <= budget <= ceiling for budget in tried)
    assert len(tried) <= abs(math.log2(best / min(first, ceiling))) + 7


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.randoms(use_true_random=False))
def test_whatever_fits_the_search_ends_with_a_budget_that_did(first, ceiling, random):
    tried = {}

    def fits(budget):
        assert budget not in tried
        tried[budget] = random.random() < 0.5
        return tried[budget]

    found = largest_that_fits(fits, first, ceiling)
    assert found == 1 or tried[found]
    assert len(tried) <= 30


def test_doubles_then_bisects():
    tried = []
    found = largest_that_fits(lambda budget: tried.append(budget) or budget <= 23_000, 4096, 10**9)
    assert tried == [4096, 8192, 16384, 32768, 24576, 20480, 22528, 23552]
    assert found == 22528
    tried.clear()
    assert largest_that_fits(lambda budget: tried.append(budget) or budget <= 600, 4096, 10**9) == 592
    assert tried == [4096, 2048, 1024, 512, 768, 640, 576, 608, 592]


def test_ten_percent_are_kept_off():
    assert [head_room(budget) for budget in (1, 10, 1000, 22528)] == [1, 9, 900, 20275]


@pytest.mark.parametrize(
    ("speeds", "tried", "best"),
    [
        ([100, 150, 180, 170, 160, 500], 5, 4),  # two behind the best end it
        ([100, 150, 140, 180, 170, 160, 500], 6, 8),  # one does not
        ([100, 102, 102, 500], 3, 1),  # a draw goes to the smaller
        ([100, 102, 104, 106, 107], 5, 4),  # but what adds up counts
        ([100, 150, None, 500], 3, 2),
        ([None, 500], 1, None),
        ([100, 150], 2, 2),
    ],
)
def test_the_ladder_goes_up_while_it_gets_faster(speeds, tried, best):
    asked = []

    def speed(budget):
        asked.append(budget)
        return speeds[budget.bit_length() - 1]

    assert fastest(speed, [2**i for i in range(len(speeds))]) == best
    assert len(asked) == tried


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=8))
def test_none_of_the_tried_is_clearly_faster_and_the_smallest_such_is_taken(speeds):
    asked = []
    best = fastest(lambda budget: asked.append(budget) or speeds[budget], range(len(speeds)))
    assert asked == list(range(len(asked)))
    assert all(speeds[budget] <= 1.03 * speeds[best] for budget in asked)
    assert any(speeds[best] > 1.03 * speeds[budget] for budget in range(best)) or best == 0
    assert len(asked) == len(speeds) or len(asked) >= best + 3


@pytest.mark.parametrize(
    ("device", "memory", "speeds", "expected", "why"),
    [
        ("cpu", 0, {1024: 50, 2048: 60, 4096: 55}, 2048, "no other budget tried is more than 3% faster"),
        ("cuda", 10**6, {1024: 50, 2048: 60, 4096: 55}, 2048, "no other budget tried is more than 3% faster"),
        ("cuda", 10**6, {1024: 50, 2048: 60, 4096: 70}, 4096, "told by the ladder"),
        ("cuda", 2500, {1024: 50, 2048: 60, 2188: 70}, 2188, "more does not fit with 10% of headroom"),
        ("cuda", 1000, {892: 50}, 892, "more does not fit with 10% of headroom"),
    ],
)
def test_the_fastest_that_fits_is_taken(monkeypatch, device, memory, speeds, expected, why):
    class Made:
        trainer = SimpleNamespace(device=torch.device(device))
        ladder, limit = [1024, 2048, 4096], "told by the ladder"

        def __init__(self, *_):
            self.first_tries = []

        def longest_alone(self):
            self.first_tries.append("alone")

        def fits(self, budget):
            assert self.first_tries == ["alone"]
            return budget <= memory

        def speed(self, budget):
            return speeds[budget]

    monkeypatch.setattr(calibrate, "Tries", Made)
    config, lines = SimpleNamespace(data=SimpleNamespace(batch_tokens=4096)), []
    assert calibrate.calibrate(config, None, None, None, lines.append) == expected
    assert len(lines) == 1
    assert f"data.batch_tokens={expected}: {why}" in lines[0]


def test_errors_of_memory_are_told_from_others():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)
    assert out_of_memory(error.value)
    wrapped = Failure("update 1: a batch does not fit")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert all(map(out_of_memory, (wrapped, wrapped.__cause__, MemoryError())))
    assert not any(map(out_of_memory, (RuntimeError("size mismatch"), Failure("diverged"), KeyError("out of memory"))))


@pytest.mark.parametrize("told", [
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",  # of torch.AcceleratorError
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "GET was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'",
])  # fmt: skip
def test_so_are_those_of_a_gpu_and_its_libraries(told):
    assert out_of_memory(getattr(torch, "AcceleratorError", RuntimeError)(told))
    assert out_of_memory(RuntimeError(told))


# --- the tries -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tries(store, tmp_path, monkeypatch):
    """tries("data.cost=sum", ...) makes Tries of the made-up corpus; their lines are in `lines`."""
    monkeypatch.setattr(calibrate, "TIMED_SECONDS", 0.01)
    monkeypatch.setattr(calibrate, "EPOCH_UPDATES", 0.1)

    def make(*more):
        pairs = [tuple(word.split("=", 1)) for word in words(store, tmp_path / "run", *more)]
        config = compose.compose(TrainCommand, pairs)
        data = Stores(config.store)
        task = TranslationTask.setup(data)
        lines = []
        made = Tries(config, task, task.dataset(data.split("train")), task.model(config.model), lines.append)
        made.lines = lines
        return made

    return make


def memory_of(batch) -> int:
    """A made-up memory of an update: positions of both sides and all attention weights."""
    rows, source, target = len(batch.target), batch.sources[0].values.size(1), batch.target.size(1)
    return rows * (20 * (source + target) + source * source + source * target + target * target)


@pytest.fixture
def memory(monkeypatch):
    """memory(limit) lets larger updates fail as on a GPU; returns what they needed."""
    plain = Criterion.__call__

    def limit(most):
        needed = []

        def limited(self, model, batch, totals=None):
            needed.append(memory_of(batch))
            if needed[-1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return plain(self, model, batch, totals)

        monkeypatch.setattr(Criterion, "__call__", limited)
        return needed

    return limit


def needs(tries, budget) -> int:
    """The memory of the worst batch of the first window with a budget, found by putting all of them together."""
    worst = 0
    for window, draw, _ in tries._windows(budget):
        plan = window.plan
        for number, batch in enumerate(plan.batches):
            rows = plan.rows and plan.rows[number]
            worst = max(worst, memory_of(tries.dataset.collate(window.examples[batch], rows, draw)))
    return worst


QUICK = [("token_budget", "max"), ("bucket_2d", "max"), ("token_budget", "product")]


@pytest.mark.parametrize(
    ("batching", "cost"),
    [
        pytest.param(batching, cost, marks=[pytest.mark.slow] if (batching, cost) not in QUICK else [])
        for batching in STRATEGIES
        for cost in ("max", "sum", "product", "source", "target")
    ],
)
def test_the_largest_budget_fits_and_little_more_does_not(tries, memory, batching, cost):
    made = tries(f"data.batching={batching}", f"data.cost={cost}", "train.accumulate=2")
    limit = 30_000
    memory(limit)
    made.longest_alone()
    found = largest_that_fits(made.fits, 200, made.ceiling)
    assert needs(made, found) <= limit
    assert needs(made, round(1.3 * found)) > limit
    assert needs(made, made.ceiling) > limit
    assert len(made.lines) < 20
    assert any(line.startswith(f"calibrate | data.batch_tokens {found} | fits: ") for line in made.lines)
    assert any(" | does not fit: " in line for line in made.lines)


def test_a_quadratic_term_and_a_limit_on_sentences_bound_the_search(tries, memory):
    made = tries("data.quadratic=10", "data.batch_sentences=16")
    memory(10**9)
    found = largest_that_fits(made.fits, 200, made.ceiling)
    assert found >= 0.95 * made.ceiling
    longest = max(map(max, next(made._windows(200))[2]))
    assert made.ceiling == math.ceil(16 * (longest + longest**2 / 10))


def test_sizes_are_known_before_a_batch_is_put_together(tries):
    for batching in STRATEGIES:
        made = tries(f"data.batching={batching}", "data.group=3", "data.max_length=7")
        for planned in made._planned(150):
            batch = made.dataset.collate(planned.examples, planned.rows, planned.draw)
            assert planned.shape == (len(batch.target), batch.sources[0].values.size(1), batch.target.size(1))


def test_the_batches_are_those_of_the_run(tries):
    made = tries("data.batching=bucket_2d", "data.word_dropout=0.2")
    run = BatchIterator(made.dataset, made.data, made.config.seed)
    for planned, batch in zip(made._planned(made.data.batch_tokens), run.rest_of_epoch(), strict=True):
        tried = made.dataset.collate(planned.examples, planned.rows, planned.draw)
        assert tried.sources[0].values.equal(batch.sources[0].values)
        assert tried.target.equal(batch.target)


def test_every_stage_is_looked_at(tries, memory):
    made = tries("data.stages=[{epochs:2,max_length:4},{epochs:1}]")
    assert [window.left_out > 0 for window, *_ in made._windows(200)] == [True, False]
    needed = memory(10**9)
    made.fits(400)
    assert max(needed) == needs(made, 400)


def test_a_pair_that_does_not_fit_alone_is_named(tries, memory):
    made = tries()
    memory(300)
    with pytest.raises(Failure, match=r"not even a batch of 1 x 9 source x 9 target positions fits .* data.max_length"):
        made.longest_alone()


def test_pairs_that_are_all_left_out_are_an_error(tries):
    with pytest.raises(UserError, match=r"data\.max_length=1 leaves out every pair"):
        tries("data.max_length=1")


def test_memory_that_runs_out_in_the_optimizer_counts_and_other_errors_do_not(tries, monkeypatch):
    made = tries()

    def step(error):
        def raises():
            raise error

        return raises

    monkeypatch.setattr(made.trainer.optimizer, "step", step(torch.OutOfMemoryError("CUDA out of memory")))
    assert not made.fits(200)
    assert all(p.grad is None for p in made.trainer.model.parameters())
    monkeypatch.setattr(made.trainer.optimizer, "step", step(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1"):
        made.fits(200)


def test_tries_are_whole_updates_that_leave_the_weights(tries):
    made = tries("train.ema=0.9", "optim=adamw")
    model = made.trainer.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    made.longest_alone()
    assert made.fits(200)
    assert len(made.trainer.optimizer.state) == len(before)
    assert all(p.grad is not None and p.equal(before[name]) for name, p in model.named_parameters())


def test_throughput_is_of_real_target_tokens_over_batches_of_all_sizes(tries, monkeypatch):
    made = tries("train.accumulate=3")
    updates = []

    def update(planned):
        updates.append(planned)
        tokens = sum(int(made._lengths[1][1][np.isin(window, batch.examples)].sum()) for batch in planned)
        return calibrate.Step(0.5 * len(planned), tokens, 0)

    window = next(made._windows(60))[0].examples
    monkeypatch.setattr(made, "_update", update)
    speed = made.speed(60)
    warm_up, *timed = updates
    assert len(warm_up) == 1
    assert [len(planned) for planned in timed] == [3, 3, 3]
    seen = [batch.shape.rows * batch.shape.target for planned in timed for batch in planned]
    everything = sorted(batch.shape.rows * batch.shape.target for batch in made._planned(60))
    assert seen == sorted(seen)
    assert np.mean(seen) == pytest.approx(np.mean(everything), rel=0.1)
    tokens = sum(len_ for planned in timed for batch in planned
                 for len_ in made._lengths[1][1][np.isin(window, batch.examples)])  # fmt: skip
    assert speed == pytest.approx(tokens / 4.5)


def test_the_ladder_is_in_units_of_the_cost(tries):
    assert tries().ladder[:2] == [512, 1024]
    assert tries("data.cost=sum").ladder[:2] == [1024, 2048]  # sources and targets of this corpus are equally long
    assert tries("data.batch_sentences=10").ladder == [90]
    assert tries().ladder[-1] == tries().ceiling == 400 * 9


def test_an_epoch_keeps_its_updates(tries, monkeypatch):
    tokens = tries()._lengths[1][1].sum()
    for least, options, updates in ((2, [], 1), (2, ["train.accumulate=2"], 2), (1, [], 1)):
        monkeypatch.setattr(calibrate, "EPOCH_UPDATES", least)
        made = tries(*options)
        assert made.ladder[-1] * updates * least <= tokens
        assert 2 * made.ladder[-1] * updates * least > tokens
        assert made.limit == f"a larger one would make fewer than {least} updates an epoch"
    monkeypatch.setattr(calibrate, "EPOCH_UPDATES", 10**6)
    assert tries().ladder == [512]  # a corpus that small has no other


# --- the run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def calibrated(store, tmp_path, s2s, monkeypatch, capsys):
    """A run that calibrated; its folder."""
    monkeypatch.setattr(calibrate, "TIMED_SECONDS", 0.02)
    monkeypatch.setattr(calibrate, "EPOCH_UPDATES", 0.1)
    run = tmp_path / "calibrated"
    assert s2s("train", *words(store, run, "train.calibrate=true", "train.max_updates=13")) == 0
    return run


def budget(run) -> int:
    return read_yaml(run / "config.yaml")["data"]["batch_tokens"]


def test_a_calibrated_run_is_the_run_with_that_budget(store, calibrated, tmp_path, s2s, capsys):
    errors = capsys.readouterr().err
    assert budget(calibrated) in (512, 1024, 2048, 3600)
    assert f"calibrate | data.batch_tokens={budget(calibrated)}: " in errors
    assert "calibrate | data.batch_tokens 512 | " in errors
    assert "target tokens/s, with up to " in (calibrated / "train.log").read_text()
    by_hand = tmp_path / "by_hand"
    given_budget = f"data.batch_tokens={budget(calibrated)}"
    assert s2s("train", *words(store, by_hand, given_budget, "train.max_updates=13")) == 0
    same_bits(calibrated, by_hand)
    assert read_yaml(calibrated / "last/config.yaml")["data"]["batch_tokens"] == budget(calibrated)
    assert set(json.loads((calibrated / "run.json").read_text())) == set(json.loads((by_hand / "run.json").read_text()))
    calibrated_files, other = ({path.name for path in run.iterdir()} for run in (calibrated, by_hand))
    assert calibrated_files == other


def test_resuming_by_the_same_command_takes_the_stored_budget(store, calibrated, tmp_path, s2s, capsys, monkeypatch):
    monkeypatch.setattr("s2s.training.run.calibrate", None)  # to call it would fail
    found = budget(calibrated)
    assert s2s("train", *words(store, calibrated, "train.calibrate=true")) == 0
    assert f"data.batch_tokens={found}, as calibrated when the run started" in capsys.readouterr().err
    assert budget(calibrated) == found
    whole = tmp_path / "whole"
    assert s2s("train", *words(store, whole, f"data.batch_tokens={found}")) == 0
    same_bits(calibrated, whole)
    assert s2s("train", *words(store, whole, "train.calibrate=true")) == 2
    assert "train.calibrate was False and is now True" in one_error_line(capsys)


def test_a_run_that_was_stopped_while_it_calibrated_starts_again(store, tmp_path, s2s, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    arguments = words(store, run, "train.calibrate=true", "train.max_updates=2")
    with monkeypatch.context() as patch:
        patch.setattr("s2s.training.run.calibrate", interrupted)
        assert s2s("train", *arguments) == 130
    monkeypatch.setattr("s2s.training.run.calibrate", lambda *_: 321)
    assert s2s("train", *arguments) == 0
    assert budget(run) == 321
    capsys.readouterr()
    (run / "config.yaml").unlink()  # this run has checkpoints: nothing starts anew over them
    assert s2s("train", *arguments) == 2
    assert "config.yaml" in one_error_line(capsys)


def test_a_failed_calibration_ends_with_one_line(store, tmp_path, s2s, memory, capsys):
    memory(300)
    assert s2s("train", *words(store, tmp_path / "run", "train.calibrate=true")) == 1
    assert "train.calibrate: not even a batch of 1 x 9 source x 9 target positions fits" in one_error_line(capsys)
    memory(2000)  # a pair, but no rung of the ladder
    assert s2s("train", *words(store, tmp_path / "run", "train.calibrate=true")) == 1
    assert "train.calibrate: data.batch_tokens=512 does not fit into memory" in one_error_line(capsys)
