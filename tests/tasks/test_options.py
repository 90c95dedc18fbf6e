"""Every option of the data and of the criterion does something, or says what it is for, in every kind of training."""

import contextlib
import copy
import dataclasses
import random
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from s2s.config import compose, schema
from s2s.data.store import Stores
from s2s.decoding.compose import generator_of
from s2s.errors import UserError
from s2s.registry import find
from s2s.training.distributed import Ranks
from s2s.training.initialise import make_criterion
from s2s.training.run import _check_data, _iterator
from s2s_cli.train import TrainCommand
from tests.conftest import _call
from tests.tones import write_tones

SPEECH = ["task=speech_to_text", "model=conformer_tiny", "model.encoder.layers=1", "data.batch_tokens=300"]
KINDS = {
    "translation": [
        "model=transformer_tiny",
        "model.encoder.layers=1",
        "model.decoder.layers=1",
        "data.batch_tokens=60",
    ],
    "language_modeling": ["task=language_modeling", "model=transformer_lm_tiny", "data.batch_tokens=60"],
    "attention": [*SPEECH, "model.ctc=false", "criterion=cross_entropy"],
    "ctc": [*SPEECH, "model.decoder.layers=0", "criterion=ctc"],
    "joint": [*SPEECH, "model.decoder.layers=1"],
}
SMALL = {"data.batch_tokens": 100, "data.quadratic": 10, "data.max_length": 4, "data.pool": 7, "data.row_tokens": 16,
         "data.batch_sentences": 1, "data.buckets": [2], "criterion.ctc.weight": 0.7}  # fmt: skip
# What an option needs beside it, as its help says.
WITH = {"data.buckets": ("data.batching", "bucket_1d"), "data.row_tokens": ("data.batching", "packed")}
WITHOUT = {
    "data.verify": "reads what is there",
    "data.stages": "its options are those of data",
    "data.cost": "another word for what is so by itself: a source of frames is the longer side, one of a model of "
    "language has one token",
}


