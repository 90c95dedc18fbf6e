"""s2s-serve under load: clients with mixed requests beside slow, leaving, half-open and abusive ones.

Every answer is what the library gives for that request alone, every request is answered or refused as it should be,
memory does not grow, and a SIGTERM in the midst of it ends the process in time. All traffic is to this machine.
"""

import http.client
import json
import random
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import s2s as package
from tests.conftest import _call
from tests.decoding.generating import SMALL
from tests.faults.scale import scaled
from tests.serving.server import ask, metrics, raw, request, until

pytestmark = pytest.mark.slow

SEED = 12
CLIENTS = 32
OPTIONS = [
    {"beam_size": 1},
    {"beam_size": 5},
    {"beam_size": 4, "length_penalty": 0.0, "no_repeat_ngram": 2},
    {"beam_size": 3, "length_normalization": "gnmt", "word_reward": 0.5, "stopping": "best_possible"},
    {"beam_size": 4, "n_best": 4, "hypotheses": True},
    {"beam_size": 5, "temperature": 1.5, "allow_unknown": True, "max_length_b": 5},
    {"search": "sample"},
    {"search": "sample", "n_best": 3, "hypotheses": True, "top_k": 5},
    {"search": "stochastic_beam", "beam_size": 3, "n_best": 3, "hypotheses": True},
]
WRONG = [
    (400, b"{"),
    (400, b'{"lines": ["a"], "temperature": 1e400}'),
    (400, b'{"lines": ["a"], "length_penalty": "nan"}'),
    (400, b'{"lines": ["a"], "beam_size": 21}'),
    (400, b'{"lines": ["a"], "checkpoint": "/etc/passwd"}'),
    (400, b'{"lines": [["a"]]}'),
    (413, json.dumps({"lines": ["a b c"] * 201}).encode()),
    (413, json.dumps({"lines": ["a " * 1001]}).encode()),
    (413, json.dumps({"lines": ["a " * 900] * 100, "beam_size": 20}).encode()),
    (413, b" " * 300_000),
]
WORDS = ["options=[search,beam_size,n_best,length_penalty,length_normalization,word_reward,temperature,top_k,"
         "no_repeat_ngram,allow_unknown,stopping,max_length_b]", "max_body_bytes=200000", "max_lines=200",
         "max_line_characters=2000", "header_seconds=2", "body_seconds=3", "max_connections=120",
         "max_request_cost=400000", "batch_seconds=0.1", "port=0", "device=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert _call(monkeypatch, "s2s_cli.train", f"store={store}", f"run={folder}", *SMALL) == 0
    return folder


@pytest.fixture(scope="module")
def cases(store, run):
    """Requests and their right answers: lines, options, and for each line its texts."""
    translator = package.load(run, device="cpu")
    rng = random.Random(SEED)
    lines = [*(store.parent / "train.src").read_text().splitlines()[:40], "", " ", "a b c d e f g h " * 8]
    found = []
    for number in range(270):
        options = dict(OPTIONS[number % len(OPTIONS)])
        some = rng.choices(lines, k=rng.randint(1, 6))
        if options.get("search", "beam") != "beam":
            options["seed"] = rng.randrange(2**63)
        alone = {key: value for key, value in options.items() if key not in ("hypotheses", "seed")}
        n_bests = translator.translate(some, hypotheses=True, seed=options.get("seed", 1), **alone)
        found.append((some, options, [[one.text for one in n_best] for n_best in n_bests]))
    return found


def texts(answer):
    """As those of `cases`."""
    return [[one] if isinstance(one, str) else [each["text"] for each in one] for one in answer["translations"]]


class Load:
    """What the clients do, and what they found to be wrong."""

    def __init__(self, port, cases):
        self.port, self.cases, self.stop = port, cases, threading.Event()
        self.wrong, self.seconds, self.counts = [], [], {}
        self.lock = threading.Lock()

    def note(self, what, seconds=None):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1
            if seconds is not None:
                self.seconds.append(seconds)

    def client(self, number, requests):
        """A client that keeps its connection; some of its requests come in pieces, some are wrong."""
        rng = random.Random(f"{SEED} {number}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60,
                                                source_address=(f"127.0.0.{2 + number % 8}", 0))  # fmt: skip
        for _ in range(requests):
            kind = rng.random()
            lines, options, expected = rng.choice(self.cases)
            status, body = rng.choice(WRONG) if kind < 0.1 else (200, json.dumps({"lines": lines, **options}).encode())
            pieces = kind > 0.97

            def parts(body=body):
                for start in range(0, len(body), 1 + len(body) // 5):
                    time.sleep(0.02)
                    yield body[start : start + 1 + len(body) // 5]

            start = time.monotonic()
            headers = {"content-type": "application/json"}
            for _ in range(2):  # a connection may have been closed since the last request
                try:
                    connection.request("POST", "/translate", parts() if pieces else body, headers)
                    answer = connection.getresponse()
                    content = json.loads(answer.read())
                    break
                except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                    connection.close()
            else:
                self.wrong.append(("no answer", status, body[:80]))
                continue
            self.note(answer.status, time.monotonic() - start if status == 200 else None)
            if answer.status != status or (status == 200 and texts(content) != expected):
                self.wrong.append((answer.status, status, options, lines, expected, content))
        connection.close()

    def leaving(self, rng):
        lines, options, _ = rng.choice(self.cases)
        client = self.connected(request(lines=lines, **options)[: rng.choice([10, 150, 10**6])])
        time.sleep(rng.random() / 20)
        client.close()

    def half_open(self, rng):
        client = self.connected(rng.choice([b"", b"POST /translate HTT", request(lines=["a"])[:-2]]))
        with suppress(OSError):
            while not self.stop.wait(0.1):
                client.sendall(b"x" if rng.random() < 0.5 else b"")
        client.close()

    def huge(self, rng):
        """The costliest request that is allowed, again and again."""
        lines = ["a b c d e f g h " * 6] * 60
        with suppress(OSError):
            client = self.connected(request(lines=lines, beam_size=5))
            client.settimeout(60)
            found = client.recv(12)
            self.note(f"huge {found[9:].decode()}")
            client.close()

    def garbage(self, rng):
        client = self.connected(b"")
        with suppress(OSError):
            for _ in range(rng.choice([1, 50])):
                client.sendall(rng.randbytes(20_000) if rng.random() < 0.5 else b"GET / HTTP/1.1\r\n" * 1000)
        client.close()

    def unread(self, rng):
        """Answers pile up that nobody reads."""
        lines, options, _ = rng.choice(self.cases)
        client = self.connected(b"")
        with suppress(OSError):
            client.sendall(request(lines=lines, **options) * 50)
        self.stop.wait(1)
        client.close()

    def connected(self, sent):
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=("127.0.0.99", 0))
        with suppress(OSError):
            client.sendall(sent)
        return client

    def beside(self, kind, number):
        """One that disturbs, until the others are done."""
        rng = random.Random(f"{SEED} {kind} {number}")
        while not self.stop.is_set():
            with suppress(ConnectionError, TimeoutError):
                getattr(self, kind)(rng)
                self.note(kind)
            self.stop.wait(0.05)


def memory(process):
    """Resident MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) / 1024


def test_many_clients_of_every_kind(spawn, run, cases):
    requests = scaled(10_000)
    process = spawn("serve", f"checkpoint={run}", *WORDS)
    port = int(re.search(r"listening at http://127.0.0.1:(\d+)", process.stderr.readline())[1])
    errors = []
    threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True).start()
    until(lambda: ask(port, "/health", "GET")[0] == 200)
    load = Load(port, cases)
    kinds = ["leaving"] * 2 + ["half_open"] * 12 + ["huge"] * 3 + ["garbage"] * 2 + ["unread"] * 2
    sizes = []
    with ThreadPoolExecutor(CLIENTS + len(kinds)) as pool:
        beside = [pool.submit(load.beside, kind, number) for number, kind in enumerate(kinds)]
        start = time.monotonic()
        for part in range(5):
            shares = [pool.submit(load.client, part * CLIENTS + n, len(range(n, requests // 5, CLIENTS)))
                      for n in range(CLIENTS)]  # fmt: skip
            for share in shares:
                share.result()
            sizes.append(memory(process))
        took = time.monotonic() - start
        found = metrics(port)
        silent = [raw(port, b"POST /translate HTTP/1.1\r\n") for _ in range(5)]
        process.send_signal(signal.SIGTERM)
        terminated = time.monotonic()
        code = process.wait(30)
        ending = time.monotonic() - terminated
        load.stop.set()
        for future in beside:
            future.result()
    for client in silent:
        client.close()
    seconds = sorted(load.seconds)
    print(f"seed {SEED}: {requests} requests in {took:.0f} s, {dict(sorted(load.counts.items(), key=str))}")
    median, nearly, most = (seconds[int((len(seconds) - 1) * share)] for share in (0.5, 0.99, 1))
    print(f"valid ones took {median:.3f} s (median), {nearly:.3f} s (99%), {most:.3f} s (the slowest)")
    print(f"memory: {' '.join(f'{size:.0f}' for size in sizes)} MB; ended in {ending:.1f} s")
    assert load.wrong == []
    assert len(seconds) + sum(load.counts.get(status, 0) for status in (400, 413)) == requests
    assert code == 0
    assert ending < 10
    assert sizes[-1] < 1.05 * sizes[1] + 10
    assert found['s2s_requests_total{status="499"}'] > 0
    assert not [line for line in errors if "Traceback" in line or "failed" in line]
