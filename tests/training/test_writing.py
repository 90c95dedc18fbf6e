"""Terms that learn from texts which a model writes before each update."""

import pytest
import torch

from s2s.criterions.forward import Run
from s2s.data.store import Stores
from s2s.decoding.compose import generator_of
from s2s.text.vocabulary import BOS, EOS, PAD
from s2s.training.initialise import make_criterion
from s2s.training.writing import Writer
from tests.training.test_distributed import assert_one_run, finished
from tests.training.test_resume import same_bits, words

SHORT = ["train.max_updates=4", "train.checkpoint_updates=100", "train.valid_updates=100", "decode.max_length_a=1",
         "decode.max_length_b=2", "criterion.cross_entropy.weight=0"]  # fmt: skip
TERMS = {
    "minimum_risk": [
        "criterion=minimum_risk",
        "criterion.minimum_risk.samples=3",
        "criterion.minimum_risk.reward=chrf",
    ],
    "reinforce": ["criterion=reinforce", "criterion.reinforce.samples=2", "criterion.reinforce.reward=wer"],
}
UPDATES = {"scheduled_sampling": ["criterion=scheduled_sampling", "criterion.scheduled_sampling.updates=1"]}


@pytest.mark.parametrize("term", [*TERMS, *UPDATES])
def test_resumed_runs_have_the_bits_of_whole_ones(store, tmp_path, s2s, term):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    options = [*{**TERMS, **UPDATES}[term], *SHORT]
    assert s2s("train", *words(store, whole, *options)) == 0
    for updates in (1, 4):
        assert s2s("train", *words(store, pieces, *options, f"train.max_updates={updates}")) == 0
    same_bits(whole, pieces)


@pytest.mark.slow
@pytest.mark.parametrize("term", TERMS)
def test_one_and_two_processes_make_the_same_run(store, tmp_path, s2s, together, term):
    one, two = tmp_path / "one", tmp_path / "two"
    options = [*TERMS[term], *SHORT, "data.group=2", "optim.eps=1e-4"]
    assert s2s("train", *words(store, one, *options, "train.accumulate=2")) == 0
    finished(together(2, store, two, *options))
    assert_one_run(one, two)


@pytest.fixture
def writer(store, s2s, tmp_path, monkeypatch):
    """writer(option, ...) is a Writer, with its task and its model as they are before the first update."""

    def make(*options):
        seen = {}

        def catch(config, *args, **more):
            from s2s.tasks.translation import TranslationTask

            data = Stores(config.store)
            seen["task"] = task = TranslationTask.setup(data, "none", config.task)
            seen["model"] = task.model(config.model)
            seen["dataset"] = task.dataset(data.split("train"))
            seen["writer"] = Writer(config, task, make_criterion(config, task, torch.device("cpu")))

        with monkeypatch.context() as patch:
            patch.setattr("s2s.training.run.train", catch)
            assert s2s("train", *words(store, tmp_path / "none", *options)) == 0
        return seen

    return make


def test_the_present_weights_write_and_the_model_trains_on(writer):
    made = writer(*TERMS["reinforce"], *SHORT)
    model, dataset, write = made["model"].train(), made["dataset"], made["writer"]
    batches = [dataset.collate([3, 8, 21]), None, dataset.collate([5, 2])]
    first, none, _ = write(model, batches, 7)
    assert model.training
    assert none is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    ids, lengths = first.columns["reinforce.ids"], first.columns["reinforce.lengths"]
    assert ids.shape[:2] == lengths.shape == (3, 2)
    # Whatever is written with it, and whoever writes it, an example has the same samples; at another update others.
    (alone,) = write(model, [dataset.collate([8])], 7)
    n = int(lengths[1, 0])
    assert alone.columns["reinforce.ids"][0, 0, :n].equal(ids[1, 0, :n])
    (again,) = write(model, [dataset.collate([3, 8, 21])], 8)
    assert not (again.columns["reinforce.lengths"].equal(lengths) and again.columns["reinforce.ids"].equal(ids))
    # The baseline is the greedy output of these weights, not of those before.
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p)
    (changed,) = write(model, [dataset.collate([3, 8, 21])], 7)
    options = write.wanted[1][2]
    assert options.beam_size == 1
    task, sources = made["task"], made["task"].inputs(dataset.split, [3, 8, 21])
    texts = [task.text(best.ids, None) for (best,) in generator_of(task, [model.eval()], options).generate(sources)]
    references = [task.text(dataset.split.row("target.tokens", i).tolist(), None) for i in (3, 8, 21)]
    rewards = write.wanted[0][0].rewards(texts, references)
    assert changed.columns["reinforce.greedy"].tolist() == pytest.approx(rewards)


