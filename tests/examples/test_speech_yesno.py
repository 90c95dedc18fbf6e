"""The example on yesno: its manifests, and the whole way to the word error rate that its README gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.test_examples import EXAMPLES, load

YESNO = EXAMPLES / "speech_yesno"
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "yesno"


def test_the_manifests_say_what_the_names_say(tmp_path):
    prepare = load(YESNO / "prepare.py")
    data = tmp_path / "data"
    data.mkdir()
    names = sorted("_".join(f"{number:08b}") for number in range(60))
    for name in names:
        (data / f"{name}.flac").touch()
    prepare.write(data, tmp_path / "out")
    parts = [(tmp_path / "out" / f"{split}.tsv").read_text().splitlines() for split in ("train", "valid", "test")]
    assert [len(part) - 1 for part in parts] == [27, 4, 29]
    assert {part[0] for part in parts} == {"id\taudio\ttext"}
    rows = [row.split("\t") for part in parts for row in part[1:]]
    assert [row[0] for row in rows] == names
    assert rows[5] == ["0_0_0_0_0_1_0_1", str(data / "0_0_0_0_0_1_0_1.flac"), "NO NO NO NO NO YES NO YES"]
    (data / f"{names[0]}.flac").unlink()
    with pytest.raises(SystemExit, match="60 recordings were expected, 59 found"):
        prepare.write(data, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/yesno")
def test_yesno_goes_through_the_commands_to_its_word_error_rate(tmp_path):
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([YESNO / "run.sh", DATA, tmp_path / "out"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "test.hyp").read_text().splitlines()) == 29
    rate = float((tmp_path / "out" / "scores.txt").read_text().split(" = ")[1].split()[0])
    assert rate <= 1.0, done.stdout
