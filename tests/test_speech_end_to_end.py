"""Tones as letters through the commands: a store, a run, transcripts of a split, of a manifest and of recordings."""

import json

import pytest

from s2s.scoring import score
from tests.tones import write_tones

pytest.importorskip("soundfile")

OPTIONS = ["task=speech_to_text", "model=speech_transformer_small", "model.encoder.layers=1", "model.encoder.width=48",
           "model.encoder.ffn_width=96", "model.frontend.channels=16", "model.dropout=0.0",
           "data.batch_tokens=1500", "optim.lr=3e-3", "optim.warmup_updates=20", "optim.schedule=cosine",
           "train.log_updates=20", "train.valid_metrics=[loss,wer,cer]", "train.samples=1"]  # fmt: skip


@pytest.mark.parametrize("kind", ["ctc", "joint"])
def test_tones_are_learned_and_transcribed(s2s, tmp_path, capsys, kind):
    texts = write_tones(tmp_path, {"train": 120, "valid": 12, "test": 12})
    manifests = [f"{name}={tmp_path}/{name}.tsv" for name in texts]
    store, run = f"store={tmp_path}/store", tmp_path / "run"
    assert s2s("preprocess", "task=speech_to_text", *manifests, "tokenizer=characters", "features.sample_rate=8000",
               "features.bins=20", "workers=1", store) == 0  # fmt: skip
    layers, updates = {"ctc": (0, 80), "joint": (1, 120)}[kind]
    sizes = [
        *(["criterion=ctc"] if kind == "ctc" else []),
        f"model.decoder.layers={layers}",
        "model.decoder.width=48",
        "model.decoder.ffn_width=96",
    ]
    limits = [f"train.max_updates={updates}", f"train.valid_updates={updates}"]
    capsys.readouterr()
    assert s2s("train", *OPTIONS, *sizes, *limits, store, f"run={run}") == 0
    said = capsys.readouterr().err
    assert "RTFx" in said
    assert "source:     valid-0 (" in said
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [event for event in events if event["kind"] == "train"]
    assert {"ctc", "rtfx", "source_padding"} <= train[-1].keys()
    assert train[-1]["ctc"] < train[0]["ctc"] / 4

    references = {}
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/test-{number}.flac\n" for number in range(12)))
    for words in (["split=test", store], [f"input={tmp_path}/test.tsv"], [f"input={tmp_path}/list.txt"]):
        assert s2s("generate", f"checkpoint={run}", *words, f"output={tmp_path}/hyp") == 0
        references[words[0]] = (tmp_path / "hyp").read_text().splitlines()
    first, *others = references.values()
    assert all(other == first for other in others)
    assert score("cer", first, [texts["test"]]).value < 5
    assert s2s("generate", f"checkpoint={run}", f"input={tmp_path}/test-3.flac", f"output={tmp_path}/one") == 0
    assert (tmp_path / "one").read_text() == f"{first[3]}\n"
    assert s2s("average", f"checkpoint={run}", "last=1", f"output={tmp_path}/mean") == 0
    assert s2s("generate", f"checkpoint={tmp_path}/mean", "split=test", store, f"output={tmp_path}/hyp") == 0
    assert (tmp_path / "hyp").read_text().splitlines() == first
    assert s2s("inspect", str(run)) == 0
