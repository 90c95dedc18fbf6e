"""s2s-serve: a real server on a free port, clients side by side."""

import http.client
import json
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields

import pytest
import uvicorn

import s2s as package
from s2s.decoding.config import DecodeConfig
from s2s.errors import Failure
from s2s.serving.batcher import Batcher, Full
from s2s.serving.http import Bounds, Service
from s2s_cli.serve import COSTLY, OPTIONS
from tests.conftest import _call
from tests.decoding.test_generate_command import SMALL


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        words = f"store={store}", f"run={folder}", "model.positions=learned", "model.max_positions=12"
        assert _call(monkeypatch, "s2s_cli.train", *words, *SMALL) == 0
    return folder


@pytest.fixture(scope="module")
def translator(run):
    return package.load(run, device="cpu")


@pytest.fixture(scope="module")
def lines(store):
    return (store.parent / "train.src").read_text().splitlines()[:40]


BOUNDS = Bounds(body_bytes=5000, lines=50, line_characters=200, beam_size=8, options=[*OPTIONS, "max_length_b"])


@contextmanager
def serving(translator, batch_lines=64, wait=0.02, waiting_lines=1000, decode=None):
    """Port of a server in this process, and its batcher."""
    batcher = Batcher(translator, batch_lines, wait, waiting_lines)
    application = Service(batcher, decode or DecodeConfig(), BOUNDS).application()
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], batcher
    finally:
        server.should_exit = True
        thread.join()
        batcher.close()


@pytest.fixture(scope="module")
def port(translator):
    with serving(translator) as (port, _):
        yield port


def ask(port, path="/translate", method="POST", body=None, **content):
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body if body is not None else json.dumps(content))
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, answer.headers, json.loads(text) if path != "/metrics" else text
    finally:
        connection.close()


def metrics(port):
    text = ask(port, "/metrics", "GET")[2]
    return {name: float(value) for name, value in re.findall(r"^(s2s_\S+) (\S+)$", text, re.MULTILINE)}


def test_clients_side_by_side_get_what_the_library_gives(port, translator, lines):
    options = [{}, {"beam_size": 2}, {"search": "sample", "seed": 3}, {"length_penalty": 0}] * 5
    expected = [list(translator.translate(lines[i : i + 9], **each)) for i, each in enumerate(options)]

    def client(i):
        return ask(port, lines=lines[i : i + 9], **options[i])

    with ThreadPoolExecutor(len(options)) as pool:
        answers = list(pool.map(client, range(len(options))))
    assert [status for status, _, _ in answers] == [200] * len(options)
    assert [content["translations"] for _, _, content in answers] == expected


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
        (400, {}, "lines: a list of texts"),
        (400, {"lines": "a b"}, "lines: a list of texts"),
        (400, {"lines": ["a", 3]}, "lines: a list of texts"),
        (400, {"lines": ["a"], "beam": 3}, "'beam' cannot be set here; there is lines, hypotheses, seed, search"),
        (400, {"lines": ["a"], "forbidden": "/etc/passwd"}, "'forbidden' cannot be set here"),
        (400, {"lines": ["a"], "beam_size": "many"}, "is not a whole number"),
        (400, {"lines": ["a"], "beam_size": None}, "beam_size: a number"),
        (400, {"lines": ["a"], "search": "${oc.env:HOME}"}, "search: a number, a word"),
        (400, {"lines": ["a"], "temperature": 0}, "must be at least 0.01"),
        (400, {"lines": ["a"], "beam_size": 9}, "beam_size and n_best may be 8 at most"),
        (400, {"lines": ["a"], "n_best": 2}, '"hypotheses": true'),
        (400, {"lines": ["a"], "hypotheses": 1}, "hypotheses: true or false"),
        (400, {"lines": ["a"], "seed": -1}, "seed: a whole number"),
        (400, {"lines": ["a", "b\ud800"]}, "line 2: half of a surrogate pair"),
        (413, {"lines": ["a"] * 51}, "51 lines; at most 50"),
        (413, {"lines": ["a", "b" * 201]}, "line 2 has 201 characters"),
        (413, {"lines": ["a", "b " * 12]}, "line 2 has 12 tokens; the model takes at most 11"),
        (413, {"lines": ["a" * 100] * 50}, "over 5,000 bytes"),
    ],
)
def test_what_is_refused(port, status, content, message):
    got, _, answer = ask(port, **content)
    assert got == status
    assert message in answer["error"]
    assert ask(port, lines=["a"])[0] == 200  # the server goes on


