"""Training on speech, in several processes and with a calibrated budget."""

import json

import numpy as np
import pytest

from s2s.config.documents import read_yaml
from s2s.training import calibrate
from tests.conftest import _call
from tests.tones import write_tones
from tests.training.test_distributed import NO_NOISE, assert_one_run, finished, losses

pytest.importorskip("soundfile")

SMALL = ["task=speech_to_text", "model=conformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1",
         *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("width=32", "ffn_width=64")),
         "model.frontend.channels=8", "device=cpu", "optim.warmup_updates=10",
         "data.spec_augment.time_masks=2", "data.waveform.speed=[0.9,1.0,1.1]"]  # fmt: skip


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A store of waveforms of 30 + 7 utterances."""
    folder = tmp_path_factory.mktemp("speech")
    write_tones(folder, {"train": 30, "valid": 7}, most=4)
    words = [f"train={folder}/train.tsv", f"valid={folder}/valid.tsv", f"store={folder}/store",
             "workers=1", "tokenizer=characters", "features.sample_rate=8000", "features.bins=20",
             "features.keep=waveform"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        assert _call(patch, "s2s_cli.preprocess", "task=speech_to_text", *words) == 0
    return folder / "store"


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_one_and_two_processes_make_the_same_run_on_speech(speech, tmp_path, s2s, together, strategy):
    """The same utterances, changed in the same way, make an update; validation decodes all of them."""
    options = [*SMALL, "data.group=2", "data.batch_tokens=500", "train.max_updates=12", "train.log_updates=1",
               "train.valid_updates=6", "train.valid_metrics=[loss,wer]", "model.dropout=0.0", NO_NOISE]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert s2s("train", *options, f"store={speech}", f"run={one}", "train.accumulate=2") == 0
    finished(together(2, speech, two, *options, f"distributed.strategy={strategy}", "train.checkpoint_updates=null"))
    assert len(losses(one)) == 12
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    if strategy == "ddp":
        assert_one_run(one, two)
    for kind in ("epoch", "valid"):
        found = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
        first, second = ([event for event in events if event["kind"] == kind] for events in found)
        assert len(first) == len(second) > 1
        for key in {"epoch": ("sentences", "source", "source_padding"), "valid": ("wer", "ctc")}[kind]:
            assert [event[key] for event in first] == pytest.approx([event[key] for event in second], rel=1e-4)


def test_a_budget_of_frames_is_calibrated(speech, tmp_path, s2s, monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "TIMED_SECONDS", 0.01)
    run = tmp_path / "run"
    words = [*SMALL, f"store={speech}", f"run={run}", "train.calibrate=true", "train.max_updates=2", "train.samples=0"]
    assert s2s("train", *words) == 0
    said = capsys.readouterr().err
    budget = read_yaml(run / "config.yaml")["data"]["batch_tokens"]
    assert f"calibrate | data.batch_tokens={budget}: " in said
    assert f"bucket_2d of at most {budget:,} frames" in said
    frames = int(said.split(" source x ")[0].rsplit("x ", 1)[1].split()[0])
    assert frames > 20  # not tokens
