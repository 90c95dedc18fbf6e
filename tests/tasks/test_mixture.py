"""task=mixture: pairs and noised lines in one run."""

import json

import numpy as np
import pytest

from s2s import registry
from s2s.data.iterator import DataConfig, Draw
from s2s.data.store import Store, Stores
from s2s.errors import UserError
from s2s.tasks.denoising import DenoisingConfig, DenoisingTask
from s2s.tasks.mixture import MixtureTask
from s2s.tasks.translation import TranslationTask
from tests.conftest import write_corpus
from tests.tasks.test_denoising import SIZE, folder, two_processes_make_the_run_of_one  # noqa: F401
from tests.training.conftest import together  # noqa: F401
from tests.training.test_resume import same_bits


def test_each_example_is_as_its_own_task_makes_it(folder):  # noqa: F811
    stores = Stores([str(folder / "pairs"), str(folder / "texts")], mixed=True)
    mixed = MixtureTask.setup(stores).dataset(stores.split("train"))
    texts, pairs = Store(folder / "texts"), Store(folder / "pairs")
    own = (TranslationTask.setup(pairs).dataset(pairs.split("train")),
           DenoisingTask.setup(texts, config=DenoisingConfig()).dataset(texts.split("train")))  # fmt: skip
    assert len(mixed) == 120
    draw = Draw(DataConfig(), 3, 1)
    batch = mixed.collate(np.array([70, 3, 119, 0]), None, draw)
    for row, (part, number) in enumerate([(1, 10), (0, 3), (1, 59), (0, 0)]):
        alone = own[part].collate(np.array([number]), None, draw)
        source, target = int(alone.sources[0].lengths[0]), int(alone.target_lengths[0])
        assert batch.sources[0].values[row, :source].equal(alone.sources[0].values[0])
        assert int(batch.sources[0].lengths[row]) == source
        assert batch.target[row, :target].equal(alone.target[0])
        assert batch.decoder_input[row, :target].equal(alone.decoder_input[0])
    lengths = [np.concatenate(sides) for sides in zip(*(data.lengths(0, 60) for data in own), strict=True)]
    for side, whole in zip(mixed.lengths(0, 120), lengths, strict=True):
        assert side.tolist() == whole.tolist()
    assert [side.tolist() for side in mixed.lengths(55, 70)] == [side[55:70].tolist() for side in lengths]
    assert mixed.longest == max(data.longest for data in own)
    task = mixed.task
    assert task.inputs(mixed.split, np.array([61, 4])) == [
        *own[1].task.inputs(own[1].split, np.array([1])), *own[0].task.inputs(own[0].split, np.array([4]))
    ]  # fmt: skip


@pytest.mark.parametrize("order", ["pairs,texts", "texts,pairs"])
def test_a_mixture_trains_resumes_and_decodes(folder, tmp_path, s2s, order):  # noqa: F811
    stores = ",".join(str(folder / name) for name in order.split(","))
    options = [f"store=[{stores}]", "task=mixture", *SIZE, "data.weights=[3,1]", "data.homogeneous=language"]
    options += ["train.max_updates=8", "train.valid_metrics=[loss,chrf]", "task.noise=spans"]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert s2s("train", *options, f"run={whole}") == 0
    for updates in (4, 8):
        assert s2s("train", *options, f"run={pieces}", f"train.max_updates={updates}") == 0
    last = json.loads((whole / "last/state.json").read_text())["progress"]["last_metrics"]
    own = ("translation.src-tgt", "denoising.tgt-tgt")
    assert {f"{metric}.{name}" for name in own for metric in ("loss", "nll", "chrf")} <= set(last)
    assert s2s("generate", f"checkpoint={whole}", f"input={folder}/valid.src", f"output={tmp_path}/out",
               "device=cpu") == 0  # fmt: skip
    assert len((tmp_path / "out").read_text().splitlines()) == 8
    same_bits(whole, pieces)


