"""The grammar of the commands: overrides, presets, YAML files, and what is said of mistakes."""

import subprocess
import sys

import pytest

from s2s.config import compose
from s2s.decoding.config import DecodeConfig
from s2s.errors import UserError
from s2s_cli.train import TrainCommand


def train(*words: str):
    return compose.compose(TrainCommand, [tuple(word.split("=", 1)) for word in words])


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
        ("model.encoder.layer=3", "did you mean 'model.encoder.layers'"),
        ("decode=farseq", "did you mean 'fairseq'"),
        ("decode=null", "decode=null: a preset is needed, such as default"),
        ("modl=transformer_tiny", "did you mean 'model'"),
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
        ("criterion.auxiliary=0.2", "does nothing without model.auxiliary_heads$"),
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
        ("what=9", "unknown key 'what'; --help lists all keys$"),
        ("decode.diverse_strength=0.2", "does nothing without decode.diverse_groups$"),
        ("decode.language_model_weight=0.2", "does nothing without decode.language_model$"),
        ("decode.chunk_overlap=2", "does nothing without decode.chunk_seconds$"),
        ("decode.speculative_tokens=2", "does nothing without decode.speculative or draft$"),
        ("train=3", "train is a section: set one of its keys, such as train.max_updates"),
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
        ["criterion.auxiliary=0.2", "model.auxiliary_heads=[2]"],
        ["optim.min_lr=1e-6", "optim.schedule=linear"],
        ["decode.diverse_strength=0.2", "decode.diverse_groups=5"],
        ["decode.chunk_overlap=2", "decode.chunk_seconds=30"],
        ["task=speech_to_text", "criterion.intermediate=0.3", "model.encoder.ctc_layers=[2]"],
    ],
)
def test_options_with_what_they_need_are_no_mistakes(words):
    train(*words)
    if len(words) == 2:
        with pytest.raises(UserError, match=f"^{words[0].split('=')[0]}=.*: does nothing without "):
            train(words[0])


@pytest.mark.parametrize("path", ["runs/a b(1)", "runs/lr=0.1", "it's here", "a,b", "ünï/c{d}", "back\\slash"])
def test_paths_with_awkward_characters_need_no_quoting(path):
    assert train(f"run={path}").run == path


def test_a_single_value_is_a_list_of_one():
    assert train("train.valid_metrics=bleu").train.valid_metrics == ["bleu"]


def test_yaml_nested_and_dotted_keys_mean_the_same(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "model: transformer_small\nmodel.dropout: 0.25\ntrain:\n  max_updates: 12\n  patience: 3\nrun: it's/a b\n"
    )
    config = compose.compose(TrainCommand, [*compose.read_yaml(str(file)), ("train.patience", "4")])
    assert (config.model.encoder.width, config.model.dropout) == (256, 0.25)
    assert (config.train.max_updates, config.train.patience, config.run) == (12, 4, "it's/a b")


def test_a_yaml_file_that_is_not_one_is_named(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    for name in ("list.yaml", "broken.yaml", "missing.yaml"):
        with pytest.raises(UserError, match=name):
            compose.read_yaml(str(tmp_path / name))


def test_print_config_can_be_read_back(tmp_path):
    config = train("model=transformer_tiny", "run=x", "store=s", "train.samples=0", "optim=adamw")
    file = tmp_path / "printed.yaml"
    file.write_text(compose.to_yaml(config))
    assert compose.compose(TrainCommand, compose.read_yaml(str(file))) == config


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "s2s_cli.train", *words], capture_output=True, text=True, timeout=120)


def test_the_command_answers_help_version_and_mistakes():
    shown = command("--help")
    assert shown.returncode == 0
    assert "train.max_updates: int = 100000" in shown.stdout
    (models,) = (line for line in shown.stdout.splitlines() if line.strip().startswith("model={"))
    assert "transformer,transformer_base,transformer_big," in models
    version = command("--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "s2s-train")
    for words in (["train.max_update=3"], ["nonsense"], ["--nonsense"], ["--config", "missing.yaml"]):
        wrong = command(*words)
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("s2s-train: error: ")
        assert wrong.stderr.count("\n") == 1
        assert wrong.stdout == ""
