"""A Marian model of transformers comes in, and gives the same logits and lines as there."""

import json
import os
import pathlib
import shutil
import tempfile

import pytest
import safetensors.torch
import sentencepiece
import torch

from s2s.checkpoint.loading import load_model
from s2s.errors import UserError
from s2s.interop.importing import stacks
from s2s.interop.importing.imported import Folder
from s2s_cli import importing
from tests.interop.taught import compare, same_logits, teach, words, written

transformers = pytest.importorskip("transformers")

LINES = ["das ist ein haus", "ein kleiner hund", "der hund ist klein und das haus ist alt", "haus", "und der alte hund"]


def pieces(path, text, size):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(path), vocab_size=size, character_coverage=1.0, minloglevel=4,
        hard_vocab_limit=False, bos_id=-1, pad_id=-1, eos_id=0, unk_id=1)  # fmt: skip
    path.with_suffix(".model").rename(path.with_suffix(".spm"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Marian model with its tokenizer, as OPUS-MT has them."""
    path = tmp_path_factory.mktemp("marian")
    pieces(path / "source", LINES * 20, 40)
    pieces(path / "target", [line[::-1] for line in LINES] * 20, 40)
    names: dict[str, None] = dict.fromkeys(["</s>", "<unk>"])
    for side in ("source", "target"):
        spm = sentencepiece.SentencePieceProcessor(model_file=str(path / f"{side}.spm"))
        names |= dict.fromkeys(spm.id_to_piece(list(range(len(spm)))))
    names |= dict.fromkeys([">>fra<<", "<pad>"])
    known = {name: number for number, name in enumerate(names)}
    (path / "vocab.json").write_text(json.dumps(known))
    V, pad = len(known), len(known) - 1
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=V, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, pad_token_id=pad,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, activation_function="swish",
        scale_embedding=True, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0,
        max_position_embeddings=64, dropout=0.0, init_std=0.2)  # fmt: skip
    model = transformers.MarianMTModel(config)
    model.final_logits_bias.normal_(0, 0.5)
    teach(model, range(2, V - 2), 0)
    model.generation_config = transformers.GenerationConfig(
        bad_words_ids=[[pad]], decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0, max_length=30,
        num_beams=4, pad_token_id=pad)  # fmt: skip
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def imported(folder):
    output = folder.parent / "imported"
    report = importing.write(folder, "auto", output)
    assert report[0].startswith("Marian")
    return output


def loaded(folder):
    """The model of transformers, and functions from lines to ids and back."""
    model = transformers.MarianMTModel.from_pretrained(folder).eval()
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    return model, lambda line: tokenizer(line)["input_ids"], lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


def test_same_tokens_and_logits(folder, imported):
    theirs, encode, _ = loaded(folder)
    model, task, _ = load_model(str(imported))
    known = json.loads((folder / "vocab.json").read_text())
    symbols = task.target_tokenizer.vocabulary.symbols
    row = [known["<pad>"], known["<unk>"], known["<pad>"], known["</s>"], *map(known.get, symbols[4:])]
    same_logits(theirs, model, task, [*LINES, "xyz haus", ">>fra<< das haus"], encode, row)


@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_same_lines_as_generate(folder, imported, beams, s2s, tmp_path, capsys):
    lines = words(50, sorted({word for line in LINES for word in line.split()}))
    theirs, encode, decode = loaded(folder)
    expected = written(theirs, lines, encode, decode, beams, 30)
    compare(s2s, tmp_path, imported, lines, expected, beams)
    assert "slower" not in capsys.readouterr().err  # the kernels take it
    if beams > 1:
        compare(s2s, tmp_path, imported, lines, expected, beams, "decode.backend=eager")
        (tmp_path / "in8").write_text("\n".join(lines) + "\n")
        options = ["decode=huggingface", "decode.beam_size=5", "decode.max_length_b=28", "decode.dtype=int8"]
        assert s2s("generate", f"checkpoint={imported}", f"input={tmp_path / 'in8'}", f"output={tmp_path / 'out8'}",
                   *options) == 0  # fmt: skip
        rounded = (tmp_path / "out8").read_text().splitlines()
        assert sum(line == wanted for line, wanted in zip(rounded, expected, strict=True)) > 0.7 * len(lines)


def test_the_commands_take_it(imported, s2s, tmp_path, capsys):
    """Scored, averaged, inspected, and trained further on a store with its tokenizers."""
    for name in ("train.de", "train.en"):
        (tmp_path / name).write_text("\n".join(LINES * 4) + "\n")
    out = tmp_path / "scores"
    assert s2s("generate", f"checkpoint={imported}", f"input={tmp_path / 'train.de'}", "mode=score", "format=tsv",
               f"target={tmp_path / 'train.en'}", f"output={out}", "decode.dtype=int8") == 0  # fmt: skip
    assert len(out.read_text().splitlines()) == len(LINES) * 4
    assert s2s("average", f"checkpoint=[{imported},{imported}]", f"output={tmp_path / 'mean'}") == 0
    assert s2s("inspect", str(tmp_path / "mean")) == 0
    assert s2s("preprocess", "source=de", "target=en", f"train={tmp_path / 'train'}", f"valid={tmp_path / 'train'}",
               f"tokenizer_from={imported}", f"store={tmp_path / 'store'}") == 0  # fmt: skip
    model = ["model=transformer", "model.norm=post", "model.activation=silu", "model.output.bias=true", *(
        f"model.{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=2", "width=16", "heads=2", "ffn_width=24"))]  # fmt: skip
    assert s2s("train", f"store={tmp_path / 'store'}", f"run={tmp_path / 'run'}", *model, "train.max_updates=2",
               f"train.init.checkpoint={imported}", "device=cpu", "data.batch_tokens=200") == 0  # fmt: skip
    capsys.readouterr()


def test_weights_in_other_files(folder, imported, tmp_path):
    """PyTorch's own file, and several files with an index; the index names files beside it only."""
    expected = safetensors.torch.load_file(imported / "model.safetensors")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    parts = [dict(list(tensors.items())[:9]), dict(list(tensors.items())[9:])]
    for kind, save in ((".bin", torch.save), (".safetensors", safetensors.torch.save_file)):
        for count in (1, 2):
            copy = shutil.copytree(folder, tmp_path / f"{count}{kind}")
            (copy / "model.safetensors").unlink()
            name = "pytorch_model.bin" if kind == ".bin" else "model.safetensors"
            if count == 1:
                save(tensors, copy / name)
            else:
                for number, part in enumerate(parts):
                    save(part, copy / f"part{number}{kind}")
                places = {key: f"part{number}{kind}" for number, part in enumerate(parts) for key in part}
                (copy / f"{name}.index.json").write_text(json.dumps({"weight_map": places}))
            importing.write(copy, "huggingface", tmp_path / "out" / copy.name)
            found = safetensors.torch.load_file(tmp_path / "out" / copy.name / "model.safetensors")
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], expected[key]) for key in found)
    (copy / "part1.safetensors").unlink()
    with pytest.raises(UserError, match="has no part1"):
        importing.write(copy, "auto", tmp_path / "no")
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../2.bin/part0.bin"}}')
    with pytest.raises(UserError, match="is not the name of a file beside it"):
        importing.write(copy, "auto", tmp_path / "no")


