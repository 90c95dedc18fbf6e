"""The README's commands run as they stand, on a made-up corpus and with a model small enough for a test."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.audio.recordings import write
from tests.conftest import write_corpus
from tests.data.test_manifest import tsv

README = Path(__file__).parents[1] / "README.md"

# What makes a command fit for a test; the words of the README stay as they are but for these sizes.
TINY = (
    "train.max_updates=6 train.valid_updates=3 data.batch_tokens=300 model.encoder.layers=1 model.decoder.layers=1 "
    "model.encoder.width=16 model.decoder.width=16"
)
SMALLER = {
    "tokenizer.vocab_size=8000": "tokenizer.vocab_size=24",
    "train.max_updates=4000": TINY,
    "train.max_updates=2000": TINY,
    "train.max_updates=5000": TINY,
    "train.max_updates=3000": "train.max_updates=6 data.batch_tokens=300 model.decoder.layers=1 model.decoder.width=16",
}


def commands() -> list[str]:
    """The commands of the README's sh blocks, lines that are continued joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def write_speech(folder: Path) -> None:
    """The manifests of the README, of the same three recordings each."""
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


def test_every_command_of_the_readme_works(tmp_path):
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus", {"train": 200, "val": 10, "test2016": 12})
    for path in list((tmp_path / "corpus").iterdir()):
        path.rename(path.with_suffix({".src": ".de", ".tgt": ".en"}[path.suffix]))
    write_speech(tmp_path / "corpus")
    # The installed commands of this interpreter come first.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    seen = set()
    for line in commands():
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PATH": path}, timeout=120)  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        seen |= set(re.findall(r"s2s-\w+", line))
    assert seen >= {"s2s-preprocess", "s2s-train", "s2s-generate", "s2s-score", "s2s-average", "s2s-export",
                    "s2s-shortlist"}  # fmt: skip
    for name in ("hyp.en", "output.en", "ensemble.en", "sample.en", "scores.txt", "fused.en"):
        assert len((tmp_path / name).read_text().splitlines()) == 12, name


def test_presets_and_keys_named_in_the_readme_exist():
    from s2s.config import compose, schema
    from s2s_cli.train import TrainCommand

    known: set = set()
    for words in ([("model", "transformer_tiny")], [("task", "speech_to_text")]):
        leaves = {leaf.key for leaf in schema.leaves(compose.compose(TrainCommand, words))}
        known |= leaves | {key.removesuffix(".type") for key in leaves}
    named = set(re.findall(r"`((?:train|data|optim|model)\.[a-z_.]+)[`=]", README.read_text(encoding="utf-8")))
    assert len(named) > 8
    assert named - {"model.my_option"} <= known
