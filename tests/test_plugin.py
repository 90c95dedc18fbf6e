"""A package outside of s2s adds components by entry points, which then go all the way: train, resume, decode, score."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
PLUGIN = Path(__file__).parent / "plugin"
SIZE = ["model=transformer_tiny", "model.frontend=halving", "model.frontend.mix=0.25", "model.dropout=0",
        *(f"model.{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=1", "width=32", "ffn_width=64", "heads=4"))]  # fmt: skip
TRAIN = [*SIZE, "criterion.terms=[cross_entropy,end]", "criterion.end.weight=0.05", "optim.schedule=steps",
         "data.cost=attention", "data.batch_tokens=600", "train.loggers=[csv]", "train.valid_metrics=[loss,first_word]",
         "optim.lr=5e-3", "optim.warmup_updates=10", "train.max_updates=60", "train.valid_updates=20",
         "train.log_updates=10", "device=cpu"]  # fmt: skip


def start(folder: Path, command: str, *words: str) -> subprocess.Popen:
    path = os.pathsep.join([str(PLUGIN), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, "-m", f"s2s_cli.{command}", *map(str, words)], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": path})  # fmt: skip


def run(folder: Path, command: str, *words: str, code: int = 0) -> tuple[str, str]:
    process = start(folder, command, *words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store made with the plug-in's tokenizer, and a run of its model."""
    folder = tmp_path_factory.mktemp("plugin")
    words = ["so-called", "well-known", "a", "b", "c", "Up-to-date"]
    for split, count in (("train", 120), ("valid", 12), ("test", 12)):
        lines = [" ".join(words[(i * k + i // 3) % 6] for k in range(1, 2 + i % 5)) for i in range(count)]
        for side in ("src", "tgt"):
            (folder / f"{split}.{side}").write_text("".join(f"{line}\n" for line in lines))
    run(folder, "preprocess", "source=src", "target=tgt", "train=train", "valid=valid", "test=test",
        "tokenizer=hyphens", "tokenizer.pre=capitals", "store=store", "workers=1")  # fmt: skip
    run(folder, "train", "store=store", "run=run", *TRAIN)
    return folder


def test_its_components_are_used(folder):
    symbols = (folder / "store" / "target.vocabulary.txt").read_text().split()
    assert "-called" in symbols
    assert "so-called" not in symbols
    assert "^up" in symbols
    assert "Up" not in symbols
    events = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"end", "nll"} <= next(event for event in events if event["kind"] == "train").keys()
    assert not any("end" in event for event in events if event["kind"] == "valid")
    rates = [event["lr"] for event in events if event["kind"] == "train"]
    assert rates == pytest.approx([5e-3, 2.5e-3, 1.25e-3, 1.25e-3, 6.25e-4, 3.125e-4], rel=0.01)
    assert [event["first_word"] for event in events if event["kind"] == "valid"][-1] > 40
    assert "train,60,lr," in (folder / "run" / "numbers.csv").read_text()


@pytest.mark.parametrize("options", [["decode.beam_size=1"], ["decode.n_best=2"], ["decode.dtype=int8"]])
def test_its_model_decodes_and_its_metric_scores(folder, options):
    out, _ = run(
        folder, "generate", "checkpoint=run", "store=store", "format=json", "alignment=true", "device=cpu", *options
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert len({row["index"] for row in rows}) == 12
    for row in rows:
        assert max(row["alignment"]) < len(row["source_tokens"])  # positions of the memory, with two tokens each
        symbols = "".join(row["source_tokens"])
        assert symbols.endswith("</s>")
        assert not any("/" in symbol.removesuffix("</s>") for symbol in row["source_tokens"])
    eager, _ = run(folder, "generate", "checkpoint=run", "store=store", "format=json", "device=cpu",
                   "decode.backend=eager", *options)  # fmt: skip
    for row, other in zip(rows, map(json.loads, eager.splitlines()), strict=True):
        assert row["hypothesis"] == other["hypothesis"]
        assert row["score"] == pytest.approx(other["score"], abs=1e-3)
    (folder / "hyp.txt").write_text("".join(f"{row['hypothesis']}\n" for row in rows if row["rank"] == 0))
    out, _ = run(folder, "score", "hypothesis=hyp.txt", "reference=test.tgt", "metrics=[first_word]")
    assert float(re.search(r"FirstWord\|.* = ([\d.]+)", out)[1]) > 40


def kill_and_go_on(folder: Path, training: list[str], every: int) -> None:
    """Kill a training after its second save, and repeat its command; the run is `killed`."""
    words = ["store=store", "run=killed", *training, f"train.checkpoint_updates={every}"]
    process = start(folder, "train", *words)
    deadline = time.time() + 60
    saved = folder / "killed" / "checkpoints" / f"step_{2 * every:08}"
    while not saved.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert saved.exists()
    run(folder, "train", *words)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(folder):
    kill_and_go_on(folder, TRAIN, 10)
    for name in ("model.safetensors", "training_terms.safetensors"):
        path = f"checkpoints/step_00000060/{name}"
        assert (folder / "killed" / path).read_bytes() == (folder / "run" / path).read_bytes()
    state = load_file(folder / "killed/last/training_terms.safetensors")
    assert 0.001 < state["end.change"] < 0.1  # in 60 updates the weight has moved


GENERATE = ["generate", "checkpoint=run", "store=store", "format=json", "device=cpu", "decode.backend=eager"]


def best(folder: Path, *words: str) -> list[dict]:
    """The best hypothesis of each sentence."""
    rows = map(json.loads, run(folder, *GENERATE, *words)[0].splitlines())
    return [row for row in rows if row.get("rank", 0) == 0]


def test_its_searcher_finds_what_greedy_search_finds(folder):
    greedy, found, once = (
        best(folder, *words)
        for words in (
            ["decode.beam_size=1"],
            ["decode.search=jacobi"],
            ["decode.search=jacobi", "decode.search.rounds=1"],
        )
    )
    assert [row["tokens"] for row in found] == [row["tokens"] for row in greedy]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in greedy], abs=1e-4)
    assert [row["tokens"] for row in once] != [row["tokens"] for row in greedy]
    for words, message in (
        (["decode.beam_size=2"], "decode.beam_size=2: does nothing with decode.search=jacobi"),
        (["decode.rules=[acrostic]"], "decode.rules=[acrostic]: does not go with decode.search=jacobi"),
        (["decode.search.turns=2"], "unknown key 'decode.search.turns'"),
    ):
        _, err = run(folder, *GENERATE, "decode.search=jacobi", *words, code=2)
        assert message in err


@pytest.mark.slow
def test_its_scorer_rates_hypotheses_and_given_targets(folder):
    words = ["decode.scorers=[novelty]", "decode.novelty.weight=3"]
    plain, found = best(folder), best(folder, *words)
    assert [row["tokens"] for row in found] != [row["tokens"] for row in plain]
    (folder / "found.txt").write_text("".join(f"{row['hypothesis']}\n" for row in found))
    target = ["mode=score", "target=found.txt"]
    by_model, by_both = best(folder, *target), best(folder, *target, *words)
    for row, one, other in zip(found, by_model, by_both, strict=True):
        tokens = row["tokens"][:-1]
        repeats = sum(tokens[:place].count(token) for place, token in enumerate(tokens))
        assert other["log_probability"] == pytest.approx(one["log_probability"] - 3 * repeats, abs=1e-3)
        assert row["log_probability"] == pytest.approx(other["log_probability"], abs=1e-3)


def test_its_rule_holds(folder):
    found = best(folder, "decode.rules=[acrostic]", "decode.acrostic.name=cab")
    assert {"".join(word[0] for word in row["hypothesis"].split()) for row in found} == {"cab"}
    for row in best(
        folder, "decode.rules=[one]", "decode.one.type=acrostic", "decode.one.name=a", "decode.search=sample"
    ):
        assert row["tokens"] == ["a", "</s>"]
    _, err = run(folder, *GENERATE, "decode.rules=[acrostic]", "decode.acrostic.name=q", code=2)
    assert "no word begins with 'q'" in err


@pytest.mark.slow
def test_its_search_is_served(folder):
    lines = (folder / "test.src").read_text().splitlines()[:4]
    words = ["decode.search=jacobi", "decode.search.rounds=50", "decode.backend=eager"]
    expected = {search: [row["hypothesis"] for row in best(folder, *options, "decode.max_length_b=50")][:4]
                for search, options in (("jacobi", words), ("beam", ["decode.beam_size=2"]))}  # fmt: skip
    server = start(folder, "serve", "checkpoint=run", "port=0", "device=cpu", *words)
    try:
        address = re.search(r"http://\S+", server.stderr.readline())[0]
        for asked, name in (({}, "jacobi"), ({"search": "beam", "beam_size": 2}, "beam"), ({"beam_size": 2}, "")):
            content = json.dumps({"lines": lines, **asked}).encode()
            request = Request(f"{address}/translate", content, {"Content-Type": "application/json"})
            if name:
                with urlopen(request, timeout=60) as answer:
                    assert json.loads(answer.read())["translations"] == expected[name]
            else:
                with pytest.raises(HTTPError) as error:
                    urlopen(request, timeout=60)
                assert "decode.beam_size=2: does nothing with decode.search=jacobi" in error.value.read().decode()
    finally:
        server.terminate()
        server.communicate(timeout=60)


@pytest.mark.slow
def test_a_model_of_its_layer_bridge_and_output(folder):
    """It goes on to the same bits, and decodes; a line says that no kernel stands in for its output."""
    parts = ["model.encoder.layer=average", "model.encoder.layer.reach=2", "model.encoder.layers=2",
             "model.bridge=mixture", "model.output=softmaxes", "model.tie_embeddings=none"]  # fmt: skip
    words = ["store=store", *TRAIN, *parts, "train.valid_updates=10"]
    run(folder, "train", "run=parts", *words, "train.max_updates=20")
    for updates in (10, 20):
        run(folder, "train", "run=pieces", *words, f"train.max_updates={updates}")
    path = "checkpoints/step_00000020/model.safetensors"
    assert (folder / "parts" / path).read_bytes() == (folder / "pieces" / path).read_bytes()
    out, said = run(folder, "generate", "checkpoint=parts", "store=store", "format=json", "device=cpu")
    assert "without compiled kernels: output is a MixtureOfSoftmaxes" in said
    texts = [row["hypothesis"] for row in map(json.loads, out.splitlines())]
    (folder / "parts.txt").write_text("".join(f"{text}\n" for text in texts))
    out, _ = run(folder, "generate", "checkpoint=parts", "store=store", "mode=score", "target=parts.txt",
                 "format=json", "device=cpu", "decode.dtype=fp32")  # fmt: skip
    for row, text in zip(map(json.loads, out.splitlines()), texts, strict=True):
        assert row["hypothesis"] == text
    assert "softmaxes" in run(folder, "inspect", "parts")[0]


def test_it_is_inspected_and_exported_by_name_only(folder):
    out, _ = run(folder, "inspect", "run")
    assert "halving" in out
    _, err = run(folder, "export", "checkpoint=run", "format=ctranslate2", "output=exported", code=2)
    assert "halving" in err.lower()


def test_a_checkpoint_names_the_component_that_is_missing(folder):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-m", "s2s_cli.generate", f"checkpoint={folder / 'run'}", "device=cpu"],
                          cwd=ROOT, input="a\n", capture_output=True, text=True, env=environment)  # fmt: skip
    assert done.returncode == 2
    assert "model: frontend: no frontend is called 'halving'" in done.stderr


def test_the_page_on_extending_shows_this_package():
    page = (ROOT / "docs" / "extending.md").read_text()
    files = [*PLUGIN.glob("example_plugin/[a-z]*.py"), *PLUGIN.glob("*.dist-info/entry_points.txt")]
    assert len(files) == 18
    for file in files:
        assert file.read_text().rstrip() in page, file.name
        assert file.read_text().count("\n") < 70, file.name


def test_a_folder_of_the_users_own_is_known_by_its_word_alone(folder, tmp_path, s2s, capsys):
    """Without being installed; a checkpoint names the folder that it needs, and does not load it."""
    own = tmp_path / "own"
    shutil.copytree(PLUGIN / "example_plugin", own / "example_plugin")
    shutil.copy(PLUGIN / "example_plugin-1.0.dist-info" / "entry_points.txt", own)
    (own / "conf" / "frontend").mkdir(parents=True)
    (own / "conf" / "frontend" / "quarters.yaml").write_text("base: halving\nmix: 0.25\n")

    def alone(command: str, *words: str, code: int = 0) -> tuple[str, str]:
        process = subprocess.run([sys.executable, "-m", f"s2s_cli.{command}", *map(str, words)], text=True,
                                 capture_output=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                                 timeout=120)  # fmt: skip
        assert process.returncode == code, process.stderr
        return process.stdout, process.stderr

    words = [word for word in TRAIN if word not in ("model.frontend=halving", "model.frontend.mix=0.25")]
    words += ["model.frontend=quarters", "store=store", f"run={tmp_path / 'run'}", "train.max_updates=3"]
    _, error = alone("train", *words, code=2)
    assert "model.frontend=quarters: no such preset" in error
    alone("train", f"plugins=[{own}]", *words)
    assert "mix: 0.25" in (tmp_path / "run" / "config.yaml").read_text()
    decode = [f"checkpoint={tmp_path / 'run'}", "store=store", "device=cpu", "decode.max_length_b=5"]
    output, _ = alone("generate", f"plugins={own}", *decode)
    assert len(output.splitlines()) == 12
    _, error = alone("generate", *decode, code=2)
    assert f"it was trained with plugins=[{own}], which this command needs, too" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no entry_points.txt"),
        ("[s2s.modell]\na = b:C\n", "entry_points.txt: [s2s.modell]: did you mean 's2s.model'?"),
        ("[s2s.model]\ntransformer = b:C\n", "[s2s.model] transformer: there is such a component already"),
        ("a = b:C\n", "entry_points.txt: File contains no section headers"),
    ],
)
def test_a_folder_that_is_no_plugin_is_named(tmp_path, s2s, capsys, content, message):
    if content is not None:
        (tmp_path / "entry_points.txt").write_text(content)
    assert s2s("score", f"plugins=[{tmp_path}]", "hypothesis=a", "reference=b") == 2
    assert message in capsys.readouterr().err


def test_a_config_file_does_not_choose_the_code_that_is_run(tmp_path, spawn):
    """It may be another's. In a process of its own: what is known there stays known."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "entry_points.txt").write_text("[s2s.model]\nmine = of_another:Model\n")
    (tmp_path / "own" / "of_another.py").write_text(f"open({str(tmp_path / 'run-by')!r}, 'w')\n")
    (tmp_path / "c.yaml").write_text(f"store: s\nplugins: [{tmp_path / 'own'}]\n")
    words = ("--config", tmp_path / "c.yaml", "run=r", "model=mine")
    _, error = spawn("train", *words).communicate()
    own = tmp_path / "own"
    assert error == (f"s2s-train: error: {tmp_path}/c.yaml:2: plugins: a file cannot choose code to run; if you trust "
                     f"the code in {own}, give plugins=[{own}] on the command line\n")  # fmt: skip
    assert not (tmp_path / "run-by").exists()
    _, error = spawn("train", *words, f"plugins=[{own}]").communicate()
    assert "the model 'mine' of a plug-in, of_another:Model, cannot be imported: " in error
    assert "Traceback" not in error
    assert (tmp_path / "run-by").exists()
