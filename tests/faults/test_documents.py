"""JSON and YAML of another's making under all commands that read it: no traceback, no hang, each error names the file.

All documents of a store, a run and a checkpoint, of text and of speech, --config files and manifests of JSON lines are
changed at random. Who can change a file can change its hash: most of the time the hashes are made to fit.
"""

import contextlib
import json
import random
import re
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from s2s.data.store import digest
from s2s.files import file_hash
from s2s.manifests import MANIFEST, SEAL, write_manifest
from tests.faults.readers import Command, checkpoint_commands, make, run, store_commands
from tests.faults.scale import scaled

pytestmark = pytest.mark.slow
pytest.importorskip("soundfile")

SEED = 17
FILES = 1000
SECONDS = 60  # for a command; the slowest one takes two
HOSTILE = [
    None, True, False, 0, -1, 1, 7, 10**6, 2**31, 2**63 - 1, -(2**63), 2**64, 0.5, -0.0, 1e-308, 1e308, float("nan"),
    float("inf"), "", " ", "x", "no", "1:30", "007", "1e400", "nan", "../../x", "/etc/passwd", "a/b", ".", "..", "a\0b",
    "\ud83d", "é\u2028", "x" * 3000, "${oc.env:HOME}", [], {}, [[]], [None], {"": {}}, {"_target_": "os.system"},
    {"type": "nothing"}, ["a"] * 2000,
]  # fmt: skip
GARBAGE = [
    b"\0", b"\xff", b"\xed\xa0\x80", b"[", b"]", b"{", b"}", b'"', b"'", b":", b"\n", b"\t", b",", b"- ", b"&a ", b"*a",
    b"!!python/object/apply:os.system [ls]", b"<<: *a", b"1e999", b"NaN", b"\\u0000", b"\\ud800", b"#", b"%", b"|\n",
    b"--- ", b"? ", b"9" * 400,
]  # fmt: skip
KEYS = ("checkpoint", "train", "store", "run", "hypothesis", "reference", "metrics", "output", "vocab_size")


class TooSlow(BaseException):
    """Nothing catches it as an error."""


@contextlib.contextmanager
def bounded(seconds: int):
    def late(number, frame):
        raise TooSlow

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- changes ---------------------------------------------------------------------------------------------------------


def changed(rng: random.Random, path: Path) -> bytes:
    """Another content of a document."""
    data = path.read_bytes()
    if path.suffix == ".jsonl":
        lines = data.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        lines[place] = rng.choice([_bytes, _json])(rng, lines[place]).rstrip(b"\n") + b"\n"
        return b"".join(lines)
    if rng.random() < 0.1:
        return _whole(rng, data)
    by_structure = _yaml if path.suffix == ".yaml" else _json
    return rng.choice([_bytes, by_structure, by_structure])(rng, data)


def _bytes(rng, data: bytes) -> bytes:
    first, second = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    second = min(second, first + 50)
    piece = rng.choice(GARBAGE)
    return rng.choice([
        data[:first] + piece + data[first:],
        data[:first] + piece + data[first + len(piece) :],
        data[:first] + data[second:],
        data[:second] + data[first:second] + data[second:],
        data[:first],
    ])  # fmt: skip


def _json(rng, data: bytes) -> bytes:
    return json.dumps(_restructured(rng, json.loads(data))).encode()


def _yaml(rng, data: bytes) -> bytes:
    value = _restructured(rng, yaml.safe_load(data))
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def _restructured(rng, value):
    """A value with one thing in it changed."""
    value = [value]
    places = list(_places(value))
    place, key = rng.choice(places)
    how = rng.choice(["value", "value", "value", "delete", "rename", "add", "wrap", "swap"])
    if how == "delete" and place is not value:
        del place[key]
    elif how == "rename" and isinstance(place, dict):
        place[rng.choice(["", "x", f"{key}s", "_target_", "\u2028"])] = place.pop(key)
    elif how == "add" and isinstance(place, dict):
        place[rng.choice(["new", "type", "_target_", "format"])] = rng.choice(HOSTILE)
    elif how == "add":
        place.append(rng.choice(HOSTILE))
    elif how == "wrap":
        for _ in range(rng.choice([1, 40, 300])):
            place[key] = rng.choice([[place[key]], {"a": place[key]}])
    elif how == "swap" and place is not value:
        other, name = rng.choice(places)
        place[key], other[name] = json.loads(json.dumps([other[name], place[key]]))
    else:
        place[key] = rng.choice(HOSTILE)
    return value[0]


