"""The grammar of the commands: overrides, presets, YAML files, and what is said of mistakes."""

import io
import os
import re
import subprocess
import sys
import tempfile
import threading
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.config import compose, schema
from s2s.config.schema import LARGEST_SEED
from s2s.config.values import quote
from s2s.decoding.config import DecodeConfig
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s_cli.train import TrainCommand


def train(*words: str):
    return compose.compose(TrainCommand, [tuple(word.split("=", 1)) for word in words])


def from_file(path):
    return compose.compose(TrainCommand, compose.read_config(str(path)))


def test_defaults_presets_and_dotted_keys():
    config = train("model=transformer_tiny", "model.encoder.layers=7", "optim=adamw", "train.valid_metrics=[loss,bleu]")
    assert (config.model.encoder.layers, config.model.decoder.layers) == (7, 2)
    assert (config.model.encoder.width, config.model.type) == (128, "transformer")
    assert (config.optim.type, config.optim.weight_decay) == ("adamw", 0.01)
    assert config.train.valid_metrics == ["loss", "bleu"]


@pytest.mark.parametrize(
    ("preset", "layers", "width"), [("tiny", 2, 128), ("small", 3, 256), ("base", 6, 512), ("big", 6, 1024)]
)
def test_the_four_sizes(preset, layers, width):
    config = train(f"model=transformer_{preset}")
    for stack in (config.model.encoder, config.model.decoder):
        assert (stack.layers, stack.width, stack.ffn_width) == (layers, width, 4 * width)


def test_presets_of_decoding_are_starting_points():
    assert train().decode == DecodeConfig()
    speech = train("task=speech_to_text").decode
    assert (speech.max_length_a, speech.max_length_b) == (1.0, 10)
    assert train("task=speech_to_text", "decode=default").decode.max_length_a == 2.0
    fairseq = train("decode=fairseq", "decode.beam_size=7").decode
    assert fairseq == DecodeConfig(beam_size=7, max_length_a=0.0, max_length_b=200, allow_unknown=True)
    ctranslate2 = train("decode.length_penalty=0.5", "decode=ctranslate2").decode
    expected = DecodeConfig(beam_size=2, length_penalty=0.5, max_length_a=0.0, max_length_b=256, allow_unknown=True)
    assert ctranslate2 == expected


def test_a_component_without_a_preset_file_is_its_own_defaults():
    assert train("model=transformer").model.encoder.width == 512


