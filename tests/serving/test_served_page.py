"""The page of s2s-serve: how it is sent, and (slow) what a person sees and does in a browser."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from PIL import Image

from s2s.serving.batcher import Batcher
from tests.serving.server import serving
from tests.serving.test_hearing import ears, folder  # noqa: F401 (fixtures)

HOSTILE = "<img src=x onerror=document.title='gone'>"


def test_the_page_may_run_its_own_script_only(translator):
    with serving(translator) as (port, _):
        pages = {}
        for path in ("/", "/page.js", "/page.css"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", path)
            answer = connection.getresponse()
            pages[path] = answer.read().decode()
            policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
            assert answer.status == 200
            assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == (
                "'none'",
                "'self'",
                "'self'",
            )
            assert (policy["frame-ancestors"], answer.headers["x-content-type-options"]) == ("'none'", "nosniff")
            connection.close()
    assert re.findall(r'(?:src|href)="([^"]*)"', pages["/"]) == ["data:,", "page.css", "page.js"]
    assert not re.search(
        r"<style|\son\w+=|style=|<script>|https?:", pages["/"] + pages["/page.js"] + pages["/page.css"]
    )
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", pages["/page.js"])


class Browser:
    """A page in headless Chromium, driven over the pipes of the DevTools protocol."""

    def __init__(self, process, sent, received):
        self.process, self.sent, self.received = process, sent, received
        self.number, self.rest, self.events = 0, b"", []
        target = self.call("Target.createTarget", session=None, url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", session=None, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, session="", **parameters):
        """The result of a method of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = self.session
        os.write(self.sent, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                self.rest += os.read(self.received, 1 << 16)
            one, _, self.rest = self.rest.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def run(self, script):
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script, seconds=60):
        deadline = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < deadline, (script, self.run("document.body.innerText"))
            time.sleep(0.05)

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.until("document.body && document.body.dataset.ready === 'true'")

    def translate(self):
        """Press the button, and wait for the answer."""
        self.run("document.getElementById('translate').click()")
        self.until("!document.getElementById('translate').disabled")

    def shown(self, name):
        """Whether an element takes space on the screen."""
        return self.run(f"document.getElementById('{name}').offsetHeight > 0")

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.textContent)")

    def complaints(self):
        """Errors of scripts, of the policy and of loading; and addresses elsewhere."""
        of = {event["method"]: [] for event in self.events}
        for event in self.events:
            of[event["method"]].append(event["params"])
        addresses = [each["request"]["url"] for each in of.get("Network.requestWillBeSent", ())]
        logged = [each["entry"]["text"] for each in of.get("Log.entryAdded", ())]
        return logged + of.get("Runtime.exceptionThrown", []), addresses


