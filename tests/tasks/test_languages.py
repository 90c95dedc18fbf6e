"""One store of many directions: languages as symbols before the source or as the decoder's first token, shares of an
epoch by direction, and metrics by direction."""

import json

import numpy as np
import pytest
import torch

import s2s as package
from s2s.checkpoint.loading import load_model
from s2s.data.epoch import grouped_quotas, quotas
from s2s.data.store import Store
from s2s.errors import UserError
from s2s.tasks.translation import TranslationConfig, TranslationTask
from s2s.text.vocabulary import BOS, EOS
from tests.conftest import _call
from tests.serving.server import ask, serving

LETTERS = "abcdefgh"
LANGUAGES = ["xa", "xb", "xc"]  # a text in xb has the next letter of that in xa, and one in xc the letter after that
DIRECTIONS = "languages=[xa-xb,xa-xc,xb-xa,xc-xa]"
TRAIN = ["model.dropout=0", "criterion=likelihood", "data.batch_tokens=300", "optim.lr=5e-3", "device=cpu",
         "optim.warmup_updates=10", "train.max_updates=200", "train.valid_updates=200", "decode.beam_size=2",
         "train.valid_metrics=[loss,exact_match,chrf]", "data.temperature=2", "data.shares=language",
         *(f"model.{side}.{key}" for side in ("encoder", "decoder")
           for key in ("layers=1", "width=32", "ffn_width=64", "heads=2"))]  # fmt: skip


