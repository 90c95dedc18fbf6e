"""Columns of a task's own: a second source, numbers, arrays and lines, from the files to the batch."""

import dataclasses

import numpy as np
import pytest
import torch

from s2s.data.batch import Source
from s2s.data.columns import Column
from s2s.data.preprocess import Field, PreprocessConfig, TextRecipe
from s2s.data.recipe import make
from s2s.data.store import Store, Stores
from s2s.data.store_writer import StoreWriter
from s2s.errors import UserError
from s2s.tasks.symbols import with_symbol
from s2s.tasks.text import padded
from s2s.tasks.translation import PairDataset, TranslationTask
from s2s.text.vocabulary import EOS
from s2s.text.words import WordTokenizer

LINES = {
    "de": ["ja", "nein", "ja ja ja ja", "ja nein"],
    "fr": ["oui", "non", "oui oui", "oui non"],
    "en": ["yes", "no", "yes yes", "yes no"],
    "box": ["1 2", "", "3 4 5 6", "0.5 -1"],
    "label": ["3", "-1", "0", "123456789012"],
    "note": ["a note", "", "another", "\u00e4"],
}
ORDER = ("de", "en", "fr", "box", "label", "note")


class Recipe(TextRecipe):
    def fields(self):
        return [*super().fields(), Field("source2", "fr"), Field("box", "box", "array", "<f4", 2),
                Field("label", "label", "number", "<i8"), Field("note", "note", "text")]  # fmt: skip


class Task(TranslationTask):
    columns = ("box", "label", "source2.tokens")

    def dataset(self, split):
        return TwoSources(split, self)


class TwoSources(PairDataset):
    def collate(self, examples, rows=None, draw=None):
        batch = super().collate(examples, rows, draw)
        ids, lengths = with_symbol(EOS, *self.split.gather("source2.tokens", examples), after=True)
        return dataclasses.replace(
            batch, sources=(*batch.sources, Source(padded(ids, lengths), torch.from_numpy(lengths)))
        )


@pytest.fixture(params=["files", "tsv"])
def store(tmp_path, request):
    if request.param == "files":
        for ending, lines in LINES.items():
            (tmp_path / f"train.{ending}").write_text("".join(f"{line}\n" for line in lines))
        name = tmp_path / "train"
    else:
        name = tmp_path / "train.tsv"
        rows = zip(*(LINES[ending] for ending in ORDER), strict=True)
        name.write_text("".join("\t".join(row) + "\n" for row in rows))
    tokenizer = WordTokenizer.Config(joint=True)
    config = PreprocessConfig(source="de", target="en", train=[str(name)], store=str(tmp_path / "store"),
                              tokenizer=tokenizer, workers=1)  # fmt: skip
    config.filter.max_length = 3  # the third example goes
    report = make(Recipe(config))
    assert report["splits"]["train"]["dropped"] == {"min_length": 0, "max_length": 1}
    return Store(tmp_path / "store")


def test_what_is_read_is_in_the_store(store):
    store.verify()
    split = store.split("train")
    assert {name: (column.kind, column.type, column.width) for name, column in split.columns.items()} == {
        "source.tokens": ("tokens", "|u1", 1), "target.tokens": ("tokens", "|u1", 1),
        "source2.tokens": ("tokens", "|u1", 1), "box": ("array", "<f4", 2), "label": ("number", "<i8", 1),
        "note": ("text", "|u1", 1),
    }  # fmt: skip
    assert len(split) == 3
    tokenizers = store.tokenizers()
    assert list(tokenizers) == ["source", "source2", "target"]
    assert tokenizers["source"] is tokenizers["source2"] is tokenizers["target"]
    assert tokenizers["source2"].decode(split.row("source2.tokens", 2)) == "oui non"
    values, lengths = split.gather("box", [0, 1, 2])
    assert (values.tolist(), lengths.tolist(), values.dtype) == ([[1, 2], [0.5, -1]], [1, 0, 1], np.float32)
    assert split.gather("label", [2, 0])[0].tolist() == [123456789012, 3]
    assert split.lines("note", [0, 1, 2]) == split.lines("note") == ["a note", "", "\u00e4"]
    assert (split.longest("box"), split.lengths("box").tolist()) == (1, [1, 0, 1])