def _places(value):
    """Each (container, key or index) in a container, whatever its depth."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def _whole(rng, data: bytes) -> bytes:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    return rng.choice([
        b"", b"\n", b"null", b"[]", b"{}", b"NaN", b"3", b'"text"', b"[" * 100_000, b'{"a":' * 5000, b"9" * 5000,
        b"[" + b"1," * 300_000 + b"1]", b"\0" * 4096, bomb.encode(), b"- " * 3000 + b"x", data + data, data * 50,
        data.decode().encode("utf-16"), b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n"),
        data.replace(b"e", "é".encode("latin-1")),
    ])  # fmt: skip


def fit(folder: Path, path: Path) -> None:
    """Make the hashes of a folder's manifest fit a changed file, as far as that manifest is one."""
    if path.name == MANIFEST:
        (folder / SEAL).write_text(f"{file_hash(path)}  {path.name}\n")
    elif (folder / MANIFEST).is_file():
        manifest = json.loads((folder / MANIFEST).read_text())
        facts = {"bytes": path.stat().st_size, "size": path.stat().st_size, "sha256": file_hash(path)}
        for files in (manifest["files"], manifest.get("other_files", {})):
            if path.name in files:
                files[path.name] = {key: facts[key] for key in files[path.name]}
        if "digest" in manifest:
            manifest["digest"] = digest(manifest)
        write_manifest(folder, manifest)


# --- the documents and who reads them --------------------------------------------------------------------------------


class Document(NamedTuple):
    """A file, in the folder (or the file itself) that a trial copies, and the commands that read that."""

    copied: Path
    place: Path
    readers: dict[str, Command]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make(folder)
    corpus = folder / "a/corpus"
    header, *rows = [line.split("\t") for line in (corpus / "train.tsv").read_text().splitlines()]
    objects = [dict(zip(header, row, strict=True)) | {"duration": 0.2, "speaker": "x"} for row in rows]
    (corpus / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in objects))
    for name, options in configs(folder).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(options))
    for kind in ("text", "speech"):
        shutil.copy(folder / f"a/{kind}-run/config.yaml", folder / f"train-{kind}.yaml")
    return folder


def configs(made: Path) -> dict[str, dict]:
    """What --config files of commands hold; those of training are the configs of runs."""
    place = f"{made}/a"
    return {
        "preprocess-text": {"source": "src", "target": "tgt", "tokenizer": {"type": "characters"}, "workers": 1,
                            "train": [f"{place}/corpus/train"], "filter": {"max_length": 50}, "seed": 3},
        "preprocess-speech": {"task": "speech_to_text", "train": f"{place}/corpus/train.tsv", "workers": 1,
                              "tokenizer": {"type": "bytes"}, "features": {"sample_rate": 8000, "bins": 20}},
        "generate-text": {"checkpoint": f"{place}/text-run", "input": f"{place}/input", "format": "json",
                          "decode": {"beam_size": 2, "max_length_a": 1.5, "backend": "eager"}},
        "generate-speech": {"checkpoint": f"{place}/speech-run", "store": f"{place}/speech", "decode": {"buffer": 2}},
        "score-text": {"store": f"{place}/text", "hypothesis": f"{made}/text", "metrics": ["wer", "chrf"], "worst": 2},
        "average-text": {"checkpoint": [f"{place}/text-run"], "last": 2},
    }  # fmt: skip


def configured(name: str) -> Command:
    command = name.partition("-")[0]
    output = {"preprocess": "store", "train": "run"}.get(command, "output")
    more = ("device=cpu", "train.max_updates=2") * (command == "train")
    return lambda read, out: (command, "--config", read, f"{output}={out}/made", *more)


