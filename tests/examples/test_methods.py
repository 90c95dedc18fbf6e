"""examples/methods: its data, its runner on a tiny set, and docs/methods.md, which is made from docstrings."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from s2s import registry

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "methods"
COMPARISONS = sorted(path.stem for path in (FOLDER / "comparisons").glob("*.yaml"))
PLAIN = {
    "none",
    "tokens",
    "subsampling",
    "transformer",
    "top",
    "linear",
}  # modules of parts that are no method of their own


@pytest.fixture(scope="module")
def load():
    def module(path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = loaded
        spec.loader.exec_module(loaded)
        return loaded

    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield module
    sys.path.remove(str(FOLDER))
    for name in {"datasets", "run", "ratios", "make_methods"} - before:
        sys.modules.pop(name, None)


def test_the_page_is_made_from_the_docstrings(load):
    page = load(ROOT / "docs" / "make_methods.py").page()
    assert (ROOT / "docs" / "methods.md").read_text("utf-8") == page, "run: python docs/make_methods.py"


def test_every_part_that_is_not_plain_is_on_the_page(load):
    names = {method.name for method in load(ROOT / "docs" / "make_methods.py").methods()}
    modules = {
        place.split(":")[0].rpartition(".")[2]
        for kind in ("frontend", "bridge", "output", "encoder", "decoder")
        for place in registry.COMPONENTS[kind].values()
    }
    assert modules - PLAIN <= names


def test_every_comparison_is_named_after_its_method(load):
    make_methods = load(ROOT / "docs" / "make_methods.py")
    names = [method.name for method in make_methods.methods()]
    assert [name for name in COMPARISONS if make_methods.owner(name, names) is None] == []
    assert {path.stem for path in make_methods.RESULTS.glob("*.json")} <= set(COMPARISONS)


def test_a_docstring_without_its_paragraphs_is_named(load, tmp_path):
    make_methods = load(ROOT / "docs" / "make_methods.py")
    file = tmp_path / "mine.py"
    file.write_text('"""Mine.\n\nPaper: X.\n\nIt adds.\n\nUse: model.frontend=mine\n"""\n')
    with pytest.raises(ValueError, match=r"mine\.py: the docstring needs one paragraph 'Left out: \.\.\.'"):
        make_methods.read(file)


def recipe_of(words: list[str]):
    """The recipe of the task that options of s2s-preprocess name."""
    task = next((word.partition("=")[2] for word in words if word.startswith("task=")), "translation")
    return registry.find("preprocess", task if task in registry.names("preprocess") else "translation")


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_has_options_that_exist(load, name):
    from s2s.config.compose import compose
    from s2s_cli.generate import GenerateCommand
    from s2s_cli.train import TrainCommand

    comparison = load(FOLDER / "run.py").Comparison.read(name)
    datasets = load(FOLDER / "datasets.py")
    assert comparison.data in datasets.NAMES
    assert comparison.metric in registry.names("metric")
    for side in ("baseline", "method"):
        options = comparison.options(side)
        compose(recipe_of(options["preprocess"]).Config, [tuple(w.split("=", 1)) for w in options["preprocess"]])
        compose(TrainCommand, [tuple(word.split("=", 1)) for word in options["train"]])
        compose(GenerateCommand, [tuple(word.split("=", 1)) for word in options["generate"]])
        if comparison.data in datasets.GENERATED:  # texts of few symbols, too small for SentencePiece's 8,000 pieces
            assert any(word.startswith(("tokenizer=", "source_tokenizer=")) for word in options["preprocess"])
    assert comparison.baseline != comparison.method


def test_options_of_the_page_exist(load):
    from s2s.config.compose import compose
    from s2s_cli.generate import GenerateCommand
    from s2s_cli.train import TrainCommand

    make_methods = load(ROOT / "docs" / "make_methods.py")
    comparison = load(FOLDER / "run.py").Comparison
    schemas = {"train": TrainCommand, "generate": GenerateCommand}
    tried = 0
    for method in make_methods.methods():
        for code in make_methods.code(method.use).split("`")[1::2]:
            if any(command in code for command in ("s2s-generate", "s2s-score", "s2s-plot")):
                continue
            tried += 1
            words = [word for word in code.split() if "=" in word]
            for name, options in comparison("", "", "", 1, "", " ".join(words)).options("method").items():
                schema = recipe_of(options).Config if name == "preprocess" else schemas[name]
                compose(schema, [tuple(word.split("=", 1)) for word in options])
    assert tried > len(make_methods.methods()) / 2


def test_the_page_writes_options_as_code_and_words_as_words(load):
    code = load(ROOT / "docs" / "make_methods.py").code
    assert code("model=lstm, or ``a.b=[1,2] c=x``; d=1 where it helps") == (
        "`model=lstm`, or `a.b=[1,2] c=x`; `d=1` where it helps"
    )


def test_convex_hulls_and_sorting_are_what_they_say(load):
    import random

    import numpy as np

    datasets = load(FOLDER / "datasets.py")
    numbers, order = datasets.sorting(random.Random(3), "train")
    assert (np.argsort([int(n) for n in numbers.split()]) + 1).tolist() == [int(place) for place in order.split()]
    # A square with a point inside, one on an edge: corners only, counter-clockwise from the leftmost, lowest one.
    square = [(4, 4), (0, 0), (4, 0), (2, 2), (0, 4), (2, 0)]
    assert datasets._hull(square) == [(0, 0), (4, 0), (4, 4), (0, 4)]


MEASUREMENTS = sorted(path.stem for path in (FOLDER / "ratios").glob("*.yaml"))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_has_options_that_exist(load, name):
    from s2s.config.compose import compose
    from s2s.decoding.config import DecodeConfig
    from s2s_cli.train import TrainCommand

    run, measurement = load(FOLDER / "run.py"), load(FOLDER / "ratios.py").Measurement.read(name)
    assert measurement.data in ("", *load(FOLDER / "datasets.py").NAMES)
    for side in measurement.sides:
        words, decode = measurement.words(side)
        compose(DecodeConfig, [tuple(word.split("=", 1)) for word in decode])
        train = [word for word in words if word.partition("=")[0].partition(".")[0] not in run.PREPROCESS]
        compose(TrainCommand, [tuple(word.split("=", 1)) for word in train])


@pytest.mark.parametrize("work", ["update", "encode", "step", "decode"])
def test_sides_are_measured_in_turn_and_compared_with_the_first(load, work, tmp_path, monkeypatch, capsys):
    import torch

    ratios = load(FOLDER / "ratios.py")
    (tmp_path / "ratios").mkdir()
    (tmp_path / "ratios" / "tiny.yaml").write_text(
        f"title: fewer heads\nclaim: faster\nreached: nothing\nwork: {work}\nsymbols: 20\n"
        "common: model=transformer_tiny model.encoder.width=16 model.decoder.width=16 decode.backend=eager\n"
        "sides: {four: '', one: model.decoder.kv_heads=1}\ncases: [{batch: 2, beam: 3, source: 5, target: 4}]\n"
    )
    monkeypatch.setattr(ratios, "HERE", tmp_path)
    monkeypatch.setattr(ratios, "SECONDS", 0.0)
    monkeypatch.setattr(ratios, "NOISE", 1e9)
    monkeypatch.setattr(sys, "argv", ["ratios.py", "tiny", "--rounds", "3", "--results", str(tmp_path)])
    threads = torch.get_num_threads()
    ratios.main()
    torch.set_num_threads(threads)
    report = json.loads((tmp_path / "tiny.json").read_text())
    four, one = report["cells"]
    assert (four["side"], one["side"], four["case"]) == ("four", "one", "batch 2, beam 3, source 5, target 4")
    assert [four["ratio"], *four["ratio_range"]] == [1, 1, 1]
    assert one["ratio_range"][0] <= one["ratio"] <= one["ratio_range"][1]
    assert all(0 < low <= middle <= high for low, middle, high in (cell["seconds"] for cell in (four, one)))
    assert four["parameters"] > one["parameters"]
    assert four["positions"] == 1
    if work == "step":  # 2 layers, keys and values, width 16 (with one head of four: 4), fp32; 32 places in a cache
        bytes_of = [2 * 2 * width * 4 * (6 * 32 + 2 * 5) + 2 * 5 for width in (16, 4)]
        assert [four["bytes"], one["bytes"]] == bytes_of
    assert "tiny" not in capsys.readouterr().err


def test_a_case_whose_rounds_differ_is_measured_again_and_then_not_quoted(load, monkeypatch):
    ratios = load(FOLDER / "ratios.py")
    tries = iter(
        [[[1.0, 1.0], [1.0, 1.6]], [[1.0, 1.0], [0.5, 0.6]], [[1.0, 1.6], [1.0, 1.0]]] + 2 * [[[1, 2], [1, 1]]]
    )
    monkeypatch.setattr(ratios, "rounds_of", lambda works, rounds: next(tries))
    measurement = ratios.Measurement("", "", "", "encode", {"a": "", "b": ""}, [], "model=transformer_tiny", 20)
    first, second = ratios.cells(measurement, {}, 2, {})
    assert (first["noise"], second["noise"], second["ratio"], second["ratio_range"]) == (False, False, 0.55, [0.5, 0.6])
    first, second = ratios.cells(measurement, {}, 2, {})
    assert (first["noise"], second["noise"], second["ratio"], second["ratio_range"]) == (True, True, None, None)


def test_every_result_of_a_measurement_is_of_one_that_is_there(load):
    assert {path.stem for path in (FOLDER / "results" / "ratios").glob("*.json")} <= set(MEASUREMENTS)


@pytest.mark.slow  # it starts a dozen commands
def test_the_runner_compares_and_goes_on_where_it_stopped(tmp_path, load):

    folder = tmp_path / "methods"
    (folder / "comparisons").mkdir(parents=True)
    for name in ("run.py", "datasets.py", "config.yaml"):
        (folder / name).write_text((FOLDER / name).read_text("utf-8"), encoding="utf-8")
    (folder / "comparisons" / "tiny.yaml").write_text(
        "title: two layers beside one\ndata: tiny\nmetric: ser\nupdates: 4\nexpects: nothing\n"
        "common: tokenizer=words model=transformer_tiny model.encoder.width=16 model.decoder.width=16 "
        "decode.beam_size=1\n"
        "baseline: model.encoder.layers=1\nmethod: model.encoder.layers=2\n"
    )
    corpus = tmp_path / "out" / "data" / "tiny"
    corpus.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (corpus / f"{split}.tsv").write_text("a b\tb a\nb c\tc b\nc\tc\n")
    text = (folder / "comparisons" / "tiny.yaml").read_text()
    (folder / "comparisons" / "other.yaml").write_text(text.replace("layers=2", "layers=3"))
    words = [sys.executable, folder / "run.py", "tiny", "other", "--output", tmp_path / "out", "--seeds", "1"]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "tiny: method, seed 1: ser" in run.stdout
    report = json.loads((folder / "results" / "tiny.json").read_text())
    assert [row["side"] for row in report["runs"]] == ["baseline", "method"]
    assert report["runs"][0]["parameters"] < report["runs"][1]["parameters"]
    # Two comparisons of one baseline: three runs. The same options give the same figures once more.
    figures = list((tmp_path / "out").glob("run-*/figures.json"))
    assert len(figures) == 3
    assert len(list((tmp_path / "out").glob("store-*"))) == 1
    for file in figures:
        file.unlink()
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "baseline, seed 1" in again.stdout
    assert json.loads((folder / "results" / "tiny.json").read_text())["runs"][1]["score"] == report["runs"][1]["score"]
