"""For tests: a server in this process, and a client."""

import http.client
import json
import re
import socket
import threading
import time
from contextlib import contextmanager

from s2s.decoding.config import DecodeConfig
from s2s.serving.batcher import Batcher
from s2s.serving.http import Service
from s2s.serving.jobs import Bounds
from s2s.serving.server import Patience, Server
from s2s_cli.serve import OPTIONS

BOUNDS = Bounds(body_bytes=5000, lines=50, line_characters=200, cost=60_000, recording_bytes=200_000,
                recording_seconds=3, seconds=60, beam_size=8,
                options=[*OPTIONS, "max_length_b"])  # fmt: skip
PATIENCE = Patience(header=10, body=10, idle=5, grace=10, connections=50)


@contextmanager
def serving(translator, batch_lines=64, wait=0.02, waiting_lines=1000, decode=None, speed=1e6, seconds=0.5,
            bounds=BOUNDS, patience=PATIENCE, **options):  # fmt: skip
    """Port of a server, and its batcher."""
    batcher = Batcher(translator, speed, seconds, batch_lines, wait, waiting_lines)
    server = Server(Service(batcher, decode or DecodeConfig(), bounds, **options), patience)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()[1], batcher
    finally:
        server.should_exit = True
        thread.join()
        assert batcher.close(30)


def ask(port, path="/translate", method="POST", body=None, headers=None, **content):
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/json", **(headers or {})}
    try:
        connection.request(method, path, body if body is not None else json.dumps(content), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, answer.headers, json.loads(text) if path != "/metrics" else text
    finally:
        connection.close()


def metrics(port):
    """Values by their names with labels."""
    text = ask(port, "/metrics", "GET")[2]
    return {name: float(value) for name, value in re.findall(r"^(s2s_\S+) (\S+)$", text, re.MULTILINE)}


def request(**content):
    """The bytes of a request."""
    body = json.dumps(content).encode()
    head = b"POST /translate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return head + b"content-length: %d\r\n\r\n%s" % (len(body), body)


def raw(port, sent):
    """A connection on which some bytes have been sent."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(sent)
    return client


def until(condition, seconds=30):
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