def test_the_last_of_equal_keys_counts():
    assert train("seed=3", "seed=4").seed == 4


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.max_update=3", r"unknown key 'train.max_update'; did you mean 'train.max_updates'\?"),
        ("model.encoder.layrs=3", "did you mean 'model.encoder.layers'"),
        ("decode=farseq", "did you mean 'fairseq'"),
        ("decode=null", "decode=null: a preset is needed, such as default"),
        ("criterion=distilation", "did you mean 'distillation'"),
        ("modl=transformer_tiny", "did you mean 'model'"),
        ("tokenizer=bytes", "unknown key 'tokenizer'; it belongs to s2s-preprocess$"),
        ("tokenizer.vocab_size=80", "unknown key 'tokenizer.vocab_size'; it belongs to s2s-preprocess$"),
        ("model=transformer_tinny", "did you mean 'transformer_tiny'"),
        ("train.max_updates=many", "train.max_updates: 'many' is not a whole number"),
        ("optim.lr=fast", "optim.lr: 'fast' is not a number"),
        ("train.max_updates=0", "train.max_updates=0: must be at least 1"),
        ("model.dropout=1.5", "model.dropout=1.5: must be below 1"),
        ("decode.top_p=1.5", "decode.top_p=1.5: must be at most 1"),
        ("model.norm=middle", "model.norm=middle: choose one of pre, post"),
        ("train.valid_metrics=[loss,blue]", "train.valid_metrics=blue: choose one of"),
        ("data.row_tokens=64", "data.row_tokens=64: does nothing without data.batching=packed$"),
        ("data.buckets=[4]", "does nothing without data.batching=bucket_1d\\|bucket_2d$"),
        ("data.spec_augment.time_width=9", "does nothing without data.spec_augment.time_masks$"),
        ("data.spec_augment.frequency_width=9", "does nothing without data.spec_augment.frequency_masks$"),
        ("data.waveform.noise_snr=[1,2]", "does nothing without data.waveform.noise$"),
        ("data.waveform.noise_folder=noise", "does nothing without data.waveform.noise$"),
        ("train.init.new_rows=fresh", "does nothing without train.init.checkpoint or train.init.encoder or"),
        ("criterion.auxiliary=0.2", "criterion.auxiliary is now criterion.auxiliary.weight, "),
        ("criterion.label_smoothing=0", "is now criterion.cross_entropy.label_smoothing$"),
        ("criterion.teachers=[a,b]", "criterion.teachers is now criterion.distillation.teachers, "),
        ("criterion.ctc.weight=0.2", "unknown key 'criterion.ctc.weight'"),
        ("criterion.terms=[cross_entropy,ctcc]", "did you mean 'ctc'"),
        ("optim.min_lr=1e-6", r"does nothing without optim.schedule=cosine\|linear"),
        (
            "train.stages=[{updates:5,freze:[encoder]},{}]",
            r"train.stages: unknown key 'freze'; did you mean 'freeze'\?$",
        ),
        ("data.stages=[{epochs:many}]", "data.stages: epochs: 'many' is not a whole number"),
        ("optim.groups=[{paramters:[a]}]", r"optim.groups: unknown key 'paramters'; did you mean 'parameters'\?$"),
        ("train.stages=[{updates:5},{factor:-1}]", r"train.stages\[1\].factor=-1.0: must be at least 0"),
        ("lr=0.1", r"unknown key 'lr'; did you mean 'optim.lr'\?"),
        ("train.batch_tokens=9", r"did you mean 'data.batch_tokens' or 'decode.batch_tokens'\?"),
        ("what=9", "unknown key 'what'; --help all lists all keys$"),
        ("decode.diverse_strength=0.2", "does nothing without decode.diverse_groups$"),
        ("decode.language_model_weight=0.2", "does nothing without decode.language_model$"),
        ("decode.chunk_overlap=2", "does nothing without decode.chunk_seconds$"),
        ("decode.speculative_tokens=2", "does nothing without decode.speculative or draft$"),
        ("train=3", "train is a section: set one of its keys, such as train.max_updates"),
        ("store=[a,b", r"^store=\[a,b: the bracket \] is missing at the end$"),
        ("store=[a,'b]", "the quote ' is not closed$"),
        ("store=[a,'b' c]", "a comma is missing before 'c\\]'$"),
        ("store=[a,,b]", "a value is missing between commas; '' is empty text$"),
        ("store=[a]b", r"'b' comes after the end of the list; quote brackets$"),
        ("data.weights=[1,2", r"the bracket \] is missing at the end$"),
        ("train.stages=[{updates:5]", "is missing at the end$|a comma is missing"),
        ("train.stages=[{updates:5,updates:6}]", "the key updates appears twice$"),
        ("train.stages=[{updates}]", "'updates' is not key:value$"),
        ("train.stages=" + "[" * 100_000, "nested deeper than 32$"),
        ("train.stages=[3]", r"train.stages: an object, \{key:value\}, is needed"),
        ("train.max_updates=[3]", r"train.max_updates: '\[3\]' is not a whole number"),
        ("train.max_updates=", "train.max_updates: '' is not a whole number"),
        ("train.max_updates=1e3", "train.max_updates: '1e3' is not a whole number"),
        ("optim.lr=nan", "optim.lr: 'nan' is not a number"),
        ("optim.lr=1e400", "optim.lr: 1e400 is not a finite number"),
        ("overwrite=maybe", "overwrite: 'maybe' is not true or false"),
        ("seed=18446744073709551616", "seed: 18446744073709551616 has more than 64 bits"),
        ("model.encoder.layers=1000000000", "model.encoder.layers=1000000000: must be at most 1,000$"),
        ("decode.max_length_a=1e300", r"decode.max_length_a=1e\+300: must be at most 1,000$"),
        ("decode.max_length_b=9223372036854775807", "must be at most 1,000,000$"),
        ("train.max_updates=9223372036854775807", "must be at most 1,000,000,000,000$"),
        ("decode.length_penalty=1e308", "must be at most 10$"),
        ("train.valid_metrics=[${oc.env:HOME}]", r"train.valid_metrics=\$\{oc.env:HOME\}: choose one of"),
        ("seed=${oc.env:HOME}", r"seed: '\$\{oc.env:HOME\}' is not a whole number"),
    ],
)
def test_mistakes_get_one_line_that_helps(word, message):
    with pytest.raises(UserError, match=message) as error:
        train(word)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["data.row_tokens=64", "data.batching=packed"],
        ["data.buckets=[4,4]", "data.batching=bucket_2d"],
        ["data.batching=token_budget", "data.row_tokens=null", "data.buckets=[]"],  # as they are
        ["data.waveform.noise_snr=[1,2]", "data.waveform.noise=0.5"],
        ["train.init.new_rows=fresh", "train.init.embeddings=runs/a"],
        ["optim.min_lr=1e-6", "optim.schedule=linear"],
        ["decode.diverse_strength=0.2", "decode.diverse_groups=5"],
        ["decode.chunk_overlap=2", "decode.chunk_seconds=30"],
    ],
)
def test_options_with_what_they_need_are_no_mistakes(words):
    train(*words)
    if len(words) == 2:
        with pytest.raises(UserError, match=f"^{words[0].split('=')[0]}=.*: does nothing without "):
            train(words[0])


