"""`--help`: what is changed most, a section, a key, everything; and the hints for what people type."""

import subprocess
import sys

import pytest

from s2s.config import compose, help, hints, other_toolkits
from s2s.data.preprocess import PreprocessConfig
from s2s.data.speech_preprocess import SpeechPreprocessConfig
from s2s_cli.generate import GenerateCommand
from s2s_cli.score import ScoreConfig
from s2s_cli.train import TrainCommand

SCHEMAS = {"train": TrainCommand, "preprocess": PreprocessConfig, "generate": GenerateCommand, "score": ScoreConfig}


@pytest.fixture
def shown(s2s, capsys):
    """shown("train", "--help") is what a command prints."""

    def run(command, *words):
        assert s2s(command, *words) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("command", ["train", "preprocess", "generate", "score", "serve", "average", "plot"])
def test_help_fits_a_hundred_columns_and_names_each_section(command, shown):
    short = shown(command, "--help")
    everything = shown(command, "--help", "all")
    assert short.startswith(f"usage: s2s-{command} ")
    for text in (short, everything):
        assert max(map(len, text.splitlines())) <= 100, command
    if command in ("train", "preprocess", "generate"):
        assert len(short.splitlines()) < 90
        for line in short.partition("sections (")[2].splitlines()[1:]:
            if line.startswith("  ") and line[2] != " ":
                assert shown(command, "--help", line.split()[0])


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), SpeechPreprocessConfig])
def test_the_keys_that_are_changed_most_exist(schema):
    config = compose.compose(schema, [])
    entries = {entry.key for entry in help._entries(config)}
    tasks = {"features.bins", "features.sample_rate", "tokenizer.joint", "filter.max_length", "filter.max_ratio"}
    tasks |= {"keep_text"} if schema is SpeechPreprocessConfig else set()
    assert set(getattr(schema, "COMMON", ())) - entries <= tasks


def test_a_section_holds_all_its_keys_and_no_other(shown):
    keys = [line.split(":")[0].split("=")[0].strip() for line in shown("train", "--help", "optim").splitlines()
            if line[2] != " "]  # fmt: skip
    config = compose.compose(TrainCommand, [])
    assert keys[0] == "optim"
    assert sorted(keys[1:]) == sorted(f"optim.{name}" for name in vars(config.optim) if name != "type")
    assert shown("train", "--help", "optim.lr") == "  optim.lr: float = 0.001\n      highest learning rate\n"
    own = shown("train", "--help", "command")
    assert "  workers: int = 1\n" in own
    assert "model" not in own.replace("a model", "")


def test_keys_of_other_tasks_are_left_out(shown):
    assert "data.waveform.speed" not in shown("train", "--help", "data")
    assert "decode.chunk_seconds" not in shown("train", "--help", "decode")
    speech = ["task=speech_to_text", "model=conformer_tiny"]
    assert "data.waveform.speed" in shown("train", *speech, "--help", "data")
    assert "data.word_dropout" not in shown("train", *speech, "--help", "data")
    assert "data.waveform.speed" in shown("train", "--help", "data.waveform")  # who asks for them gets them
    assert "data.waveform.speed" in shown("train", "--help", "all")


def test_the_options_of_a_chosen_component_are_shown(shown):
    assert "model.frontend.block: int = 4" in shown("train", "model.frontend=gbst", "--help")
    assert "model.frontend.block" not in shown("train", "--help")


def test_an_unknown_section_names_the_nearest(s2s, capsys):
    assert s2s("train", "--help", "optm") == 2
    assert capsys.readouterr().err == ("s2s-train: error: --help optm: no such section or key; did you mean 'optim'?\n")


PRINTS = """
import sys
sys.argv = ["s2s-train", *{words}]
from s2s_cli import train
train.main()
import torch
assert type(torch).__name__ == "_Module", "PyTorch was imported"
"""


@pytest.mark.parametrize("words", [["--help", "all"], ["--completion", "bash"]])
def test_printing_does_not_import_pytorch_and_prints_the_same(words, shown):
    made = subprocess.run([sys.executable, "-c", PRINTS.format(words=words)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout == shown("train", *words)  # of this process, which has PyTorch


# --- hints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words", "hint"),
    [
        ("train", ["--store", "X"], "write store=X"),
        ("train", ["--max-tokens", "4096"], "write data.batch_tokens=4096"),
        ("train", ["--lr", "5e-4"], "write optim.lr=5e-4"),
        ("train", ["--arch", "transformer_base"], "write model=transformer_base"),
        ("train", ["--arch=transformer_base"], "write model=transformer_base"),
        ("train", ["--update-freq", "4"], "write train.accumulate=4"),
        ("train", ["--share-all-embeddings"], "write model.tie_embeddings=all"),
        ("train", ["--fp16"], "write train.precision=bf16"),
        ("train", ["--save-dir", "runs/a"], "write run=runs/a"),
        ("train", ["max_tokens=4096"], "write data.batch_tokens=VALUE"),
        ("train", ["lr=3"], "did you mean 'optim.lr'?"),
        ("preprocess", ["--src", "de"], "write source=de"),
        ("preprocess", ["--source-lang", "de"], "write source=de"),
        ("preprocess", ["--trainpref", "corpus/train"], "write train=corpus/train"),
        ("preprocess", ["--joined-dictionary"], "write tokenizer.joint=true"),
        ("preprocess", ["--srcdict", "dict.txt"], "write tokenizer=words tokenizer.vocabulary=FILE"),
        ("preprocess", ["tokenizer=bpe"], "write tokenizer=sentencepiece tokenizer.algorithm=bpe"),
        ("generate", ["--beam", "4"], "write decode.beam_size=4"),
        ("generate", ["--path", "runs/a"], "write checkpoint=runs/a"),
        ("generate", ["--src", "test.de"], "write input=test.de"),
        ("generate", ["beam=4"], "write decode.beam_size=VALUE"),
        ("generate", ["--lenpen", "0.6"], "write decode.length_penalty=0.6"),
        ("score", ["--ref", "a.en"], "write reference=a.en"),
        ("score", ["--sys", "a.en"], "write hypothesis=a.en"),
        ("score", ["metrics=[bleu"], "metrics=[bleu: the bracket ] is missing at the end"),
        ("score", ["metrics=bleu]"], "metrics=bleu]: the bracket [ is missing at the beginning"),
        ("score", ["metrics=[bleu,", "chrf]"], 'without spaces, or quote it: "metrics=[bleu, chrf]"'),
        ("train", ["store", "=", "x"], "write store=x, without spaces"),
        ("train", ["store", "x"], "write store=x, without spaces"),
        ("train", ["/tmp"], "write for example store=/tmp"),
        ("train", ["nonsense"], "'nonsense' is not key=value; try s2s-train --help"),
    ],
)
def test_a_hint_for_what_people_type(command, words, hint, s2s, capsys):
    assert s2s(command, *words) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"s2s-{command}: error: ")
    assert message.count("\n") == 1
    assert hint in message


def test_each_option_of_another_toolkit_stands_for_a_key():
    known = {name: set(hints._known(schema)) for name, schema in SCHEMAS.items()}
    for option, keys in other_toolkits.OPTIONS.items():
        for key in keys:
            assert any(key.partition("=")[0] in keys for keys in known.values()), f"{option}: no command has {key}"
