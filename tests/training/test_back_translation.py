"""The term back_translation: sources that the present model, or a teacher, writes for lines without translations."""

import pytest
import torch

from s2s.criterions.forward import Run
from s2s.data.store import Stores
from s2s.decoding.compose import generator_of
from s2s.tasks.mixture import MixtureTask
from s2s.tasks.translation import TranslationTask, closed
from s2s.text.vocabulary import EOS, PAD, UNK
from s2s.training.initialise import make_criterion
from s2s.training.writing import Writer
from tests.conftest import _call, write_corpus
from tests.tasks.test_denoising import SIZE
from tests.training import test_resume
from tests.training.conftest import together  # noqa: F401
from tests.training.test_distributed import assert_one_run, finished

NAME = "criterion.back_translation"
TERM = ["criterion=back_translation", f"{NAME}.decode.max_length_b=2", f"{NAME}.decode.max_length_a=1",
        "train.valid_updates=100"]  # fmt: skip
LIVE = ["task=mixture", "task.first_tag=target_language", *SIZE, *TERM]
NOISED = [f"{NAME}.symbol=<written>", f"{NAME}.noise=0.3", f"{NAME}.decode.search=sample"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stores of pairs in both directions, of pairs of each, and of lines of each language; one vocabulary."""
    folder = tmp_path_factory.mktemp("back")
    write_corpus(folder, {"train": 24, "valid": 4})
    words = [f"train={folder}/train", f"valid={folder}/valid", "workers=1"]
    marks = "tokenizer.reserved=[<mask>,<written>]"
    stores = {"pairs": ["languages=[src-tgt,tgt-src]", "tokenizer=characters", marks],
              "src": ["task=denoising", "target=src"], "tgt": ["task=denoising", "target=tgt"],
              "forth": ["source=src", "target=tgt"], "back": ["source=tgt", "target=src"]}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, own in stores.items():
            own = own if name == "pairs" else [*own, f"tokenizer_from={folder}/pairs"]
            assert _call(patch, "s2s_cli.preprocess", *words, *own, f"store={folder}/{name}") == 0
    return folder


def stores(folder, *names: str) -> str:
    return "[" + ",".join(f"{folder}/{name}" for name in names) + "]"


@pytest.fixture
def writer(tmp_path, s2s, monkeypatch):
    """writer(kind, option, ...) is what a run has before its first update."""

    def make(kind, *options):
        seen = {}

        def catch(config, *args, **more):
            data = Stores(config.store, mixed=kind.mixes)
            seen["task"] = task = kind.setup(data, "none", config.task)
            seen["model"] = task.model(config.model)
            criterion = make_criterion(config, task, torch.device("cpu"))
            seen["term"] = criterion.terms[1]
            seen["writer"] = Writer(config, task, criterion)
            seen["dataset"] = task.dataset(data.split("train"))

        with monkeypatch.context() as patch:
            patch.setattr("s2s.training.run.train", catch)
            assert s2s("train", *options, f"run={tmp_path}/none") == 0
        return seen

    return make


@pytest.mark.parametrize("noise", ["bart", "mass"])
def test_the_model_writes_sources_of_lines_and_learns_the_lines(folder, writer, noise):
    """Against decoding and cross-entropy by hand, for one line of each language; pairs get no text."""
    made = writer(
        MixtureTask,
        f"store={stores(folder, 'pairs', 'src', 'tgt')}",
        f"task.noise={noise}",
        *LIVE,
        f"{NAME}.symbol=<written>",
        f"{NAME}.noise=0.4",
        f"{NAME}.label_smoothing=0",
        "model.dropout=0",
    )
    task, model, dataset, term = (made[name] for name in ("task", "model", "dataset", "term"))
    numbers = [5, 50, 30, 90]  # a pair, a line of src, a pair, a line of tgt
    (batch,) = made["writer"](model, [dataset.collate(numbers)], 1)
    texts = {1: dataset.split.row("target.tokens", 50).tolist(), 3: dataset.split.row("target.tokens", 90).tolist()}
    total, count = 0.0, 0
    reserved = task.target_tokenizer.vocabulary.reserved
    for row, (of_text, written) in {1: ("src", "tgt"), 3: ("tgt", "src")}.items():
        (source,) = task.tagged([texts[row]], {"target_language": written})
        ((best,),) = generator_of(task, [model.eval()], made["writer"].wanted[0][2]).generate([source])
        ids = batch.columns["back_translation.ids"][row, : batch.columns["back_translation.lengths"][row]].tolist()
        assert (ids[0], ids[-1]) == (reserved["<written>"], EOS)
        assert len(ids) == len(best.ids) + 2
        assert all(ours in (UNK, theirs) for ours, theirs in zip(ids[1:-1], best.ids, strict=True))
        target = torch.tensor([[*texts[row], EOS]])
        shown = torch.tensor([[reserved[f"<{of_text}>"], *texts[row]]])
        logits = model.decode(model.encode((closed([ids[:-1]]),)), shown).logits()
        total += torch.nn.functional.cross_entropy(logits[0], target[0], reduction="sum")
        count += target.numel()
    assert batch.columns["back_translation.lengths"][[0, 2]].tolist() == [0, 0]
    assert UNK in batch.columns["back_translation.ids"][[1, 3]]
    assert term.count(batch) == count
    torch.testing.assert_close(term(Run(model, batch)).sum, total, rtol=1e-5, atol=1e-4)
    (pairs,) = made["writer"](model, [dataset.collate([5, 30])], 1)
    assert (term.count(pairs), float(term(Run(model, pairs)).sum)) == (0, 0.0)


def test_a_teacher_of_the_other_direction_writes(folder, writer, tmp_path, s2s):
    words = [*SIZE, "train.max_updates=1", f"run={tmp_path}/teacher"]
    assert s2s("train", f"store={folder}/back", *words) == 0
    options = [*TERM, *SIZE, f"{NAME}.teachers=[{tmp_path}/teacher]", f"{NAME}.decode.beam_size=2"]
    made = writer(MixtureTask, f"store={stores(folder, 'forth', 'tgt')}", "task=mixture", *options)
    (batch,) = made["writer"](made["model"], [made["dataset"].collate([3, 30])], 1)
    source = made["dataset"].split.row("target.tokens", 30).tolist()
    teachers = made["term"].teachers
    ((best,),) = generator_of(made["task"], teachers, made["writer"].wanted[0][2]).generate([source])
    ids = batch.columns["back_translation.ids"].tolist()
    assert [i for i in ids[1] if i != PAD] == [*best.ids, EOS]
    assert s2s("train", f"store={stores(folder, 'forth', 'tgt')}", "task=mixture", *options, "train.max_updates=2",
               f"run={tmp_path}/run") == 0  # fmt: skip
    # Without a mixture, all targets are translated.
    made = writer(TranslationTask, f"store={folder}/forth", *options)
    (batch,) = made["writer"](made["model"], [made["dataset"].collate([3, 4])], 1)
    assert (batch.columns["back_translation.lengths"] > 0).all()


def test_resumed_runs_have_the_bits_of_whole_ones(folder, tmp_path, s2s):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    words = [f"store={stores(folder, 'pairs', 'src', 'tgt')}", *LIVE, *NOISED]
    assert s2s("train", *words, f"run={whole}", "train.max_updates=4") == 0
    for updates in (2, 4):
        assert s2s("train", *words, f"run={pieces}", f"train.max_updates={updates}") == 0
    test_resume.same_bits(whole, pieces)


@pytest.mark.slow
def test_one_and_two_processes_make_the_same_run(folder, tmp_path, s2s, together):  # noqa: F811
    one, two, store = tmp_path / "one", tmp_path / "two", stores(folder, "pairs", "src", "tgt")
    options = [*LIVE, *NOISED, "train.max_updates=4", "data.group=2", "optim.eps=1e-4"]
    assert s2s("train", *test_resume.words(store, one, *options, "train.accumulate=2")) == 0
    finished(together(2, store, two, *options))
    assert_one_run(one, two)


@pytest.mark.parametrize(("names", "options", "message"), [
    ("forth tgt", [], "the model must know the language to write, of two or more"),
    ("pairs src", ["task.first_tag=target_language", f"{NAME}.symbol=<bt>"], "the vocabulary does not reserve it"),
    ("pairs src", ["task.first_tag=target_language", "data.batching=packed"], "does not go with data.batching=packed"),
])  # fmt: skip
def test_what_is_refused(folder, tmp_path, s2s, capsys, names, options, message):
    words = [f"store={stores(folder, *names.split())}", "task=mixture", *SIZE, *TERM, *options, f"run={tmp_path}/run"]
    assert s2s("train", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
