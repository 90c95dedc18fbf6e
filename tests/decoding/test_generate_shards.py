"""`s2s-generate shard=K/N`: the joined output is that of one machine, and no part may be missing."""

import re
from pathlib import Path

import pytest

from tests.decoding.generating import fails
from tests.decoding.test_going_on import FORMATS, Killed, killing, several, text, words  # noqa: F401
from tests.training.conftest import together  # noqa: F401
from tests.training.test_distributed import finished


def totals(said: str) -> str:
    """The final line without the time."""
    return re.sub(r", [\d.]+ s, [\d,.]+ sentences/s", "", said.splitlines()[-1])


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case != "n-best")) for case in FORMATS]
)
def test_the_joined_output_is_that_of_one_machine(generate, runs, text, tmp_path, case):  # noqa: F811
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    code, _, plain = generate(*words(runs, text, whole, *FORMATS[case]))
    assert code == 0
    argv = words(runs, text, output, *FORMATS[case])
    counts = []
    for number in (2, 3, 1):
        code, _, said = generate(*argv, f"shard={number}/3")
        assert code == 0, said
        counts.append(int(said.splitlines()[-1].split(" ")[0]))
    assert sorted(counts) == [18, 21, 21]  # of 60 lines in 9 windows
    code, _, said = generate(*argv, "shard=join")
    assert code == 0, said
    assert output.read_bytes() == whole.read_bytes()
    assert totals(said) == f"3 parts: {totals(plain)}"
    assert not Path(f"{output}.parts").exists()


def test_small_inputs_and_stores_are_divided_too(generate, runs, store, text, tmp_path):  # noqa: F811
    output = tmp_path / "hyp"
    text.write_text(text.read_text() * 60)
    for given, least in ((f"input={text}", 100), (f"store={store}", 1)):
        argv = [f"checkpoint={runs[0]}", given, "device=cpu", "decode.beam_size=1"]
        whole = tmp_path / "whole"
        assert generate(*argv, f"output={whole}")[0] == 0
        for number in (1, 2, 3):
            code, _, said = generate(*argv, f"output={output}", f"shard={number}/3")
            assert code == 0, said
            assert int(said.splitlines()[-1].split(" ")[0].replace(",", "")) >= least
        assert generate(*argv, f"output={output}", "shard=join")[0] == 0
        assert output.read_bytes() == whole.read_bytes()


def test_no_part_may_be_missing_or_of_another_input(generate, runs, text, tmp_path):  # noqa: F811
    output = tmp_path / "hyp"
    argv = [*words(runs, text, output), "decode.beam_size=1"]
    fails(generate(*argv, "shard=join"), "there are no parts")
    assert generate(*argv, "shard=1/2")[0] == 0
    fails(generate(*argv, "shard=join"), "1 of 2 parts are missing: shard=2/2")
    assert generate(*argv[:-1], "decode.beam_size=2", "shard=2/2")[0] == 0
    fails(generate(*argv, "shard=join"), "2-of-2", "decode.beam_size=2, now 1")
    assert generate(*argv, "shard=2/2", "overwrite=true")[0] == 0
    assert "is there already" in generate(*argv, "shard=2/2")[2]
    plain = text.read_text()
    text.write_text(plain.replace("a", "b", 1))
    fails(generate(*argv, "shard=join"), "1-of-2", "input=")
    text.write_text(plain)
    part = Path(f"{output}.parts/1-of-2")
    part.write_bytes(part.read_bytes()[1:])
    fails(generate(*argv, "shard=join"), "truncated or changed")
    fails(generate(*argv, "shard=3/2"), "K/N is needed")
    fails(generate(f"checkpoint={runs[0]}", f"input={text}", "shard=1/2"), "output=FILE")


def test_more_shards_than_lines_leave_some_empty(generate, runs, tmp_path):
    (tmp_path / "short").write_text("a b\nc\n")
    output = tmp_path / "hyp"
    argv = words(runs, tmp_path / "short", output, "decode.beam_size=1")
    for number in range(1, 5):
        assert generate(*argv, f"shard={number}/4")[0] == 0
    code, _, said = generate(*argv, "shard=join")
    assert code == 0
    assert "4 parts: 2 sentences, " in said
    assert output.read_text().count("\n") == 2


def test_a_killed_shard_goes_on_and_its_totals_are_whole(generate, runs, text, tmp_path, killing, monkeypatch):  # noqa: F811
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    code, _, plain = generate(*words(runs, text, whole))
    argv = words(runs, text, output)
    assert generate(*argv, "shard=1/2")[0] == 0
    killing(25)
    with pytest.raises(Killed):
        generate(*argv, "shard=2/2")
    monkeypatch.undo()
    fails(generate(*argv, "shard=join"), "missing: shard=2/2")
    code, _, said = generate(*argv, "shard=2/2")
    assert (code, "goes on after" in said) == (0, True), said
    code, _, said = generate(*argv, "shard=join")
    assert totals(said) == f"2 parts: {totals(plain)}"
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_shard_of_several_processes(generate, runs, text, tmp_path, several):  # noqa: F811
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    assert generate(*words(runs, text, whole))[0] == 0
    finished(several(2, [*words(runs, text, output), "shard=1/2"]))
    assert generate(*words(runs, text, output), "shard=2/2")[0] == 0
    assert generate(*words(runs, text, output), "shard=join")[0] == 0
    assert output.read_bytes() == whole.read_bytes()


def test_a_multirun_makes_the_shards(generate, runs, text, tmp_path):  # noqa: F811
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    assert generate(*words(runs, text, whole))[0] == 0
    argv = words(runs, text, output)
    code, out, said = generate(*argv, "--multirun", "shard=1/3,2/3,3/3")
    assert code == 0, said
    assert out == f"{output}.parts: the parts are made; the same command with shard=join joins them\n"
    assert generate(*argv, "shard=join")[0] == 0
    assert output.read_bytes() == whole.read_bytes()
    code, _, said = generate(*argv, "--multirun", "shard=1/1,2/1")
    assert (code, "job shard=2/1 failed: shard=2/1: K/N is needed" in said) == (2, True), said
    fails(generate(*argv, "--multirun", "shard=1/2"), "shard= must have several values")
    fails(generate(*argv, "--multirun", "shard=1/2,2/2", "seed=1,2"), "seed has several values, and only shard=")
    fails(generate(*argv[:2], "--multirun", "shard=1/2,2/2"), "--multirun requires output=PATH")
    fails(generate(*argv, "shard=1/2,2/2"), "several shards need --multirun")
    fails(generate(*argv, "decode.beam_size=1,2"), "decode.beam_size: '1,2' is not a whole number")


@pytest.mark.slow
def test_submitit_makes_the_shards_of_both_commands(generate, runs, store, text, tmp_path, spawn, s2s):  # noqa: F811
    launcher = ["--multirun", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "shard=1/2,2/2"]
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    assert generate(*words(runs, text, whole))[0] == 0
    process = spawn("generate", *words(runs, text, output), *launcher)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert len(list(Path(f"{output}.parts/.submitit").glob("*/*_result.pkl"))) == 2
    assert generate(*words(runs, text, output), "shard=join")[0] == 0
    assert output.read_bytes() == whole.read_bytes()
    of_store = ["source=src", "target=tgt", f"train={store.parent}/train", "tokenizer=bytes"]
    assert s2s("preprocess", *of_store, f"store={tmp_path}/one") == 0
    process = spawn("preprocess", *of_store, f"store={tmp_path}/two", *launcher)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert s2s("preprocess", *of_store, f"store={tmp_path}/two", "shard=join") == 0
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
