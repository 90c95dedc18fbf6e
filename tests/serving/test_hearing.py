"""s2s-serve with a model that hears."""

import http.client
import json
from urllib.parse import urlencode

import pytest

import s2s as package
from s2s.decoding.config import DecodeConfig
from s2s.serving.cost import measure
from tests.audio.recordings import write
from tests.serving.server import ask, serving

pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.conftest import _call
    from tests.data.test_manifest import tsv

    folder = tmp_path_factory.mktemp("hearing")
    for number in range(2):
        write(folder / f"{number}.wav", 0.6 + 0.4 * number, seed=number)
    manifest = tsv(folder / "all.tsv", ["audio", "text"], ["0.wav", "yes"], ["1.wav", "no yes"])
    sizes = [f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("layers=1", "width=16",
             "ffn_width=16")]  # fmt: skip
    words = ["task=speech_to_text", f"store={folder}/store"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert _call(monkeypatch, "s2s_cli.preprocess", *words, f"train={manifest}", "tokenizer=characters",
                     "workers=1") == 0  # fmt: skip
        assert _call(monkeypatch, "s2s_cli.train", *words, f"run={folder}/run", "model=conformer_tiny", "device=cpu",
                     "model.frontend.channels=2", *sizes, "train.max_updates=1", "train.samples=0") == 0  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def ears(folder):
    return package.load(folder / "run", device="cpu")


@pytest.fixture(scope="module")
def port(ears):
    with serving(ears, decode=DecodeConfig(max_length_a=1, max_length_b=0)) as (port, _):
        yield port


def hear(port, body, *options, kind="audio/wav"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", f"/v1/translate?{urlencode(options)}", body, {"content-type": kind})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_recording_gets_what_the_library_gives(port, folder, ears):
    limits = {"max_length_a": 1.0, "max_length_b": 0}
    for number in range(2):
        path = folder / f"{number}.wav"
        expected = list(ears.translate([str(path)], **limits))
        assert hear(port, path.read_bytes()) == (200, {"translations": expected})
    (n_best,) = ears.translate([str(path)], hypotheses=True, n_best=2, alignment=True, timestamps=True, **limits)
    status, answer = hear(port, path.read_bytes(), ("hypotheses", "true"), ("n_best", 2), ("beam_size", 5),
                          ("alignment", "true"), ("timestamps", "true"))  # fmt: skip
    assert status == 200
    for found, one in zip(answer["translations"][0], n_best, strict=True):
        assert (found["text"], found["alignment"]) == (one.text, one.alignment)
        assert [word["start"] for word in found["words"]] == pytest.approx([word.start for word in one.words], abs=1e-4)
        assert len(found["source_tokens"]) > max(found["alignment"])
    begun = hear(port, path.read_bytes(), ("prefixes", "no y"), ("ctc_weight", 0))
    assert begun[0] == 400  # not an option that a request may set
    status, answer = hear(port, path.read_bytes(), ("prefixes", "no y"))
    assert (status, answer["translations"][0][:4]) == (200, "no y")


def test_what_of_a_recording_is_refused(port, folder):
    sound = (folder / "1.wav").read_bytes()
    for status, message, body, *options in (
        (400, "not audio that libsndfile reads", b"RIFFRAFF" * 20),
        (400, "the recording: an empty file", b""),
        (400, "truncated", sound[:-200]),
        (400, "beam_size: must be a valid integer", sound, ("beam_size", "x")),
        (400, "beam_size: must be less than or equal to 8", sound, ("beam_size", 9)),
        (400, "beam_size: given twice", sound, ("beam_size", 1), ("beam_size", 2)),
        (400, "'lines' cannot be set", sound, ("lines", "/etc/passwd")),
        (400, "tags: ", sound, ("tags", "nonsense")),
        (400, "prefixes: there must be as many as lines, 1; there are 2", sound, ("prefixes", "y"), ("prefixes", "n")),
        (413, "over 200,000 bytes", sound * 20),
        (413, "is 3.5 s long; at most 3 s", write(folder / "long.flac", 3.5).read_bytes()),
    ):
        found, answer = hear(port, body, *options)
        assert found == status, answer
        assert message in answer["error"]
        assert "/tmp" not in answer["error"]
    assert hear(port, b'{"lines": ["/etc/passwd"]}', kind="application/json") == (
        415,
        {"error": "the header 'content-type: audio/*' is missing; the model reads a recording, as the body of the "
                  "request"},
    )  # fmt: skip
    assert ask(port, "/v1/batch", requests=[{"lines": ["/etc/passwd"]}])[::2] == (
        400, {"error": "a batch has lines, and the model reads recordings"})  # fmt: skip


def test_what_a_model_that_hears_tells(port, ears):
    (model,) = ask(port, "/v1/models", "GET")[2]["data"]
    assert (model["reads"], model["limits"]["recording_seconds"]) == ("recordings", 3)
    content = ask(port, "/openapi.json", "GET")[2]["paths"]["/v1/translate"]["post"]
    assert "audio/*" in content["requestBody"]["content"]
    assert {"beam_size", "hypotheses"} <= {parameter["name"] for parameter in content["parameters"]}
    assert measure(ears, DecodeConfig()) > 0
    assert measure(ears, DecodeConfig(ctc_weight=1)) > 0