def said(language: str, letters: str = LETTERS) -> list[str]:
    shift = LANGUAGES.index(language)
    return [LETTERS[(LETTERS.index(letter) + shift) % len(LETTERS)] for letter in letters]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of four directions, and runs whose decoders are told the language by their first token."""
    folder = tmp_path_factory.mktemp("languages")
    for name, times in (("train", 10), ("valid", 1)):
        for language in LANGUAGES:
            (folder / f"{name}.{language}").write_text("".join(f"{letter}\n" for letter in said(language) * times))
    with pytest.MonkeyPatch.context() as patch:
        words = [f"train={folder}/train", f"valid={folder}/valid", "workers=1", "tokenizer=words"]
        assert _call(patch, "s2s_cli.preprocess", *words, DIRECTIONS, f"store={folder}/store") == 0
        given = [f"store={folder}/store", "task.first_tag=target_language", *TRAIN]
        assert _call(patch, "s2s_cli.train", *given, f"run={folder}/run") == 0
        given = [f"store={folder}/store", "task.source_tags=[source_language,target_language]", *TRAIN]
        given[given.index("train.max_updates=200")] = "train.max_updates=2"
        assert _call(patch, "s2s_cli.train", *given, "train.valid_updates=2", f"run={folder}/tagged") == 0
        given = ["task.target_tag=target_language" if word.startswith("task.") else word for word in given]
        assert _call(patch, "s2s_cli.train", *given, "train.valid_updates=2", f"run={folder}/forced") == 0
    return folder


def test_a_model_that_is_not_told_the_language_of_its_targets_is_warned_of(folder, s2s, tmp_path, capsys):
    short = [f"store={folder}/store", *TRAIN, "train.max_updates=1", "train.valid_metrics=[loss]", "train.samples=0"]
    warnings = {}
    for run, words in (("plain", []), ("told", ["task.first_tag=target_language"])):
        capsys.readouterr()
        assert s2s("train", *short, *words, f"run={tmp_path / run}") == 0
        warnings[run] = "warning: the targets are in xb, xc, xa" in capsys.readouterr().err
    assert warnings == {"plain": True, "told": False}


def test_each_direction_is_a_corpus_of_the_store(folder):
    store = Store(folder / "store")
    corpora = store.split("train").corpora
    assert [(corpus.source_language, corpus.target_language) for corpus in corpora] == [
        ("xa", "xb"), ("xa", "xc"), ("xb", "xa"), ("xc", "xa")]  # fmt: skip
    assert [corpus.name for corpus in corpora][1] == f"{folder}/train.xa-xc"
    assert (store.source_language, store.target_language) == ("xa,xb,xc", "xb,xc,xa")
    assert set(store.tokenizers()["source"].vocabulary.reserved) == {"<xa>", "<xb>", "<xc>"}


def test_the_decoder_reads_the_language_first(folder):
    store = Store(folder / "store")
    task = TranslationTask.setup(store, config=TranslationConfig(first_tag="target_language"))
    task.tags = {"target_language": task.tag_values["target_language"]}
    split, symbols = store.split("train"), task.target_tokenizer.vocabulary.symbols
    batch = task.dataset(split).collate(np.array([0, 80, 160, 250]))
    assert [symbols[i] for i in batch.decoder_input[:, 0]] == ["<xb>", "<xc>", "<xa>", "<xa>"]
    packed = task.dataset(split).collate(np.array([0, 80, 160]), np.array([3]))
    assert [symbols[i] for i in packed.decoder_input[0]] == ["<xb>", "b", "<xc>", "c", "<xa>", "a"]


def test_the_languages_stand_before_the_source(folder):
    _model, task, _ = load_model(str(folder / "tagged"), torch.device("cpu"))
    dataset, symbols = task.dataset(Store(folder / "store").split("train")), task.source_tokenizer.vocabulary.symbols
    batch = dataset.collate(np.array([80, 160]))
    assert [[symbols[i] for i in row] for row in batch.sources[0].values] == [
        ["<xa>", "<xc>", "a", "</s>"], ["<xb>", "<xa>", "b", "</s>"]]  # fmt: skip
    assert (batch.decoder_input[:, 0] == BOS).all()
    lengths = [side.tolist() for side in dataset.lengths(80, 82)]
    assert lengths == [batch.sources[0].lengths.tolist(), batch.target_lengths.tolist()]
    given = task.tagged([[5, 6], []], {"source_language": "xa", "target_language": "xb"})
    assert [[symbols[i] for i in row] for row in given] == [["<xa>", "<xb>", symbols[5], symbols[6]], []]


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_a_target_begins_with_its_language(folder, backend):
    """In training and in a search, where it costs what the model says, or nothing."""
    _model, task, _ = load_model(str(folder / "forced"), torch.device("cpu"))
    dataset, symbols = task.dataset(Store(folder / "store").split("train")), task.target_tokenizer.vocabulary.symbols
    batch = dataset.collate(np.array([80, 160]))
    for side, expected in ((batch.decoder_input, [["<s>", "<xc>", "c"], ["<s>", "<xa>", "a"]]),
                           (batch.target, [["<xc>", "c", "</s>"], ["<xa>", "a", "</s>"]])):  # fmt: skip
        assert [[symbols[i] for i in row] for row in side] == expected
    assert dataset.lengths(80, 81)[1].tolist() == batch.target_lengths[:1].tolist()
    translator = package.load(folder / "forced", device="cpu", backend=backend)
    given = {"target_language": "xb", "n_best": 3, "hypotheses": True}
    paid, free_of_charge = (translator.translate(list(LETTERS), **given, free_beginning=free) for free in (False, True))
    for some, free in zip(paid, free_of_charge, strict=True):
        assert {each.tokens[0] for each in some + free} == {"<xb>"}
        assert all("<" not in each.text for each in some)
        assert all(each.token_log_probabilities[0] < -0.1 for each in some)
        assert all(each.token_log_probabilities[0] == 0 for each in free)
        by_ids = {tuple(each.ids): each for each in some}
        for each in free:
            assert each.log_probability == pytest.approx(sum(each.token_log_probabilities), abs=1e-5)
            if other := by_ids.get(tuple(each.ids)):
                assert other.token_log_probabilities[1:] == pytest.approx(each.token_log_probabilities[1:], abs=1e-5)
    assert any(tuple(each.ids) in by_ids for each in free)
    with pytest.raises(UserError, match=r"language_model=lm: does not go with task\.target_tag=target_language"):
        list(translator.translate(["a"], target_language="xb", language_model="lm"))
    (prefixed,) = translator.translate(["a"], prefixes=["b"], target_language="xb", hypotheses=True)
    assert prefixed[0].tokens[:2] == ["<xb>", "b"]


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("options", [{}, {"beam_size": 1}, {"beam_size": 1, "speculative": "input"}])
def test_the_first_token_says_what_is_written(folder, backend, options):
    translator = package.load(folder / "run", device="cpu", backend=backend)
    for language in ("xb", "xc"):
        assert list(translator.translate(list(LETTERS), target_language=language, **options)) == said(language)
    languages = ["xb", "xc"] * 4
    each = [{"target_language": language} for language in languages]
    written = list(translator.translate(list(LETTERS), tags=each, **options))
    assert written == [said(language)[i] for i, language in enumerate(languages)]
    assert len(list(translator.translate(said("xb"), target_language="xc", **options))) == 8  # an unseen direction


def test_scores_of_given_targets_are_those_of_training(folder, s2s, capsys):
    for run in ("run", "tagged", "forced"):
        model, task, _ = load_model(str(folder / run), torch.device("cpu"))
        dataset = task.dataset(Store(folder / "store").split("valid"))
        batch = dataset.collate(np.arange(len(dataset)))
        with torch.inference_mode():
            log = model.decode(model.encode(batch.sources, batch.tags), batch.decoder_input).logits().log_softmax(2)
        expected = log.gather(2, batch.target[:, :, None])[:, :, 0].sum(1)
        words = [f"checkpoint={folder}/{run}", f"store={folder}/store", "split=valid", "mode=score", "format=json"]
        assert s2s("generate", *words, "device=cpu") == 0
        scores = [json.loads(line)["log_probability"] for line in capsys.readouterr().out.splitlines()]
        torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-4, rtol=1e-4)
    # Of the last run, whose targets begin with their language.
    assert s2s("generate", *words, "device=cpu", "decode.free_beginning=true") == 0
    scores = [json.loads(line)["log_probability"] for line in capsys.readouterr().out.splitlines()]
    expected = log.gather(2, batch.target[:, :, None])[:, 1:, 0].sum(1)
    torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-4, rtol=1e-4)


def test_validation_has_metrics_of_each_direction(folder):
    events = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    event = [event for event in events if event["kind"] == "valid"][-1]
    names = [f"{metric}.{pair}" for metric in ("exact_match", "chrf") for pair in ("xa-xb", "xa-xc", "xb-xa", "xc-xa")]
    assert [name for name in event if "." in name and "-" in name] == sorted(names, key=lambda n: n.split(".")[1])
    parts = [event[f"exact_match.{pair}"] for pair in ("xa-xb", "xa-xc", "xb-xa", "xc-xa")]
    assert event["exact_match"] == pytest.approx(sum(parts) / 4)
    assert parts[0] == 100


def test_the_command_takes_languages(folder, s2s, capsys):
    words = [f"checkpoint={folder}/run", "device=cpu", f"input={folder}/valid.xa"]
    assert s2s("generate", *words, "target_language=xc") == 0
    assert capsys.readouterr().out.split() == said("xc")
    assert s2s("generate", *words, "target_language=xd") == 2
    assert "target_language=xd: the model does not know this value of the tag" in capsys.readouterr().err
    assert s2s("generate", *words) == 2
    assert "the tag target_language is missing, which the model reads: target_language=xb|xc|xa" in (
        capsys.readouterr().err)  # fmt: skip
    assert s2s("generate", *words, "target_language=xb", "source_language=xa") == 2
    assert "source_language=xa: the model does not read this tag" in capsys.readouterr().err


def test_a_request_takes_languages(folder):
    translator = package.load(folder / "run", device="cpu")
    with serving(translator) as (port, _):
        status, _, content = ask(port, lines=list(LETTERS), target_language="xc")
        assert (status, content["translations"]) == (200, said("xc"))
        status, _, content = ask(port, lines=["a"], target_language="xd")
        assert status == 400
        assert "does not know this value" in content["error"]


def test_a_table_has_the_languages_of_each_line(folder, tmp_path, s2s, capsys):
    """They are read as from files beside each other, and lines of other directions are named."""
    rows = [f"xa\txb\t{a}\t{b}" for a, b in zip(said("xa"), said("xb"), strict=True)]
    rows += [f"xb\txa\t{b}\t{a}" for a, b in zip(said("xa"), said("xb"), strict=True)]
    rows = [*rows[::2], "xc\txa\tc\ta", *rows[1::2]]
    (tmp_path / "train.tsv").write_text("".join(f"{row}\n" for row in rows))
    words = ["tokenizer=words", "workers=1", "keep_text=true", f"train={tmp_path}/train.tsv"]
    assert s2s("preprocess", *words, "languages=[xa-xb,xb-xa]", f"store={tmp_path}/store") == 0
    assert "lines that languages= does not name are left out: 1 of xc-xa" in capsys.readouterr().err
    split = Store(tmp_path / "store").split("train")
    assert [(corpus.last, corpus.source_language) for corpus in split.corpora] == [(8, "xa"), (16, "xb")]
    assert split.lines("source.text")[:8] == [said("xa")[i] for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    (tmp_path / "train.tsv").write_text("xa\txb\ta\tb\nxb\txa\tb\ta\nxa\txb\t\n")
    assert s2s("preprocess", *words, "languages=[xa-xb]", f"store={tmp_path}/other") == 2
    assert f"{tmp_path}/train.tsv:3: a row must have four columns" in capsys.readouterr().err
    (tmp_path / "train.tsv").write_text("xa\txb\ta\tb\nxb\txa\tb\ta\nxa\txb\ta\n")
    assert s2s("preprocess", *words, "languages=[xa-xb,xb-xa]", f"store={tmp_path}/store2") == 2
    assert f"{tmp_path}/train.tsv:3: a row must have four columns" in capsys.readouterr().err
    assert s2s("preprocess", *words, "languages=[xa-xb,xc-xb]", f"store={tmp_path}/store2") == 2
    assert "no corpus has the direction xc-xb" in capsys.readouterr().err


def test_files_may_have_the_names_of_a_pair(folder, tmp_path, s2s):
    """As many corpora are published: those of xa-xb serve xb-xa, too."""
    for pair, languages in (("xa-xb", ("xa", "xb")), ("xc-xa", ("xc", "xa"))):
        for language in languages:
            (tmp_path / f"train.{pair}.{language}").write_text("".join(f"{letter}\n" for letter in said(language)))
    words = ["tokenizer=words", "workers=1", f"train={tmp_path}/train", "languages=[xa-xb,xb-xa,xa-xc]"]
    assert s2s("preprocess", *words, f"store={tmp_path}/store") == 0
    assert [corpus.last for corpus in Store(tmp_path / "store").split("train").corpora] == [8, 16, 24]


def test_a_store_may_have_tags_of_its_own(folder, tmp_path, s2s, capsys):
    words = ["tokenizer=words", "workers=1", f"train={folder}/train", "source=xa", "target=xb"]
    for name in ("one", "two"):
        given = "tokenizer.reserved=[<one>,<two>]" if name == "one" else f"tokenizer_from={tmp_path}/one"
        kept = [word for word in words if name == "one" or word != "tokenizer=words"]
        assert s2s("preprocess", *kept, given, f"tags=[dataset={name}]", f"store={tmp_path}/{name}") == 0
    stores = f"store=[{tmp_path}/one,{tmp_path}/two]"
    short = ["train.valid_updates=1" if word.startswith("train.valid_updates") else word for word in TRAIN]
    short = [word for word in short if not word.startswith(("train.", "data.temp", "data.shares", "decode"))]
    short += ["train.max_updates=1", "train.samples=0"]
    assert s2s("train", stores, "task.first_tag=dataset", *short, f"run={tmp_path}/run") == 0
    task = load_model(str(tmp_path / "run"), torch.device("cpu"))[1]
    assert task.tags == {"dataset": ["one", "two"]}
    assert [task.target_tokenizer.vocabulary.symbols[i] for i in task.first_symbols()] == ["<one>", "<two>"]
    capsys.readouterr()
    assert s2s("train", stores, "task.first_tag=corpus", *short, f"run={tmp_path}/run2") == 2
    assert "task.first_tag=corpus: the vocabulary does not reserve" in capsys.readouterr().err
    assert s2s("preprocess", *words, "tags=[corpus=x]", f"store={tmp_path}/three") == 2
    assert "every store has the tag corpus already" in capsys.readouterr().err


def test_shares_of_groups():
    """By hand: 90 and 10 of one pair of languages, 25 of another; square roots are 10 and 5."""
    assert grouped_quotas([90, 10, 25], ["a", "a", "b"], None, 2.0) == [75, 8, 42]
    assert grouped_quotas([90, 10, 25], ["a", "a", "b"], [1, 1], 1.0) == [56, 6, 63]
    assert grouped_quotas([90, 10, 25], "abc", None, 5.0) == quotas([90, 10, 25], None, 5.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["languages=[de]"], "'de' is not a direction"),
        (["languages=[xa-xb,xa-xb]"], "xa-xb is given twice"),
        (["languages=[xa-xb]", "source=xa"], "leave source= and target= out"),
        (["languages=[xa-zz]"], "has none of the directions xa-zz"),
        (["languages=[xa-xb]", "task=multi_source", "more_sources=[xc]"], "reads other fields"),
    ],
)
def test_what_is_wrong_with_languages_is_said(folder, tmp_path, s2s, capsys, given, message):
    words = ["tokenizer=words", f"train={folder}/train", f"store={tmp_path}/store"]
    assert s2s("preprocess", *words, *given) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_the_symbols_is_refused(folder, tmp_path):
    task = TranslationTask.setup(Store(folder / "store"), config=TranslationConfig(first_tag="target_language"))
    task.tags = {"target_language": ["xa", "xz"]}
    with pytest.raises(UserError, match=r"not reserve <xz>; make the store with 'tokenizer.reserved=\[<xa>,<xz>\]"):
        task.first_symbols()
    assert EOS not in task.target_tokenizer.vocabulary.reserved.values()


def test_a_corpus_that_a_command_filters_keeps_its_languages(s2s, tmp_path):
    (tmp_path / "train.tsv").write_text("xa\txb\ta\tb\nxb\txa\tb\ta\n")
    words = ["tokenizer=words", "workers=1", "languages=[xa-xb,xb-xa]", "filter.command=sed s/.*/1/"]
    assert s2s("preprocess", *words, f"train={tmp_path}/train.tsv", f"store={tmp_path}/store") == 0
    corpora = Store(tmp_path / "store").split("train").corpora
    assert [(each.source_language, each.target_language) for each in corpora] == [("xa", "xb"), ("xb", "xa")]
