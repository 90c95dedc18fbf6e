"""metrics.jsonl read back, and the curves that s2s-plot draws of it."""

import json

import pytest
from PIL import Image

from s2s.drawing import round_step
from s2s.figures import COLORS
from s2s.training import curves
from s2s.training.metrics import read_metrics
from tests.training.test_resume import words


def write(folder, events) -> str:
    """A run's metrics.jsonl of (kind, update, values)."""
    folder.mkdir()
    lines = [json.dumps({"kind": kind, "update": update, **values}) for kind, update, values in events]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return str(folder)


def train(update: int, loss: float) -> tuple:
    return "train", update, {"loss": loss, "target_tokens_per_second": 100.0 * update, "steps": {}}


def valid(update: int, loss: float, **decoded: float) -> tuple:
    return "valid", update, {"loss": loss, "accuracy": 50.0, "seconds_validating": 1.0, "signatures": {}, **decoded}


def test_what_a_resumed_run_does_over_again_counts_once_as_done_last(tmp_path):
    path = write(tmp_path / "run", [
        ("start", 0, {}), train(10, 5.0), train(20, 4.0), valid(20, 4.5), ("checkpoint", 20, {}), train(30, 3.9),
        train(40, 3.8), valid(40, 3.7), ("resume", 20, {}), train(30, 3.5), ("checkpoint", 20, {}), train(40, 3.4),
    ])  # fmt: skip
    events = read_metrics(tmp_path / "run/metrics.jsonl", [])
    assert [(e["update"], e["loss"]) for e in events if e["kind"] == "train"] == [
        (10, 5),
        (20, 4),
        (30, 3.5),
        (40, 3.4),
    ]
    assert [e["update"] for e in events if e["kind"] == "valid"] == [20]
    assert [e["kind"] for e in events].count("checkpoint") == 2
    panels = curves.read([path])
    assert panels[curves.LOSS][0].points == [(10, 5), (20, 4), (30, 3.5), (40, 3.4)]