@pytest.mark.parametrize(("options", "message"), [
    (["data.batching=packed"], "does not go with data.batching=packed"),
    (["train.calibrate=true"], "does not go with train.calibrate=true"),
    (["criterion.reinforce.reward=language_accuracy"], "needs language="),
    (["criterion.reinforce.command=wc"], "does nothing without"),
])  # fmt: skip
def test_what_does_not_go_with_it(store, tmp_path, s2s, capsys, options, message):
    assert s2s("train", *words(store, tmp_path / "run", *TERMS["reinforce"], *options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_pupil_learns_what_its_teacher_writes(store, tmp_path, s2s, writer):
    teacher = tmp_path / "teacher"
    assert s2s("train", *words(store, teacher, "train.max_updates=3", "train.valid_updates=100")) == 0
    name = "criterion.sequence_distillation"
    options = ["criterion=sequence_distillation", f"{name}.teachers={teacher}", f"{name}.decode.beam_size=2",
               f"{name}.decode.max_length_b=3", "model.dropout=0"]  # fmt: skip
    made = writer(*options)
    model, dataset, write = made["model"].train(), made["dataset"], made["writer"]
    (batch,) = write(model, [dataset.collate([3, 8, 21])], 1)
    (term, (_, teachers, _), decode) = write.wanted[0]
    generator = generator_of(made["task"], teachers, decode)
    texts = [best.ids for (best,) in generator.generate(made["task"].inputs(dataset.split, [3, 8, 21]))]
    assert term.count(batch) == sum(map(len, texts)) + 3
    # The term is the cross-entropy of a batch with these targets.
    loss = term(Run(model, batch)).sum
    width = max(map(len, texts)) + 1
    rows = torch.tensor([[*ids, EOS, *[PAD] * (width - 1 - len(ids))] for ids in texts])
    shown = torch.tensor([[BOS, *ids, *[PAD] * (width - 1 - len(ids))] for ids in texts])
    logits = model.decode(model.encode(batch.sources), shown).logits()
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows.flatten(), ignore_index=PAD, reduction="sum",
                                               label_smoothing=0.1)  # fmt: skip
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-4)
    # Of several texts, the one that is most like the target.
    made = writer(*options, f"{name}.decode.n_best=2", f"{name}.closest=wer")
    term = made["writer"].wanted[0][0]
    target = [batch.target[i, : int(batch.target_lengths[i]) - 1].tolist() for i in range(3)]
    several = [[[*ids, ids[0]], ids] for ids in target]
    columns = term.written(batch, [several], lambda row, ids: made["task"].text(ids, None))
    assert columns["sequence_distillation.lengths"][:, 0].equal(batch.target_lengths)
    assert s2s("train", *words(store, tmp_path / "pupil", *options, *SHORT)) == 0


def test_several_texts_are_asked_for_where_one_is_chosen(store, tmp_path, s2s, capsys):
    options = ["criterion=sequence_distillation", "criterion.sequence_distillation.closest=wer"]
    assert s2s("train", *words(store, tmp_path / "run", *options)) == 2
    assert "set criterion.sequence_distillation.decode.n_best" in capsys.readouterr().err
    assert s2s("train", *words(store, tmp_path / "run", options[0])) == 2
    assert "teachers: requires at least one checkpoint" in capsys.readouterr().err
