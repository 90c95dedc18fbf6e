"""Batches of the translation task: packed rows, transforms, texts tokenized anew; all of it trains and decodes."""

import json

import numpy as np
import pytest
import torch

from s2s.data.iterator import Draw
from s2s.data.preprocess import PreprocessConfig, preprocess
from s2s.data.store import Store
from s2s.data.transforms import TransformConfig
from s2s.tasks.translation import TranslationTask
from s2s.text.sentencepiece import SentencePieceConfig
from s2s.text.vocabulary import BOS, EOS, PAD, UNK
from tests.conftest import write_corpus


@pytest.fixture
def dataset(store):
    data = Store(store)
    return TranslationTask.setup(data).dataset(data.split("train"))


def rows(ids, lengths):
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


def test_a_batch_by_hand(dataset):
    batch = dataset.collate([5, 300, 7])
    expected = [
        (dataset.split.row("source.tokens", i).tolist(), dataset.split.row("target.tokens", i).tolist())
        for i in (5, 300, 7)
    ]
    (source,) = batch.sources
    assert rows(source.values, source.lengths) == [[*ids, EOS] for ids, _ in expected]
    assert rows(batch.target, batch.target_lengths) == [[*ids, EOS] for _, ids in expected]
    assert rows(batch.decoder_input, batch.target_lengths) == [[BOS, *ids] for _, ids in expected]
    assert batch.ids.tolist() == [5, 300, 7]
    real = sum(len(ids) + 1 for ids, _ in expected)
    assert batch.counts.source == real
    assert batch.counts.source + batch.counts.source_padding == source.values.numel()
    assert (source.values == PAD).sum() == batch.counts.source_padding
    assert batch.tags == {}
    assert batch.target_packing is None


def test_packed_rows_hold_the_same_examples(dataset):
    examples, sizes = np.array([5, 300, 7, 12, 9]), np.array([2, 1, 2])
    plain, packed = dataset.collate(examples), dataset.collate(examples, sizes)
    for ids, lengths, packing, one, its_lengths in (
        (*packed.sources[0][:3], *plain.sources[0][:2]),
        (packed.target, packed.target_lengths, packed.target_packing, plain.target, plain.target_lengths),
        (packed.decoder_input, packed.target_lengths, packed.target_packing, plain.decoder_input, plain.target_lengths),
    ):  # fmt: skip
        segments = []
        for row, length, segment, position in zip(ids, lengths, *packing, strict=True):
            for number in range(int(segment[-1]) + 1):
                here = (segment == number) & (torch.arange(len(row)) < length)
                segments.append(row[here].tolist())
                assert position[here].tolist() == list(range(int(here.sum())))
            assert (segment.diff() >= 0).all()
        assert segments == rows(one, its_lengths)
    assert packed.counts.sentences == 5
    assert packed.counts[1:3] == plain.counts[1:3]


def drawn(dataset, examples, epoch=1, seed=1, **options):
    return dataset.collate(examples, None, Draw(TransformConfig(**options), seed, epoch))


def test_transforms_change_the_side_that_they_are_for(dataset):
    examples = np.arange(200)
    plain = dataset.collate(examples)
    masked = drawn(dataset, examples, prev_output_mask=0.3)
    torch.testing.assert_close(masked.target, plain.target)
    torch.testing.assert_close(masked.sources[0].values, plain.sources[0].values)
    changed = masked.decoder_input != plain.decoder_input
    assert set(masked.decoder_input[changed].tolist()) == {UNK}
    assert not changed[:, 0].any()  # BOS stays
    assert abs(changed.sum() / (plain.counts.target - 200) - 0.3) < 0.05
    dropped = drawn(dataset, examples, word_dropout=0.3)
    torch.testing.assert_close(dropped.decoder_input, plain.decoder_input)
    changed = dropped.sources[0].values != plain.sources[0].values
    assert set(dropped.sources[0].values[changed].tolist()) == {UNK}
    assert not (changed & (plain.sources[0].values == EOS)).any()


