"""s2s-serve: alignment, prefixes, constraints, streams, batches, tags, and what GET /v1/models tells."""

import http.client
import json
from dataclasses import replace

import pytest

from s2s.decoding.config import DecodeConfig
from s2s.decoding.inputs import Window
from s2s.serving.batcher import Job
from s2s.serving.cost import cost
from tests.serving.server import BOUNDS, ask, metrics, raw, request, serving, until
from tests.serving.test_serve import Held

PATH = "/v1/translate"


@pytest.fixture(scope="module")
def port(translator):
    with serving(translator) as (port, _):
        yield port


def events(port, **content):
    """The status, and the names and contents of the events of a stream."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", PATH, json.dumps({"stream": True, **content}), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.headers["content-type"] != "text/event-stream; charset=utf-8":
        return answer.status, json.loads(text)
    pairs = [event.split("\ndata: ") for event in text.removesuffix("\n\n").split("\n\n")]
    return answer.status, [(name.removeprefix("event: "), json.loads(data)) for name, data in pairs]


def test_alignment_and_attention_are_those_of_the_library(port, translator, lines):
    expected = list(translator.translate(lines[:4], hypotheses=True, alignment=True))
    window = Window(translator.task.encode(lines[:4]), None)
    weights = [one[0].attention for one in translator.decode([window], DecodeConfig(), attention=True)]
    for extra in ("alignment", "attention"):
        status, _, answer = ask(port, PATH, lines=lines[:4], hypotheses=True, **{extra: True})
        assert status == 200
        for (found,), (best,), rows in zip(answer["translations"], expected, weights, strict=True):
            assert (found["text"], found["alignment"]) == (best.text, best.alignment)
            assert found["source_tokens"] == [*best.source_tokens]
            if extra == "attention":
                assert found["attention"] == [pytest.approx(row, abs=1e-4) for row in rows]
                assert [row.index(max(row)) for row in rows] == best.alignment
                assert [sum(row) for row in rows] == pytest.approx([1] * len(found["tokens"]))
            else:
                assert "attention" not in found
    assert "alignment" not in ask(port, PATH, lines=lines[:1], hypotheses=True)[2]["translations"][0][0]


def test_prefixes_and_constraints_are_kept(port, translator, lines):
    starts = ["a", "", "b c", "a b"]
    expected = list(translator.translate(lines[:4], prefixes=starts))
    assert expected != list(translator.translate(lines[:4]))
    assert ask(port, PATH, lines=lines[:4], prefixes=starts)[2]["translations"] == expected
    assert expected[2].startswith("b c")
    phrases = [["a b"], [], ["c", "d"], [" "]]
    ids = [translator.task.encode_phrases([text for text in row if text.strip()]) for row in phrases]
    window = Window(translator.task.encode(lines[:4]), None, ids)
    expected = [one[0].text for one in translator.decode([window], DecodeConfig())]
    answer = ask(port, PATH, lines=lines[:4], constraints=phrases, hypotheses=True)[2]["translations"]
    assert [one[0]["text"] for one in answer] == expected
    assert "a b" in expected[0]
    assert {"c", "d"} <= {*expected[2].split()}
    assert [one[0]["unmet"] for one in answer] == [0] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"alignment": True}, 'alignment requires "hypotheses": true'),
        ({"attention": True}, 'attention requires "hypotheses": true'),
        ({"timestamps": True, "hypotheses": True}, "timestamps=true requires recordings"),
        ({"prefixes": ["a", "b"]}, "prefixes: there must be as many as lines, 1; there are 2"),
        ({"prefixes": ["zzz"]}, "prefixes, line 1: 'zzz' has a symbol that the target vocabulary lacks"),
        ({"constraints": [["a", "zzz"]]}, "constraints, line 1: 'zzz' has a symbol"),
        ({"constraints": []}, "constraints: there must be as many as lines, 1; there are 0"),
        ({"constraints": [["a"]], "search": "sample"}, "constraints: does not go with decode.search=sample"),
        ({"prefixes": "a"}, "prefixes: must be a valid array"),
        ({"target_language": "de"}, "tags: target_language=de: the model does not read this tag"),
    ],
)
def test_what_is_refused_of_them(port, content, message):
    status, _, answer = ask(port, PATH, lines=["a"], **content)
    assert (status, message in answer["error"]) == (400, True), answer
    status, answer = events(port, lines=["a"], **content)
    if status == 200:  # found out when it is decoded
        ((name, answer),) = answer
        assert name == "error"
    assert message in answer["error"]


def test_jobs_with_other_features_are_not_decoded_together(translator):
    config = DecodeConfig()
    jobs = [
        Job.of(translator, [[5]], config, **more)
        for more in (
            {},
            {"prefixes": [[6]]},
            {"constraints": [[[6]]]},
            {"extras": {"alignment": True}},
            {"extras": {"attention": True}},
        )
    ]
    for job in jobs:
        assert [other for other in jobs if job.fits(other)] == [job]
    assert jobs[0].fits(Job.of(translator, [[7]], DecodeConfig(), seed=5))
    assert jobs[0].costs == [cost(config, 1, translator.max_length)]
    assert cost(DecodeConfig(max_length_a=0, max_length_b=1), 1, None, 99) > 5 * 99  # a prefix is paid for


def test_a_stream_has_each_line_as_soon_as_it_is_decoded(translator, lines):
    asked = [*lines[:5], ""]
    expected = list(translator.translate(asked))
    held = Held(translator)
    with serving(held, batch_lines=1) as (port, _):
        held.may.set()
        status, found = events(port, lines=asked)
        assert status == 200
        assert found[-1] == ("end", {})
        assert [name for name, _ in found[:-1]] == ["line"] * 6
        assert {one["line"]: one["translation"] for _, one in found[:-1]} == dict(enumerate(expected, 1))
        values = metrics(port)
        assert (values['s2s_requests_total{status="200"}'], values["s2s_requests_in_flight"]) == (1, 0)
        assert events(port, lines=[]) == (200, [("end", {})])

        held.may.clear()
        client = raw(port, request(lines=asked, stream=True))
        client.settimeout(30)
        held.batches.clear()
        head = client.recv(1 << 16)
        assert b"transfer-encoding: chunked" in head.lower()
        until(lambda: held.begun > len(expected))
        client.close()
        until(lambda: metrics(port)["s2s_requests_in_flight"] == 0 and held.ended)
        assert held.batches == []  # nothing of it was decoded
        assert metrics(port)['s2s_requests_total{status="499"}'] == 1


def test_a_stream_ends_with_an_error_in_time(translator, lines):
    held = Held(translator)
    with serving(held, bounds=replace(BOUNDS, seconds=0.2)) as (port, _):
        assert events(port, lines=lines[:2]) == (
            200,
            [("error", {"error": "not decoded within 0.2 seconds; ask for less"})],
        )
        until(lambda: held.ended == 1)
        assert metrics(port)['s2s_requests_total{status="503"}'] == 1
    held = Held(translator)
    held.may.set()
    held.fails = True
    with serving(held) as (port, _):
        assert events(port, lines=lines[:2])[1] == [("error", {"error": "translation failed: Failure"})]


def test_a_batch_has_an_answer_for_each_request(port, translator, lines):
    requests = [{"lines": lines[:2]}, {"lines": ["a"], "beam": 3}, {"lines": lines[2:4], "beam_size": 1},
                {"lines": lines[:1], "hypotheses": True}, {"lines": ["a"], "stream": True}]  # fmt: skip
    status, _, answer = ask(port, "/v1/batch", requests=requests)
    assert status == 200
    first, second, third, fourth, fifth = answer["answers"]
    assert first == {"translations": list(translator.translate(lines[:2]))}
    assert (second["status"], "'beam' cannot be set" in second["error"]) == (400, True)
    assert third == {"translations": list(translator.translate(lines[2:4], beam_size=1))}
    assert fourth["translations"][0][0]["text"] == first["translations"][0]
    assert fifth == {"error": "stream: a batch is answered as a whole", "status": 400}
    assert ask(port, "/v1/batch", requests=[])[2] == {"answers": []}
    for content, message, status in (
        ({}, "requests: Field required", 400),
        ({"requests": 3}, "requests: must be a valid array", 400),
        ({"requests": [{"lines": ["a"] * 30}] * 2}, "60 lines; at most 50", 413),
        ({"requests": [{"lines": ["a b c d e f g h"] * 24, "beam_size": 8, "hypotheses": True, "n_best": 8,
                        "max_length_b": 200}] * 2}, "", 200),
    ):  # fmt: skip
        found, _, answer = ask(port, "/v1/batch", **content)
        assert (found, message in answer.get("error", "")) == (status, True), answer
    with serving(translator, bounds=replace(BOUNDS, cost=2000)) as (small, _):
        each = {"lines": ["a b c d e f g h"] * 15, "beam_size": 8, "max_length_b": 200}  # 1,590 each
        assert ask(small, PATH, **each)[0] == 200
        found, _, answer = ask(small, "/v1/batch", requests=[each] * 2)
        assert (found, "max_request_cost=2,000" in answer["error"]) == (413, True)


def test_the_models_are_listed_with_options_and_limits(translator):
    with serving(translator, name="m30k", decode=DecodeConfig(beam_size=3)) as (port, _):
        status, _, content = ask(port, "/v1/models", "GET")
    assert (status, content["object"]) == (200, "list")
    (model,) = content["data"]
    assert (model["id"], model["reads"], model["sources"], model["tags"], model["attention"]) == (
        "m30k", "lines", 1, {}, True)  # fmt: skip
    assert (model["options"]["beam_size"], model["options"]["search"]) == (3, "beam")
    assert (model["limits"]["lines"], model["limits"]["beam_size"]) == (50, 8)
    assert model["parameters"] == sum(one.numel() for one in translator.models[0].parameters())


def test_the_short_name_of_the_path_is_the_same(port, lines):
    assert ask(port, "/translate", lines=lines[:3])[2] == ask(port, PATH, lines=lines[:3])[2]
    assert ask(port, PATH, "POST", body=b"x", headers={"content-type": "audio/wav"})[0] == 415
