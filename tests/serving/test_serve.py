"""s2s-serve: what requests are answered."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import s2s as package
from s2s.decoding.config import DecodeConfig
from s2s.decoding.translator import Translator
from s2s.errors import Failure
from s2s_cli.serve import COSTLY, OPTIONS
from tests.serving.server import BOUNDS, ask, metrics, raw, request, serving, until


@pytest.fixture(scope="module")
def port(translator):
    with serving(translator) as (port, _):
        yield port


SEARCHES = [
    {},
    {"beam_size": 2},
    {"beam_size": 1, "no_repeat_ngram": 2},
    {"search": "sample", "seed": 3},
    {"search": "sample", "seed": 4, "top_k": 3},
    {"search": "stochastic_beam", "seed": 5, "beam_size": 2},
    {"search": "stochastic_beam", "seed": 6, "beam_size": 2},
    {"length_penalty": 0, "allow_unknown": True},
]


def test_clients_side_by_side_get_what_the_library_gives(port, translator, lines):
    """Every search, alone and beside others, of one batch and of several."""
    parts = [(lines[i : i + 9], SEARCHES[i % len(SEARCHES)]) for i in range(3 * len(SEARCHES))]
    expected = [list(translator.translate(part, **options)) for part, options in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = list(pool.map(lambda each: ask(port, lines=each[0], **each[1]), parts))
    assert [status for status, _, _ in answers] == [200] * len(parts)
    assert [content["translations"] for _, _, content in answers] == expected
    alone = [ask(port, lines=part, **options)[2]["translations"] for part, options in parts]
    assert alone == expected
    assert len({str(texts) for texts in alone}) == len(parts)  # seeds and options count
    with serving(translator, batch_lines=2) as (small, _):
        assert [ask(small, lines=part, **options)[2]["translations"] for part, options in parts] == expected


def test_full_hypotheses_when_asked(port, translator, lines):
    _, _, content = ask(port, lines=[*lines[:3], ""], hypotheses=True, n_best=2)
    expected = list(translator.translate([*lines[:3], ""], hypotheses=True, n_best=2))
    assert [[one["text"] for one in some] for some in content["translations"]] == [
        [h.text for h in e] for e in expected
    ]
    best = content["translations"][0][0]
    assert best["score"] == pytest.approx(expected[0][0].score, abs=1e-5)
    assert (best["tokens"], best["truncated"]) == (expected[0][0].tokens, False)
    assert ask(port, lines=[])[2] == {"translations": []}


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (400, {}, "lines: must be a list of texts"),
        (400, {"lines": "a b"}, "lines: must be a list of texts"),
        (400, {"lines": ["a", 3]}, "line 2: must be a valid string"),
        (
            400,
            {"lines": ["a"], "beam": 3},
            "'beam' cannot be set; a request may set lines, hypotheses, alignment",
        ),
        (400, {"lines": ["a"], "forbidden": "/etc/passwd"}, "'forbidden' cannot be set"),
        (400, {"lines": ["a"], "beam_size": "many"}, "beam_size: must be a valid integer"),
        (400, {"lines": ["a"], "beam_size": "2"}, "beam_size: must be a valid integer"),
        (400, {"lines": ["a"], "beam_size": True}, "beam_size: must be a valid integer"),
        (400, {"lines": ["a"], "beam_size": None}, "beam_size: must be a valid integer"),
        (400, {"lines": ["a"], "beam_size": 0}, "beam_size: must be greater than or equal to 1"),
        (400, {"lines": ["a"], "beam_size": 9}, "beam_size: must be less than or equal to 8"),
        (400, {"lines": ["a"], "search": "${oc.env:HOME}"}, "search: must be 'beam'"),
        (400, {"lines": ["a"], "temperature": 0}, "temperature: must be greater than or equal to 0.01"),
        (400, {"lines": ["a"], "temperature": float("inf")}, "temperature: must be a finite number"),
        (400, {"lines": ["a"], "length_penalty": "nan"}, "length_penalty: must be a valid number"),
        (400, {"lines": ["a"], "length_penalty": float("nan")}, "length_penalty: must be a finite number"),
        (400, {"lines": ["a"], "length_penalty": 1e308}, "length_penalty: must be less than or equal to 10"),
        (400, {"lines": ["a"], "word_reward": -1e308}, "word_reward: must be greater than or equal to -1000"),
        (400, {"lines": ["a"], "no_repeat_ngram": 10**30}, "no_repeat_ngram: must be less than"),
        (400, {"lines": ["a"], "top_k": 3}, "decode.top_k=3: does nothing with decode.search=beam"),
        (400, {"lines": ["a"], "n_best": 2}, '"hypotheses": true'),
        (400, {"lines": ["a"], "hypotheses": 1}, "hypotheses: must be a valid boolean"),
        (400, {"lines": ["a"], "seed": -1}, "seed: must be greater"),
        (400, {"lines": ["a"], "seed": 2**63}, "seed: must be less"),
        (400, {"lines": ["a", "b\ud800"]}, "the request is not JSON: unexpected end of hex escape"),
        (413, {"lines": ["a"] * 51}, "51 lines; at most 50"),
        (413, {"lines": ["a", "b" * 201]}, "line 2 has 201 characters"),
        (413, {"lines": ["a", "b " * 12]}, "line 2 has 12 tokens; at most 11 are allowed"),
        (413, {"lines": ["a" * 100] * 50}, "over 5,000 bytes"),
    ],
)
def test_what_is_refused(port, status, content, message):
    got, _, answer = ask(port, **content)
    assert got == status
    assert message in answer["error"]
    assert ask(port, lines=["a"])[0] == 200  # the server goes on


VALUES = st.one_of(
    st.integers(0, 9), st.floats(0, 4), st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3),
    st.sampled_from(["beam", "sample", "stochastic_beam", "gnmt", "best_possible", "exhaustive", [], {}, [1]]),
)  # fmt: skip
FUZZED = st.fixed_dictionaries(
    {"lines": st.lists(st.text(st.sampled_from("abc \t\u2028\0é"), max_size=12), max_size=3)},
    optional={name: VALUES for name in [*OPTIONS, *COSTLY, "hypotheses", "seed", "decode"]},
)


@pytest.fixture(scope="module")
def lenient(translator):
    with serving(translator, bounds=replace(BOUNDS, options=[*OPTIONS, *COSTLY]), wait=0) as (port, _):
        yield port


@given(FUZZED)
@settings(max_examples=100)
def test_whatever_is_asked_is_answered_or_refused(lenient, asked):
    status, _, answer = ask(lenient, **asked)
    if status == 200:
        assert len(answer["translations"]) == len(asked["lines"])
        assert "errors" not in answer
    else:
        assert status in (400, 413)
        assert answer["error"]


def test_what_is_no_json_or_not_there(port):
    bodies = b"", b"{", b"[1]", b"\xff", b"[" * 4000, b'{"lines": ["a"], "temperature": -}'
    for body in bodies:
        status, _, answer = ask(port, body=body)
        assert status == 400
        assert "JSON" in answer["error"]
    assert ask(port, body=b'{"lines": ["a"], "temperature": 1e400}')[0] == 400
    assert ask(port, "/absent", "GET")[0] == 404
    assert ask(port, "/translate", "GET")[0] == 405
    assert ask(port, "/health", "GET")[::2] == (200, {"status": "ok", "s2s": package.__version__})


def test_only_json_is_read_so_that_pages_elsewhere_cannot_ask(port):
    for kind in ("text/plain", "text/plain;application/json", "application/x-www-form-urlencoded", "", "json"):
        status, _, answer = ask(port, headers={"content-type": kind, "origin": "http://evil.example"}, lines=["a"])
        assert (status, answer) == (415, {"error": "the header 'content-type: application/json' is missing"})
    assert ask(port, headers={"content-type": "Application/JSON; charset=utf-8"}, lines=["a"])[0] == 200
    assert ask(port, "/translate", "OPTIONS", headers={"origin": "http://evil.example"})[0] == 405


def test_only_names_of_the_server_are_answered(translator, port):
    def status(port, host):
        return {ask(port, path, method, headers={"host": host}, lines=["a"])[0]
                for path, method in (("/translate", "POST"), ("/metrics", "GET"))}  # fmt: skip

    for host in ("localhost", f"localhost:{port}", "LOCALHOST", "127.0.0.1", f"127.0.0.1:{port}", "[::1]:8000"):
        assert status(port, host) == {200}
    for host in ("evil.example", f"evil.example:{port}", "", "localhost.evil.example", "10.0.0.1", "localhost:8a"):
        assert status(port, host) == {400}
    assert ask(port, headers={"host": "Evil.example:80"}, lines=["a"])[2] == {
        "error": "'evil.example' is not a name of this server; allowed_hosts of s2s-serve adds names"
    }
    with serving(translator, hosts=["a.example", "*.b.example"]) as (other, _):
        found = {host: status(other, host).pop() for host in ("a.example", "x.b.example:80", "b.example", "localhost")}
    assert found == {"a.example": 200, "x.b.example:80": 200, "b.example": 400, "localhost": 400}
    with serving(translator, hosts=["*"]) as (other, _):
        assert status(other, "whatever") == {200}


def test_the_costliest_request_is_the_last_that_is_answered(translator, port):
    costly = {"lines": ["a b c d e f g h"] * 50, "beam_size": 8, "max_length_b": 200}
    status, _, answer = ask(port, **costly)  # 50 x (8 + 8 x 12) x (1 + 20 / 1000)
    assert status == 200
    with serving(translator, bounds=replace(BOUNDS, cost=5299)) as (other, _):
        status, _, answer = ask(other, **costly)
        assert (status, "the request may cost 5,300" in answer["error"], "=5,299" in answer["error"]) == (413, 1, 1)
    with serving(translator, bounds=replace(BOUNDS, cost=5300)) as (other, _):
        assert ask(other, **costly)[0] == 200


def test_the_description_of_the_service_holds_options_and_bounds(port):
    content = ask(port, "/openapi.json", "GET")[2]
    schema = content["paths"]["/v1/translate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {*OPTIONS, "lines", "hypotheses", "seed"} < {*schema["properties"]}
    beam = schema["properties"]["beam_size"]
    assert (beam["minimum"], beam["maximum"], beam["default"]) == (1, 8, 5)
    assert {"200", "400", "413", "415", "429", "503"} <= {*content["paths"]["/v1/translate"]["post"]["responses"]}
    assert ask(port, "/docs", "GET")[0] == 404  # it would need the network


def test_metrics_count(translator, lines):
    with serving(translator) as (port, _):
        ask(port, lines=lines[:4])
        n_best = ask(port, lines=lines[4:9], hypotheses=True)[2]["translations"]
        ask(port, lines=3)
        found = metrics(port)
    assert found['s2s_requests_total{status="200"}'] == 2
    assert found['s2s_requests_total{status="400"}'] == found["s2s_errors_total"] == 1
    assert (found["s2s_lines_total"], found["s2s_batches_total"]) == (9, 2)
    assert found["s2s_source_tokens_total"] == sum(len(line.split()) for line in lines[:9])
    assert found["s2s_target_tokens_total"] > sum(len(one[0]["tokens"]) - 1 for one in n_best)
    assert found["s2s_waiting_lines"] == found["s2s_requests_in_flight"] == 0
    assert 0 < found["s2s_decoding_seconds_total"] < found["s2s_request_seconds_total"]
    assert found['s2s_request_duration_seconds_bucket{le="300.0"}'] == found["s2s_request_duration_seconds_count"] == 3
    assert found['s2s_queue_seconds_bucket{le="300.0"}'] == 2


class Held:
    """A translator that decodes when it may, and remembers how many lines went together, and how often it was ended."""

    max_length = None

    def __init__(self, inner):
        self.inner, self.task, self.limit, self.length = inner, inner.task, inner.limit, inner.length
        self.may, self.batches, self.fails = threading.Event(), [], False
        self.begun = self.ended = 0

    def decode(self, windows, config, seed, first, tick):
        self.begun += 1
        try:
            while not self.may.wait(0.01):
                tick()
        except Exception:
            self.ended += 1
            raise
        if self.fails:
            raise Failure("not finite")
        self.batches.append(sum(len(window.sources) for window in windows))
        return self.inner.decode(windows, config, seed, first=first, tick=tick)


def test_waiting_requests_are_decoded_together_and_too_many_are_refused(translator, lines):
    held = Held(translator)
    with serving(held, waiting_lines=20, batch_lines=8) as (port, batcher), ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, port, lines=lines[:1])
        until(lambda: not batcher.waiting and metrics(port)["s2s_requests_in_flight"] == 1)  # it is being decoded
        others = [pool.submit(ask, port, lines=lines[:3], beam_size=2 + i // 4) for i in range(6)]
        until(lambda: batcher.waiting == 18)
        status, headers, answer = ask(port, lines=lines[:3])
        assert (status, headers["Retry-After"]) == (429, "1")
        assert "waiting" in answer["error"]
        held.may.set()
        assert [future.result()[0] for future in [first, *others]] == [200] * 7
    assert sorted(held.batches) == [1, 4, 6, 8]  # of beam_size 2 eight and four lines, of 3 six


def test_a_request_whose_client_has_left_is_not_decoded(translator, lines):
    held = Held(translator)
    with serving(held) as (port, batcher):
        clients = [raw(port, request(lines=lines[:2], beam_size=size)) for size in (2, 3)]
        until(lambda: metrics(port)["s2s_requests_in_flight"] == 2)
        until(lambda: batcher.waiting == 2)  # one is being decoded, one waits
        for client in clients:
            client.close()
        until(lambda: metrics(port)["s2s_requests_in_flight"] == 0 and held.ended == held.begun)
        found = metrics(port)
        held.may.set()
        assert ask(port, lines=lines[:3])[0] == 200
    assert (found['s2s_requests_total{status="499"}'], found["s2s_waiting_lines"]) == (2, 0)
    assert held.batches == [3]


def test_a_request_that_takes_too_long_is_given_up(translator, lines):
    held = Held(translator)
    with serving(held, bounds=replace(BOUNDS, seconds=0.2)) as (port, _):
        status, _, answer = ask(port, lines=lines[:2])
        until(lambda: held.ended == 1)
        held.may.set()
    assert (status, answer["error"]) == (503, "not decoded within 0.2 seconds; ask for less")
    assert held.batches == []


def test_a_line_that_fails_does_so_alone(run, translator, lines):
    sick = package.load(run, device="cpu")
    weight = sick.models[0].frontend.embedding.tokens.weight.detach().clone()  # the target's is the same
    weight[translator.task.encode(["j"])[0]] = float("nan")
    sick.models[0].frontend.embedding.tokens.weight = torch.nn.Parameter(weight)
    sick = Translator(sick.models, sick.task)
    asked = [line.replace("j", "i") for line in lines[:6]]
    expected = list(translator.translate(asked))
    message = "no hypothesis has a finite probability: the model's output is not finite"
    with serving(sick) as (port, _), ThreadPoolExecutor(2) as pool:
        beside = pool.submit(ask, port, lines=asked)
        status, _, answer = ask(port, lines=[*asked[:2], "a j", *asked[2:], "j"])
        assert (status, answer["translations"]) == (200, [*expected[:2], None, *expected[2:], None])
        assert answer["errors"] == [{"line": 3, "error": message}, {"line": 8, "error": message}]
        assert beside.result()[2] == {"translations": expected}
        assert ask(port, lines=["j"], hypotheses=True)[2]["translations"] == [None]
        assert (metrics(port)["s2s_failed_lines_total"], metrics(port)["s2s_errors_total"]) == (3, 0)


def test_blank_lines_have_empty_translations(port):
    blank = ["", " ", "\t", "\u3000 \u00a0"]
    assert ask(port, lines=blank)[2] == {"translations": [""] * 4}
    assert ask(port, lines=blank, search="sample", seed=3)[2] == {"translations": [""] * 4}


def test_a_failed_batch_is_told_and_the_next_is_decoded(translator, capsys):
    held = Held(translator)
    held.may.set()
    with serving(held) as (port, _):
        held.fails = True
        assert ask(port, lines=["a"])[::2] == (500, {"error": "translation failed: Failure"})
        held.fails = False
        assert ask(port, lines=["a"])[0] == 200
        assert metrics(port)["s2s_errors_total"] == 1
    assert capsys.readouterr().err == "s2s-serve: decoding failed: Failure: not finite\n"


def test_options_that_contradict_those_of_the_server_are_the_clients_mistake(translator):
    with serving(translator, decode=DecodeConfig(speculative="input", beam_size=1)) as (port, _):
        assert ask(port, lines=["a b"])[0] == 200
        status, _, answer = ask(port, lines=["a b"], beam_size=2)
    assert (status, "greedy search" in answer["error"]) == (400, True)


def test_mistakes_in_the_words(s2s, capsys, run, monkeypatch, port):
    def fails(*words):
        assert s2s("serve", *words) == 2
        return capsys.readouterr().err

    capsys.readouterr()
    checkpoint = f"checkpoint={run}"
    assert "checkpoint= is missing" in fails()
    assert "choose one of" in fails(checkpoint, "options=[forbidden]")
    assert "n_best" in fails(checkpoint, "decode.n_best=2")
    guessing = fails(checkpoint, "decode.speculative=draft", "decode.beam_size=1")
    assert "decode.speculative=draft requires draft=CHECKPOINT, an argument of s2s-generate and s2s.load" in guessing
    assert "decode.buffer=9: does nothing in a server" in fails(checkpoint, "decode.buffer=9")
    assert "the decoder has only 1 layer" in fails(
        checkpoint, "port=0", "decode.coverage_penalty=0.1", "decode.alignment_layer=2"
    )
    assert "decode.beam_size=5 exceeds max_beam_size=3" in fails(checkpoint, "max_beam_size=3")
    assert f"port={port}: cannot listen there" in fails(checkpoint, f"port={port}")
    assert "no such folder" in fails("checkpoint=absent", "port=0")
    for absent in ("uvicorn", "fastapi", "prometheus_client"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, absent, None)
            for name in [name for name in sys.modules if name.startswith("s2s.serving")]:
                patch.delitem(sys.modules, name)
            assert f"{absent} is not installed: pip install -e '.[serve]'" in fails(checkpoint, "port=0")


def test_options_of_requests_are_keys_of_decode():
    assert {*OPTIONS, *COSTLY} <= {field.name for field in fields(DecodeConfig)}