@pytest.mark.parametrize(
    "path",
    [
        "1.10",
        "2024_01",
        "1e3",
        "007",
        "1:30",
        "0x10",
        "true",
        "no",
        "~",
        "[a,b",
        "'a'",
        "${oc.env:HOME}",
        " a ",
        "a=b",
        "#1",
        "*",
        "&a",
        "!b",
        "- a",
        "a: b",
        "a\nb",
        "\\",
    ],
)
def test_a_key_of_text_holds_the_characters_that_were_typed(tmp_path, path):
    assert train(f"run={path}", "store=a").run == path
    if "," not in path and not path.startswith("["):
        assert train(f"store={path}").store == [path]  # one value alone, as it stands
    assert train(f"store=[b, {quote(path)}]").store == ["b", path]
    assert train(f"store={quote(path)},b").store == [path, "b"]
    file = tmp_path / "c.yaml"
    quoted = path.replace("'", "''").replace("\n", "\n\n")  # a line feed of a quoted scalar is a space, two are one
    file.write_text(f"run: '{quoted}'\nstore: ['{quoted}', b]\n")
    config = from_file(file)
    assert (config.run, config.store) == (path, [path, "b"])


@pytest.mark.parametrize("text", ["1.10", "2024_01", "1e3", "007", "1:30", "0x10", "true", "no", "2024-01-01", "<<"])
def test_a_key_of_text_needs_no_quotes_in_a_file(tmp_path, text):
    (tmp_path / "c.yaml").write_text(f"run: {text}\nstore: [{text}, b]\ntrain.freeze: {text}\n")
    config = from_file(tmp_path / "c.yaml")
    assert (config.run, config.store, config.train.freeze) == (text, [text, "b"], [text])


