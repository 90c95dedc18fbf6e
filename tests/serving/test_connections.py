"""Clients that are slow, leave, or never finish what they began; and the end of the server beside them."""

import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.serving.server import BOUNDS, PATIENCE, ask, metrics, raw, request, serving, until

SHORT = replace(PATIENCE, header=0.4, body=0.6, idle=0.3)
HALVES = {
    "nothing": b"",
    "half a header": b"POST /translate HTTP/1.1\r\nhost: localhost\r\n",
    "half a body": request(lines=["a"])[:-4],
    "a chunk": b"POST /translate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
               b"transfer-encoding: chunked\r\n\r\n5\r\n{\"lin\r\n",
}  # fmt: skip


def rest(client, seconds=20):
    """What comes until the server closes."""
    client.settimeout(seconds)
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Nothing goes wrong in the server, which would only be logged."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelname == "ERROR"] == []


@pytest.fixture(scope="module")
def short(translator):
    with serving(translator, patience=SHORT) as (port, _):
        yield port


@pytest.mark.parametrize("sent", HALVES)
def test_what_does_not_come_in_time_is_not_waited_for(short, sent):
    start = time.monotonic()
    answer = rest(raw(short, HALVES[sent]))
    assert 0.25 < time.monotonic() - start < 15
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n") if sent != "nothing" else answer == b""
    assert ask(short, lines=["a"])[0] == 200


@pytest.mark.parametrize("head", [b"", request(lines=["a"])[:-10]])
def test_a_byte_now_and_then_gains_no_time(short, head):
    client, start = raw(short, head), time.monotonic()
    try:
        while time.monotonic() - start < 15:
            client.sendall(b" " if head else b"G")
            time.sleep(0.05)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert time.monotonic() - start < 15


def test_a_connection_is_kept_for_the_next_request_and_not_longer(translator):
    with serving(translator, patience=replace(PATIENCE, idle=2)) as (port, _):
        client = raw(port, request(lines=["a"]))
        assert b"HTTP/1.1 200" in client.recv(65536)
        time.sleep(0.1)
        client.sendall(request(lines=["a"])[:-4])
        time.sleep(0.1)
        client.sendall(request(lines=["a"])[-4:] + request(lines=["a"])[:-4])  # the next one in the same packet
        time.sleep(0.1)
        client.sendall(request(lines=["a"])[-4:])
        assert rest(client).count(b"HTTP/1.1 200") == 2


def test_a_client_that_does_not_read_its_answer_is_left(translator):
    bounds = replace(BOUNDS, body_bytes=10**6, lines=1000, cost=10**7)
    with serving(translator, patience=SHORT, bounds=bounds, waiting_lines=10**5) as (port, _):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.sendall(request(lines=["a b c d e f"] * 1000, hypotheses=True, n_best=5) * 8)
        until(lambda: metrics(port).get('s2s_requests_total{status="200"}', 0) >= 1)
        until(lambda: metrics(port)["s2s_connections"] == 1)  # that of the metrics
        found = metrics(port)
        client.close()
    assert found['s2s_requests_total{status="200"}'] < 8  # the others are not even decoded


def test_a_new_client_gets_in_beside_many_that_ask_nothing(translator):
    with serving(translator, patience=replace(PATIENCE, connections=8)) as (port, batcher):
        clients = [raw(port, HALVES["half a header"]) for _ in range(12)]
        assert ask(port, lines=["a"])[0] == 200
        assert rest(clients[0], 5) == b""  # the oldest made room
        for client in clients:
            client.close()
        until(lambda: batcher.metrics.value("connections") == 0)
        busy = [raw(port, HALVES["half a body"]) for _ in range(8)]
        until(lambda: batcher.metrics.value("requests_in_flight") == 8)
        assert rest(raw(port, request(lines=["a"]))).startswith(b"HTTP/1.1 503 ")  # nobody is idle
        for client in busy:
            client.close()


def test_garbage_and_headers_without_end(short):
    for sent in (b"\x00\xff" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000):  # fmt: skip
        assert re.match(rb"HTTP/1.1 4\d\d", rest(raw(short, sent)) or b"HTTP/1.1 400")
    assert ask(short, lines=["a"])[0] == 200


def test_a_server_that_ends_refuses_what_has_not_come_and_answers_the_rest(translator):
    with serving(translator, wait=3, patience=replace(SHORT, body=10)) as (port, batcher):
        whole, half = raw(port, request(lines=["a"])), raw(port, HALVES["half a body"])
        until(lambda: batcher.waiting == 1 and batcher.metrics.value("requests_in_flight") == 2)
    answers = [rest(client) for client in (whole, half)]
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200", b"HTTP/1.1 503"]


def test_a_terminated_server_answers_what_is_in_flight(spawn, run, lines):
    process = spawn("serve", f"checkpoint={run}", "port=0", "device=cpu", "batch_wait=3.0", "decode.beam_size=2")
    port = int(re.search(r"listening at http://127.0.0.1:(\d+)", process.stderr.readline())[1])
    assert re.match(r"the costliest request, max_request_cost=1,000,000, takes about \d+ s", process.stderr.readline())
    with ThreadPoolExecutor(4) as pool:
        until(lambda: ask(port, "/health", "GET")[0] == 200)
        halves = [raw(port, HALVES[sent]) for sent in HALVES]
        answers = [pool.submit(ask, port, lines=lines[:5]) for _ in range(4)]
        until(lambda: metrics(port)["s2s_requests_in_flight"] == 6)
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert {answer.result()[0] for answer in answers} == {200}
    assert process.wait(30) == 0
    assert time.monotonic() - start < 20
    assert [rest(client)[:12] for client in halves] == [b"", b"", b"HTTP/1.1 503", b"HTTP/1.1 503"]
    assert re.search(r"^20 lines, \d+ tokens, 1 batches, [\d.]+ s$", process.stderr.read(), re.MULTILINE)


def test_a_terminated_server_ends_in_time_whatever_is_asked_of_it(spawn, run):
    """A request of several minutes, a client that reads nothing, and one that goes on sending."""
    process = spawn("serve", f"checkpoint={run}", "port=0", "device=cpu", "grace_seconds=2", "options=[beam_size]",
                    "max_request_cost=1000000000", "max_body_bytes=100000000", "max_lines=1000000",
                    "max_waiting_lines=1000000", "batch_seconds=0.1")  # fmt: skip
    port = int(re.search(r"listening at http://127.0.0.1:(\d+)", process.stderr.readline())[1])
    until(lambda: ask(port, "/health", "GET")[0] == 200)
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(ask, port, lines=["a b c d e f g h i j"] * 20_000, beam_size=20)
        until(lambda: metrics(port)["s2s_lines_total"] > 0)
        silent = raw(port, request(lines=["a"])[:-2])
        until(lambda: metrics(port)["s2s_requests_in_flight"] == 2)  # else it may be refused as a connection
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - start < 20  # of which two are the grace; a busy machine is slow to be told
        status, _, answer = endless.result()
    assert (status, answer) == (503, {"error": "the server is shutting down"})
    assert json.loads(rest(silent).partition(b"\r\n\r\n")[2]) == {"error": "the server is shutting down"}
