"""A model that reads a tag gets it in training, validation, search, the library's call and the server."""

import contextlib
import json

import pytest
import torch

import s2s as package
from s2s import registry
from s2s.checkpoint.loading import load_model
from s2s.criterions.criterion import Criterion
from s2s.data.batch import Packing, tag_of_positions
from s2s.data.iterator import DataConfig
from s2s.data.store import Store
from s2s.decoding.config import DecodeConfig
from s2s.errors import UserError
from s2s.tasks.translation import TranslationTask
from s2s.training.distributed import Ranks
from s2s.training.validation import Validator
from tests.conftest import _call
from tests.serving.server import ask, serving

LETTERS = "abcdefgh"
OTHER = dict(zip(LETTERS, LETTERS[1:] + LETTERS[0], strict=True))  # what a letter is in the language `next`
TRAIN = ["model=tagged", "model.dropout=0", "criterion=likelihood", "data.batch_tokens=80", "optim.lr=5e-3",
         "optim.warmup_updates=10", "train.max_updates=240", "train.valid_updates=120",
         "train.valid_metrics=[loss,exact_match]", "data.batching=packed", "device=cpu",
         *(f"model.{side}.{key}" for side in ("encoder", "decoder")
           for key in ("layers=1", "width=32", "ffn_width=64", "heads=2"))]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stores of letters that stay what they are (`same`) or become the next one (`next`), and a run on both."""
    folder = tmp_path_factory.mktemp("tags")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.COMPONENTS["model"], "tagged", "tests.tasks.tagged_model:TaggedTransformer")
        for name, times in (("train", 10), ("valid", 1)):
            lines = list(LETTERS) * times
            for side, text in (("src", lines), ("same", lines), ("next", [OTHER[line] for line in lines])):
                (folder / f"{name}.{side}").write_text("".join(f"{line}\n" for line in text))
        words = ["source=src", f"train={folder}/train", f"valid={folder}/valid", "workers=1"]
        same, other = folder / "same", folder / "next"
        assert _call(patch, "s2s_cli.preprocess", *words, "target=same", "tokenizer=words", f"store={same}") == 0
        words += [f"tokenizer_from={same}", "target=next"]
        assert _call(patch, "s2s_cli.preprocess", *words, f"store={other}") == 0
        assert _call(patch, "s2s_cli.train", f"store=[{same},{other}]", f"run={folder}/run", *TRAIN) == 0
        yield folder


def written(language: str) -> list[str]:
    return [letter if language == "same" else OTHER[letter] for letter in LETTERS]


def test_validation_gives_each_sentence_its_own_tag(folder):
    events = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["exact_match"] for event in events if event["kind"] == "valid"][-1] == 100


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("options", [{}, {"beam_size": 1}, {"search": "sample", "temperature": 0.01}])
def test_the_librarys_call_takes_tags_of_all_lines_or_of_each(folder, backend, options):
    translator = package.load(folder / "run", device="cpu", backend=backend)
    for language in ("same", "next"):
        tags = {"target_language": language}
        assert list(translator.translate(list(LETTERS), tags=tags, **options)) == written(language)
    languages = ["same", "next"] * 4
    found = list(translator.translate(list(LETTERS), tags=[{"target_language": one} for one in languages], **options))
    assert found == [written(language)[i] for i, language in enumerate(languages)]


def test_the_command_takes_them_from_the_line_a_file_or_the_store(folder, s2s, capsys, standard_input):
    words = [f"checkpoint={folder}/run", "device=cpu"]
    source = f"input={folder}/valid.src"
    assert s2s("generate", *words, source, "tags=[target_language=next]") == 0
    assert capsys.readouterr().out.split() == written("next")
    lines = ["", "target_language=next"] * 4
    (folder / "tags").write_text("".join(f"{line}\n" for line in lines))
    both = [f"line_tags={folder}/tags", "tags=[target_language=same]"]
    assert s2s("generate", *words, source, *both) == 0
    assert capsys.readouterr().out.split() == [written(("same", "next")[i % 2])[i] for i in range(8)]
    assert s2s("generate", *words, f"store={folder}/next", "split=valid") == 0
    assert capsys.readouterr().out.split() == written("next")
    assert s2s("generate", *words, f"store={folder}/next", "split=valid", "tags=[target_language=same]") == 0
    assert capsys.readouterr().out.split() == written("same")
    scores = []
    for language in ("same", "next"):
        given = [source, f"target={folder}/valid.same", f"tags=[target_language={language}]"]
        assert s2s("generate", *words, "mode=score", "format=json", *given) == 0
        scores.append(sum(json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()))
    assert scores[0] > scores[1] + 8  # nats


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the tag target_language is missing, which the model reads: target_language=same|next"),
        (["tags=[target_language=nxt]"], "does not know this value of the tag; did you mean 'next'?"),
        (["tags=[corpus=a]"], "corpus=a: the model does not read this tag; it reads target_language"),
        (["tags=[next]"], "'next' is not a tag; write NAME=VALUE"),
        (["line_tags=FILE"], "FILE:2: target_language=nxt"),
        (["line_tags=BLANK"], "BLANK:1: the tag target_language is missing, which the model reads"),
    ],
)
def test_what_is_wrong_with_tags_is_said(folder, tmp_path, s2s, capsys, given, message):
    file = tmp_path / "tags"
    file.write_text("target_language=next\ntarget_language=nxt\n" + "target_language=same\n" * 6)
    (tmp_path / "blank").write_text(8 * "\n")
    put = lambda text: text.replace("FILE", str(file)).replace("BLANK", str(tmp_path / "blank"))  # noqa: E731
    given = list(map(put, given))
    assert s2s("generate", f"checkpoint={folder}/run", f"input={folder}/valid.src", "device=cpu", *given) == 2
    assert put(message) in capsys.readouterr().err


def test_the_text_of_an_output_may_look_at_its_source(folder, s2s, capsys, monkeypatch):
    """Everywhere where text is made of hypotheses."""
    monkeypatch.setattr(TranslationTask, "text", lambda self, ids, source: f"{self.source_tokenizer.decode(source)}!")
    expected, tags = [f"{letter}!" for letter in LETTERS], {"target_language": "same"}
    translator = package.load(folder / "run", device="cpu")
    assert list(translator.translate(list(LETTERS), tags=tags)) == expected
    assert list(translator.translate(list(LETTERS), tags=tags, n_best=3, mbr="chrf")) == expected
    words = [f"checkpoint={folder}/run", f"input={folder}/valid.src", "tags=[target_language=same]", "device=cpu"]
    assert s2s("generate", *words) == 0
    assert capsys.readouterr().out.split() == expected
    with serving(translator) as (port, _):
        assert ask(port, lines=list(LETTERS), tags=tags)[2]["translations"] == expected
    store = Store(folder / "same")
    model, task, _ = load_model(str(folder / "run"))
    validator = Validator(task, store.split("valid"), task.criterion(Criterion.Config()), ["exact_match"],
                          DecodeConfig(), DataConfig(), 3, False, Ranks())  # fmt: skip
    found = validator(model, torch.device("cpu"), contextlib.nullcontext(), lambda: None)
    assert found.values["exact_match"] == 0  # the references have no exclamation marks
    assert all(hypothesis == f"{source}!" for source, _, hypothesis in found.samples)


def test_a_library_call_with_wrong_tags_is_refused(folder):
    translator = package.load(folder / "run", device="cpu")
    with pytest.raises(UserError, match="the tag target_language is missing"):
        translator.translate(["a"])
    with pytest.raises(UserError, match="tags, line 2: target_language=other"):
        list(translator.translate(["a", "b"], tags=[{"target_language": "next"}, {"target_language": "other"}]))
    with pytest.raises(UserError, match="as many as lines"):
        list(translator.translate(["a", "b"], tags=[{"target_language": "next"}]))


def test_the_server_decodes_requests_of_other_tags_together(folder):
    translator = package.load(folder / "run", device="cpu")
    with serving(translator, wait=0.2) as (port, batcher):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as threads:
            asked = [threads.submit(ask, port, lines=list(LETTERS), tags={"target_language": language})
                     for language in ("same", "next")]  # fmt: skip
            answers = [one.result()[2]["translations"] for one in asked]
        assert answers == [written("same"), written("next")]
        assert batcher.metrics.batches._value.get() == 1
        status, _, content = ask(port, lines=["a"], tags={"target_language": "nxt"})
        assert (status, "did you mean 'next'" in content["error"]) == (400, True)
        status, _, content = ask(port, lines=["a"])
        assert (status, "is missing" in content["error"]) == (400, True)


def test_a_tag_that_the_data_do_not_have_and_a_value_that_is_only_validated_are_refused(folder, tmp_path, s2s, capsys):
    words = [f"run={tmp_path}/run", *TRAIN, "train.max_updates=1"]
    with pytest.MonkeyPatch.context() as patch:
        from tests.tasks.tagged_model import TaggedEncoder

        patch.setattr(TaggedEncoder, "tags", ("speaker",))
        assert s2s("train", f"store={folder}/same", *words) == 2
        assert "reads the tag speaker of the examples; they have corpus, source_language" in capsys.readouterr().err
        patch.setattr(TaggedEncoder, "tags", ("corpus",))
        assert s2s("train", f"store={folder}/same", *words) == 2
        assert f"split 'valid', corpus {folder}/valid: corpus={folder}/valid: the model" in capsys.readouterr().err


def test_models_that_decode_together_read_the_same_tags(folder, tmp_path, s2s, capsys):
    plain = ["model=transformer_tiny", *TRAIN[1:], "train.max_updates=1", "train.valid_metrics=[loss]"]
    assert s2s("train", f"store=[{folder}/same,{folder}/next]", f"run={tmp_path}/plain", *plain) == 0
    with pytest.raises(UserError, match=r"has other tags, none against target_language \(same\|next\) of"):
        package.load([folder / "run", tmp_path / "plain"], device="cpu")
    assert s2s("average", f"checkpoint={folder}/run", "last=1", f"output={tmp_path}/mean") == 0
    translator = package.load([folder / "run", tmp_path / "mean"], device="cpu")
    assert list(translator.translate(list(LETTERS), tags={"target_language": "next"})) == written("next")
    taught = ["criterion.terms=[cross_entropy,distillation]", f"criterion.distillation.teachers=[{folder}/run]"]
    capsys.readouterr()
    assert s2s("train", f"store=[{folder}/same,{folder}/next]", f"run={tmp_path}/taught", *plain, *taught) == 2
    assert "has other tags, target_language (same|next) against none" in capsys.readouterr().err


def test_a_model_without_tags_takes_none(store, tmp_path, s2s, capsys):
    small = ["train.max_updates=1", "train.samples=0", *TRAIN[10:]]
    assert s2s("train", f"store={store}", f"run={tmp_path}/run", "model=transformer_base", *small) == 0
    capsys.readouterr()
    assert s2s("generate", f"checkpoint={tmp_path}/run", f"input={store}/manifest.json", "tags=[corpus=a]") == 2
    assert "corpus=a: the model does not read this tag; it reads none" in capsys.readouterr().err


def test_each_position_of_packed_rows_has_the_tag_of_its_example():
    segments = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 1, 1]])
    positions = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 1, 2, 2]])
    tag = torch.tensor([4, 5, 6, 7, 8])
    assert tag_of_positions(tag, Packing(segments, positions)).tolist() == [[4, 4, 5, 6, 6], [7, 8, 8, 8, 8]]
    assert tag_of_positions(tag, None).tolist() == [[4], [5], [6], [7], [8]]
