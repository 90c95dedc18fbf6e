"""task=denoising: texts without translations, noised anew in each epoch, resumed to the same bits, and what is trained
further on pairs."""

import numpy as np
import pytest
import torch

from s2s import registry
from s2s.checkpoint.loading import load_model
from s2s.data.iterator import DataConfig, Draw
from s2s.data.store import Store
from s2s.tasks.denoising import DenoisingConfig, DenoisingTask
from s2s.text.vocabulary import MASK
from tests.conftest import _call, write_corpus
from tests.training import test_resume
from tests.training.conftest import together  # noqa: F401
from tests.training.test_distributed import NO_NOISE, assert_one_run, finished, losses

SIZE = ["model=transformer_tiny", "train.samples=0", "data.batch_tokens=200", "device=cpu", "train.valid_updates=4",
        *(f"model.{side}.{key}" for side in ("encoder", "decoder")
          for key in ("layers=1", "width=16", "heads=2", "ffn_width=32"))]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of texts, and one of pairs with its vocabulary."""
    folder = tmp_path_factory.mktemp("denoising")
    write_corpus(folder, {"train": 60, "valid": 8})
    with pytest.MonkeyPatch.context() as patch:
        words = [f"train={folder}/train", f"valid={folder}/valid", "workers=1"]
        own = ["task=denoising", "target=tgt", "tokenizer=characters"]
        assert _call(patch, "s2s_cli.preprocess", *words, *own, f"store={folder}/texts") == 0
        own = ["source=src", "target=tgt", f"tokenizer_from={folder}/texts"]
        assert _call(patch, "s2s_cli.preprocess", *words, *own, f"store={folder}/pairs") == 0
    return folder


def dataset(folder, noise: str, split: str = "train"):
    config = DenoisingConfig(noise=registry.find("noise", noise).Config())
    store = Store(folder / "texts")
    return DenoisingTask.setup(store, config=config).dataset(store.split(split))


def test_a_store_of_texts_has_one_side(folder):
    store = Store(folder / "texts")
    assert set(store.split("train").columns) == {"target.tokens"}
    assert set(store.tokenizers()) == {"source", "target"}
    assert (store.source_language, store.target_language) == ("tgt", "tgt")
    assert {MASK, "<S>", "<extra_id_99>"} <= set(store.tokenizers()["target"].vocabulary.reserved)


@pytest.mark.parametrize("noise", registry.names("noise"))
def test_an_example_is_the_same_in_every_batch_and_another_in_each_epoch(folder, noise):
    data, draw = dataset(folder, noise), Draw(DataConfig(), 3, 1)
    batch = data.collate(np.arange(12), None, draw)
    for number in range(12):
        alone = data.collate(np.array([number]), None, draw)
        for ours, theirs in ((alone.sources[0].values, batch.sources[0].values), (alone.target, batch.target)):
            assert torch.equal(ours[0], theirs[number, : ours.size(1)])
    packed = data.collate(np.arange(12), np.array([12]), draw)
    rows = zip(batch.sources[0].values.tolist(), batch.sources[0].lengths.tolist(), strict=True)
    assert packed.sources[0].values[0].tolist() == [token for row, length in rows for token in row[:length]]
    other = data.collate(np.arange(12), None, draw._replace(epoch=2))
    assert other.sources[0].values.tolist() != batch.sources[0].values.tolist()
    fixed = [data.collate(np.arange(12)).sources[0].values.tolist() for _ in range(2)]
    assert fixed[0] == fixed[1]
    assert fixed[0][0][: len(data.task.inputs(data.split, np.arange(1))[0])] == (
        data.task.inputs(data.split, np.arange(1))[0])  # fmt: skip
    most = data.lengths(0, 12)
    for side, lengths in zip(most, (batch.sources[0].lengths, batch.target_lengths), strict=True):
        assert (side >= lengths.numpy()).all()
    assert data.longest >= max(int(side.max()) for side in most)


@pytest.mark.parametrize("noise", ["bart", pytest.param("ul2", marks=pytest.mark.slow)])
def test_a_run_resumes_to_the_same_bits(folder, tmp_path, s2s, noise):
    words = [f"store={folder}/texts", "task=denoising", f"task.noise={noise}", *SIZE]
    assert s2s("train", *words, f"run={tmp_path}/whole", "train.max_updates=4") == 0
    for updates in (2, 4):
        assert s2s("train", *words, f"run={tmp_path}/parts", f"train.max_updates={updates}") == 0
    whole, parts = (load_model(str(tmp_path / run / "last"))[0].state_dict() for run in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_training_goes_on_with_pairs(folder, tmp_path, s2s, capsys):
    words = [f"store={folder}/texts", "task=denoising", *SIZE, "train.max_updates=1"]
    assert s2s("train", *words, f"run={tmp_path}/texts", "train.valid_metrics=[loss,chrf]") == 0
    given = [f"store={folder}/pairs", f"train.init.checkpoint={tmp_path}/texts", *SIZE, "train.max_updates=1"]
    assert s2s("train", *given, "optim.lr=0", f"run={tmp_path}/pairs") == 0
    before, after = (load_model(str(tmp_path / run))[0].state_dict() for run in ("texts", "pairs"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    capsys.readouterr()
    assert s2s("generate", f"checkpoint={tmp_path}/texts", f"store={folder}/texts", "split=valid", "device=cpu") == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    given = [f"store={folder}/pairs", "task=denoising", *SIZE, "train.max_updates=1"]  # the targets of pairs
    assert s2s("train", *given, f"run={tmp_path}/targets") == 0


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", ["data.word_dropout=0.1"], "task=denoising has its own noise (task.noise)"),
        ("train", ["data.transforms=[shuffle]"], "task=denoising has its own noise of sources"),
        ("preprocess", ["source=src"], "has one side, target=LANGUAGE; leave source="),
    ],
)
def test_what_is_refused(folder, tmp_path, s2s, capsys, command, words, message):
    own = {"train": [f"store={folder}/texts", f"run={tmp_path}/run", *SIZE],
           "preprocess": [f"train={folder}/train", f"store={tmp_path}/store", "target=tgt"]}[command]  # fmt: skip
    assert s2s(command, "task=denoising", *own, *words) == 2
    assert message in capsys.readouterr().err


def test_pairs_in_a_tsv_file_are_no_texts(folder, tmp_path, s2s, capsys):
    (tmp_path / "pairs.tsv").write_text("ein Haus\ta house\nein Hund\ta dog\n")
    words = ["task=denoising", "target=en", f"train={tmp_path}/pairs.tsv", "tokenizer=characters", "workers=1"]
    assert s2s("preprocess", *words, f"store={tmp_path}/both") == 2
    assert "pairs.tsv:1: a row must have one column, target; it has 2" in capsys.readouterr().err
    assert s2s("preprocess", *words, "columns=[2]", f"store={tmp_path}/second") == 0
    assert "H" not in Store(tmp_path / "second").tokenizers()["target"].vocabulary.symbols


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_resume_to_the_same_bits(folder, tmp_path, s2s, together):  # noqa: F811
    """The noise of an example depends on its number and the epoch, and not on the process that reads it."""
    two_processes_make_the_run_of_one(folder / "texts", "denoising", tmp_path, s2s, together)


def two_processes_make_the_run_of_one(store, task, tmp_path, s2s, start):
    """Check runs of a task on a store: in one process, in two, and in two with a stop between."""
    one, two, pieces = (tmp_path / name for name in ("one", "two", "pieces"))
    options = [f"task={task}", *SIZE, "data.group=2", "train.log_updates=1", "train.max_updates=12", NO_NOISE]
    assert s2s("train", *test_resume.words(store, one, *options, "train.accumulate=2")) == 0
    finished(start(2, store, two, *options))
    assert len(losses(one)) == 12
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    assert_one_run(one, two)
    finished(start(2, store, pieces, *options, "train.max_updates=5"))
    finished(start(2, store, pieces, *options))
    test_resume.same_bits(two, pieces)