def test_what_is_damaged_is_refused_and_nothing_is_written(folder, s2s, tmp_path, capsys):
    def refused(change, *words):
        capsys.readouterr()
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        assert s2s("importing", f"from={copy}", f"output={tmp_path / 'new' / 'run'}", *words) == 2
        assert not (tmp_path / "new").exists()
        assert not HOSTILE.exists()
        return capsys.readouterr().err

    def weights(copy, change):
        tensors = safetensors.torch.load_file(copy / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, copy / "model.safetensors")

    def hostile(copy):
        (copy / "model.safetensors").unlink()
        torch.save({"model.shared.weight": Hostile()}, copy / "pytorch_model.bin")

    def two_lost(tensors):
        del tensors["model.encoder.layers.0.fc1.bias"], tensors["model.decoder.layers.1.encoder_attn.v_proj.weight"]
        tensors["model.extra"] = torch.zeros(3)

    for name in ("model.safetensors", "vocab.json", "source.spm", "target.spm"):
        assert f"has no {name}" in refused(lambda copy, name=name: (copy / name).unlink())
    assert "model.safetensors: damaged" in refused(
        lambda copy: (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-9])
    )
    assert "target.spm: not a SentencePiece model" in refused(lambda copy: (copy / "target.spm").write_bytes(b"x"))
    assert "could run code" in refused(hostile)
    assert "posix.system" in refused(hostile)
    message = refused(lambda copy: weights(copy, two_lost))
    assert "3 weights" in message
    assert "layers.0.fc1.bias missing" in message
    assert "model.extra left over" in message
    assert "layers.1.encoder_attn.v_proj.weight missing" in message
    assert "no such file" in refused(lambda copy: shutil.rmtree(copy))
    assert "in none of the formats" in refused(lambda copy: (copy / "config.json").unlink())
    assert "has no config.json" in refused(lambda copy: (copy / "config.json").unlink(), "format=huggingface")
    assert "model_type='bird'" in refused(lambda copy: (copy / "config.json").write_text('{"model_type": "bird"}'))
    assert "config.json:1: not JSON" in refused(lambda copy: (copy / "config.json").write_text("{"))
    for key, value, message in WRONG:

        def other(copy, key=key, value=value):
            config = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps({**config, key: value}))

        assert message in refused(other), (key, value)
    assert "activation function tanh" in refused(
        lambda copy: (copy / "config.json").write_text((copy / "config.json").read_text().replace('"swish"', '"tanh"'))
    )


