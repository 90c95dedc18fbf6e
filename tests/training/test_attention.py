"""Pictures of what the model looks at in the samples of a validation."""

import numpy as np
import pytest
import torch
from PIL import Image

from s2s.checkpoint import loading
from s2s.decoding.config import DecodeConfig
from s2s.text.vocabulary import EOS
from s2s.training.attention import CELL, LABEL, MARGIN, SHADE, Map, attention_maps, draw
from tests.training.test_resume import words


def test_a_picture_is_as_dark_as_the_weights(tmp_path):
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], np.float32)
    draw(Map(["a", "a very long source symbol", "</s>"], ["ü", "</s>"], weights), tmp_path / "maps" / "1.png")
    with Image.open(tmp_path / "maps" / "1.png") as image:
        for (row, column), weight in np.ndenumerate(weights):
            place = [MARGIN + LABEL + CELL * n + CELL // 2 for n in (column, row)]
            assert image.getpixel(tuple(place)) == pytest.approx([255 + (s - 255) * weight for s in SHADE], abs=1)
        labels = image.crop((MARGIN + LABEL, 0, image.width, MARGIN + LABEL - 2))
        assert labels.convert("L").getextrema()[0] < 80


def test_validations_draw_their_samples(store, tmp_path, s2s, capsys):
    run = tmp_path / "run"
    options = ["train.attention_maps=true", "train.samples=2", "train.max_updates=30"]
    assert s2s("train", *words(store, run, *options)) == 0
    names = sorted(path.name for path in (run / "attention").iterdir())
    assert names == [f"update_{update:08d}_{number}.png" for update in (15, 30) for number in (1, 2)]
    plain = tmp_path / "plain"
    assert s2s("train", *words(store, plain, "train.samples=2", "train.max_updates=30")) == 0
    assert not (plain / "attention").exists()
    assert s2s("train", *words(store, plain, "train.attention_maps=true")) == 2  # SMALL has train.samples=0
    assert "requires samples, and train.samples=0" in capsys.readouterr().err


def test_maps_are_the_cross_attention_of_the_layer_and_head_asked_for(store, tmp_path, s2s):
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=3")) == 0
    model, task, _ = loading.load_model(str(run))
    source, target = [5, 6, 7, 8], [9, 5, 6]
    (found,) = attention_maps(task, model, DecodeConfig(alignment_layer=1, alignment_head=2), [(source, target)])
    symbols = task.source_tokenizer.vocabulary.symbols
    assert found.source == [symbols[i] for i in [*source, EOS]]
    assert found.target == [*(task.target_tokenizer.vocabulary.symbols[i] for i in target), "</s>"]
    with torch.inference_mode():
        memory = model.encode(*task.collate_sources([source]))
        weights = model.cross_attention(memory, torch.tensor([[2, *target]]), 0)[0, 1]
    np.testing.assert_allclose(found.weights, weights.numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)


def test_a_picture_that_cannot_be_written_is_told_once_and_ends_nothing(store, tmp_path, s2s, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("s2s.training.report.draw", full)
    options = ["train.attention_maps=true", "train.samples=2", "train.max_updates=30"]
    assert s2s("train", *words(store, tmp_path / "run", *options)) == 0
    assert capsys.readouterr().err.count("warning: attention of the run cannot be written") == 1
