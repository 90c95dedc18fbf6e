"""Several sources from the files to the library's call."""

import json

import numpy as np
import pytest

import s2s as package
from s2s.data.iterator import Draw
from s2s.data.store import Store
from s2s.data.transforms import TransformConfig
from s2s.tasks.multi_source import MultiSourceTask
from s2s.text.vocabulary import EOS, UNK
from tests.conftest import _call
from tests.training.test_resume import SMALL

LETTERS = "abcd"
PAIRS = [(a, b) for a in LETTERS for b in LETTERS]  # each a source; the target has both
LINES = {"one": [a for a, _ in PAIRS], "two": [f"{b} {b}" for _, b in PAIRS], "out": [f"{b} {a}" for a, b in PAIRS]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, and a run of it."""
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        for split, times in (("train", 20), ("valid", 1)):
            for ending, lines in LINES.items():
                (folder / f"{split}.{ending}").write_text("".join(f"{line}\n" for line in lines * times))
        words = ["task=multi_source", "source=one", "more_sources=[two]", "target=out", "tokenizer=words", "workers=1",
                 f"train={folder}/train", f"valid={folder}/valid", f"store={folder}/store"]  # fmt: skip
        assert _call(patch, "s2s_cli.preprocess", *words, "keep_text=true") == 0
        words = [*SMALL, "task=multi_source", "model.bridge=flat", "model.dropout=0", "data.batching=packed",
                 "train.max_updates=80", "train.valid_updates=80", "train.valid_metrics=[loss,exact_match]",
                 "optim.lr=1e-2", "optim.warmup_updates=20"]  # fmt: skip
        assert _call(patch, "s2s_cli.train", f"store={folder}/store", f"run={folder}/run", *words) == 0
    return folder


def test_a_batch_has_both_sources(folder):
    store = Store(folder / "store")
    split = store.split("train")
    task = MultiSourceTask.setup(store)
    dataset = task.dataset(split)
    assert list(dataset.task.vocabularies) == ["source", "source2", "target"]
    examples = np.array([0, 1, 7])
    batch = dataset.collate(examples)
    for source, name in zip(batch.sources, ("source", "source2"), strict=True):
        rows = [[*split.row(f"{name}.tokens", i).tolist(), EOS] for i in examples.tolist()]
        assert source.values.tolist() == rows
    assert [source.lengths.tolist() for source in batch.sources] == [[2, 2, 2], [3, 3, 3]]
    assert (batch.counts.source, batch.counts.source_padding) == (15, 0)
    source, target = dataset.lengths(0, 2)
    assert (source.tolist(), target.tolist()) == ([5, 5], [3, 3])
    assert dataset.longest == 3
    packed = dataset.collate(examples, np.array([2, 1]))
    assert [source.packing.segments[0].tolist() for source in packed.sources] == [[0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    assert task.source_names(split, examples)[1] == "a | b b"


def test_noise_of_one_source_is_not_that_of_the_other(folder):
    store = Store(folder / "store")
    dataset = MultiSourceTask.setup(store).dataset(store.split("train"))
    draw = Draw(TransformConfig(word_dropout=0.5), 1, 1)
    first, second = (source.values[:, 0] == UNK for source in dataset.collate(np.arange(200), None, draw).sources)
    both = int((first & second).sum())
    assert 30 < both < 70  # a quarter: they are drawn apart


def test_the_target_is_made_of_both_sources(folder, s2s, capsys):
    events = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["exact_match"] for event in events if event["kind"] == "valid"][-1] == 100
    lines = [f"{one}\t{two}" for one, two in zip(LINES["one"], LINES["two"], strict=True)]
    for backend in ("eager", "native"):
        translator = package.load(folder / "run", device="cpu", backend=backend)
        assert list(translator.translate(lines)) == LINES["out"]
    words = [f"checkpoint={folder}/run", "device=cpu"]
    (folder / "lines").write_text("a\tb b\n\t\nc\n")
    assert s2s("generate", *words, f"input={folder}/lines", "skip_broken=true", "alignment=true",
               "format=json") == 0  # fmt: skip
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("hypothesis") for row in rows] == ["b a", "", None]
    assert rows[2]["error"] == f"{folder}/lines:3: a line needs 2 sources with a tab between two of them; it has 1"
    assert rows[0]["source_tokens"] == ["a", "</s>", "b", "b", "</s>"]
    assert s2s("generate", *words, f"store={folder}/store", "split=valid") == 0
    assert capsys.readouterr().out.splitlines() == LINES["out"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["input=LINES"], "LINES:3: a line needs 2 sources with a tab between two of them; it has 1"),
        (["input=LINES", "decode.speculative=input", "decode.beam_size=1"], "there must be a single source"),
        (["input=LINES", "decode.shortlist=LINES"], "decode.shortlist: lists likely translations of the symbols"),
    ],
)
def test_what_is_wrong_is_said(folder, s2s, capsys, words, message):
    path = folder / "wrong"
    path.write_text("a\tb\n\t\nc\n")
    words = [word.replace("LINES", str(path)) for word in words]
    assert s2s("generate", f"checkpoint={folder}/run", "device=cpu", *words) == 2
    assert message.replace("LINES", str(path)) in capsys.readouterr().err


def test_other_tasks_and_stores_are_refused(folder, s2s, capsys, store, tmp_path):
    assert s2s("train", f"store={store}", f"run={tmp_path}/run", *SMALL, "task=multi_source") == 2
    assert "task=multi_source: the store has one source; task=translation" in capsys.readouterr().err
    assert s2s("train", f"store={folder}/store", f"run={tmp_path}/run", *SMALL, "task=multi_source") == 2
    assert "model.bridge=top sees one source, and the task has 2" in capsys.readouterr().err
    assert s2s("preprocess", "task=multi_source", f"train={folder}/train", f"store={tmp_path}/store") == 2
    assert "more_sources=[ENDING] is needed" in capsys.readouterr().err


def test_a_server_takes_lines_of_several_sources(folder):
    from tests.serving.server import ask, serving

    translator = package.load(folder / "run", device="cpu")
    lines = ["a\tb b", "c\td d"]
    with serving(translator) as (port, _):
        status, _, answer = ask(port, "/v1/translate", lines=lines)
        assert (status, answer) == (200, {"translations": list(translator.translate(lines))})
        assert ask(port, "/v1/models", "GET")[2]["data"][0]["sources"] == 2
        status, _, answer = ask(port, "/v1/translate", lines=["a"])
    assert (status, answer) == (400, {"error": "a line needs 2 sources with a tab between two of them; it has 1"})
