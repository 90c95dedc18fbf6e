"""Scaling laws: made-up losses give back their exponents, and the fit is that of scipy."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from s2s.errors import UserError
from s2s.training.scaling import Point, fit, students_t

SIZES = [(e, d) for e in (100, 400, 1600) for d in (200, 800, 3200)]
TRUE = dict(a=1.2, p=0.35, q=0.6, c=1.7)  # relative to the geometric means, 400 and 800


def points(noise: float = 0.0, sizes=SIZES) -> list[Point]:
    rng = np.random.default_rng(0)
    losses = [TRUE["a"] * (400 / e) ** TRUE["p"] * (800 / d) ** TRUE["q"] + TRUE["c"] for e, d in sizes]
    return [Point("run", e, d, loss + noise * rng.normal()) for (e, d), loss in zip(sizes, losses, strict=True)]


def test_exact_losses_give_back_their_law():
    law = fit(points())
    np.testing.assert_allclose(law.values, list(TRUE.values()), rtol=1e-5)
    np.testing.assert_allclose(law.reference, [400, 800])
    assert law.errors.max() < 1e-4


def test_noisy_losses_give_the_fit_and_the_intervals_of_scipy():
    optimize, stats = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.stats")
    noisy = points(noise=0.02)
    law = fit(noisy)
    e, d, y = (np.array([getattr(point, name) for point in noisy], float) for name in ("encoder", "decoder", "loss"))

    def curve(_, a, p, q, c):
        return a * (400 / e) ** p * (800 / d) ** q + c

    values, covariance = optimize.curve_fit(curve, np.arange(len(y)), y, p0=[1, 0.5, 0.5, 1])
    np.testing.assert_allclose(law.values, values, rtol=1e-4)
    np.testing.assert_allclose(law.errors, stats.t.ppf(0.975, 5) * np.diag(covariance) ** 0.5, rtol=1e-3)
    assert all(
        abs(value - true) < error for value, true, error in zip(law.values, TRUE.values(), law.errors, strict=True)
    )
    for freedom in (1, 2, 5, 30):
        assert students_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_sizes_that_change_together_have_one_exponent():
    sizes = [100, 200, 400, 800, 1600]
    law = fit([Point("run", n, n, 2 * (400 / n) ** 0.4 + 1) for n in sizes])
    np.testing.assert_allclose(law.values, [2, 0.4, 1], rtol=1e-5)
    np.testing.assert_allclose(law.reference, [800])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (points()[:4], "4 runs of 4 sizes; 5 runs of at least 4 sizes are needed"),
        ([Point("run", e, d, 1.0 + e * d / 1e6) for e, d in SIZES], "does not fall with size|follow no such law"),
    ],
)
def test_losses_without_a_law_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        fit(given)


def test_the_command_reads_sizes_and_losses_of_runs(tmp_path, s2s, capsys):
    """Embeddings do not count, and the best validation does."""
    for number, point in enumerate(points()):
        folder = tmp_path / f"run{number}/checkpoints/step_00000010"
        folder.mkdir(parents=True)
        weights = {"encoder.layers.0.x.weight": (point.encoder, 1), "decoder.layers.0.x.weight": (point.decoder,),
                   "frontend.embedding.tokens.weight": (1000 + number, 7), "output.weight": (9, 9)}  # fmt: skip
        save_file({name: torch.zeros(shape) for name, shape in weights.items()}, folder / "model.safetensors")
        events = [{"kind": "valid", "update": update, "nll": value, "loss": 2 * value}
                  for update, value in ((5, point.loss), (10, point.loss + 0.5))]  # fmt: skip
        lines = "".join(f"{json.dumps(event)}\n" for event in events)
        (tmp_path / f"run{number}/metrics.jsonl").write_text(lines, "utf-8")
    paths = [str(tmp_path / f"run{number}") for number in range(len(SIZES))]
    assert s2s("plot", "fit=scaling", *paths) == 0
    text = capsys.readouterr().out
    assert "nll = a (E0=400 / E)^p (D0=800 / D)^q + c" in text
    assert "p = 0.35 +-" in text
    assert "best share of the encoder: p / (p + q) = 0.37" in text
    assert s2s("plot", "fit=scaling", "metric=loss", f"output={tmp_path}/law.png", *paths) == 0
    assert "c = 3.4 +-" in capsys.readouterr().out
    assert (tmp_path / "law.png").read_bytes()[:4] == b"\x89PNG"
    assert s2s("plot", "fit=scaling", "metric=bleu", *paths) == 2
    assert "no validation has bleu" in capsys.readouterr().err
