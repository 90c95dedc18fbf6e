"""--multirun: every combination is a job, values keep their types, and hydra runs nothing but our command."""

import re
import sys
from pathlib import Path

import pytest

from s2s.config import compose
from s2s.config.sweep import LONGEST, Outcome, folder_of, sweep
from s2s.errors import UserError
from s2s_cli.train import TrainCommand

NOTHING = Outcome(lambda config: None, lambda config: False, lambda folder: "")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """jobs("seed=1,2", ...) are the configs of the jobs of a sweep into tmp_path/run, in their order."""

    def run(*words: str, files: tuple = ()) -> list:
        configs = []
        overrides = [override for file in files for override in compose.read_config(str(file))]
        overrides += [compose.Override(*word.split("=", 1)) for word in (f"run={tmp_path}/run", *words)]
        monkeypatch.setattr(sys, "argv", ["s2s-train", "--multirun", *words])
        sweep("s2s-train", TrainCommand, configs.append, overrides, NOTHING)
        assert sys.argv == ["s2s-train", "--multirun", *words]
        assert len({config.run for config in configs}) == len(configs)
        assert {str(Path(config.run).parent) for config in configs} == {f"{tmp_path}/run"}
        return configs

    return run


def test_every_combination_is_a_job(jobs):
    found = jobs("optim.lr=1e-3,5e-4", "seed=1,2", "train.max_updates=7")
    assert [(job.optim.lr, job.seed, job.train.max_updates) for job in found] == [
        (1e-3, 1, 7), (1e-3, 2, 7), (5e-4, 1, 7), (5e-4, 2, 7)
    ]  # fmt: skip


def test_without_commas_there_is_one_job(jobs):
    assert [job.seed for job in jobs("seed=3")] == [3]
    assert [job.seed for job in jobs()] == [1]


def test_presets_are_swept_with_their_keys(jobs):
    found = jobs("model=transformer_tiny,transformer_lm_tiny", "model.decoder.width=32,64", "optim=adam,adamw")
    assert [(job.model.type, job.model.decoder.width, job.optim.type) for job in found[:3]] == [
        ("transformer", 32, "adam"), ("transformer", 32, "adamw"), ("transformer", 64, "adam")
    ]  # fmt: skip
    assert len(found) == 8


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("1.10,2024_01", ["1.10", "2024_01"]),
        ("1e3,007,true,no,null", ["1e3", "007", "true", "no", None]),
        ("'a,b',c d", ["a,b", "c d"]),
        ("it's,\"b'\\\\\"", ["it's", "b'\\"]),
        ("a=b,ünï/c{d}", ["a=b", "ünï/c{d}"]),
        ("range(1,2)", ["range(1", "2)"]),
        ("${oc.env:HOME}", ["${oc.env:HOME}"]),  # one value: it is not swept, and hydra does not see it
    ],
)
def test_text_is_swept_as_it_was_typed(jobs, typed, values):
    assert [job.train.init.checkpoint for job in jobs(f"train.init.checkpoint={typed}")] == values


def test_lists_are_swept_in_brackets(jobs):
    assert [job.train.freeze for job in jobs("train.freeze=[encoder],[],[a,'b,c']")] == [["encoder"], [], ["a", "b,c"]]
    assert [job.train.freeze for job in jobs("train.freeze=encoder,decoder")] == [["encoder", "decoder"]]
    stages = [[stage.updates for stage in job.train.stages] for job in jobs("train.stages=[{updates:1},{}],[]")]
    assert stages == [[1, None], []]


def test_functions_of_hydra_make_numbers(jobs):
    assert [job.seed for job in jobs("seed=range(1,4)")] == [1, 2, 3]
    assert [job.optim.lr for job in jobs("optim.lr=choice(1e-3,0.5)")] == [0.001, 0.5]


def test_a_file_holds_what_all_jobs_have(jobs, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "seed: 5\nstore: [1.10, 'a,b']\nhydra: {launcher: {}}\nhydra/launcher: basic\nhydra.sweeper.max_batch_size: 1\n"
    )
    found = jobs("optim.lr=1,2", files=[tmp_path / "c.yaml"])
    assert [(job.seed, job.store, job.optim.lr) for job in found] == [
        (5, ["1.10", "a,b"], 1.0), (5, ["1.10", "a,b"], 2.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,x"], "seed: 'x' is not a whole number"),
        (["seed=1,2", "model.dropout=0.1,1.5"], "model.dropout=1.5: must be below 1"),
        (["model=transformer_tiny,nothing"], "model=nothing: no such preset"),
        (["sed=1,2"], "unknown key 'sed'"),
        (["seed=interval(1,2)"], "--multirun: this sweeper has no function for INTERVAL; give values"),
        (["seed=range(1,x)"], r"--multirun: seed=range\(1,x\): numbers are needed$"),
        (["seed=choice()"], r"--multirun: seed=choice\(\): the values are missing, such as choice\(1,2\)$"),
        (["train.init.checkpoint=${oc.env:HOME},b"], r"\$\{oc.env:HOME\}: a swept value cannot contain \$\{"),
        (
            ["hydra.launcher.nothing=1"],
            "hydra.launcher.nothing: the chosen launcher or sweeper has no option",
        ),
        (["hydra/launcher=nothing"], "hydra/launcher=nothing: no such launcher is installed$"),
        (
            ["hydra/launcher=submitit_other"],
            r"submitit_other: no such launcher is installed; pip install .*\[slurm\]",
        ),
    ],
)
def test_what_a_job_would_refuse_is_refused_before_the_first(jobs, words, message):
    with pytest.raises(UserError, match=message) as error:
        jobs(*words)
    assert "\n" not in str(error.value)