def test_transforms_are_redrawn_every_epoch_and_the_same_in_any_batch(dataset):
    def source(examples, epoch):
        batch = drawn(dataset, examples, epoch, word_dropout=0.3)
        return dict(zip(examples, rows(batch.sources[0].values, batch.sources[0].lengths), strict=True))

    first = source(range(50), 1)
    assert first == {**source(range(20), 1), **source(range(49, 19, -1), 1)}
    assert first != source(range(50), 2)


@pytest.fixture(scope="module")
def text_store(tmp_path_factory):
    """SentencePiece with sampling; the training text is kept."""
    folder = tmp_path_factory.mktemp("text")
    write_corpus(folder, {"train": 300, "valid": 20})
    for path in folder.iterdir():  # words of some letters
        path.write_text(path.read_text().replace("a ", "a").replace("b ", "b").replace("c ", "c"))
    tokenizer = SentencePieceConfig(vocab_size=45, sampling=0.2)
    preprocess(PreprocessConfig(source="src", target="tgt", train=[f"{folder}/train"], valid=[f"{folder}/valid"],
                                store=f"{folder}/store", tokenizer=tokenizer, workers=1))  # fmt: skip
    return folder / "store"


def test_sampled_pieces_are_the_same_text_and_redrawn(text_store):
    data = Store(text_store)
    task = TranslationTask.setup(data)
    dataset = task.dataset(data.split("train"))
    examples = np.arange(100)
    first, again, second = (drawn(dataset, examples, epoch) for epoch in (1, 1, 2))
    torch.testing.assert_close(first.target, again.target)
    assert rows(first.target, first.target_lengths) != rows(second.target, second.target_lengths)
    lines = data.split("train").lines("target.text", examples)
    for batch in (first, second, dataset.collate(examples)):
        assert [task.text(ids, None) for ids in rows(batch.target, batch.target_lengths)] == lines


def test_character_noise_changes_the_source_text_only(text_store):
    data = Store(text_store)
    task = TranslationTask.setup(data)
    dataset = task.dataset(data.split("train"))
    batch = drawn(dataset, np.arange(100), character_noise=0.2)
    sources = [task.source_tokenizer.decode(ids) for ids in rows(batch.sources[0].values, batch.sources[0].lengths)]
    targets = [task.text(ids, None) for ids in rows(batch.target, batch.target_lengths)]
    assert targets == data.split("train").lines("target.text", np.arange(100))
    different = sum(
        a != b for a, b in zip(sources, data.split("train").lines("source.text", np.arange(100)), strict=True)
    )
    assert 40 < different < 95


def test_noise_without_text_is_an_error_before_training(store, tmp_path, s2s, capsys):
    assert (
        s2s("train", f"store={store}", f"run={tmp_path}/run", "model=transformer_tiny", "data.character_noise=0.1") == 2
    )
    assert "keep_text=true" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or not (tmp_path / "run/checkpoints").exists()


