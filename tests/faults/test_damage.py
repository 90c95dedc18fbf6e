"""Random damages of stores and checkpoints under all commands that read them: each is named, or changes nothing."""

import dataclasses
import os
import random
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from s2s.files import file_hash
from s2s.manifests import MANIFEST, SEAL
from tests.faults.readers import checkpoint_commands, make, run, store_commands
from tests.faults.scale import scaled

pytestmark = pytest.mark.slow
pytest.importorskip("soundfile")

SEED = 12
DAMAGES = 500
PAGE = 4096


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make(folder)
    return folder


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