def test_the_loss_of_each_task_is_that_of_its_own_validation(folder, tmp_path, s2s):  # noqa: F811
    """The same weights, validated on both stores and on each."""
    metrics = []
    for name, options in {"both": ["task=mixture"], "pairs": [], "texts": ["task=denoising"]}.items():
        stores = f"[{folder}/pairs,{folder}/texts]" if name == "both" else folder / name
        words = [f"store={stores}", *options, *SIZE, "train.max_updates=1", "optim.lr=0", f"run={tmp_path}/{name}"]
        assert s2s("train", *words) == 0
        metrics.append(json.loads((tmp_path / name / "last/state.json").read_text())["progress"]["last_metrics"])
    both, pairs, texts = metrics
    assert both["nll.translation.src-tgt"] == pytest.approx(pairs["nll"], rel=1e-5)
    assert both["nll.denoising.tgt-tgt"] == pytest.approx(texts["nll"], rel=1e-5)
    assert both["nll"] == pytest.approx((pairs["nll"] + texts["nll"]) / 2, rel=1e-5)  # as many target tokens


def test_the_references_of_noised_texts_are_what_is_to_be_written(folder):  # noqa: F811
    store = Store(folder / "texts")
    valid = store.split("valid")
    for noise, whole in (("bart", True), ("mass", False)):
        config = DenoisingConfig(noise=registry.find("noise", noise).Config())
        data = DenoisingTask.setup(store, config=config).dataset(valid)
        references, lines = data.references(), valid.lines("target.text")
        assert (references == lines) == whole
        assert all(reference in line for reference, line in zip(references, lines, strict=True))


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_resume_to_the_same_bits(folder, tmp_path, s2s, together):  # noqa: F811
    two_processes_make_the_run_of_one(f"[{folder}/pairs,{folder}/texts]", "mixture", tmp_path, s2s, together)


def test_the_decoder_reads_the_language_of_pairs_and_of_noised_texts(tmp_path, s2s):
    """Two directions and texts of both languages, in one run: mBART's noise beside translation."""
    write_corpus(tmp_path, {"train": 30, "valid": 6})
    words = [f"train={tmp_path}/train", f"valid={tmp_path}/valid", "workers=1"]
    assert s2s("preprocess", *words, "languages=[src-tgt,tgt-src]", "tokenizer=characters",
               "tokenizer.reserved=[<mask>]", f"store={tmp_path}/pairs") == 0  # fmt: skip
    stores = [f"{tmp_path}/pairs"]
    for side in ("src", "tgt"):
        stores.append(f"{tmp_path}/{side}")
        assert s2s("preprocess", *words, "task=denoising", f"target={side}", f"tokenizer_from={tmp_path}/pairs",
                   f"store={stores[-1]}") == 0  # fmt: skip
    many = Stores(stores, mixed=True)
    task = MixtureTask.setup(many, config={"first_tag": "target_language"})
    task.tags = {"target_language": ["tgt", "src"]}
    names = task.target_tokenizer.vocabulary.symbols
    data = task.dataset(many.split("train"))
    first = [names[i] for i in data.collate(np.arange(0, 120, 30)).decoder_input[:, 0].tolist()]
    assert first == ["<tgt>", "<src>", "<src>", "<tgt>"]
    assert s2s("train", f"store=[{','.join(stores)}]", "task=mixture", "task.first_tag=target_language", *SIZE,
               "train.max_updates=1", f"run={tmp_path}/run") == 0  # fmt: skip


@pytest.mark.parametrize(("options", "message"), [
    (["task.target_tag=target_language"], "task.target_tag: does not go with task=mixture"),
    (["task.noise=mixture"], "mixture"),
    (["data.word_dropout=0.1"], "data.word_dropout: task=denoising has its own noise"),
])  # fmt: skip
def test_what_a_mixture_refuses(folder, tmp_path, s2s, capsys, options, message):  # noqa: F811
    words = [f"store=[{folder}/pairs,{folder}/texts]", "task=mixture", *SIZE]
    assert s2s("train", *words, *options, f"run={tmp_path}/run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_task_is_refused(folder):  # noqa: F811
    task = MixtureTask.setup(Store(folder / "texts"))
    with pytest.raises(UserError, match="data: was made for task=multi_source; task=mixture reads stores of transl"):
        task.of_store("multi_source", "data")
