"""Lines as a crawled corpus has them, many of them: s2s-generate gives a line for each, the one that it has alone, in
memory that does not grow with their number."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import s2s
from tests.conftest import _call, write_corpus
from tests.faults.scale import scaled

pytestmark = pytest.mark.slow

SEED = 12
LINES = 300_000
SAMPLE = 60
DECODE = {"beam_size": 2, "max_length_a": 0, "max_length_b": 12}
LONGEST = 25_000  # bytes of a line that is read
HELD = 100_000  # KiB
SMALL = ["model=transformer_tiny", "train.samples=0", "data.batch_tokens=2000", "device=cpu", "train.max_updates=60",
         "optim.lr=3e-3", "optim.warmup_updates=10",
         *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("layers=1", "width=32", "ffn_width=32",
                                                                              "heads=2"))]  # fmt: skip
CONTROLS = "".join(map(chr, [*range(1, 9), 11, 12, *range(14, 32), 127, 0x80, 0x85, 0x200B, 0x2028, 0x2029, 0xFEFF]))


def word(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghij") for _ in range(rng.randint(1, 8)))


def mixed(rng: random.Random) -> bytes:
    """A line of some kind, without its end."""
    kinds = {
        "plain": 80, "empty": 8, "space": 4, "controls": 3, "separators": 3, "zero": 1, "other": 2, "long word": 0.05,
        "long": 0.05, "too long": 0.01, "no text": 0.05,
    }  # fmt: skip
    (kind,) = rng.choices(list(kinds), kinds.values())
    plain = " ".join(word(rng) for _ in range(rng.randint(1, 6)))
    if kind == "too long":  # to be read
        return b"a" * (LONGEST + rng.randint(2, 9))
    if kind == "no text":
        return plain.encode() + b"\xff\xfe" + plain.encode()
    return {
        "plain": plain,
        "empty": "",
        "space": "".join(rng.choice(" \t\u00a0\u3000\u2003") for _ in range(rng.randint(1, 9))),
        "controls": plain[:3] + "".join(rng.choice(CONTROLS) for _ in range(rng.randint(1, 9))) + plain[3:],
        "separators": plain + rng.choice("\u2028\u2029\x85\x0b\x0c\x1c\x1e") + plain,
        "zero": f"{plain}\0{plain}\0",
        "other": "".join(rng.choice("äßçпривет漢字🙂e\u0301") for _ in range(rng.randint(1, 9))),
        "long word": "".join(rng.choice("abcdefghij") for _ in range(rng.randint(1000, 3000))),
        "long": " ".join(word(rng) for _ in range(3000))[:10_000],
    }[kind].encode()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A barely trained model of bytes."""
    folder = tmp_path_factory.mktemp("bytes")
    write_corpus(folder, {"train": 300, "valid": 10})
    with pytest.MonkeyPatch.context() as patch:
        words = "source=src", "target=tgt", f"train={folder}/train", f"valid={folder}/valid", "tokenizer=bytes"
        assert _call(patch, "s2s_cli.preprocess", *words, f"store={folder}/store") == 0
        assert _call(patch, "s2s_cli.train", f"store={folder}/store", f"run={folder}/run", *SMALL) == 0
    return folder / "run"


def generated(run: Path, lines: list[bytes], folder: Path) -> tuple[list[bytes], str, int]:
    """What s2s-generate writes of lines, what it says, and the peak of its memory in KiB."""
    source, output = folder / "in", folder / "out"
    source.write_bytes(b"".join(line + b"\n" for line in lines))
    words = [f"checkpoint={run}", f"input={source}", f"output={output}", "device=cpu", "skip_broken=true",
             f"max_line_bytes={LONGEST}", *(f"decode.{key}={value}" for key, value in DECODE.items())]  # fmt: skip
    with (folder / "err").open("wb+") as err:
        command = [sys.executable, "-m", "s2s_cli.generate", *words]
        process = subprocess.Popen(command, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    said = (folder / "err").read_text(encoding="utf-8")
    assert process.returncode == 0, said
    content = output.read_bytes()
    assert content.endswith(b"\n")
    return content[:-1].split(b"\n"), said, usage.ru_maxrss


def test_mixed_lines_are_as_many_as_come_in_and_those_of_each_alone(run, tmp_path):
    rng, count = random.Random(SEED), scaled(LINES)
    lines = [mixed(rng) for _ in range(count)]
    print(f"seed {SEED}, {count:,} lines")
    found, said, peak = generated(run, lines, tmp_path)
    assert len(found) == count

    broken = {i for i, line in enumerate(lines) if len(line) > LONGEST or b"\xff" in line}
    long = {i for i, line in enumerate(lines) if 4096 < len(line) <= LONGEST} - broken
    assert broken
    assert long
    assert f"failed and left empty: {len(broken):,} line" in said
    assert f"too long and cut (decode.max_source, model.max_positions): {len(long):,} line" in said
    for number, (line, output) in enumerate(zip(lines, found, strict=True)):
        assert not output or (number not in broken and line.decode().strip())
    assert len(set(found)) > 10  # barely trained, but what it writes depends on what it reads

    # A line alone, and what is held of a window: its lines and as many sentences as the budget allows.
    _, _, one = generated(run, lines[:1], tmp_path)
    print(f"peak {peak / 1000:.0f} MB; of a single line {one / 1000:.0f} MB")
    assert peak < one + HELD

    translator = s2s.load(run, device="cpu")
    chosen = {*rng.sample(range(count), SAMPLE), *sorted(long)[:3]} - broken
    for number in sorted(chosen):
        options = DECODE | {"buffer": 1}
        (alone,) = translator.translate([lines[number].decode()], **options)
        assert alone.replace("\n", " ").replace("\r", " ").encode() == found[number], (number, lines[number][:200])