def test_null_and_nothing_are_null_where_that_is_possible(tmp_path):
    for text in ("", "null", "~", "Null"):
        (tmp_path / "c.yaml").write_text(f"run: {text}\nmodel.encoder.kv_heads: {text}\n")
        assert from_file(tmp_path / "c.yaml").run is from_file(tmp_path / "c.yaml").model.encoder.kv_heads is None
    assert train("run=").run is train("run=null").run is train("model.encoder.kv_heads=null").model.encoder.kv_heads
    (tmp_path / "c.yaml").write_text("run: 'null'\n")
    assert from_file(tmp_path / "c.yaml").run == "null"
    assert train("store=").store == train("store=[]").store == train("store=null").store == []
    assert train("store=[null]").store == ["null"]
    (tmp_path / "c.yaml").write_text("seed: 1\ndevice:\n")
    with pytest.raises(UserError, match=f"^{tmp_path}/c.yaml:2: device: no value; '' is empty text$"):
        from_file(tmp_path / "c.yaml")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text not in ("null", "\0"))


@settings(max_examples=20)
@given(TEXT, st.lists(TEXT, max_size=3), st.integers(0, LARGEST_SEED), st.floats(0, 1e12), st.booleans(),
       st.sampled_from(["optim=adam", "optim=adamw"]))  # fmt: skip
def test_any_text_is_kept_and_a_printed_config_can_be_given_back(text, texts, seed, lr, overwrite, optim):
    words = [f"run={text}", f"store=[{','.join(map(quote, texts))}]", f"seed={seed}", f"optim.lr={lr!r}", optim]
    config = train("model=transformer_tiny", f"overwrite={overwrite}".lower(), *words)
    assert (config.run, config.store, config.seed, config.optim.lr) == (text, texts, seed, lr)
    assert (config.overwrite, config.optim.type) == (overwrite, optim.removeprefix("optim="))
    printed = compose.to_yaml(config)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(printed)
        file.flush()
        again = from_file(file.name)
    assert again == config
    assert compose.to_yaml(again) == printed


@pytest.mark.parametrize("path", ["runs/a b(1)", "runs/lr=0.1", "it's here", "a,b", "ünï/c{d}", "back\\slash"])
def test_paths_with_awkward_characters_need_no_quoting(path):
    assert train(f"run={path}").run == path


def test_a_single_value_is_a_list_of_one():
    assert train("train.valid_metrics=bleu").train.valid_metrics == ["bleu"]


def test_lists_with_brackets_without_and_of_objects():
    assert train("data.weights=1,2").data.weights == train("data.weights=[ 1, 2 ]").data.weights == [1.0, 2.0]
    assert train("store=a,b").store == ["a", "b"]
    assert train("store=runs/[1]").store == ["runs/[1]"]
    assert train("train.freeze='a,b',\"c]\"").train.freeze == ["a,b", "c]"]
    stages = train("train.stages=[{updates:5,freeze:[a,'b,c']},{factor: 0.5}, {}]").train.stages
    assert [(stage.updates, stage.freeze, stage.factor) for stage in stages] == [
        (5, ["a", "b,c"], 1.0), (None, None, 0.5), (None, None, 1.0)
    ]  # fmt: skip
    assert train("seed=1_000").seed == 1000
    assert train("overwrite=yes").overwrite is True


def test_yaml_nested_and_dotted_keys_mean_the_same(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "model: transformer_small\nmodel.dropout: 0.25\ntrain:\n  max_updates: 12\n  patience: 3\nrun: it's/a b\n"
    )
    config = compose.compose(TrainCommand, [*compose.read_config(str(file)), ("train.patience", "4")])
    assert (config.model.encoder.width, config.model.dropout) == (256, 0.25)
    assert (config.train.max_updates, config.train.patience, config.run) == (12, 4, "it's/a b")


