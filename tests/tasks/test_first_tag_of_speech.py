"""task.first_tag on recordings: the decoder begins with the symbol of a tag, in training, search and scoring."""

import pytest

from s2s.checkpoint.loading import load_model
from tests.conftest import _call
from tests.tones import write_tones

pytest.importorskip("soundfile")

SMALL = ["task=speech_to_text", "model=conformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1",
         *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("width=16", "ffn_width=32")),
         "model.frontend.channels=8", "device=cpu", "train.max_updates=6", "train.samples=0", "criterion=ctc_attention",
         "task.first_tag=target_language"]  # fmt: skip


@pytest.mark.slow
def test_the_decoder_of_speech_begins_with_a_tag(tmp_path, monkeypatch, capsys):
    write_tones(tmp_path, {"train": 12, "valid": 3}, most=3)
    data = [f"train={tmp_path}/train.tsv", f"valid={tmp_path}/valid.tsv", "workers=1", "task=speech_to_text"]
    shape = ["features.sample_rate=8000", "features.bins=20", "tokenizer=characters", "tokenizer.reserved=[<de>,<en>]"]
    stores = [tmp_path / "de", tmp_path / "en"]
    assert _call(monkeypatch, "s2s_cli.preprocess", *data, *shape, "target=de", f"store={stores[0]}") == 0
    assert _call(monkeypatch, "s2s_cli.preprocess", *data, "target=en", f"tokenizer_from={stores[0]}",
                 f"store={stores[1]}") == 0  # fmt: skip
    run = tmp_path / "run"
    assert _call(monkeypatch, "s2s_cli.train", *SMALL, f"store=[{stores[0]},{stores[1]}]", f"run={run}") == 0

    _, task, _ = load_model(str(run))
    symbols = task.target_tokenizer.vocabulary.symbols
    assert [symbols[number] for number in task.first_symbols()] == [
        f"<{name}>" for name in task.tags["target_language"]
    ]

    words = [f"checkpoint={run}", f"input={tmp_path}/valid.tsv", "device=cpu"]
    (tmp_path / "texts").write_text("a\nb\na\n")
    scores = {}
    for tag in ("de", "en"):
        output = tmp_path / f"scores.{tag}"
        score = ["mode=score", f"target={tmp_path}/texts", f"output={output}", f"target_language={tag}"]
        assert _call(monkeypatch, "s2s_cli.generate", *words, *score) == 0
        scores[tag] = [float(line) for line in output.read_text().split()]
        assert _call(monkeypatch, "s2s_cli.generate", *words, f"output={tmp_path}/hyp", f"target_language={tag}") == 0
    assert all(abs(de - en) > 1e-4 for de, en in zip(scores["de"], scores["en"], strict=True))
    capsys.readouterr()
    assert _call(monkeypatch, "s2s_cli.generate", *words, f"output={tmp_path}/hyp") == 2
    assert "target_language" in capsys.readouterr().err