def documents(made: Path, kind: str) -> list[Document]:
    found = []
    stores, runs = store_commands(made, kind), checkpoint_commands(made, kind)
    runs["plot"] = lambda read, out: ("plot", read, f"output={out}/picture.png")
    of_run = {name: runs[name] for name in ("resume", "inspect", "average", "plot")}
    for folder, readers in ((made / "a" / kind, stores), (made / "a" / f"{kind}-run", runs)):
        for path in sorted(folder.rglob("*.json*")) + sorted(folder.rglob("*.yaml")):
            place = path.relative_to(folder)
            if "step_00000002" not in place.parts:  # the other one is the last
                found.append(Document(folder, place, of_run if readers is runs and path.parent == folder else readers))
    for path in sorted(made.glob(f"*-{kind}.yaml")):
        found.append(Document(path, Path(), {path.stem: configured(path.stem)}))
    if kind == "speech":
        words = ("preprocess", "task=speech_to_text", "tokenizer=bytes", "workers=1", "features.sample_rate=8000",
                 "features.bins=20")  # fmt: skip
        for more in ("skip_broken=false", "skip_broken=true"):
            command = lambda read, out, more=more: (*words, f"train={read}/train.jsonl", f"store={out}/made", more)  # noqa: E731
            found.append(Document(made / "a/corpus", Path("train.jsonl"), {more: command}))
    return found


def is_named(path: Path, said: str, fits: bool) -> bool:
    """Whether an error says what it is of: the file. Where the hashes fit and the content has the right shape, it may
    be another file of the folder, which contradicts it, or the folder; of a --config file a key or a value in there."""
    if str(path) in said or str(path.resolve()) in said:
        return True
    if not any(path.name.startswith(command) for command in ("preprocess", "train-", "generate", "score", "average")):
        return fits and (str(path.parent) in said or str(path.parent.resolve()) in said)
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError):
        return False
    values = [str(place[key]) for place, key in _places([content]) if not isinstance(place[key], (dict, list))]
    told = re.search(rf"({'|'.join(KEYS)})=", said) or any(value and value in said for value in values)
    return isinstance(content, dict | None) and bool(told)


def trial(document: Document, name: str, copy: Path, out: Path, rng: random.Random) -> tuple[int | None, str, str]:
    """Exit code of a command that reads a changed document, what it said, and what is wrong with that, if anything."""
    path = copy / document.place if document.copied.is_dir() else copy
    path.write_bytes(changed(rng, path))
    fits = rng.random() < 0.8 or not (path.parent / MANIFEST).is_file()
    if fits:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # a manifest that is none
            fit(path.parent, path)
    try:
        with bounded(SECONDS):
            code, _, said = run(tuple(map(str, document.readers[name](copy, out))))
    except TooSlow:
        return None, "", f"more than {SECONDS} s"
    except Exception as error:  # what would be a traceback
        return None, repr(error), "traceback"
    if "Traceback" in said or code not in (0, 1, 2):
        return code, said, "traceback"
    return code, said, "" if code == 0 or is_named(path, said, fits) else "not named"


@pytest.mark.parametrize("kind", ["text", "speech"])
def test_a_document_of_any_content_is_read_or_named(made, tmp_path, kind):
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} {kind}")
    named, read, wrong, all_of_them = 0, 0, [], documents(made, kind)
    for number in range(max(1, scaled(FILES) // 2)):
        document = all_of_them[number % len(all_of_them)]
        name = rng.choice(list(document.readers))
        folder = tmp_path / str(number)
        copy, out = folder / document.copied.name, folder / "out"
        out.mkdir(parents=True)
        if document.copied.is_dir():
            shutil.copytree(document.copied, copy, symlinks=True)
        else:
            shutil.copy(document.copied, copy)
        code, said, ill = trial(document, name, copy, out, rng)
        named, read = named + bool(code), read + (code == 0)
        if ill:
            wrong.append(f"{ill}: {copy / document.place} under {name}: exit code {code}: {said[-300:]}")
        else:
            shutil.rmtree(folder)
    print(f"{kind}: {named} errors that name the file, {read} read, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert named > read / 2
