"""The commands of README.md and of the pages of docs/ run as they stand, on a made-up corpus and with small models.

A page may use what the commands of the README have made, and nothing of other pages.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audio.recordings import write
from tests.conftest import write_corpus
from tests.data.test_manifest import tsv

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
WITH_COMMANDS = [name for name, path in PAGES.items() if BLOCK.search(path.read_text(encoding="utf-8"))]
SECONDS = 300  # limit of a block of commands

# What makes a command fit for a test; the words of the pages stay as they are but for these sizes.
WIDTH = "data.batch_tokens=300 model.decoder.layers=1 model.decoder.width=16"
TINY = f"{WIDTH} train.valid_updates=3 model.encoder.layers=1 model.encoder.width=16"


def smaller(command: str, port: int) -> str:
    """A command with the sizes and the port of a test; the installation of packages is left out."""
    if command.startswith("pip install"):
        return "true"
    size = WIDTH if "task=language_modeling" in command else TINY
    for pattern, replacement in (
        (r"train\.max_updates=\d+", f"train.max_updates=6 {size}"),
        (r"vocab_size=\d+", "vocab_size=24"),
        (r"data\.batch_tokens=(?!300\b)\d+", ""),
        (r"port=8000|(?<=localhost:)8000", lambda match: match.group().replace("8000", str(port))),
    ):
        command = re.sub(pattern, replacement, command)
    return command


def run_commands(page: Path, folder: Path) -> str:
    """Run the sh blocks of a page in a folder, each as a script of bash; returns the scripts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The installed commands of this interpreter come first.
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    scripts = []
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        lines = block.replace("\\\n", " ").splitlines()
        script = "\n".join(smaller(line.strip(), port) for line in lines)
        with (folder / "printed.txt").open("w+", encoding="utf-8") as printed:
            process = subprocess.Popen(["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, env=environment,
                                       stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
            try:
                code = process.wait(SECONDS)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)  # a server that the block has started
            printed.seek(0)
            assert code == 0, f"{page.name}:\n{script}\n{printed.read()}"
        scripts.append(script)
    return "\n".join(scripts)


def write_speech(folder: Path) -> None:
    """The manifests of the page on speech, of the same three recordings each."""
    texts = ["yes", "no yes", "no"]
    for number in range(3):
        write(folder / f"{number}.wav", 0.3 + 0.1 * number, seed=number)
    for name in ("train.tsv", "valid.tsv", "test.tsv"):
        tsv(folder / name, ["audio", "text", "speaker"], *([f"{n}.wav", text, "anna"] for n, text in enumerate(texts)))
    rows = [json.dumps({"audio": f"{n}.wav", "text": text}) for n, text in enumerate(texts)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    (folder / "kaldi").mkdir()
    (folder / "kaldi" / "wav.scp").write_text("".join(f"u{n} ../{n}.wav\n" for n in range(3)))
    (folder / "kaldi" / "text").write_text("".join(f"u{n} {text}\n" for n, text in enumerate(texts)))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which the commands of the README were run."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "corpus").mkdir()
    write_corpus(folder / "corpus", {"train": 200, "val": 10, "test2016": 12, "more": 12})
    for path in list((folder / "corpus").iterdir()):
        path.rename(path.with_suffix({".src": ".de", ".tgt": ".en"}[path.suffix]))
    for path in list((folder / "corpus").glob("*.en")):
        shutil.copy(path, path.with_suffix(".fr"))
    write_speech(folder / "corpus")
    run_commands(README, folder)
    return folder


def test_the_commands_of_the_readme_work(workplace):
    for name in ("hyp.en", "output.en"):
        assert len((workplace / name).read_text().splitlines()) == 12, name


@pytest.mark.parametrize(
    "page", [pytest.param(name, marks=pytest.mark.slow if name != "tutorial" else ()) for name in WITH_COMMANDS]
)
def test_the_commands_of_a_page_work(page, workplace, tmp_path):
    folder = shutil.copytree(workplace, tmp_path / "copy", symlinks=True)
    ran = run_commands(PAGES[page], folder)
    for name in re.findall(r"output=(\S+\.en)|> (\S+\.en)", ran):
        lines = (folder / "".join(name)).read_text().splitlines()
        assert len(lines) in (10, 12, 200), name  # one for each line of its input


def test_the_pages_use_every_command():
    text = "\n".join(block for path in (README, *PAGES.values()) for block in BLOCK.findall(path.read_text()))
    assert set(re.findall(r"s2s-\w+", text)) == {
        "s2s-preprocess", "s2s-train", "s2s-generate", "s2s-score", "s2s-average", "s2s-export", "s2s-serve",
        "s2s-shortlist", "s2s-inspect", "s2s-plot", "s2s-report", "s2s-import",
    }  # fmt: skip


def test_keys_that_the_pages_name_exist():
    from s2s.config import compose, schema
    from s2s_cli.generate import GenerateCommand
    from s2s_cli.train import TrainCommand

    known: set = set()
    for command, words in (
        (TrainCommand, [("model", "transformer_tiny")]),
        (TrainCommand, [("task", "speech_to_text"), ("model", "conformer_tiny"), ("criterion", "distillation")]),
        (GenerateCommand, [("decode.search", "sample")]),
    ):
        leaves = {leaf.key for leaf in schema.leaves(compose.compose(command, words))}
        known |= leaves | {key.removesuffix(".type") for key in leaves}
    guides = [README, *(path for name, path in PAGES.items() if name not in ("methods", "extending"))]
    named = {key for path in guides
             for key in re.findall(r"`((?:train|data|optim|decode)\.[a-z_.]+)[`=]", path.read_text())}  # fmt: skip
    assert len(named) > 60
    assert named <= known


def test_the_readme_is_short_and_links_are_whole():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150
    for page in (README, *PAGES.values(), *ROOT.glob("[A-Z]*.md"), *ROOT.glob("examples/*/README.md")):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
