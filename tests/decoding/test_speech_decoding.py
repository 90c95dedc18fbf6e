"""s2s-generate on recordings with a barely trained model: CTC, attention and both, language models, times, chunks."""

import json
import re

import numpy as np
import pytest

from s2s.decoding.translator import load
from s2s.errors import UserError
from tests.audio.recordings import write
from tests.conftest import _call
from tests.data.test_manifest import tsv

SIZE = ["device=cpu", "train.max_updates=3", "data.batch_tokens=2000", "train.samples=0"]
SMALL = [f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("layers=1", "width=16", "ffn_width=16")]
WORDS = ["yes", "no yes", "no", "yes yes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, a manifest, and runs: a joint model, one of CTC alone, a language model."""
    folder = tmp_path_factory.mktemp("speech")
    for number in range(4):
        write(folder / f"{number}.wav", 0.6 + 0.4 * number, seed=number)
    manifest = tsv(folder / "all.tsv", ["audio", "text"], *([f"{n}.wav", text] for n, text in enumerate(WORDS)))
    store = f"store={folder}/store"
    model = ["task=speech_to_text", "model=conformer_tiny", "model.frontend.channels=2", *SMALL, *SIZE]
    with pytest.MonkeyPatch.context() as monkeypatch:
        for command, *words in (
            ["preprocess", "task=speech_to_text", f"train={manifest}", f"valid={manifest}", "tokenizer=characters",
             store, "workers=1"],
            ["train", store, f"run={folder}/joint", *model],
            ["train", store, f"run={folder}/ctc", *model, "model.decoder.layers=0", "criterion=ctc"],
            ["train", store, f"run={folder}/lm", "task=language_modeling", "model=transformer_lm_tiny", *SMALL[3:],
             *SIZE],
        ):  # fmt: skip
            assert _call(monkeypatch, f"s2s_cli.{command}", *words) == 0
    return folder


@pytest.fixture
def generate(s2s, capsys, folder, tmp_path):
    """generate(run, words) -> what format=json says of each recording."""

    def call(run, *words):
        output = tmp_path / "hypotheses"
        code = s2s("generate", f"checkpoint={folder}/{run}", f"input={folder}/all.tsv", "format=json", "device=cpu",
                   f"output={output}", "decode.max_length_a=1", "decode.max_length_b=0", *words)  # fmt: skip
        assert code == 0, capsys.readouterr().err
        return [json.loads(line) for line in output.read_text().splitlines()]

    return call


def test_each_weight_of_ctc_and_a_language_model_change_the_scores(generate, folder):
    fused = f"decode.language_model={folder}/lm"
    scores = [[one["score"] for one in generate("joint", *words)]
              for words in (["decode.ctc_weight=0"], ["decode.ctc_weight=0.3"], ["decode.ctc_weight=0.6"],
                            ["decode.ctc_weight=1"], ["decode.ctc_weight=0", fused], [fused],
                            ["decode.ctc_weight=1", fused])]  # fmt: skip
    assert all(len(found) == 4 for found in scores)
    assert len({tuple(found) for found in scores}) == 7
    assert [one["score"] for one in generate("joint")] == scores[1]


@pytest.mark.parametrize("words", [[], ["decode.beam_size=1"]])
def test_a_recording_has_the_same_hypothesis_in_any_batch(generate, words):
    for run in ("joint", "ctc"):
        several, single = generate(run, *words), generate(run, *words, "decode.slots=1")
        for one, other in zip(several, single, strict=True):
            assert one["hypothesis"] == other["hypothesis"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_half_precision_reads_features_in_the_type_of_the_model(generate):
    for run in ("joint", "ctc"):
        half, whole = ([one["score"] for one in generate(run, f"decode.dtype={dtype}")] for dtype in ("bf16", "fp32"))
        assert half == pytest.approx(whole, rel=0.05)
        assert half != whole


def test_words_have_times_within_the_recording(generate):
    found = generate("joint", "timestamps=true", "decode.min_length_b=3")
    assert any(one["words"] for one in found)
    for number, one in enumerate(found):
        assert [word["word"] for word in one["words"]] == one["hypothesis"].split()
        times = [time for word in one["words"] for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert all(0 <= time <= 0.6 + 0.4 * number + 0.04 for time in times)
    assert "words" not in generate("joint")[0]


def test_the_speed_is_told_in_audio_too(generate, capsys):
    generate("ctc")
    sentences, audio = re.search(r"([\d,.]+) sentences/s, RTFx ([\d,.]+)\n", capsys.readouterr().err).groups()
    seconds = sum(0.6 + 0.4 * number - 0.015 for number in range(4))  # a frame of 25 ms every 10
    assert float(audio.replace(",", "")) / float(sentences.replace(",", "")) == pytest.approx(seconds / 4, rel=0.02)


def test_translate_knows_the_words_times_as_the_command_does(generate, folder):
    translator, files = load(folder / "joint", device="cpu"), [str(folder / f"{number}.wav") for number in range(4)]
    limits = {"max_length_a": 1.0, "max_length_b": 0, "min_length_b": 3}
    for options in ({}, {"chunk_seconds": 1.0, "chunk_overlap": 0.4}):
        words = [f"decode.{key}={value}" for key, value in (limits | options).items()]
        expected = [one["words"] for one in generate("joint", "timestamps=true", *words)]
        assert any(expected)
        found = translator.translate(files, hypotheses=True, timestamps=True, **limits, **options)
        for (best,), theirs in zip(found, expected, strict=True):
            mine = [{"word": w.word, "start": round(w.start, 3), "end": round(w.end, 3)} for w in best.words]
            assert mine == theirs
            assert len(best.times) == len(best.ids)
    with pytest.raises(UserError, match="timestamps=True requires hypotheses=True"):
        translator.translate(files, timestamps=True)


def test_longer_recordings_are_decoded_in_chunks(generate):
    whole, chunked = generate("joint"), generate("joint", "decode.chunk_seconds=1", "decode.chunk_overlap=0.4")
    assert chunked[0] == whole[0]  # of 0.6 s
    assert [one["index"] for one in chunked] == [0, 1, 2, 3]
    assert any(one["score"] != other["score"] for one, other in zip(whole[2:], chunked[2:], strict=True))


@pytest.mark.slow
def test_shards_of_recordings_are_joined(generate, s2s, folder, tmp_path, capsys):
    whole = generate("joint")
    words = f"checkpoint={folder}/joint", f"input={folder}/all.tsv", "format=json", "device=cpu"
    words += f"output={tmp_path}/joined", "decode.max_length_a=1", "decode.max_length_b=0"
    for shard, count in (("1/3", 1), ("2/3", 1), ("3/3", 2)):
        assert s2s("generate", *words, f"shard={shard}") == 0
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"{count} sentences, ")
    assert s2s("generate", *words, "shard=join") == 0
    joined = [json.loads(line) for line in (tmp_path / "joined").read_text().splitlines()]
    assert [(one["index"], one["hypothesis"]) for one in joined] == [(one["index"], one["hypothesis"]) for one in whole]
    assert [one["score"] for one in joined] == pytest.approx([one["score"] for one in whole], abs=1e-4)


@pytest.fixture
def broken(folder, tmp_path):
    """A folder with a list of files and a manifest: two recordings among four that cannot be read."""
    write(tmp_path / "short.wav", 0.01)
    (tmp_path / "cut.wav").write_bytes((folder / "1.wav").read_bytes()[:-500])
    files = [folder / "0.wav", tmp_path / "cut.wav", tmp_path / "none.wav", tmp_path / "short.wav", folder / "0.wav"]
    (tmp_path / "files.txt").write_text("".join(f"{path}\n" for path in files[:3]) + f"\n{files[3]}\n{files[4]}\n")
    tsv(tmp_path / "files.tsv", ["id", "audio", "start"],
        *([str(n), str(path), "0" if n != 2 else "x"] for n, path in enumerate(files)))  # fmt: skip
    return tmp_path


def test_all_recordings_are_looked_at_before_one_is_decoded(s2s, capsys, folder, broken):
    for name, lines, of in (("files.txt", (2, 3, 4, 5), 6), ("files.tsv", (3, 4, 5), 5)):
        words = f"checkpoint={folder}/joint", f"input={broken}/{name}", f"output={broken}/hyp", "device=cpu"
        assert s2s("generate", *words) == 2
        error = capsys.readouterr().err
        assert f"{len(lines)} of {of} entries are broken" in error
        assert [int(line) for line in re.findall(rf"{name}:(\d+): ", error)] == [2, 3, 4, 5] if of == 6 else [3, 4, 5]
        assert "cut.wav: truncated" in error
        assert "0.01 s is shorter than a frame" in error
        assert ("blank line; a file name is required" in error) == (of == 6)
        assert "skip_broken=true leaves an empty line" in error
        assert not (broken / "hyp").exists()


def test_broken_recordings_are_skipped_in_their_places(s2s, capsys, folder, broken, standard_input):
    words = f"checkpoint={folder}/joint", "device=cpu", "skip_broken=true"
    for name, gaps in (("files.txt", [1, 2, 3, 4]), ("files.tsv", [1, 2, 3]), ("-", [1, 2, 3, 4])):
        source = f"input={broken}/{name}" if name != "-" else "input=-"
        standard_input((broken / "files.txt").read_bytes())
        assert s2s("generate", *words, source, "decode.buffer=4") == 0
        printed, error = capsys.readouterr()
        rows = printed.splitlines()
        assert [not row for row in rows] == [i in gaps for i in range(len(gaps) + 2)]
        assert rows[0] == rows[-1]
        assert error.count("warning: ") == len(gaps)
        places = ", ".join(str(gap + 1) for gap in gaps)
        assert error.endswith(f"; failed and left empty: {len(gaps)} recordings ({places})\n")
        standard_input((broken / "files.txt").read_bytes())
        assert s2s("generate", *words, source, "format=json") == 0
        objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [o["index"] for o in objects if "error" in o] == gaps
        assert "cut.wav: truncated" in objects[1]["error"]
        assert objects[1]["error"].startswith(f"{broken}/{name}:" if name != "-" else "standard input:2: ")


def test_channels_and_silence_of_what_is_decoded(s2s, capsys, folder, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    samples, rate = soundfile.read(folder / "0.wav")
    soundfile.write(tmp_path / "two.wav", np.stack([samples, -samples], 1), rate)
    soundfile.write(tmp_path / "one.wav", -samples, rate)
    path = tsv(tmp_path / "m.tsv", ["audio", "channel"], ["two.wav", "1"], ["two.wav", "2"], ["one.wav", ""],
               ["two.wav", ""])  # fmt: skip
    assert s2s("generate", f"checkpoint={folder}/joint", f"input={path}", "format=json", "device=cpu") == 0
    printed, error = capsys.readouterr()
    rows = [json.loads(line) for line in printed.splitlines()]
    assert rows[1]["score"] == rows[2]["score"]
    assert rows[0]["score"] == pytest.approx(rows[1]["score"], abs=1e-3)  # the sign is not heard
    assert rows[3]["score"] != rows[0]["score"]
    assert [line for line in error.splitlines() if "warning" in line] == [
        f"warning: {path}:5: {tmp_path}/two.wav: silent, or its channels cancel each other"
    ]


def test_a_broken_recording_fails_alone_in_translate(folder, broken):
    translator = load(folder / "joint", device="cpu")
    files = [str(folder / "0.wav"), str(broken / "cut.wav"), str(folder / "1.wav")]
    with pytest.warns(UserWarning, match=r"recording 2 failed: .*cut\.wav: truncated"):
        found = list(translator.translate(files, on_error="mark"))
    assert [bool(text) for text in found] == [True, False, True]
    with pytest.raises(UserError, match=r"recording 2: .*cut\.wav: truncated"):
        list(translator.translate(files))


def test_a_target_that_ctc_cannot_align_has_no_number_in_json(s2s, capsys, folder, tmp_path):
    (tmp_path / "target").write_text("yes " * 40 + "\n")
    words = f"checkpoint={folder}/ctc", f"input={folder}/0.wav", f"target={tmp_path}/target", "mode=score", "device=cpu"
    assert s2s("generate", *words, "format=json") == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["score"] is None
    assert s2s("generate", *words) == 0
    assert capsys.readouterr().out == "-inf\n"


def test_what_does_not_go_together(s2s, capsys, folder):
    def failed(run, *words):
        assert s2s("generate", f"checkpoint={folder}/{run}", f"input={folder}/all.tsv", "device=cpu", *words) == 2
        return capsys.readouterr().err

    assert "timestamps=true requires format=json" in failed("joint", "timestamps=true")
    assert "requires CTC" in failed("joint", "timestamps=true", "format=json", "decode.ctc_weight=0")
    assert "without a decoder has CTC alone" in failed("ctc", "decode.ctc_weight=0.3")
    assert "decode.search=sample; it goes with decode.search=beam; decode.ctc_weight=0 leaves CTC out" in failed(
        "joint", "decode.search=sample"
    )
