"""The page of s2s-report: its content, that it needs nothing else, and (slow) that a browser shows it."""

import html.parser
import shutil
import subprocess

import pytest
from PIL import Image

from tests.training.test_resume import words


class Reader(html.parser.HTMLParser):
    """The tags and the text of a page; a tag that is not closed is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """Two runs with different seeds, and the files ref, src, a and b beside them; b has an error in each line."""
    from tests.conftest import _call

    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for seed in (1, 2):
            options = words(store, folder / f"run{seed}", f"seed={seed}", "train.log_updates=5", "train.samples=2",
                            "train.max_updates=15")  # fmt: skip
            assert _call(monkeypatch, "s2s_cli.train", *options) == 0
    references = [f"the <b> cat {n} & dog" for n in range(12)]
    for name, lines in {"ref": references, "src": [f"source {n}" for n in range(12)], "a": references,
                        "b": [line.replace("cat", "hat") for line in references]}.items():  # fmt: skip
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def page(runs):
    """The page of both runs with their outputs."""
    from tests.conftest import _call

    with pytest.MonkeyPatch.context() as monkeypatch:
        options = [f"hypothesis=[{runs}/a,{runs}/b]", f"reference={runs}/ref", f"source={runs}/src", "metrics=[wer]"]
        folders = runs / "run1", runs / "run2"
        assert _call(monkeypatch, "s2s_cli.report", *folders, *options, f"output={runs}/page.html") == 0
    return (runs / "page.html").read_text()


def test_a_page_needs_nothing_else(page):
    reader = Reader(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    links = [value for name, value in reader.attributes if name in ("href", "src", "xlink:href", "action")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page
    assert "url(http" not in page


def test_a_page_shows_runs_side_by_side(page, runs, store):
    from s2s.data.store import Store

    text = Reader(page).text
    for title in ("Runs", "Curves", "Differences of the configs", "Metrics of the last validation", "Scores", "Samples",
                  "Worst lines", "Lengths", "Padding", "Speed"):  # fmt: skip
        assert title in text
    assert Store(store).digest in text
    assert page.count("<svg") == 4  # curves, lengths of the data, lengths of the outputs, padding
    assert "<td>seed</td><td>1</td><td>2</td>" in page
    assert "WER|nrefs:1|bs:1000|seed:12345|" in text  # with intervals and p-values
    assert f"{runs}/run2  " in text
    assert "0.0010*" in text
    assert "12 times cat -> hat" in text
    assert "line 1: (S = 1 D = 0 I = 0 ref_len = 6 wrong_lines = 1/1)" in text
    assert "0 of 12 lines are wrong" in text
    assert "<td>source 0</td><td>the &lt;b&gt; cat 0 &amp; dog</td>" in page


def test_a_page_of_one_run_has_the_samples_of_its_last_validation(runs, s2s, capsys):
    assert s2s("report", runs / "run1") == 0
    reader = Reader(capsys.readouterr().out)
    assert "Differences" not in reader.text
    assert "Scores" not in reader.text
    log = (runs / "run1" / "train.log").read_text()
    sample = log.rpartition("  source:     ")[2].splitlines()
    assert sample[0] in reader.text
    assert sample[2].removeprefix("  hypothesis: ") in reader.text


def test_what_a_page_cannot_show_is_refused(runs, s2s, capsys):
    for options, complaint in [
        ([], "no run is given"),
        ([runs], "not a run"),
        ([runs / "run1", f"hypothesis=[{runs}/a,{runs}/b]", f"reference={runs}/ref"], "and there are 1 runs"),
        ([runs / "run1", runs / "run1"], "run1: the run is given twice"),
        (
            [runs / "run1", f"hypothesis={runs}/a", f"reference={runs}/ref", "metrics=[language_accuracy]"],
            "'language_accuracy' needs language=, which s2s-report does not have",
        ),
        ([runs / "run1", "metrics=[wer]"], ": does nothing without hypothesis"),
        ([runs / "run1", f"reference={runs}/ref"], "reference= does nothing without hypothesis="),
        (
            [runs / "run1", f"hypothesis={runs}/a", f"reference={runs}/run1/train.log"],
            "line N of one belongs to line N",
        ),
    ]:
        assert s2s("report", *options) == 2
        assert complaint in capsys.readouterr().err


def test_names_of_runs_replace_no_column_and_are_no_formulas(runs, store, s2s, monkeypatch, capsys, tmp_path):
    for name in ("reference", "a$_$b"):
        shutil.copytree(runs / "run1", tmp_path / name)
    config = tmp_path / "reference" / "config.yaml"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{")
    config.write_text(config.read_text().replace(str(store), str(damaged)))
    monkeypatch.chdir(tmp_path)
    options = [f"hypothesis=[{runs}/a,{runs}/b]", f"reference={runs}/ref", "metrics=[wer]"]
    assert s2s("report", "reference", "a$_$b", *options) == 0
    page = capsys.readouterr().out
    assert "<th>line</th><th>reference</th><th>reference</th><th>a$_$b</th>" in page
    assert "store is not there" not in page
    assert f"<p>{damaged}/manifest.json" in page


@pytest.mark.slow
def test_a_browser_shows_the_page(page, runs):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not browser:
        pytest.skip("there is no Chromium")
    flags = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={runs}/browser"]
    address = f"file://{runs}/page.html"
    shown = subprocess.run([*flags, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True)
    assert "12 times cat -&gt; hat" in shown.stdout
    picture = runs / "shot.png"
    subprocess.run([*flags, "--window-size=1200,4000", f"--screenshot={picture}", address], timeout=120, check=True,
                   capture_output=True)  # fmt: skip
    with Image.open(picture) as image:
        assert image.size == (1200, 4000)
        shades = image.convert("RGB").getcolors(1 << 24)
        assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)} <= {color for _, color in shades}  # the curves of both runs