def test_a_yaml_file_that_is_not_one_is_named(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    for name in ("list.yaml", "broken.yaml", "missing.yaml"):
        with pytest.raises(UserError, match=name):
            compose.read_config(str(tmp_path / name))
    with pytest.raises(UserError, match=f"--config {tmp_path}: Is a directory"):
        compose.read_config(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nmodle: transformer_tiny", "c.yaml:2: unknown key 'modle'; did you mean 'model'"),
        ("seed: 1\nmodel: transformer_tinny", "c.yaml:2: model=transformer_tinny: no such preset; did you mean"),
        ("seed: 1\nmodel: null", "c.yaml:2: model=null: a preset is needed"),
        ("seed: 1\ntrain: 3", "c.yaml:2: train is a section"),
        ("train:\n  max_updates: many", "c.yaml:2: train.max_updates: 'many' is not a whole number"),
        ("train:\n  max_updates: 0", "c.yaml:2: train.max_updates=0: must be at least 1"),
        ("train:\n  max_updates: [3]", "c.yaml:2: train.max_updates: a single value is needed, not a list"),
        ("data.row_tokens: 64", "c.yaml:1: data.row_tokens=64: does nothing without data.batching=packed"),
        ("data.stages:\n- epochs: 1\n- epochs: many", "c.yaml:3: data.stages: epochs: 'many' is not a whole number"),
        ("train.stages:\n- updates: 1\n- freze: 1", "c.yaml:3: train.stages: unknown key 'freze'; did you mean 'fre"),
        ("data.stages:\n- epochs: 0", r"c.yaml:2: data.stages\[0\].epochs=0: must be at least 1"),
        ("model:\n  dropout: 0.1\nmodel.dropout: 0.2", "c.yaml:3: the key model.dropout appears twice"),
        ("seed: 1\nseed: 2", "c.yaml:2: the key seed appears twice"),
        ("run:\n\t- a", "c.yaml:2: a tab; YAML requires spaces"),
        ("- a", "c.yaml:1: a mapping of keys to values is needed"),
        ("seed: ${oc.env:HOME}", "c.yaml:1: seed: '${oc.env:HOME}' is not a whole number"),
        ("a: &a [x]\nb: *a", "c.yaml:1: & begins an anchor"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/{message.replace('$', chr(92) + '$')}"):
        from_file(tmp_path / "c.yaml")


def test_a_task_that_is_none_is_named_with_its_file(tmp_path, s2s, capsys):
    (tmp_path / "c.yaml").write_text(f"store: s\ntask: speech_to_{'t' * 1000}\n")
    assert s2s("preprocess", "--config", tmp_path / "c.yaml") == 2
    assert re.fullmatch(r"s2s-preprocess: error: .*c\.yaml:2: [^:\n]*'speech_to_t{30}\.\.\.'; [^\n]{1,80}\n",
                        capsys.readouterr().err)  # fmt: skip


def test_a_config_may_come_through_a_pipe(tmp_path, s2s, capsys, monkeypatch):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_text, args=("run: 1.10",))
    writer.start()
    assert s2s("train", "--config", fifo, "--print-config") == 0
    writer.join()
    assert "run: '1.10'\n" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"run: 007\nseed: x")))
    assert s2s("train", "--config", "-", "--print-config") == 2
    assert "standard input:2: seed: 'x' is not a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--store", "x"], "unknown flag '--store'; write store=x"),
        (["--beam-size", "4"], "write decode.beam_size=4"),
        (["--max_updates=7"], "write train.max_updates=7"),
        (["--model"], "write model=VALUE"),
        (["--warmup-update", "--x"], "did you mean 'optim.warmup_updates'"),
        (["hydra/launcher=submitit_slurm"], "hydra/launcher: does nothing without --multirun"),
        (
            ["optim.lr=1e-3,3e-3"],
            "optim.lr=1e-3,3e-3: a single value is needed; to train once with each of these values, add --multirun",
        ),
        (["seed=range(1,4)"], "seed=range(1,4): a single value is needed; to train once with each"),
        (["model=transformer_tiny,lstm"], "model=transformer_tiny,lstm: a single value is needed; to train once"),
        (["data.weights=a,b"], "data.weights: 'a' is not a number"),
        (["train.valid_metrics=[loss"], "train.valid_metrics=[loss: the bracket ] is missing at the end"),
    ],
)
def test_a_flag_of_another_toolkit_is_told_in_our_words(words, hint, s2s, capsys):
    assert s2s("train", *words) == 2
    assert hint in capsys.readouterr().err