def values(leaf: schema.Leaf) -> Iterator[Any]:
    """Other values of an option."""
    if leaf.key in SMALL:
        yield SMALL[leaf.key]
    elif choices := leaf.metadata.get("choices"):
        yield from (choice for choice in choices if choice != leaf.default)
    elif isinstance(leaf.default, bool):
        yield not leaf.default
    elif isinstance(leaf.default, (int, float)):
        yield leaf.default + (1 if isinstance(leaf.default, int) else 0.25)
    else:
        yield [0.9, 0.5] if leaf.is_list else 3


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store of lines, and one of waveforms."""
    folder, rng = tmp_path_factory.mktemp("options"), random.Random(1)
    rows = [" ".join("".join(rng.choices("abcd", k=2)) for _ in range(rng.randint(1, 6))) for _ in range(80)]
    (folder / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(rows[:40], rows[40:], strict=True)))
    write_tones(folder, {"train": 40}, text_of=" ".join)
    with pytest.MonkeyPatch.context() as patch:
        for words in (
            [f"train={folder}/a.tsv", "keep_text=true", f"store={folder}/text"],
            ["task=speech_to_text", f"train={folder}/train.tsv", "features.sample_rate=8000", "features.bins=20",
             "features.keep=waveform", f"store={folder}/speech"],
        ):  # fmt: skip
            assert _call(patch, "s2s_cli.preprocess", "tokenizer=characters", "workers=1", *words) == 0
    return folder


def seen(config: TrainCommand, changes: dict[str, Any]) -> list:
    """What training sees in two epochs: batches, and the loss of the first three. Raises UserError."""
    config = copy.deepcopy(config)
    for key, value in changes.items():
        section, *names, name = key.split(".")
        place = getattr(config, section)
        for one in names:
            place = schema.section(place, one)
        setattr(place, name, value)
    schema.check(config)
    stores = Stores(config.store)
    task = find("task", config.task.type).setup(stores, config.data.target_transform, config.task)
    torch.manual_seed(1)
    model = task.model(config.model).train()
    criterion = make_criterion(config, task, torch.device("cpu"))
    criterion.check(model)
    dataset = task.dataset(stores.split("train"))
    _check_data(config, task, dataset, model)
    found = []
    iterator = _iterator(config, dataset, torch.device("cpu"), Ranks())
    for batch in chain(iterator.rest_of_epoch(), iterator.rest_of_epoch()):
        found.append([batch.ids.tolist(), batch.target.tolist()])
        if len(found) <= 3:
            torch.manual_seed(1)
            loss = criterion(model, batch)
            found[-1] += [loss.sum.item(), {name: value.item() for name, value in loss.metrics.items()}]
    return found


SLOW = ("translation", "attention", "joint")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in KINDS])
def test_an_option_does_something_or_is_an_error(stores, kind):
    store = stores / ("speech" if KINDS[kind][0] == SPEECH[0] else "text")
    config = compose.compose(TrainCommand, [("store", str(store)), *(word.split("=", 1) for word in KINDS[kind])])
    nothing, told, plain = [], {}, {}
    for leaf in chain(schema.leaves(config.data, "data."), schema.leaves(config.criterion, "criterion.")):
        if leaf.key in (*WITHOUT, "criterion.terms", "data.transforms") or leaf.key.endswith(".type"):
            continue
        beside = (WITH[leaf.key],) if leaf.key in WITH else ()
        for value in values(leaf):
            try:
                found = seen(config, {**dict(beside), leaf.key: value})
                if found == (
                    plain[beside] if beside in plain else plain.setdefault(beside, seen(config, dict(beside)))
                ):
                    nothing.append(f"{leaf.key}={value}")
            except UserError as error:
                told[leaf.key] = str(error)
    assert nothing == []
    assert all(key.rpartition(".")[0] in text for key, text in told.items())


BESIDE = {"long_source": {"max_source": 2}}  # what makes an option count
HOW = ("batch_tokens", "slots", "buffer", "backend", "dtype", "on_error", "max_source")  # not what is found
FILES = (
    "forbidden",
    "allowed",
    "language_model",
    "shortlist",
)  # they are told where they are, or that they are missing
OF_SEVERAL = ("ensemble", "ensemble_weights")  # models
ALIGNMENT = ("alignment_layer", "alignment_head")  # commands know what else reads them, and check
LENGTHS = ("max_length_a", "max_length_b")  # a preset sets them, and no path of CTC is longer
DECODE = {"beam_size": 2, "n_best": 2, "min_length_b": 9, "word_reward": 2.0, "length_penalty": -3.0, "top_p": 0.5,
          "diverse_groups": 5, "exit_layer": 1, "chunk_seconds": 1.0, "auxiliary_weights": [0.5], "eos_scale": 0.3,
          "ctc_weight": 0.5}  # fmt: skip


def test_an_option_of_decoding_by_ctc_does_something_or_is_an_error(stores):
    words = [("store", str(stores / "speech")), *(word.split("=", 1) for word in KINDS["ctc"])]
    config = compose.compose(TrainCommand, words)
    split = Stores(config.store).split("train")
    task = find("task", config.task.type).setup(Stores(config.store), "none")
    torch.manual_seed(3)
    model = task.model(config.model).eval()
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.35)

    def found(**changes):
        decode = dataclasses.replace(config.decode, backend="eager", **changes)
        schema.check(decode, "decode.")
        hypotheses = generator_of(task, [model], decode).generate(task.inputs(split, np.arange(6)))
        return [[(one.ids, one.score) for one in of_one] for of_one in hypotheses]

    nothing, plain = [], found()
    for leaf in schema.leaves(config.decode):
        if leaf.key in (*HOW, *FILES, *OF_SEVERAL, *ALIGNMENT, *LENGTHS, "search.type", "scorers", "rules"):
            continue
        for value in [DECODE[leaf.key]] if leaf.key in DECODE else values(leaf):
            with contextlib.suppress(UserError):
                beside = BESIDE.get(leaf.key, {})
                if found(**{leaf.key: value}, **beside) == (found(**beside) if beside else plain):
                    nothing.append(f"{leaf.key}={value}")
    assert nothing == []
