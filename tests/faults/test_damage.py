"""Random damages of stores and checkpoints under all commands that read them: each is named, or changes nothing."""

import contextlib
import dataclasses
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from s2s.files import file_hash
from s2s.manifests import MANIFEST, SEAL
from tests.conftest import _call, write_corpus
from tests.faults.scale import scaled
from tests.tones import write_tones

pytestmark = pytest.mark.slow
pytest.importorskip("soundfile")

SEED = 12
DAMAGES = 500
PAGE = 4096
TEXT = ["model=transformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1", "model.encoder.width=16",
        "model.decoder.width=16", "model.encoder.ffn_width=16", "model.decoder.ffn_width=16", "train.samples=0",
        "data.batch_tokens=500", "device=cpu", "train.max_updates=3"]  # fmt: skip
SPEECH = ["task=speech_to_text", "model=conformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1",
          *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("width=16", "ffn_width=16")),
          "model.encoder.subsampling_channels=4", "train.samples=0", "data.batch_tokens=500", "device=cpu",
          "train.max_updates=3"]  # fmt: skip

Command = Callable[[Path, Path], tuple]  # its words, of the store or run that is read and a fresh folder


def run(words: tuple[str, ...]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _call(patch, f"s2s_cli.{words[0]}", *words[1:])
    out.flush()
    return code, out.buffer.getvalue().decode(), err.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two stores and two runs of text and of speech each: a/text, b/text, a/text-run ..."""
    folder = tmp_path_factory.mktemp("made")
    for number, name in enumerate("ab"):
        place = folder / name
        (place / "corpus").mkdir(parents=True)
        write_corpus(place / "corpus", {"train": 60, "valid": 8, "test": 8}, number)
        write_tones(place / "corpus", {"train": 8, "valid": 2, "test": 3}, number, most=3)
        words = ("preprocess", "source=src", "target=tgt", "tokenizer=characters", "workers=1", "shard_pairs=25",
                 "keep_text=true")  # fmt: skip
        splits = [f"{split}={place}/corpus/{split}" for split in ("train", "valid", "test")]
        assert run((*words, *splits, f"store={place}/text"))[0] == 0
        words = ("preprocess", "task=speech_to_text", "tokenizer=characters", "workers=1", "shard_pairs=5",
                 "features.sample_rate=8000", "features.bins=20")  # fmt: skip
        assert run((*words, *(f"{split}.tsv" for split in splits), f"store={place}/speech"))[0] == 0
        for kind, options in (("text", TEXT), ("speech", SPEECH)):
            words = (
                "train",
                *options,
                f"store={place}/{kind}",
                f"run={place}/{kind}-run",
                "train.checkpoint_updates=2",
            )
            assert run(words)[0] == 0
        (place / "input").write_text("a b\nc d e\n")
    for kind, lines in (("text", 8), ("speech", 3)):  # hypotheses
        (folder / kind).write_text("a b\n" * lines)
    return folder


# --- what is read, and by whom ---------------------------------------------------------------------------------------


def store_commands(made: Path, kind: str) -> dict[str, Command]:
    """Those that read a store."""
    options, model = {"text": TEXT, "speech": SPEECH}[kind], f"checkpoint={made}/a/{kind}-run"
    found: dict[str, Command] = {
        "train": lambda store, out: ("train", *options, f"store={store}", f"run={out}/run"),
        "train lazily": lambda store, out: ("train", *options, f"store={store}", f"run={out}/run", "data.verify=false"),
        "generate": lambda store, out: ("generate", model, f"store={store}", f"output={out}/hyp", "format=tsv"),
        "score targets": lambda store, out: ("generate", model, f"store={store}", "mode=score", f"output={out}/scores"),
        "score": lambda store, out: ("score", f"store={store}", f"hypothesis={made}/{kind}", f"output={out}/scores"),
        "inspect": lambda store, out: ("inspect", store),
        "preprocess": lambda store, out: (
            "preprocess", "source=src", "target=tgt", f"tokenizer_from={store}", f"test={made}/a/corpus/test",
            f"store={out}/store", "workers=1",
        ),
    }  # fmt: skip
    if kind == "text":
        found["shortlist"] = lambda store, out: ("shortlist", f"store={store}", f"output={out}/list", "candidates=3")
    else:
        found["preprocess"] = lambda store, out: (
            "preprocess", "task=speech_to_text", f"tokenizer_from={store}", f"test={made}/a/corpus/test.tsv",
            f"store={out}/store", "workers=1",
        )  # fmt: skip
    return found


def checkpoint_commands(made: Path, kind: str) -> dict[str, Command]:
    """Those that read the last checkpoint of a run."""
    options, store = {"text": TEXT, "speech": SPEECH}[kind], made / "a" / kind
    source = f"input={made}/a/input" if kind == "text" else f"store={store}"
    model = f"checkpoint={made}/a/{kind}-run"
    found: dict[str, Command] = {
        "generate": lambda run, out: ("generate", f"checkpoint={run}/last", source, f"output={out}/hyp", "format=tsv"),
        "score targets": lambda run, out: (
            "generate", f"checkpoint={run}/last", f"store={store}", "mode=score", f"output={out}/scores"
        ),
        "average": lambda run, out: ("average", f"checkpoint={run}", "last=2", f"output={out}/average"),
        "inspect": lambda run, out: ("inspect", run),
        "resume": lambda run, out: ("train", *options, f"store={store}", f"run={run}", "train.max_updates=5"),
        "begin with": lambda run, out: (
            "train", *options, f"store={store}", f"run={out}/run", f"train.init.checkpoint={run}/last"
        ),
    }  # fmt: skip
    if kind == "text":
        found["export"] = lambda run, out: ("export", f"checkpoint={run}/last", f"output={out}/exported")
        found["draft"] = lambda run, out: (
            "generate", model, f"draft={run}/last", source, "decode.speculative=draft", f"output={out}/hyp",
            "decode.beam_size=1",
        )  # fmt: skip
    return found


@dataclasses.dataclass
class Outcome:
    """What came of a command: its exit code, what it said, and all else that must not depend on a damage."""

    code: int
    said: str
    results: dict


def outcome(name: str, words: tuple, read: Path, out: Path) -> Outcome:
    code, printed, said = run(tuple(map(str, words)))
    assert "Traceback" not in said
    weights = (read if name == "resume" else out / "run") / "last/model.safetensors"
    results = {"weights": file_hash(weights) if weights.exists() and words[0] == "train" else None}
    if name == "inspect":
        results["printed"] = printed.replace(str(read), "")
    for path in sorted(out.rglob("*")):
        file = path.relative_to(out).as_posix()
        # Those of an average name the folders of the checkpoints.
        told = file.startswith("average/") and path.name in ("state.json", MANIFEST, SEAL)
        if path.is_file() and not file.startswith("run/") and not told:
            results[file] = file_hash(path)
        if name == "shortlist" and path.is_file():  # the order of its metadata is another each time
            results[file] = {key: value.tobytes() for key, value in load_file(path).items()}
    return Outcome(code, said, results)


# --- damages ---------------------------------------------------------------------------------------------------------


def damages(rng: random.Random, folder: Path, other: Path) -> Iterator[tuple[str, list[Path]]]:
    """Make one after the other, each to a folder that is whole again; yields its name and the files that it changed.

    Args:
        folder: A store or a checkpoint.
        other: A whole one of the same kind.
    """
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    kinds = (flip, truncate, zero_page, swap_blocks, swap_files, delete, from_elsewhere, manifest_from_elsewhere)
    while True:
        kind = rng.choice(kinds)
        changed = kind(rng, list(before), folder, other)
        really = [path for path in changed if not path.exists() or path.read_bytes() != before[path]]
        if really:
            yield kind.__name__, really
        for path, was in before.items():
            if not path.exists() or path.read_bytes() != was:
                path.write_bytes(was)


def flip(rng, files, folder, other) -> list[Path]:
    path = rng.choice([path for path in files if path.stat().st_size])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return [path]


def truncate(rng, files, folder, other) -> list[Path]:
    path = rng.choice([path for path in files if path.stat().st_size])
    os.truncate(path, rng.randrange(path.stat().st_size))
    return [path]


def zero_page(rng, files, folder, other) -> list[Path]:
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    begin = PAGE * rng.randrange(-(-len(data) // PAGE) or 1)
    data[begin : begin + PAGE] = bytes(len(data[begin : begin + PAGE]))
    path.write_bytes(data)
    return [path]


def swap_blocks(rng, files, folder, other) -> list[Path]:
    path = rng.choice([path for path in files if path.stat().st_size >= 16])
    data = path.read_bytes()
    size = rng.choice([8, len(data) // 2])
    first, second = sorted(size * place for place in rng.sample(range(len(data) // size), 2))
    one, two = data[first : first + size], data[second : second + size]
    path.write_bytes(data[:first] + two + data[first + size : second] + one + data[second + size :])
    return [path]


def swap_files(rng, files, folder, other) -> list[Path]:
    first, second = rng.sample(files, 2)
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    return [first, second]


def delete(rng, files, folder, other) -> list[Path]:
    path = rng.choice(files)
    path.unlink()
    return [path]


def from_elsewhere(rng, files, folder, other) -> list[Path]:
    path = rng.choice([path for path in files if (other / path.relative_to(folder)).is_file()])
    shutil.copy(other / path.relative_to(folder), path)
    return [path]


def manifest_from_elsewhere(rng, files, folder, other) -> list[Path]:
    shutil.copy(other / MANIFEST, folder / MANIFEST)
    return [folder / MANIFEST]


# --- the test --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "speech"])
@pytest.mark.parametrize("of", ["store", "checkpoint"])
def test_no_damage_is_silent(made, tmp_path, kind, of):
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} {kind} {of}")
    commands = {"store": store_commands, "checkpoint": checkpoint_commands}[of](made, kind)
    name = kind if of == "store" else f"{kind}-run"
    read = shutil.copytree(made / "a" / name, tmp_path / "read", symlinks=True)

    def tried(command: str) -> Outcome:
        copy, out = shutil.copytree(read, tmp_path / "copy", symlinks=True), tmp_path / "out"
        out.mkdir()
        try:
            return outcome(command, commands[command](copy, out), copy, out)
        finally:
            shutil.rmtree(copy)
            shutil.rmtree(out)

    right = {command: tried(command) for command in commands}
    for command, found in right.items():
        assert found.code == 0, f"{command}: {found.said}"
        assert any(found.results.values()), command
    place = read if of == "store" else (read / "last").resolve()
    other = made / "b" / name if of == "store" else (made / "b" / name / "last").resolve()
    named, same, wrong = 0, 0, []
    for damage, changed in islice(damages(rng, place, other), max(1, scaled(DAMAGES) // 4)):
        command = rng.choice(list(commands))
        found = tried(command)
        paths = [tmp_path / "copy" / path.relative_to(read) for path in changed]
        told = any(str(path) in found.said for path in paths)
        if found.code and told:
            named += 1
        elif found.code == 0 and found.results == right[command].results:
            same += 1
        else:
            files = ", ".join(path.name for path in changed)
            wrong.append(f"{damage} of {files} under {command}: exit code {found.code}: {found.said[-300:]}")
    print(f"{of} of {kind}: {named} damages named, {same} of what was not read, {len(wrong)} silent or not named")
    assert not wrong, "\n".join(wrong)
    assert named > same / 4
