"""Folders of CTranslate2 come in, and give its own lines: those that s2s-export writes, in several precisions, and
those that its converter of Marian makes."""

import copy
import json
import shutil

import pytest
import torch

from s2s.checkpoint.loading import load_model
from s2s.interop.ctranslate2 import write
from s2s_cli import importing
from tests.interop.test_ctranslate2 import config_of, model_of, sentences, symbols, task_of

ctranslate2 = pytest.importorskip("ctranslate2")
LONGEST = 40
THEIRS = {"min_decoding_length": 0, "max_decoding_length": LONGEST, "max_input_length": 0}


def same_lines(folder, run, lines, s2s, tmp_path, beams=(1, 5), least=15):
    """s2s-generate writes what CTranslate2 writes in fp32; lines that were cut are left out."""
    translator = ctranslate2.Translator(str(folder), "cpu", compute_type="float32", intra_threads=1)
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    for count in beams:
        results = translator.translate_batch([line.split() for line in lines], beam_size=count, **THEIRS)
        expected = [result.hypotheses[0] for result in results]
        assert s2s("generate", f"checkpoint={run}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}",
                   "decode=ctranslate2", f"decode.beam_size={count}", "decode.min_length_b=0", "device=cpu",
                   f"decode.max_length_b={LONGEST}") == 0  # fmt: skip
        found = (tmp_path / "out").read_text().splitlines()
        pairs = [(line, " ".join(words)) for line, words in zip(found, expected, strict=True) if len(words) < LONGEST]
        assert len(pairs) >= least
        assert not [pair for pair in pairs if pair[0] != pair[1]]
    return expected


CHANGES = {
    "learned_post": ({"positions": "learned", "norm": "post", "activation": "gelu", "embedding_norm": True}, "float16"),
    "learned_pre": ({"positions": "learned", "activation": "swiglu", "tie_embeddings": "none"}, "int8"),
    "interleaved": (
        {"positions": "sinusoidal_interleaved", "norm_epsilon": 1e-3, "scale_embeddings": False},
        "float32",
    ),
    "rotary": ({"positions": "rotary", "activation": "silu"}, "bfloat16"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_we_export_comes_back(kind, tmp_path, s2s, monkeypatch):
    changes, precision = CHANGES[kind]
    shared = changes.get("tie_embeddings") != "none"
    task = task_of(21) if shared else task_of(21, 18)
    model = model_of(task, config_of(**changes))
    folder, optimize = tmp_path / "theirs", ctranslate2.specs.TransformerSpec.optimize
    if precision != "float32":
        monkeypatch.setattr(ctranslate2.specs.TransformerSpec, "optimize", lambda spec: optimize(spec, precision))
    write(copy.deepcopy(model), task, folder)  # its quantization changes the weights in place
    report = importing.write(folder, "auto", tmp_path / "ours")
    assert report[0].startswith("CTranslate2: ")
    assert "decode=ctranslate2" in report[-1]
    found, _, _ = load_model(str(tmp_path / "ours"))
    parameters = dict(found.named_parameters())
    for name, value in model.named_parameters():
        largest = value.abs().amax(-1, keepdim=True)
        step = {"float32": 0, "float16": largest / 2**10, "bfloat16": largest / 2**7, "int8": largest / 127}[precision]
        assert ((parameters[name] - value).abs() <= 0.51 * step + 1e-5).all(), name
    if changes["positions"] == "learned":  # the only kind that ends
        lines = [" ".join(symbols(task, "source", ids)) for ids in sentences(21, 20)[:-1]]
        same_lines(folder, tmp_path / "ours", lines, s2s, tmp_path)


@pytest.mark.slow
def test_a_marian_that_its_converter_made(tmp_path, s2s):
    """A taught model of Hugging Face through CTranslate2's own converter."""
    transformers = pytest.importorskip("transformers")
    from tests.interop.taught import teach, words

    names = ["das", "haus", "ist", "klein", "ein", "hund", "und", "der", "alte", "baum"]
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=13, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=20, dropout=0.0, init_std=0.2, pad_token_id=12,
        eos_token_id=0, decoder_start_token_id=12, forced_eos_token_id=None, max_position_embeddings=64,
        activation_function="swish", scale_embedding=True)  # fmt: skip
    model = transformers.MarianMTModel(config)
    teach(model, range(2, 12), 0)
    known = ["</s>", "<unk>", *names]  # its converter leaves <pad> out, the last one
    loader = __import__("ctranslate2.converters.transformers", fromlist=["x"]).MarianMTLoader()

    class Tokenizer:
        eos_token, unk_token, pad_token = "</s>", "<unk>", "<pad>"

        def get_vocab(self):
            return {symbol: number for number, symbol in enumerate(known)}

        def convert_ids_to_tokens(self, number):
            return known[number]

    spec = loader.get_model_spec(model)
    loader.set_config(spec.config, model, Tokenizer())
    loader.set_vocabulary(spec, known)
    spec.validate()
    spec.optimize()
    (tmp_path / "theirs").mkdir()
    spec.save(str(tmp_path / "theirs"))
    assert "already split" in " ".join(importing.write(tmp_path / "theirs", "auto", tmp_path / "ours"))
    lines = words(50, names)
    expected = same_lines(tmp_path / "theirs", tmp_path / "ours", lines, s2s, tmp_path, least=25)
    assert len({tuple(words) for words in expected}) > 20


def test_damaged_folders_are_refused(tmp_path, s2s, capsys):
    task = task_of(21)
    write(model_of(task, config_of()), task, tmp_path / "theirs")
    content = (tmp_path / "theirs" / "model.bin").read_bytes()

    def refused(change):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "theirs", folder)
        change(folder)
        assert s2s("importing", f"from={folder}", "format=ctranslate2", f"output={tmp_path / 'new'}") == 2
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    for size in (0, 3, 40, len(content) // 2, len(content) - 3):
        assert "damaged" in refused(lambda folder, size=size: (folder / "model.bin").write_bytes(content[:size]))
    assert "WhisperSpec0000: not read" in refused(
        lambda folder: (folder / "model.bin").write_bytes(content.replace(b"TransformerSpec", b"WhisperSpec0000"))
    )
    alibi = content.replace(b"decoder/alibi\0\0\1\1\0\0\0\0", b"decoder/alibi\0\0\1\1\0\0\0\1")
    assert "decoder/alibi=1" in refused(lambda folder: (folder / "model.bin").write_bytes(alibi))
    assert "has no model.bin" in refused(lambda folder: (folder / "model.bin").unlink())
    assert "source_vocabulary.json or shared_vocabulary.json" in refused(
        lambda folder: (folder / "shared_vocabulary.json").unlink()
    )
    shorter = json.dumps(task.vocabularies["source"].symbols[:-1])
    assert "source.vocabulary.txt is not shared_vocabulary.json" in refused(
        lambda folder: (folder / "shared_vocabulary.json").write_text(shorter)
    )