def test_what_is_no_json_or_not_there(port):
    for body in (b"", b"{", b"[1]", b'{"lines": ["a"], "length_penalty": NaN}', b"\xff", b"[" * 4000):
        status, _, answer = ask(port, body=body)
        assert status == 400
        assert "JSON" in answer["error"]
    assert ask(port, "/absent", "GET")[0] == 404
    assert ask(port, "/translate", "GET")[0] == 405
    assert ask(port, "/health", "GET")[::2] == (200, {"status": "ok", "s2s": package.__version__})


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


class Held:
    """A translator that decodes when it may, and remembers how many lines went together."""

    max_length = None

    def __init__(self, inner):
        self.inner, self.task, self.config = inner, inner.task, inner.config
        self.may, self.batches, self.fails = threading.Event(), [], False

    def decode(self, windows, config, seed):
        self.may.wait(60)
        if self.fails:
            raise Failure("not finite")
        self.batches.append(sum(len(window.sources) for window in windows))
        return self.inner.decode(windows, config, seed)


def test_waiting_requests_are_decoded_together_and_too_many_are_refused(translator, lines):
    held = Held(translator)
    with serving(held, waiting_lines=20, batch_lines=8) as (port, batcher), ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, port, lines=lines[:1])
        while batcher.waiting or metrics(port)["s2s_requests_in_flight"] != 1:  # it is being decoded
            time.sleep(0.01)
        others = [pool.submit(ask, port, lines=lines[:3], beam_size=2 + i // 4) for i in range(6)]
        while batcher.waiting < 18:
            time.sleep(0.01)
        status, headers, answer = ask(port, lines=lines[:3])
        assert (status, headers["Retry-After"]) == (429, "1")
        assert "waiting" in answer["error"]
        held.may.set()
        assert [future.result()[0] for future in [first, *others]] == [200] * 7
    assert sorted(held.batches) == [1, 6, 6, 6]  # two and two requests of beam_size 2, two of 3


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


def test_a_batcher_finishes_what_it_was_given(translator, lines):
    held = Held(translator)
    batcher = Batcher(held, 4, 0, 10)
    sources = translator.task.encode(lines[:4])
    futures = [batcher.submit(sources, DecodeConfig())]
    while batcher.waiting:
        time.sleep(0.01)
    futures += [batcher.submit(sources, DecodeConfig()) for _ in range(2)]
    with pytest.raises(Full):
        batcher.submit(sources, DecodeConfig())
    futures[1].cancel()
    threading.Timer(0.1, held.may.set).start()
    batcher.close()
    assert not batcher.alive
    assert futures[1].cancelled()
    assert [len(futures[i].result()) for i in (0, 2)] == [4, 4]
    with pytest.raises(RuntimeError):
        batcher.submit(sources, DecodeConfig())


def test_a_terminated_server_answers_what_is_in_flight(spawn, run, lines):
    process = spawn("serve", f"checkpoint={run}", "port=0", "device=cpu", "batch_wait=1.0", "decode.beam_size=2")
    port = int(re.search(r"listening at http://127.0.0.1:(\d+)", process.stderr.readline())[1])
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, port, lines=lines[:5]) for _ in range(4)]
        while metrics(port)["s2s_requests_in_flight"] < 4:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert {answer.result()[0] for answer in answers} == {200}
    assert process.wait(30) == 0
    assert re.search(r"^20 lines, \d+ tokens, 1 batches, [\d.]+ s$", process.stderr.read(), re.MULTILINE)


def test_mistakes_in_the_words(s2s, capsys, run, monkeypatch, port):
    def fails(*words):
        assert s2s("serve", *words) == 2
        return capsys.readouterr().err

    capsys.readouterr()
    checkpoint = f"checkpoint={run}"
    assert "checkpoint= is missing" in fails()
    assert "choose one of" in fails(checkpoint, "options=[forbidden]")
    assert "n_best" in fails(checkpoint, "decode.n_best=2")
    assert "a server has no draft" in fails(checkpoint, "decode.speculative=draft", "decode.beam_size=1")
    assert "the decoder has 1" in fails(checkpoint, "port=0", "decode.coverage_penalty=0.1", "decode.alignment_layer=2")
    assert "over max_beam_size=3" in fails(checkpoint, "max_beam_size=3")
    assert f"port={port}: cannot listen there" in fails(checkpoint, f"port={port}")
    assert "no such folder" in fails("checkpoint=absent", "port=0")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 's2s[serve]'" in fails(checkpoint, "port=0")


def test_options_of_requests_are_keys_of_decode():
    assert {*OPTIONS, *COSTLY} <= {field.name for field in fields(DecodeConfig)}
