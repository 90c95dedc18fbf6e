"""task=mixture: pairs and noised lines in one run."""

import json

import numpy as np
import pytest

from s2s.data.iterator import DataConfig, Draw
from s2s.data.store import Store, Stores
from s2s.tasks.denoising import DenoisingConfig, DenoisingTask
from s2s.tasks.mixture import MixtureTask
from s2s.tasks.translation import TranslationTask
from tests.tasks.test_denoising import SIZE, folder  # noqa: F401
from tests.training.test_resume import same_bits


@pytest.fixture
def words(folder):  # noqa: F811
    return [f"store=[{folder}/pairs,{folder}/texts]", "task=mixture", *SIZE]


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


def test_a_mixture_trains_resumes_and_decodes(folder, words, tmp_path, s2s):  # noqa: F811
    options = [*words, "data.weights=[3,1]"]
    options += ["train.max_updates=8", "train.valid_metrics=[loss,chrf]", "task.denoising.noise=spans"]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert s2s("train", *options, f"run={whole}") == 0
    for updates in (4, 8):
        assert s2s("train", *options, f"run={pieces}", f"train.max_updates={updates}") == 0
    last = json.loads((whole / "last/state.json").read_text())["progress"]["last_metrics"]
    assert {"chrf.translation.src-tgt", "chrf.denoising.tgt-tgt"} <= set(last)
    assert s2s("generate", f"checkpoint={whole}", f"input={folder}/valid.src", f"output={tmp_path}/out",
               "device=cpu") == 0  # fmt: skip
    assert len((tmp_path / "out").read_text().splitlines()) == 8
    same_bits(whole, pieces)


@pytest.mark.parametrize(("options", "message"), [
    (["task.tasks=[translation]"], "was made for task=denoising, which is not in task.tasks=[translation]"),
    (["task.tasks=[translation,multi_source]"], "a mixture has translation and denoising"),
    (["task.target_tag=target_language"], "task.target_tag: does not go with task=mixture"),
    (["task.denoising.first_tag=corpus"], "tags belong to the mixture"),
])  # fmt: skip
def test_what_a_mixture_refuses(words, tmp_path, s2s, capsys, options, message):
    assert s2s("train", *words, *options, f"run={tmp_path}/run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
