"""Unknown tokens are told wherever a model reads text: given targets, the library, the server."""

import json
import warnings

import pytest

import s2s as package
from s2s.config.compose import preset

MANY = "% of the tokens are unknown, such as 'A'"


@pytest.fixture
def translator(runs):
    return package.load(runs[0], device="cpu")


def test_given_targets_are_watched_too(generate, runs, tmp_path):
    (tmp_path / "in").write_text("a b c\nd e\n")
    (tmp_path / "hyp").write_text("A b A\nd A\n")
    argv = f"checkpoint={runs[0]}", f"input={tmp_path}/in", "mode=score", f"target={tmp_path}/hyp", "device=cpu"
    code, _, said = generate(*argv)
    assert code == 0
    assert f"warning: {tmp_path}/hyp: 60{MANY}" in said
    assert f"warning: {tmp_path}/in" not in said
    (tmp_path / "hyp").write_text("a b\nc\n")
    assert "unknown" not in generate(*argv)[2]


def test_the_library_warns_once_for_all_calls(translator):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for lines in (["a b c"], ["A A A"], ["A b"]):
            assert len(list(translator.translate(lines, beam_size=1))) == 1
    assert [str(one.message).partition(":")[0] for one in caught] == ["the input"]
    assert f"the input: 50{MANY}" in str(caught[0].message)


def test_the_server_warns_once(translator, capsys):
    pytest.importorskip("fastapi")
    from s2s.serving.jobs import Bounds, Jobs

    jobs = Jobs(
        translator, preset("decode", "default"), Bounds(1 << 20, 1000, 1000, 1 << 30, 1, 1, 9, 5, ["beam_size"])
    )
    line = json.dumps({"lines": ["A b"] * 400}).encode()
    jobs.of_json(line, "caller")
    assert "unknown" not in capsys.readouterr().err  # too few tokens to tell
    jobs.of_json(line, "caller")
    jobs.of_json(line, "caller")
    assert capsys.readouterr().err.count(f"s2s-serve: warning: the lines of requests: 50{MANY}") == 1