def test_a_preset_that_is_an_option_of_one_is_told(s2s, capsys):
    assert s2s("preprocess", "tokenizer=bpe") == 2
    assert (
        "tokenizer=bpe: no such preset; write tokenizer=sentencepiece tokenizer.algorithm=bpe"
        in capsys.readouterr().err
    )


def test_saved_values_are_checked_by_the_schema():
    for values, message in (
        ({"encoder": {"layers": 10**9}}, "f: encoder: layers=1000000000: must be at most 1,000"),
        ({"encoder": {"layers": -1}}, "f: encoder: layers=-1: must be at least 1"),
        ({"encoder": {"layers": "x"}}, "f: encoder: layers: a whole number is needed, not 'x'"),
        ({"encoder": 3}, "f: encoder: an object of keys and values is needed, not 3"),
        ({"encoder": {"layrs": 1}}, "f: encoder: unknown key 'layrs'; did you mean 'layers'"),
        ({"encoder": {"layer": {"type": "x"}}}, "f: encoder: layer: no layer is called 'x'; choose one of: "),
        ({"dropout": float("nan")}, "f: dropout: a number is needed, not NaN"),
        ({"dropout": True}, "f: dropout: a number is needed, not true"),
        ({"norm": ["pre"]}, "f: norm: one of pre, post is needed, not a list"),
        ({"norm": None}, "f: norm: one of pre, post is needed, not null"),
        ({"auxiliary_heads": [1, None]}, r"f: auxiliary_heads\[1\]: a whole number is needed, not null"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            schema.load(Transformer.Config, values, "f")


def test_print_config_can_be_read_back(tmp_path):
    config = train("model=transformer_tiny", "run=x", "store=s", "train.samples=0", "optim=adamw")
    file = tmp_path / "printed.yaml"
    file.write_text(compose.to_yaml(config))
    assert compose.compose(TrainCommand, compose.read_config(str(file))) == config


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "s2s_cli.train", *words], capture_output=True, text=True, timeout=120)


def test_the_command_answers_help_version_and_mistakes():
    shown = command("--help")
    assert shown.returncode == 0
    assert "train.max_updates: int = 100000" in shown.stdout
    assert "transformer, transformer_base, transformer_big," in " ".join(shown.stdout.split())
    version = command("--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "s2s-train")
    for words in (["train.max_update=3"], ["nonsense"], ["--nonsense"], ["--config", "missing.yaml"]):
        wrong = command(*words)
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("s2s-train: error: ")
        assert wrong.stderr.count("\n") == 1
        assert wrong.stdout == ""


def plain(value) -> str | list[str]:
    """A value as it is typed."""
    return [*map(str, value)] if isinstance(value, list) else str(value).lower()


@pytest.mark.parametrize("kind", sorted(path.name for path in files("s2s.config.conf").iterdir() if path.is_dir()))
def test_every_preset_sets_what_it_says(kind):
    """And nothing in it is left out."""
    for path in files("s2s.config.conf").joinpath(kind).iterdir():
        if path.name.endswith(".yaml"):
            values = schema.values(compose.preset(kind, path.name.removesuffix(".yaml")))
            for word in compose.flat(compose.yaml_nodes(path.read_bytes(), "").value, ""):
                if word.key != "base":
                    value = values
                    for name in word.key.split("."):
                        value = value[name]
                    value = value["type"] if isinstance(value, dict) else value  # a component without options
                    said = word.value.value
                    said = [item.value for item in said] if isinstance(said, list) else said
                    assert value == pytest.approx(float(said)) if isinstance(value, float) else plain(value) == said