SMALL = (
    "model=transformer_tiny", "model.encoder.width=32", "model.decoder.width=32", "train.max_updates=12", "workers=1",
    "train.valid_updates=6", "train.log_updates=4", "data.batch_tokens=300", "device=cpu", "train.samples=1",
)  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ["data.batching=packed"],
        ["data.batching=bucket_2d", "data.buckets=[3,3]", "data.pool=100"],
        ["data.word_dropout=0.1", "data.prev_output_mask=0.1", "data.target_transform=reverse"],
        ["data.stages=[{epochs:1,max_length:5},{word_dropout:0.2}]"],
    ],
    ids=str,
)
def test_a_run_interrupted_anywhere_ends_with_the_same_bits(store, tmp_path, s2s, options):
    """With every strategy and transform: two halves are one run."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert s2s("train", f"store={store}", f"run={whole}", *SMALL, *options) == 0
    assert s2s("train", f"store={store}", f"run={halves}", *SMALL, *options, "train.max_updates=7") == 0
    assert s2s("train", f"store={store}", f"run={halves}", *SMALL, *options) == 0
    weights = [(run / "last/model.safetensors").read_bytes() for run in (whole, halves)]
    assert weights[0] == weights[1]


def test_several_stores_are_one_and_padding_is_told(store, tmp_path, s2s, capsys):
    """Two stores: corpora get their weights, batches their tags, the log its shares."""
    other = tmp_path / "other"
    write_corpus(tmp_path, {"more": 100}, seed=5)
    assert s2s("preprocess", "source=src", "target=tgt", f"train={tmp_path}/more", f"tokenizer_from={store}",
               f"store={other}", "workers=1") == 0  # fmt: skip
    run = tmp_path / "run"
    assert s2s("train", f"store=[{store},{other}]", f"run={run}", *SMALL, "data.weights=[1,4]",
               "data.homogeneous=corpus", "train.max_updates=40") == 0  # fmt: skip
    assert "an epoch visits 100 of" in capsys.readouterr().err
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epoch = next(event for event in events if event["kind"] == "epoch")
    assert epoch["sentences"] == 500
    assert epoch["batching"] == "token_budget"
    assert 0 <= epoch["source_padding"] < 0.5
    train = next(event for event in events if event["kind"] == "train")
    assert {key: len(value) for key, value in train["steps"].items()} == {
        "source_padding": 4, "target_padding": 4, "seconds_waiting": 4,
    }  # fmt: skip


def test_tags_are_corpora(store, tmp_path, s2s):
    from s2s.data.store import Stores

    data = Stores([store, store])
    (name,) = (corpus.name for corpus in data.stores[0].split("train").corpora)
    data.stores[1].manifest["splits"]["train"]["corpora"][0]["name"] = "other"
    task = TranslationTask.setup(data)
    assert task.tag_values == {"corpus": [name, "other"], "source_language": ["src"], "target_language": ["tgt"]}
    assert task.dataset(data.split("train")).collate([3]).tags == {}  # nobody reads them
    task.tags = {"corpus": task.tag_values["corpus"]}
    tags = task.dataset(data.split("train")).collate([3, 399, 400, 799]).tags
    assert {name: tag.tolist() for name, tag in tags.items()} == {"corpus": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("kind", "updates"), [pytest.param("reverse", 200, marks=pytest.mark.slow), ("last_word_first", 30)]
)
def test_a_model_that_writes_in_another_order_is_read_in_the_right_one(store, tmp_path, s2s, kind, updates):
    """The corpus' target is its source reversed; a model that writes it in reverse has only to copy."""
    run, out = tmp_path / "run", tmp_path / "hyp"
    words = [f"store={store}", f"run={run}", "model=transformer_tiny", f"data.target_transform={kind}", "optim.lr=3e-3",
             f"train.max_updates={updates}", "train.valid_updates=300", "train.valid_metrics=[loss,exact_match]",
             "data.batch_tokens=400", "optim.warmup_updates=50", "model.dropout=0"]  # fmt: skip
    assert s2s("train", *words) == 0
    assert s2s("generate", f"checkpoint={run}", f"store={store}", "split=valid", f"output={out}") == 0
    references = Store(store).split("valid").lines("target.text")
    hypotheses = out.read_text().splitlines()
    valid = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    exact = [event["exact_match"] for event in valid if event["kind"] == "valid"][-1]
    assert np.isclose(exact, 100 * np.mean([h == r for h, r in zip(hypotheses, references, strict=True)]))
    if kind == "reverse":
        assert exact > 50
    # The split's targets and the same lines of a file are scored in the same order.
    (tmp_path / "references").write_text("".join(f"{line}\n" for line in references))
    for source, scores in ((f"target={tmp_path}/references", "a"), ("mode=score", "b")):
        words = [f"checkpoint={run}", f"store={store}", "split=valid", "mode=score", source]
        assert s2s("generate", *dict.fromkeys(words), f"output={tmp_path}/{scores}") == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
