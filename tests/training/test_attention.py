"""Pictures of what the model looks at in the samples of a validation."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from s2s import figures
from s2s.checkpoint import loading
from s2s.decoding.config import DecodeConfig
from s2s.text.vocabulary import EOS
from s2s.training.attention import Map, attention_maps, draw, to_figure
from tests.training.test_resume import words


def test_a_picture_is_as_dark_as_the_weights():
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], np.float32)
    picture = to_figure(Map(["▁a", "a very long source symbol", "</s>"], ["ü b", "</s>"], weights), "sample 1")
    ax, colors = picture.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["▁a", "a␣very␣long␣sou…", "</s>"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ü␣b", "</s>"]
    assert (picture.get_suptitle(), colors.get_ylabel(), colors.get_ylim()) == ("sample 1", "weight", (0, 1))
    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    for (row, column), weight in np.ndenumerate(weights):
        x, y = ax.transData.transform((column, row))
        shade = np.asarray(matplotlib.colormaps["Blues"](float(weight)))[:3] * 255
        assert pixels[round(pixels.shape[0] - y), round(x), :3] == pytest.approx(shade, abs=2)


def test_every_script_is_drawn_or_named(tmp_path, recwarn):
    """No glyph is a box: matplotlib warns of those."""
    letters = ["▁ä", "ş", "кот", "שלום", "عرب", "ʃɪ", "δ", "$5", "かな", "漢", "한", "\U00012000"]
    weights = np.full((len(letters), len(letters)), 1 / len(letters), np.float32)
    for ending in ("png", "svg", "pdf"):
        draw(Map(letters, letters, weights), tmp_path / "maps" / f"1.{ending}")
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]
    assert [figures.readable(text) for text in letters[:7]] == letters[:7]
    unknown = "\U0010fff0"  # of private use: no font has it
    assert figures.readable(f"a{unknown}") == "aU+10FFF0"


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
