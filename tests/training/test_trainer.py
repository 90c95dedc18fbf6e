"""What training refuses, skips, keeps and reports."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from s2s.checkpoint import loading, runs
from s2s.training import checkpoints
from s2s.training.average import ExponentialMovingAverage
from tests.specs import criterion_of
from tests.training.test_resume import SMALL, words


@pytest.fixture
def trained(store, tmp_path, s2s):
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.keep_best=2", "train.keep_last=3")) == 0
    return run


def one_error_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s2s-train: ")]
    assert len(lines) == 1
    return lines[0]


def test_accumulation_gives_the_gradient_of_the_whole_batch(store, tmp_path, s2s):
    """Two batches in one update move the weights as their union would: one sum, divided once by all tokens."""
    from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
    from s2s.data.store import Store
    from s2s.models.encoders.transformer import EncoderConfig
    from s2s.models.transformer import TransformerConfig
    from s2s.tasks.translation import TranslationTask

    data = Store(store)
    task = TranslationTask.setup(data)
    torch.manual_seed(0)
    stack = EncoderConfig(1, 16, 2, None, 32)
    model = task.model(TransformerConfig(encoder=stack, decoder=stack, dropout=0.0)).double()
    dataset, criterion = task.dataset(data.split("train")), criterion_of(CrossEntropyConfig())
    whole = criterion(model, dataset.collate(range(30)))
    (whole.sum / whole.count).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    parts = [dataset.collate(range(7)), dataset.collate(range(7, 30))]
    for part in parts:
        (criterion(model, part).sum / sum(part.counts.target for part in parts)).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-9, atol=1e-12)


def test_a_run_whose_batches_are_computed_in_pieces_has_the_same_weights_to_rounding(store, tmp_path, s2s, monkeypatch):
    from s2s.criterions.criterion import Criterion
    from s2s.training import splitting

    plain, sizes = Criterion.__call__, []

    def counted(self, model, batch, totals=None):
        sizes.append(batch.counts.target)
        return plain(self, model, batch, totals)

    monkeypatch.setattr(Criterion, "__call__", counted)
    runs, calls = {}, {}
    for most in (2048, 60):
        monkeypatch.setitem(splitting.PIECE, "tokens", most)
        run = runs[most] = tmp_path / str(most)
        options = ["train.max_updates=6", "model.dropout=0", "train.accumulate=2", "optim.eps=1e-3"]
        assert s2s("train", *words(store, run, *options)) == 0
        calls[most] = len(sizes)
        sizes.clear()
    assert calls[60] > calls[2048] + 2 * 12  # most of twelve batches of up to 200 tokens are in four pieces
    weights = [load_file(run / "last/model.safetensors") for run in runs.values()]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-6)


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for a GPU: numbers that are read, and sizes that depend on numbers."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.equal,
        ):
            self.found.append(str(operator))
        return operator(*args, **(kwargs or {}))


def test_an_update_reads_nothing_from_the_device_until_its_numbers_are_wanted(store, tmp_path, s2s, monkeypatch):
    from s2s.training.trainer import Trainer

    plain, waits = Trainer._update, []

    def watched(self, batches, waited):
        with Waits() as mode:
            plain(self, batches, waited)
        waits.append(mode.found)

    monkeypatch.setattr(Trainer, "_update", watched)
    monkeypatch.setattr(Trainer, "_waits", lambda self: self.progress.update % 4 == 0 or self._due())
    lazy, prompt = tmp_path / "lazy", tmp_path / "prompt"
    # On a CPU the encoder looks at the share of padding, to leave it out.
    options = ["train.log_updates=4", "model.encoder.unpad=false", "train.ema=0.9", "train.max_updates=10"]
    assert s2s("train", *words(store, lazy, *options)) == 0
    assert waits == [[]] * 10
    monkeypatch.undo()
    assert s2s("train", *words(store, prompt, *options)) == 0
    for name in ("model.safetensors", "training.safetensors"):
        assert (lazy / "last" / name).read_bytes() == (prompt / "last" / name).read_bytes()
    logged = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (lazy, prompt)]
    losses = [[event["loss"] for event in events if event["kind"] == "train"] for events in logged]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


@pytest.mark.parametrize("limit", ["train.max_updates=7", "train.max_epochs=1", "train.patience=1"])
def test_the_last_updates_are_reported_however_few(store, tmp_path, s2s, capsys, limit):
    run = tmp_path / "run"
    few = ["train.valid_updates=2", "optim.lr=1e-9"] if "patience" in limit else []
    assert s2s("train", *words(store, run, "train.log_updates=1000", *few, limit)) == 0
    said = capsys.readouterr().err
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (train,) = (event for event in events if event["kind"] == "train")
    assert f"update {train['update']} | epoch 1 | loss {train['loss']:.3f}, nll {train['nll']:.3f} nats" in said
    how = "raise it to go on. " if "patience" in limit else "done: "
    assert f"{how}{train['update']} updates in 0:00:0" in said
    assert (events[-1]["kind"], events[-1]["reason"]) == ("end", limit.partition("=")[0])
    assert len(train["steps"]["source_padding"]) == train["update"]


def test_a_warm_up_beyond_the_last_update_is_told(store, tmp_path, s2s, capsys):
    for updates, told in ((3, 0), (2, 1)):
        options = [f"train.max_updates={updates}", "optim.warmup_updates=3", "optim.lr=0.01"]
        assert s2s("train", *words(store, tmp_path / str(updates), *options)) == 0
        assert capsys.readouterr().err.count(
            "warning: optim.warmup_updates=3 exceeds train.max_updates=2: the learning rate never reaches "
            "optim.lr=0.01"
        ) == told  # fmt: skip


def test_an_optimizer_that_cannot_skip_by_itself_is_not_called_where_the_gradient_is_not_finite(
    store, tmp_path, s2s, monkeypatch
):
    from s2s.criterions.criterion import Criterion
    from s2s.optim.adam import Adam
    from s2s.optim.groups import parameter_groups

    def sgd(self, model):
        return torch.optim.SGD(parameter_groups(model, self.config), lr=0.1, momentum=0.5)

    plain, calls = Criterion.__call__, []

    def poisoned(self, model, batch, totals=None):
        loss = plain(self, model, batch, totals)
        calls.append(1)
        loss.sum = loss.sum * float("nan") if len(calls) == 2 else loss.sum
        return loss

    monkeypatch.setattr(Adam, "build", sgd)
    monkeypatch.setattr(Criterion, "__call__", poisoned)
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=4")) == 0
    assert json.loads((run / "last/state.json").read_text())["progress"]["skipped"] == 1
    assert all(torch.isfinite(p).all() for p in load_file(run / "last/model.safetensors").values())


def test_non_finite_updates_are_skipped_and_counted_and_ten_in_a_row_stop(store, tmp_path, s2s, capsys, monkeypatch):
    from s2s.criterions.criterion import Criterion

    plain, bad = Criterion.__call__, {3, 4}
    calls = []

    def poisoned(self, model, batch, totals=None):
        loss = plain(self, model, batch, totals)
        if model.training:
            calls.append(1)
            loss.sum = loss.sum * float("nan") if len(calls) in bad else loss.sum
        return loss

    monkeypatch.setattr(Criterion, "__call__", poisoned)
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=10", "train.log_updates=5")) == 0
    progress = json.loads((run / "last/state.json").read_text())["progress"]
    assert progress["skipped"] == 2
    assert "2 updates skipped" in capsys.readouterr().err
    assert all(torch.isfinite(p).all() for p in load_file(run / "last/model.safetensors").values())

    bad.update(range(10, 100))
    calls.clear()
    assert s2s("train", *words(store, tmp_path / "second")) == 1
    line = one_error_line(capsys)
    assert "update 19: 10 updates in a row had a non-finite loss" in line
    assert "gradient norms nan" in line
    assert "examples" in line
    assert (tmp_path / "second/last/model.safetensors").exists()


def test_the_folder_of_another_run_is_never_taken(store, trained, tmp_path, s2s, capsys):
    capsys.readouterr()
    assert s2s("train", *words(store, trained, "model.encoder.layers=2")) == 2
    assert "model.encoder.layers was 1 and is now 2" in one_error_line(capsys)
    assert s2s("train", *words(store, trained, "seed=2")) == 2
    assert "seed was 1 and is now 2" in one_error_line(capsys)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("ten years of work")
    (tmp_path / "precious/config.yaml").write_text("of: another program")
    for overwrite in ("false", "true"):
        assert s2s("train", *words(store, tmp_path / "precious", f"overwrite={overwrite}")) == 2
        assert "holds something that is not a run" in one_error_line(capsys)
    assert (tmp_path / "precious/thesis.txt").exists()
    assert s2s("train", *words(store, trained, "seed=2", "overwrite=true", "train.max_updates=2")) == 0
    assert runs.resolve(str(trained)).name == "step_00000002"


def test_a_complete_run_repeated_changes_nothing(store, trained, s2s, capsys):
    before = {path: path.read_bytes() for path in (trained / "checkpoints").rglob("*") if path.is_file()}
    assert s2s("train", *words(store, trained, "train.keep_best=2", "train.keep_last=3")) == 0
    assert {path: path.read_bytes() for path in (trained / "checkpoints").rglob("*") if path.is_file()} == before


def test_two_processes_never_train_in_one_folder(store, trained, s2s, capsys):
    import fcntl

    with (trained / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        capsys.readouterr()
        assert s2s("train", *words(store, trained)) == 2
        assert "another s2s-train is running" in one_error_line(capsys)


def test_keeps_the_newest_and_the_best(trained):
    # Saved at 7, 14, 15 (valid), 21, 28, 30 (valid), 35, 40 (the end, valid).
    assert [folder.name[-2:] for folder in runs.steps(trained)] == ["30", "35", "40"]
    metrics = [json.loads((folder / "state.json").read_text())["progress"]["last_metrics"]
               for folder in runs.steps(trained)]  # fmt: skip
    best = min((m["loss"], m["update"]) for m in metrics)
    assert (trained / "best").resolve().name == f"step_{best[1]:08d}"
    assert (trained / "last").resolve().name == "step_00000040"


def test_a_checkpoint_is_complete_in_itself(trained, tmp_path):
    (trained / "best").resolve().rename(tmp_path / "moved")
    model, task, config = loading.load_model(str(tmp_path / "moved"))
    assert task.text(task.encode_target(["a b c"])[0], None) == "a b c"
    assert config["model"]["encoder"]["width"] == 32
    assert not model.training


def test_a_failed_save_leaves_the_older_checkpoint_and_nothing_half_written(store, trained, monkeypatch):
    class Task:
        def save(self, folder):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(
            trained / "checkpoints/step_00000041", {"model.safetensors": {"a": torch.ones(2)}}, {}, Task()
        )
    assert runs.steps(trained)[-1].name == "step_00000040"
    assert not list((trained / "checkpoints").glob(".partial*"))
    runs.verify((trained / "last").resolve())


def test_a_disk_that_stays_full_ends_the_run_with_one_line(store, tmp_path, spawn):
    code = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); "
            "from s2s_cli.train import main; main()")  # fmt: skip
    import subprocess
    import sys

    run = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", code, *words(store, run)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("s2s-train: failed: ")
    assert "the checkpoint of update 40 could not be saved: " in done.stderr.splitlines()[-1]
    assert list((run / "checkpoints").iterdir()) == []


def test_ema_follows_its_formula_and_is_what_is_decoded(store, tmp_path, s2s):
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = ExponentialMovingAverage(model, 0.5)
    torch.nn.init.ones_(model.weight)
    ema.update(1)  # decay min(0.5, 2/11)
    torch.testing.assert_close(ema.average["weight"], torch.full((2, 2), 9 / 11))
    ema.update(100)
    torch.testing.assert_close(ema.average["weight"], torch.full((2, 2), 1 - (2 / 11) * 0.5))
    ema.swap()
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 2), 1 - 1 / 11))
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.ema=0.9", "train.max_updates=10")) == 0
    weights, training = (load_file(run / "last" / f"{name}.safetensors") for name in ("model", "training"))
    name = "decoder.layers.0.feedforward.inner.weight"
    assert not weights[name].equal(training[f"raw.{name}"])


def test_average_is_the_mean_of_the_weights(trained, tmp_path, s2s, capsys):
    output = tmp_path / "average"
    assert s2s("average", f"checkpoint={trained}", "last=3", f"output={output}") == 0
    parts = [load_file(folder / "model.safetensors") for folder in runs.steps(trained)]
    mean = load_file(output / "model.safetensors")
    for name in mean:
        torch.testing.assert_close(mean[name], torch.stack([part[name] for part in parts]).mean(0))
    loading.load_model(str(output))
    assert s2s("average", f"checkpoint={trained}", "best=1", f"output={tmp_path / 'best'}") == 0
    best = load_file(trained / "best/model.safetensors")
    assert all(best[name].equal(value) for name, value in load_file(tmp_path / "best/model.safetensors").items())
    capsys.readouterr()
    assert s2s("average", f"checkpoint={trained}", "last=9", f"output={tmp_path / 'more'}") == 2
    assert "3 checkpoints to choose from, not 9" in capsys.readouterr().err
    assert s2s("average", f"checkpoint={trained}s", "last=2", f"output={tmp_path / 'none'}") == 2
    assert capsys.readouterr().err == f"s2s-average: error: checkpoint={trained}s: no such folder\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
            "model.safetensors: its content differs from what was saved",
        ),
        (lambda folder: (folder / "source.vocabulary.txt").unlink(), "source.vocabulary.txt: missing"),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            "manifest.json:1: not JSON: it ends too early; ",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(trained, change, message):
    from s2s.errors import UserError

    folder = runs.resolve(str(trained))
    change(folder)
    with pytest.raises(UserError, match=message):
        loading.load_model(str(folder))


def test_missing_words_and_splits_are_named(store, tmp_path, s2s, capsys):
    assert s2s("train", *SMALL) == 2
    assert "store=FOLDER and run=FOLDER are required" in one_error_line(capsys)
    assert s2s("train", *words(tmp_path / "nothing", tmp_path / "run")) == 2
    assert "no such store" in one_error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_the_run_says_what_made_it_and_its_config_makes_it_again(store, trained, tmp_path, s2s):
    from s2s.data.store import Store

    origin = json.loads((trained / "run.json").read_text())
    assert origin["store_digest"] == Store(store).digest
    assert set(origin) == {"store_digest", "s2s", "torch"}
    again = tmp_path / "again"
    assert s2s("train", "--config", trained / "config.yaml", f"run={again}") == 0
    first, second = (load_file(run / "last/model.safetensors") for run in (trained, again))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_multirun_trains_each_value_in_a_folder_of_its_own(store, tmp_path, spawn):
    run = tmp_path / "sweep"
    process = spawn("train", "--multirun", *words(store, run, "train.max_updates=2", "seed=3,4"), cwd=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for seed in (3, 4):
        assert f"seed: {seed}\n" in (run / f"seed-{seed}" / "config.yaml").read_text()
        assert (run / f"seed-{seed}" / "last/model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]
    head, *rows = [line.split("\t") for line in (run / "results.tsv").read_text().splitlines()]
    assert head == ["run", "seed", "metric", "best"]
    assert [row[2] for row in rows] == ["loss", "loss"]
    assert {row[0]: row[1] for row in rows} == {"seed-3": "3", "seed-4": "4"}
    best = [json.loads((run / row[0] / "last/state.json").read_text())["progress"]["best"] for row in rows]
    assert best == sorted(best) == pytest.approx([float(row[3]) for row in rows], rel=1e-5)
    assert [line.split() for line in output.splitlines()] == [head, *rows]


@pytest.mark.slow
def test_a_multirun_can_be_handed_to_submitit(store, tmp_path, spawn):
    run = tmp_path / "sweep"
    launcher = ["--multirun", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    process = spawn("train", *launcher, *words(store, run, "train.max_updates=2", "seed=3,4"), cwd=tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert all((run / f"seed-{seed}" / "last/model.safetensors").exists() for seed in (3, 4))
    assert len(list((run / ".submitit").glob("*/*_result.pkl"))) == 2


def test_another_best_metric_begins_anew(store, tmp_path, s2s):
    """Values of different metrics are not compared."""
    run, decoded = tmp_path / "run", ["train.valid_metrics=[loss,bleu]", "train.keep_best=1"]
    assert s2s("train", *words(store, run, "train.max_updates=15")) == 0
    assert s2s("train", *words(store, run, "train.max_updates=30", *decoded)) == 0
    progress = json.loads((run / "last/state.json").read_text())["progress"]
    assert progress["best_metric"] == "bleu"
    assert progress["best"] == progress["last_metrics"]["bleu"]
    assert (run / "best").resolve().name == "step_00000030"


def test_validation_counts_the_sources_that_it_cuts(store, tmp_path, s2s):
    run, longest = tmp_path / "run", 3
    decoded = ["train.valid_metrics=[loss,bleu]", f"decode.max_source={longest}", "train.max_updates=15"]
    assert s2s("train", *words(store, run, *decoded)) == 0
    found = json.loads((run / "last/state.json").read_text())["progress"]["last_metrics"]
    lines = (store.parent / "valid.src").read_text().splitlines()
    assert found["cut_sources"] == sum(len(line.split()) > longest for line in lines) > 0
    assert "failed_sentences" not in found


@pytest.mark.parametrize("word", ["data.character_noise=0.1", "data.weights=[1,2]", "data.waveform.noise=0.5",
                                  "decode.alignment_layer=1"])  # fmt: skip
def test_what_is_refused_leaves_no_folder(store, tmp_path, s2s, capsys, word):
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, word)) == 2
    assert "error: " in capsys.readouterr().err
    assert not run.exists()


def test_bf16_trains_like_fp32(store, tmp_path, s2s):
    losses = {}
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        assert s2s("train", *words(store, run, f"train.precision={precision}", "model.dropout=0")) == 0
        losses[precision] = json.loads((run / "last/state.json").read_text())["progress"]["last_metrics"]["loss"]
        weights = load_file(run / "last/model.safetensors")
        assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_max_epochs_ends_the_run_with_a_validated_checkpoint(store, tmp_path, s2s):
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_epochs=2", "train.max_updates=1000")) == 0
    state = json.loads((run / "last/state.json").read_text())
    assert state["iterator"] == {"epoch": 3, "window": 0, "position": 0, "group": 1, "reorders": []}
    assert state["progress"]["last_metrics"]["update"] == state["progress"]["update"] < 40


def test_checkpoints_by_the_clock(store, tmp_path, s2s):
    run = tmp_path / "run"
    options = ["train.max_updates=5", "train.checkpoint_minutes=1e-9", "train.keep_last=9"]
    assert s2s("train", *words(store, run, *options)) == 0
    assert len(runs.steps(run)) == 5