def test_a_line_cut_short_is_passed_over_and_any_other_is_complained_of(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "train", "update": 1}\nnonsense\n{"kind": "train", "update": 2}\n{"kind": "tr')
    damaged = []
    assert [event["update"] for event in read_metrics(file, damaged)] == [1, 2]
    assert damaged == [f"{file}:2: not an event"]
    assert read_metrics(tmp_path / "none", damaged) == []


def test_panels_are_loss_decoded_metrics_and_throughput(tmp_path):
    first = write(tmp_path / "a", [train(10, 3.0), train(20, 2.0), valid(20, 2.5, bleu=10.0, chrf=30.0)])
    second = write(tmp_path / "b", [train(10, 4.0), train(20, float("nan")), valid(20, 2.6, bleu=11.0)])
    panels = curves.read([first, second])
    assert list(panels) == [curves.LOSS, "bleu", "chrf", curves.SPEED]
    assert [(c.run, c.valid, c.points) for c in panels[curves.LOSS]] == [
        (0, False, [(10, 3.0), (20, 2.0)]), (0, True, [(20, 2.5)]), (1, False, [(10, 4.0)]), (1, True, [(20, 2.6)])
    ]  # fmt: skip
    assert [c.points for c in panels["bleu"]] == [[(20, 10.0)], [(20, 11.0)]]
    assert [c.run for c in panels["chrf"]] == [0]
    assert panels[curves.SPEED][0].points == [(10, 1000.0), (20, 2000.0)]
    gone = write(tmp_path / "d", [valid(20, 2.5, bleu=10.0), valid(30, 2.4, wer=40.0)])  # train.valid_metrics changed
    assert [c.points for c in curves.read([gone])["bleu"]] == [[(20, 10.0)]]
    assert "accuracy" in curves.read([write(tmp_path / "c", [valid(5, 1.0)])])  # where nothing was decoded


def test_text_shows_each_run_where_its_values_are(tmp_path):
    first = write(tmp_path / "a", [train(n, 1.0 + n / 100) for n in range(0, 101, 10)])
    second = write(tmp_path / "b", [train(n, 2.0 - n / 100) for n in range(0, 101, 10)])
    panels = {curves.LOSS: curves.read([first, second])[curves.LOSS]}
    lines = curves.to_text(panels, ["one", "two"], 60).splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert "\x1b" not in "".join(lines)  # no codes of colours
    grid = [line.split("│")[1] for line in lines if line.count("│") == 2]
    drawn = [row for row in grid if row.strip()]
    assert drawn[-1].strip()[0] == "a"  # the first rises from below, the second falls from above
    assert drawn[-1].strip()[-1] == "b"
    assert drawn[0].strip()[0] == "b"
    assert "  a  one, training: 2 at update 100" in lines


def test_the_lowest_and_the_last_points_are_inside_of_the_axes_and_legends_are_whole(tmp_path):
    path = write(tmp_path / "run", [train(10, 3.0), train(20, 2.0), valid(20, 2.5, bleu=10.0)])
    name = "runs/a-name-that-is-as-long-as-people-give-them-when-they-sweep-many-things"
    picture = curves.to_figure(curves.read([path]), [name])
    picture.canvas.draw()
    for ax in picture.axes:
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        for line in ax.lines:
            assert all(left < x < right for x in line.get_xdata())
            assert all(low < y < high for y in line.get_ydata())
        box = ax.get_legend().get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= picture.bbox.x1
        assert box.y1 <= picture.bbox.y1
        assert name in ax.get_legend().get_texts()[0].get_text()
    assert [ax.get_legend().get_title().get_text() for ax in picture.axes] == [curves.LOSS, "bleu", curves.SPEED]


@pytest.mark.parametrize(("ending", "beginning"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_the_ending_chooses_the_kind_of_picture(tmp_path, s2s, capsys, ending, beginning):
    path = write(tmp_path / "run", [train(10, 3.0), train(20, 2.0)])
    assert s2s("plot", path, f"output={tmp_path}/curves.{ending}") == 0
    assert (tmp_path / f"curves.{ending}").read_bytes().startswith(beginning)
    assert s2s("plot", path, f"output={tmp_path}/curves.gif") == 2
    assert "the ending chooses the kind of a picture: .png, .svg, .pdf" in capsys.readouterr().err


@pytest.mark.parametrize("points", [[(10, 3.0)], [(10, 3.0), (20, 3.0)], [(0, 0.0), (1, 0.0)], [(0, -1.0), (9, 1e9)]])
def test_any_curve_can_be_drawn(tmp_path, points):
    path = write(tmp_path / "run", [train(*point) for point in points])
    panels = curves.read([path])
    assert "a" in curves.to_text(panels, [path], 80)
    curves.to_picture(panels, [path], tmp_path / "out.png")


def test_runs_are_drawn_to_the_terminal_and_to_a_picture(store, tmp_path, s2s, capsys):
    runs = [tmp_path / name for name in ("first", "second")]
    for seed, run in enumerate(runs):
        assert s2s("train", *words(store, run, "train.log_updates=5", f"seed={seed}")) == 0
    capsys.readouterr()
    assert s2s("plot", *runs, f"output={tmp_path / 'curves.png'}") == 0
    shown = capsys.readouterr().out
    assert f"b  {runs[1]}, training: " in shown
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        colors = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in image.convert("RGB").getcolors(1 << 20)}
    assert set(COLORS[:2]) <= colors
    assert COLORS[2] not in colors


def test_what_cannot_be_drawn_is_told(tmp_path, s2s, capsys):
    empty = write(tmp_path / "empty", [("start", 0, {})])
    for named, complaint in [([], "no run is given"), ([tmp_path], "not a run"), ([empty], "nothing was logged yet")]:
        assert s2s("plot", *named) == 2
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("highest", "most", "step"), [(9.5, 6, 2), (100, 4, 50), (0.33, 4, 0.1), (8, 8, 1), (41, 8, 10)]
)
def test_axes_have_round_steps(highest, most, step):
    assert round_step(highest, most) == pytest.approx(step)


def test_a_name_is_drawn_as_it_is(tmp_path):
    paths = ["_run", "a$_$b"]
    for path in paths:
        write(tmp_path / path, [train(10, 3.0), train(20, 2.0)])
    panels = curves.read([str(tmp_path / path) for path in paths])
    picture = curves.to_figure(panels, paths)
    labels = [text.get_text().strip() for text in picture.axes[0].get_legend().get_texts()]
    assert [label.partition(",")[0] for label in labels] == ["_run", r"a\$_\$b"]
    curves.to_picture(panels, paths, tmp_path / "curves.svg")