CODE = [
    ("hydra.searchpath", "[file:///tmp]"),
    ("hydra/env", "mine"),
    ("hydra/callbacks", "mine"),
    ("hydra.callbacks.x._target_", "os.system"),
    ("hydra.run.dir", "/tmp/x"),
    ("hydra.sweep.dir", "/tmp/x"),
    ("hydra/job_logging", "mine"),
    ("hydra.launcher._target_", "os.system"),
    ("hydra.sweeper._target_", "os.system"),
    ("hydra.launcher.x", "${oc.env:HOME}"),
    ("hydra.launcher.x", "${hydra:runtime.cwd}"),
    ("hydra.launcher.additional_parameters", "{_target_: os.system}"),
    ("hydra.launcher.partition", "gpu\n#SBATCH x"),
    ("hydra/launcher", "../../mine"),
    ("hydra/launcher@x", "basic"),
]


@pytest.mark.parametrize(("key", "value"), CODE)
def test_of_hydra_only_its_launcher_and_sweeper_get_plain_values(jobs, tmp_path, key, value):
    """Anything else could name code to run."""
    with pytest.raises(UserError) as error:
        jobs("seed=1,2", f"{key}={value}")
    assert key in str(error.value)
    (tmp_path / "c.yaml").write_text(f"seed: 5\n{compose.yaml.safe_dump({key: value})}")
    with pytest.raises(UserError, match=f"^{tmp_path}/c.yaml:[23]: "):
        jobs("seed=1,2", files=[tmp_path / "c.yaml"])


def test_a_file_gives_hydra_neither_lists_nor_nested_targets(jobs, tmp_path):
    for content in ("hydra.launcher.setup: ['touch x']", "hydra: {callbacks: {x: {_target_: os.system}}}",
                    "hydra:\n  launcher:\n    _target_: os.system"):  # fmt: skip
        (tmp_path / "c.yaml").write_text(content)
        with pytest.raises(UserError, match=f"^{tmp_path}/c.yaml:[1-3]: hydra"):
            jobs("seed=1,2", files=[tmp_path / "c.yaml"])


def test_a_job_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    done = []

    def main(config):
        if config.seed == 1:
            raise UserError("no such store")
        done.append(config.seed)

    words = [compose.Override("run", f"{tmp_path}/run"), compose.Override("seed", "1,2")]
    monkeypatch.setattr(sys, "argv", ["s2s-train", "--multirun"])
    with pytest.raises(SystemExit, match="2"):
        sweep("s2s-train", TrainCommand, main, words, NOTHING)
    assert (done, capsys.readouterr().err) == ([2], "s2s-train: job seed-1 failed: no such store\n")


def test_a_sweep_needs_a_folder():
    for words in ([], [compose.Override("run", "${x}")]):
        with pytest.raises(UserError, match="--multirun requires run=FOLDER"):
            sweep("s2s-train", TrainCommand, print, words, NOTHING)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([("optim.lr", "0.001"), ("seed", "2")], "lr-0.001_seed-2"),
        ([("data.cost", "max"), ("x.cost", "sum")], "data.cost-max_x.cost-sum"),
        ([("decode.search.type", "sample")], "search-sample"),
        ([], "run"),
    ],
)  # fmt: skip
def test_a_folder_has_the_name_of_what_differs(values, name):
    assert folder_of([compose.Override(*value) for value in values], [key for key, _ in values]) == name


def test_names_of_folders_suit_a_file_system_and_differ():
    texts = ["a/b", "a_b", "a:b", "x" * 300, "x" * 299 + "y", "../x"]
    names = [folder_of([compose.Override("train.freeze", text)], ["train.freeze"]) for text in texts]
    assert len({*names}) == len(texts)
    assert all(re.fullmatch(r"[\w.+-]+", name) and len(name) < LONGEST + 10 for name in names)
    assert names[1] == "freeze-a_b"


@pytest.mark.parametrize("best", [min, max])
def test_optuna_looks_for_the_best_value_of_the_runs(tmp_path, monkeypatch, capsys, best):
    """It gets the value of each run, and the direction of the metric; a sweep ends with its table."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    tried = []
    outcome = Outcome(lambda config: (config.seed - 7) ** 2, lambda config: best is max, lambda folder: f"in {folder}")
    pairs = {"run": f"{tmp_path}/run", "seed": "range(1,12)", "hydra/sweeper": "optuna", "hydra.sweeper.n_trials": "8",
             "hydra.sweeper.n_jobs": "1"}  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["s2s-train", "--multirun"])
    sweep("s2s-train", TrainCommand, tried.append, [compose.Override(*pair) for pair in pairs.items()], outcome)
    assert len(tried) == 8
    assert all(config.run == f"{tmp_path}/run/seed-{config.seed}" for config in tried)
    values = [(config.seed - 7) ** 2 for config in tried]
    content = compose.yaml.safe_load((tmp_path / "run" / "optimization_results.yaml").read_text())
    assert content["best_value"] == best(values)
    assert capsys.readouterr().out == f"in {tmp_path}/run\n"


def test_a_trial_that_fails_ends_a_sweep_of_optuna_with_its_error(tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")

    def fail(config):
        raise UserError("no such store")

    pairs = {"run": f"{tmp_path}/run", "optim.lr": "tag(log,interval(1e-4,1e-2))", "hydra/sweeper": "optuna"}
    monkeypatch.setattr(sys, "argv", ["s2s-train", "--multirun"])
    with pytest.raises(UserError, match="no such store"):
        sweep("s2s-train", TrainCommand, fail, [compose.Override(*pair) for pair in pairs.items()], NOTHING)
