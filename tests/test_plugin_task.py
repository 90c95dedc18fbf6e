"""A package outside of s2s adds a task with a column of its own, a data transform and a target transform."""

import json
import re
from urllib.request import Request, urlopen

import pytest

from s2s.data.store import Store
from tests.test_plugin import kill_and_go_on, run, start

LETTERS = "abcd"
TRAIN = ["task=rated", "task.empty=-", "criterion.terms=[rated]", "data.transforms=[omit,shuffle]",
         "data.omit.share=0.1", "data.shuffle.distance=1", "data.target_transform=middle_out", "model=transformer_tiny",
         *(f"model.{side}.{key}" for side in ("encoder", "decoder")
           for key in ("layers=1", "width=32", "ffn_width=64", "heads=2")), "model.dropout=0",
         "data.batch_tokens=150", "data.batching=token_budget", "optim.lr=5e-3", "optim.warmup_updates=10",
         "train.max_updates=120", "train.valid_updates=60", "train.valid_metrics=[loss,exact_match]", "train.samples=0",
         "device=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs of a letter and three letters of its own, rated 1, and as many with wrong targets, rated 0."""
    folder = tmp_path_factory.mktemp("task")
    for split, times in (("train", 40), ("valid", 1)):
        pairs = [(letter, f"{letter} x {letter}", "1") for letter in LETTERS] * times
        if split == "train":
            pairs += [(letter, "y y", "0.0") for letter in LETTERS] * times
        for ending, column in zip(("src", "tgt", "rating"), zip(*pairs, strict=True), strict=True):
            (folder / f"{split}.{ending}").write_text("".join(f"{line}\n" for line in column))
    run(folder, "preprocess", "task=rated", "source=src", "target=tgt", "train=train", "valid=valid",
        "tokenizer=hyphens", "tokenizer.reserved=[<short>]", "store=store", "workers=1", "shard_pairs=100")  # fmt: skip
    run(folder, "train", "store=store", "run=run", *TRAIN)
    return folder


def test_the_store_has_its_column(folder):
    store = Store(folder / "store")
    store.verify()
    train = store.split("train")
    assert list(train.columns) == ["source.tokens", "target.tokens", "rating"]
    values, lengths = train.gather("rating", [0, 319, 160])
    assert (values.tolist(), lengths.tolist()) == ([1.0, 0.0, 0.0], [1, 1, 1])
    out, _ = run(folder, "inspect", "store")
    assert "rating" in out


def test_pairs_that_are_rated_badly_are_not_learned(folder):
    (folder / "input").write_text("a\nb\n\nd\n")
    words = ["checkpoint=run", "input=input", "device=cpu"]
    assert run(folder, "generate", *words)[0].split("\n") == ["a x a", "b x b", "-", "d x d", ""]
    events = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["exact_match"] for event in events if event["kind"] == "valid"][-1] == 100
    assert "rated" in run(folder, "inspect", "run")[0]


def test_it_is_served(folder):
    server = start(folder, "serve", "checkpoint=run", "port=0", "device=cpu")
    try:
        address = re.search(r"http://\S+", server.stderr.readline())[0]
        content = json.dumps({"lines": ["a", "", "d"]}).encode()
        asked = Request(f"{address}/translate", content, {"Content-Type": "application/json"})
        with urlopen(asked, timeout=60) as answer:
            assert json.loads(answer.read())["translations"] == ["a x a", "-", "d x d"]
    finally:
        server.terminate()
        server.communicate(timeout=60)


def test_a_wrong_rating_is_named(folder):
    for ending in ("src", "tgt"):
        (folder / f"bad.{ending}").write_text("a\nb\n")
    (folder / "bad.rating").write_text("1\ngood\n")
    words = ["task=rated", "source=src", "target=tgt", "train=bad", "tokenizer=words", "store=out", "workers=1"]
    _, err = run(folder, "preprocess", *words, code=2)
    assert "bad.rating:2: rating: must be a number, not 'good'" in err


def test_a_killed_run_ends_with_the_same_bits(folder):
    kill_and_go_on(folder, TRAIN, 20)
    path = "checkpoints/step_00000120/model.safetensors"
    assert (folder / "killed" / path).read_bytes() == (folder / "run" / path).read_bytes()


def test_a_store_of_another_task_lacks_the_column(folder):
    words = ["source=src", "target=tgt", "train=train", "valid=valid", "tokenizer_from=store", "store=plain"]
    run(folder, "preprocess", *words, "workers=1")
    _, err = run(folder, "train", "store=plain", "run=other", *TRAIN, code=2)
    assert "plain: split 'train' has no column rating; it has source.tokens, target.tokens" in err
