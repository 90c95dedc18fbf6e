"""Each family of models through the commands: it trains, resumes to the same bits, and decodes in each way."""

import json

import pytest
from safetensors.numpy import load_file

from tests.conftest import write_corpus

SIZE = ["model.encoder.width=16", "model.decoder.width=16"]
FAMILIES = {  # name -> words of s2s-train
    "lstm": ["model=lstm", *SIZE, "train.precision=bf16", "data.batching=packed", "data.row_tokens=24"],
    "gnmt": ["model=gnmt_tiny", *SIZE, "train.checkpoint_activations=true"],
    "dynamic": ["model=dynamic_conv_tiny", *SIZE, "data.batching=packed", "data.row_tokens=24"],
    "palm": ["model=palm_tiny", *SIZE, "model.decoder.ffn_width=32"],
    "gru": ["model=transformer_tiny", "model.encoder.layers=1", *SIZE, "model.encoder.ffn_width=32",
            "model.decoder=gru", "criterion=r_drop"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    write_corpus(folder, {"train": 60, "valid": 4, "test": 6})
    return folder


def weights(run):
    (step,) = (run / "checkpoints").glob("step_*4")
    return load_file(step / "model.safetensors")


QUICK = ("lstm", "dynamic")


@pytest.mark.parametrize("family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
                                    for name in FAMILIES])  # fmt: skip
def test_a_family_trains_resumes_and_decodes(folder, s2s, capsys, family):
    store = folder / "store"
    if not store.exists():
        assert s2s("preprocess", "source=src", "target=tgt", *(f"{x}={folder}/{x}" for x in ("train", "valid", "test")),
                   "tokenizer=words", f"store={store}", "workers=1") == 0  # fmt: skip
    common = ["train", f"store={store}", *FAMILIES[family], "device=cpu", "train.samples=0", "train.loggers=[]",
              "data.batch_tokens=100", "train.valid_updates=2", "optim.warmup_updates=2"]  # fmt: skip
    whole, parts = folder / f"{family}-whole", folder / f"{family}-parts"
    assert s2s(*common, f"run={whole}", "train.max_updates=4") == 0
    assert s2s(*common, f"run={parts}", "train.max_updates=2") == 0
    assert s2s(*common, f"run={parts}", "train.max_updates=4") == 0
    expected, actual = weights(whole), weights(parts)
    assert all((expected[name] == actual[name]).all() for name in expected)
    common = ["generate", f"checkpoint={whole}", f"store={store}", "split=test", "device=cpu", "format=json"]
    (folder / "phrases.txt").write_text("a\n" * 6)
    capsys.readouterr()

    def hypotheses(*words):
        assert s2s(*common, *words) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [row["hypothesis"] for row in rows], [row["score"] for row in rows]

    beam, scores = hypotheses("decode.n_best=2", "decode.beam_size=3")
    assert len(beam) == 12
    again, others = hypotheses("decode.n_best=2", "decode.beam_size=3", "decode.batch_tokens=40")  # slots are refilled
    assert (again, others) == (beam, pytest.approx(scores, abs=1e-4))
    assert len(hypotheses("decode.search=sample", "decode.n_best=2")[0]) == 12
    assert len(hypotheses("decode.dtype=int8", "decode.no_repeat_ngram=2", "alignment=true")[0]) == 6
    assert all("a" in text.split() for text in hypotheses(f"constraints={folder}/phrases.txt")[0])
