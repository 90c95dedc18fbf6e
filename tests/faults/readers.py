"""Small stores and runs of text and of speech, and all commands that read them, called in this process."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import _call, write_corpus
from tests.tones import write_tones

TEXT = ["model=transformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1", "model.encoder.width=16",
        "model.decoder.width=16", "model.encoder.ffn_width=16", "model.decoder.ffn_width=16", "train.samples=0",
        "data.batch_tokens=500", "device=cpu", "train.max_updates=3"]  # fmt: skip
SPEECH = ["task=speech_to_text", "model=conformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1",
          *(f"model.{side}.{key}" for side in ("encoder", "decoder") for key in ("width=16", "ffn_width=16")),
          "model.frontend.channels=4", "train.samples=0", "data.batch_tokens=500", "device=cpu",
          "train.max_updates=3"]  # fmt: skip

Command = Callable[[Path, Path], tuple]  # its words, of the store or run that is read and a fresh folder


def run(words: tuple[str, ...]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _call(patch, f"s2s_cli.{words[0]}", *words[1:])
    out.flush()
    return code, out.buffer.getvalue().decode(), err.getvalue()


def make(folder: Path) -> None:
    """Two stores and two runs of text and of speech each: a/text, b/text, a/text-run ..."""
    for number, name in enumerate("ab"):
        place = folder / name
        (place / "corpus").mkdir(parents=True)
        write_corpus(place / "corpus", {"train": 60, "valid": 8, "test": 8}, number)
        write_tones(place / "corpus", {"train": 8, "valid": 2, "test": 3}, number, most=3)
        words = ("preprocess", "source=src", "target=tgt", "tokenizer=characters", "workers=1", "shard_pairs=25",
                 "keep_text=true")  # fmt: skip
        splits = [f"{split}={place}/corpus/{split}" for split in ("train", "valid", "test")]
        assert run((*words, *splits, f"store={place}/text"))[0] == 0
        words = ("preprocess", "task=speech_to_text", "tokenizer=characters", "workers=1", "shard_pairs=5",
                 "features.sample_rate=8000", "features.bins=20")  # fmt: skip
        assert run((*words, *(f"{split}.tsv" for split in splits), f"store={place}/speech"))[0] == 0
        for kind, options in (("text", TEXT), ("speech", SPEECH)):
            words = (
                "train",
                *options,
                f"store={place}/{kind}",
                f"run={place}/{kind}-run",
                "train.checkpoint_updates=2",
            )
            assert run(words)[0] == 0
        (place / "input").write_text("a b\nc d e\n")
    for kind, lines in (("text", 8), ("speech", 3)):  # hypotheses
        (folder / kind).write_text("a b\n" * lines)


# --- what is read, and by whom ---------------------------------------------------------------------------------------


def store_commands(made: Path, kind: str) -> dict[str, Command]:
    """Those that read a store."""
    options, model = {"text": TEXT, "speech": SPEECH}[kind], f"checkpoint={made}/a/{kind}-run"
    found: dict[str, Command] = {
        "train": lambda store, out: ("train", *options, f"store={store}", f"run={out}/run"),
        "train lazily": lambda store, out: ("train", *options, f"store={store}", f"run={out}/run", "data.verify=false"),
        "generate": lambda store, out: ("generate", model, f"store={store}", f"output={out}/hyp", "format=tsv"),
        "score targets": lambda store, out: ("generate", model, f"store={store}", "mode=score", f"output={out}/scores"),
        "score": lambda store, out: ("score", f"store={store}", f"hypothesis={made}/{kind}", f"output={out}/scores"),
        "inspect": lambda store, out: ("inspect", store),
        "preprocess": lambda store, out: (
            "preprocess", "source=src", "target=tgt", f"tokenizer_from={store}", f"test={made}/a/corpus/test",
            f"store={out}/store", "workers=1",
        ),
    }  # fmt: skip
    if kind == "text":
        found["shortlist"] = lambda store, out: ("shortlist", f"store={store}", f"output={out}/list", "candidates=3")
    else:
        found["preprocess"] = lambda store, out: (
            "preprocess", "task=speech_to_text", f"tokenizer_from={store}", f"test={made}/a/corpus/test.tsv",
            f"store={out}/store", "workers=1",
        )  # fmt: skip
    return found


def checkpoint_commands(made: Path, kind: str) -> dict[str, Command]:
    """Those that read the last checkpoint of a run."""
    options, store = {"text": TEXT, "speech": SPEECH}[kind], made / "a" / kind
    source = f"input={made}/a/input" if kind == "text" else f"store={store}"
    model = f"checkpoint={made}/a/{kind}-run"
    found: dict[str, Command] = {
        "generate": lambda run, out: ("generate", f"checkpoint={run}/last", source, f"output={out}/hyp", "format=tsv"),
        "score targets": lambda run, out: (
            "generate", f"checkpoint={run}/last", f"store={store}", "mode=score", f"output={out}/scores"
        ),
        "average": lambda run, out: ("average", f"checkpoint={run}", "last=2", f"output={out}/average"),
        "inspect": lambda run, out: ("inspect", run),
        "resume": lambda run, out: ("train", *options, f"store={store}", f"run={run}", "train.max_updates=5"),
        "begin with": lambda run, out: (
            "train", *options, f"store={store}", f"run={out}/run", f"train.init.checkpoint={run}/last"
        ),
    }  # fmt: skip
    if kind == "text":
        found["export"] = lambda run, out: ("export", f"checkpoint={run}/last", f"output={out}/exported")
        found["draft"] = lambda run, out: (
            "generate", model, f"draft={run}/last", source, "decode.speculative=draft", f"output={out}/hyp",
            "decode.beam_size=1",
        )  # fmt: skip
    return found