@contextmanager
def browsing(home):
    """A Browser; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        pytest.skip("there is no Chromium")
    read, sent = os.pipe()
    received, written = os.pipe()
    # The browser reads from descriptor 3 and writes to 4.
    command = f'exec "$@" 3<&{read} 4>&{written}'
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={home}"]
    process = subprocess.Popen(["bash", "-c", command, "bash", program, *flags], pass_fds=(read, written),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        os.close(read)
        os.close(written)
        yield Browser(process, sent, received)
    finally:
        process.kill()
        process.wait()
        os.close(sent)
        os.close(received)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_person_translates_lines(translator, lines, tmp_path):
    expected = [list(translator.translate(lines[:2], hypotheses=True, n_best=2))][0]
    with serving(translator, name="m30k") as (port, _), browsing(tmp_path) as page:
        page.open(f"http://127.0.0.1:{port}/")
        assert page.run("document.title") == "m30k"
        assert (page.shown("text"), page.shown("sound")) == (True, False)
        assert page.run("document.getElementById('option-beam_size').max") == "8"
        page.run(f"document.getElementById('lines').value = {json.dumps(chr(10).join(lines[:2]))}")
        page.run("document.getElementById('option-n_best').value = 2")
        page.translate()
        assert page.texts(".text") == [one.text for n_best in expected for one in n_best]
        scores = page.texts(".score")
        assert scores[0] == f"score {expected[0][0].score:.4f}"
        assert page.texts(".line:first-child .hypothesis:nth-child(2) .written .token") == expected[0][0].tokens
        title = page.run("document.querySelector('.written .token').title")
        assert title.startswith(f"log-probability {expected[0][0].token_log_probabilities[0]:.4f}")

        colours = "[...document.querySelector('.read').children].map(one => one.style.backgroundColor)"
        assert set(page.run(colours)) == {""}
        box = page.run("(box => [box.x + box.width / 2, box.y + box.height / 2])"
                       "(document.querySelector('.written .token').getBoundingClientRect())")  # fmt: skip
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
        found = page.run(colours)
        assert len(found) == len(lines[0].split()) + 1
        weights = [float(colour.split(",")[3].strip(" )")) for colour in found]
        assert sum(weights) == pytest.approx(1, abs=0.05)
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
        assert set(page.run(colours)) == {""}

        page.run(f"document.getElementById('lines').value = {json.dumps(HOSTILE)}")
        page.translate()
        assert page.texts(".source") == [HOSTILE]
        page.run(f"document.getElementById('prefix').value = {json.dumps(HOSTILE)}")
        page.translate()
        assert HOSTILE in page.run("document.getElementById('error').textContent")
        assert page.run("document.images.length") == 0
        assert page.run("document.title") == "m30k"
        shot = base64.b64decode(page.call("Page.captureScreenshot")["data"])
        with Image.open(io.BytesIO(shot)) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10
        complaints, addresses = page.complaints()
        assert {address.rpartition(":")[0] for address in addresses} <= {"http://127.0.0.1", "data"}
        assert f"http://127.0.0.1:{port}/v1/translate" in addresses
        assert [text for text in complaints if "400" not in text] == []  # the answer to the prefix


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_lines_appear_as_they_are_translated(translator, lines, tmp_path, monkeypatch):
    """The second batch waits until the page shows the first one."""
    expected, go_on, plain = list(translator.translate(lines[:3])), threading.Event(), Batcher._decode
    batches = []

    def decode(self, batch):
        if batches:
            assert go_on.wait(60)
        batches.append(len(batch))
        plain(self, batch)

    monkeypatch.setattr(Batcher, "_decode", decode)
    with serving(translator, batch_lines=1) as (port, _), browsing(tmp_path) as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.run(f"document.getElementById('lines').value = {json.dumps(chr(10).join(lines[:3]))}")
        page.run("document.getElementById('translate').click()")
        page.until("document.querySelectorAll('.text').length === 1")
        assert page.texts(".source") == lines[:3]
        assert page.texts(".line:first-child .text") == expected[:1]
        assert page.texts("#state") == ["1 of 3 lines"]
        assert page.run("document.getElementById('translate').disabled")
        go_on.set()
        page.until("!document.getElementById('translate').disabled")
        assert page.texts(".text") == expected
        assert page.complaints()[0] == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_person_has_a_recording_written_down(ears, folder, tmp_path):  # noqa: F811
    (expected,) = ears.translate([str(folder / "1.wav")])
    with serving(ears) as (port, _), browsing(tmp_path) as page:
        page.open(f"http://127.0.0.1:{port}/")
        assert (page.shown("text"), page.shown("sound")) == (False, True)
        page.translate()
        assert page.run("document.getElementById('error').textContent") == "choose a recording"
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        node = page.call("DOM.querySelector", nodeId=root, selector="#recording")["nodeId"]
        page.call("DOM.setFileInputFiles", nodeId=node, files=[str(folder / "1.wav")])
        page.translate()
        assert page.texts(".text") == [expected]
        assert page.texts(".source") == ["1.wav"]
        assert page.run("document.querySelectorAll('.read .token').length") > 1