WRONG = [
    ("vocab_size", 10**12, "vocab_size=1,000,000,000,000"),
    ("encoder_layers", 10**9, "encoder_layers=1,000,000,000"),
    ("decoder_start_token_id", 10**6, "id 1,000,000 is needed"),
    ("decoder_start_token_id", -1, "id -1 is needed"),
    ("d_model", 65536, "sizes are not"),
    ("d_model", 18, "is [16]"),
    ("d_model", "x", "int is needed"),
    ("decoder_layers", 3, "26 weights"),
]
HOSTILE = pathlib.Path(tempfile.gettempdir()) / "s2s-was-run"


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {HOSTILE}",)


@pytest.mark.slow
def test_out_again(folder, imported, s2s, tmp_path):
    """The exported folder gives the same lines in transformers as the one that was imported."""
    assert s2s("export", f"checkpoint={imported}", "format=huggingface", f"output={tmp_path / 'out'}") == 0
    lines = words(20, sorted({word for line in LINES for word in line.split()}))
    first, second = (written(theirs, lines, encode, decode, 5, 30, forced_eos_token_id=None, early_stopping=False)
                     for theirs, encode, decode in map(loaded, (folder, tmp_path / "out")))  # fmt: skip
    assert first == second
    assert importing.write(tmp_path / "out", "auto", tmp_path / "again")
    ours, again = (load_model(str(path))[0] for path in (imported, tmp_path / "again"))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in again.parameters())


def test_options_of_generate(tmp_path):
    def folder(**options):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "generation_config.json").write_text(json.dumps(options))
        return Folder(tmp_path)

    given = folder(num_beams=4, early_stopping=True, min_length=6, max_length=30, repetition_penalty=1.2)
    assert stacks.generation(given) == {
        "beam_size": 4, "min_length_b": 5, "max_length_b": 28, "stopping": "first_finished"}  # fmt: skip
    assert [note.partition(":")[0] for note in stacks.generation_notes(given)] == ["repetition_penalty=1.2"]
    given = folder(min_new_tokens=6, max_new_tokens=30, early_stopping=False, suppress_tokens=[])
    assert stacks.generation(given) == {"beam_size": 1, "min_length_b": 6, "max_length_b": 29}
    assert not stacks.generation_notes(given)
    with pytest.raises(UserError, match="min_length='x': int is needed"):
        stacks.generation(folder(min_length="x"))


def test_the_way_of_generating_comes_back_out(folder, tmp_path, s2s):
    copy = tmp_path / "theirs"
    shutil.copytree(folder, copy)
    given = {"num_beams": 3, "early_stopping": True, "min_new_tokens": 2, "max_length": 30, "length_penalty": 0.5,
             "no_repeat_ngram_size": 2}  # fmt: skip
    wanted = json.loads((copy / "generation_config.json").read_text())
    for change in (given, {"num_beams": 2, "early_stopping": False, "max_length": 17}):
        options = {key: value for key, value in wanted.items() if key not in given} | change
        (copy / "generation_config.json").write_text(json.dumps(options))
        importing.write(copy, "auto", tmp_path / f"ours{len(change)}")
        assert s2s("export", f"checkpoint={tmp_path / f'ours{len(change)}'}", "format=huggingface",
                   f"output={tmp_path / f'out{len(change)}'}") == 0  # fmt: skip
        found = json.loads((tmp_path / f"out{len(change)}" / "generation_config.json").read_text())
        assert {key: found[key] for key in change} == change
        assert found["bad_words_ids"] == [[0]]