def test_it_is_in_the_batch_and_in_its_halves(store):
    task = Task.setup(store)
    batch = task.dataset(store.split("train")).collate(np.array([2, 0, 1]))
    ids = task.source_tokenizer.vocabulary.index
    first, second = batch.sources
    assert first.lengths.tolist() == [3, 2, 2]
    assert second.values.tolist() == [[ids("oui"), ids("non"), EOS], [ids("oui"), EOS, 0], [ids("non"), EOS, 0]]
    assert batch.columns["label"].tolist() == [123456789012, 3, -1]
    assert batch.columns["label"].dtype == torch.int64
    assert batch.columns["box"].tolist() == [[[0.5, -1]], [[1, 2]], [[0, 0]]]
    assert batch.columns["source2.tokens"].tolist() == [[ids("oui"), ids("non")], [ids("oui"), 0], [ids("non"), 0]]
    upper, lower = batch.halves()
    assert upper.columns["label"].tolist() + lower.columns["label"].tolist() == [123456789012, 3, -1]
    assert [len(half.sources) for half in (upper, lower)] == [2, 2]
    assert batch.to("cpu").columns["box"].equal(batch.columns["box"])


@pytest.mark.parametrize(
    ("ending", "lines", "message"),
    [
        ("label", ["1", "2", "3", "x"], "train.label:4: label: must be an integer, not 'x'"),
        ("label", ["1", "2.5", "3", "4"], "train.label:2: label: must be an integer, not '2.5'"),
        ("label", ["1", "2", "", "4"], "train.label:3: label: must be an integer, not ''"),
        (
            "box",
            ["1 2", "1", "", ""],
            "train.box:2: box: must be rows of 2 values, each a number",
        ),
        ("box", ["nan 2", "1 1", "", ""], "train.box:1: box: "),
        ("fr", ["a", "b", "c"], "all files must have the same number of lines"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, ending, lines, message):
    for name, its in (LINES | {ending: lines}).items():
        (tmp_path / f"train.{name}").write_text("".join(f"{line}\n" for line in its))
    config = PreprocessConfig(source="de", target="en", train=[str(tmp_path / "train")], store=str(tmp_path / "store"),
                              tokenizer=WordTokenizer.Config(), workers=1)  # fmt: skip
    with pytest.raises(UserError) as error:
        make(Recipe(config))
    assert message in str(error.value)
    assert not (tmp_path / "store").exists()


def test_stores_whose_columns_differ_are_not_one(tmp_path):
    facts = {"task": "x", "source_language": "de", "target_language": "en", "vocabularies": {}}
    for name, column in (("a", Column("box", "array", "<f4", 2)), ("b", Column("box", "array", "<f4", 3))):
        with StoreWriter(tmp_path / name, False) as writer:
            writer.column("train", column).append(np.arange(6.0), np.array([6]))
            writer.commit({**facts, "splits": {"train": {"corpora": [{"name": "c", "kept": 1}]}}})
    with pytest.raises(UserError, match=r"b: the column box of split 'train' differs from that of .*/a"):
        Stores([tmp_path / "a", tmp_path / "b"]).split("train")


def test_columns_of_unequal_length_are_not_written(tmp_path):
    with StoreWriter(tmp_path / "s", False) as writer:
        for name, count in (("a", 1), ("b", 2)):
            writer.column("train", Column(name, "number", "<i8")).append(np.arange(count), np.ones(count, int))
        with pytest.raises(ValueError, match="its columns do not have the same number"):
            writer.commit({"splits": {"train": {"corpora": []}}})
    assert not (tmp_path / "s").exists()
