"""The site of docs/: every link and anchor is whole, and the reference has every option."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="the site requires the extra docs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page, words in {
        "tutorial": ("s2s-serve checkpoint=runs/tutorial-average",),
        "reference/s2s-train": ("data.batch_tokens=", "train.max_updates=", "model.encoder.layers="),
        "reference/s2s-score": ("bootstrap=",),
        "reference/components": ("transformer_tiny", "gbst"),
        "reference/python": ("s2s.load", "Any number of threads may use it at once"),
        "examples/multi30k": ("run.sh",),
    }.items():
        html = (tmp_path / page / "index.html").read_text(encoding="utf-8")
        text = re.sub(r"<[^>]*>", "", html)  # colours divide words
        assert [word for word in words if word not in text] == [], page
