"""s2s.load(...).translate(...): as the command translates, in order, as lines come, from many threads."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import s2s
from s2s.decoding import translator as translators
from s2s.decoding.inputs import Window
from s2s.errors import UserError
from tests.conftest import _call, write_corpus
from tests.decoding.generating import SMALL


def trained(store, folder, *words):
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert _call(monkeypatch, "s2s_cli.train", f"store={store}", f"run={folder}", *SMALL, *words) == 0
    return folder


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return trained(store, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def learned(store, tmp_path_factory):
    """A model of at most 12 positions; the store's longest lines have 8 tokens and EOS."""
    words = "model.positions=learned", "model.max_positions=12", "train.max_updates=5"
    return trained(store, tmp_path_factory.mktemp("learned") / "run", *words)


@pytest.fixture(scope="module")
def translator(run):
    return s2s.load(run, device="cpu")


@pytest.fixture(scope="module")
def lines(store):
    return (store.parent / "train.src").read_text().splitlines()[:60]


def test_import_of_s2s_imports_nothing_heavy():
    code = "import s2s, sys; print(s2s.load.__name__, *(m for m in ('torch', 'numpy', 'hydra') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "load\n"


def test_translations_are_those_of_the_command(s2s, capsys, run, translator, lines, tmp_path):
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_text("".join(f"{line}\n" for line in [*lines, "", " "]))
    for words, options in (
        (["decode.beam_size=3"], {"beam_size": 3}),
        (["decode.search=sample", "seed=4"], {"search": "sample", "seed": 4}),
        (["decode.dtype=int8", "decode.max_length_a=1"], {"dtype": "int8", "max_length_a": 1}),
    ):
        assert s2s("generate", f"checkpoint={run}", f"input={source}", f"output={output}", "device=cpu", *words) == 0
        texts = list(translator.translate([*lines, "", " "], **options))
        assert texts == output.read_text().splitlines()
        assert texts[-2:] == ["", ""]
    capsys.readouterr()


def test_lines_are_taken_a_window_at_a_time_and_come_in_order(translator, lines):
    taken = []

    def source():
        for number, line in enumerate(lines):
            taken.append(number)
            yield line

    results = translator.translate(source(), buffer=7)
    assert not taken
    texts = [next(results)]
    assert len(taken) == 7
    texts += results
    assert texts == list(translator.translate(lines))
    assert texts == list(translator.translate(f"{line}\r\n" for line in lines))  # as of a file


def test_hypotheses_hold_text_tokens_and_scores(translator, lines):
    n_best = list(translator.translate(lines[:5], n_best=3, hypotheses=True))
    assert [len(some) for some in n_best] == [3] * 5
    assert [some[0].text for some in n_best] == list(translator.translate(lines[:5]))
    for some in n_best:
        assert [one.score for one in some] == sorted((one.score for one in some), reverse=True)
        for one in some:
            assert one.tokens == [*one.text.split(), "</s>"]
            assert one.score == pytest.approx(sum(one.token_log_probabilities) / len(one.tokens), rel=1e-5)
    assert [(one.text, one.tokens) for (one,) in translator.translate([""], hypotheses=True)] == [("", [])]
    (aligned,) = next(translator.translate(lines[:1], hypotheses=True, alignment=True))
    assert (aligned.text, len(aligned.alignment)) == (n_best[0][0].text, len(aligned.tokens))
    assert aligned.source_tokens == [*lines[0].split(), "</s>"]


def test_prefixes(translator, lines):
    prefixes = ["a b", "", "j"]
    texts = list(translator.translate(lines[:3], prefixes=iter(prefixes)))
    assert all(f"{text} ".startswith(prefix) for text, prefix in zip(texts, prefixes, strict=True))
    for wrong in (prefixes[:2], [*prefixes, "a"]):
        with pytest.raises(UserError, match="as many as lines"):
            list(translator.translate(lines[:3], prefixes=wrong))


def test_an_ensemble_is_loaded_from_a_list(run, learned, lines):
    both = s2s.load([run, learned], device="cpu")
    (one,), (two,), (mean,) = (
        next(each.translate(lines[:1], hypotheses=True)) for each in (s2s.load(run), s2s.load(learned), both)
    )
    assert len({one.score, two.score, mean.score}) == 3
    assert both.max_length == 12


def test_threads_share_a_translator(translator, lines):
    options = [{}, {"beam_size": 1}, {"search": "sample", "seed": 3}, {"dtype": "int8"}] * 3
    alone = [list(translator.translate(lines, **each)) for each in options]
    with ThreadPoolExecutor(len(options)) as pool:
        together = list(pool.map(lambda each: list(translator.translate(lines, **each)), options))
    assert together == alone


def test_two_translations_may_be_read_in_turn(translator, lines):
    alone = list(translator.translate(lines, buffer=9)), list(translator.translate(lines[::-1], beam_size=2, buffer=9))
    in_turn = zip(
        translator.translate(lines, buffer=9),
        translator.translate(lines[::-1], beam_size=2, buffer=9),
        strict=True,
    )
    assert tuple(map(list, zip(*in_turn, strict=True))) == alone


@pytest.mark.parametrize("options", [{}, {"beam_size": 1, "speculative": "input"}, {"search": "sample"}])
def test_between_two_steps_decoding_is_ended_or_gives_way_to_another(translator, lines, options):
    config = translator.config(**options)
    windows = [Window(translator.task.encode(lines[:20]), None)]
    alone = [[one.text for one in n_best] for n_best in translator.decode(windows, config)]
    ticks, others = [], []

    def tick():
        ticks.append(len(ticks))
        if len(ticks) == 3:
            others.append(list(translator.translate(lines[:4], beam_size=2)))
            raise KeyError
        if len(ticks) == 5:
            others.append(list(translator.translate(lines[:4], beam_size=2)))

    with pytest.raises(KeyError):
        list(translator.decode(windows, config, tick=tick))
    assert len(ticks) == 3
    assert [[one.text for one in n_best] for n_best in translator.decode(windows, config, tick=tick)] == alone
    assert others == [list(translator.translate(lines[:4], beam_size=2))] * 2


@pytest.mark.parametrize("search", ["sample", "stochastic_beam"])
def test_samples_of_a_part_are_those_of_the_whole(translator, lines, search):
    config = translator.config(search=search, n_best=2)
    sources = translator.task.encode(lines)

    def texts(sources, **options):
        return [one[0].text for one in translator.decode([Window(sources, None)], config, 5, **options)]

    whole = texts(sources)
    assert texts(sources[7:20], first=7) == whole[7:20]
    assert texts(sources[7:20]) != whole[7:20]


def test_weights_are_packed_once_for_each_type(run, lines, monkeypatch):
    calls = []

    def counted(model, dtype, backend, part=None):
        calls.append(dtype)
        return model

    monkeypatch.setattr(translators, "prepare", counted)
    translator = s2s.load(run, device="cpu", dtype="int8")
    assert calls == ["int8"]
    for options in ({}, {"dtype": "fp32"}, {}, {"dtype": "fp32", "beam_size": 2}):
        list(translator.translate(lines[:2], **options))
    assert calls == ["int8", "fp32"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 3}, "did you mean 'beam_size'"),
        ({"beam_size": 0}, "beam_size=0: must be at least 1"),
        ({"beam_size": "many"}, "beam_size: a whole number is needed, not 'many'"),
        ({"n_best": 2}, "hypotheses=True"),
        ({"alignment": True}, "hypotheses=True"),
        ({"n_best": 9, "hypotheses": True}, "at most decode.beam_size=5"),
        ({"dtype": "fp16"}, "for a GPU"),
    ],
)
def test_mistakes_are_told_at_once(translator, options, message):
    with pytest.raises(UserError, match=message):
        translator.translate(["a"], **options)
    with pytest.raises(UserError, match="not one text"):
        translator.translate("a b c")


def test_the_position_table_may_grow_in_another_thread(monkeypatch):
    """A shorter table that another thread puts in place does not make this one fail."""
    from s2s.nn import positions

    embedding = positions.PositionEmbedding("sinusoidal", 4, 0)
    grow = positions.sinusoidal

    def slow(numbers, *arguments):
        table = grow(numbers, *arguments)
        type(embedding).table = property(lambda self: grow(torch.arange(600), 4), lambda self, value: None)
        return table

    monkeypatch.setattr(positions, "sinusoidal", slow)
    try:
        assert embedding(torch.zeros(1, 2000, 4)).shape == (1, 2000, 4)
    finally:
        if "table" in vars(type(embedding)):
            del type(embedding).table


def test_lines_too_long_for_the_model_are_cut_and_counted(s2s, capsys, learned, tmp_path):
    long = " ".join("abcdefghij" * 3)
    text = ["a b", long, "", "c " * 11, "c " * 12, long]  # 11 tokens and EOS just fit
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in text))
    words = f"checkpoint={learned}", f"input={tmp_path / 'text'}", "device=cpu", "decode.buffer=4"
    capsys.readouterr()
    assert s2s("generate", *words) == 0
    printed, error = capsys.readouterr()
    assert len(printed.splitlines()) == 6
    assert "; too long and cut (decode.max_source, model.max_positions): 3 lines (2, 5, 6)\n" in error
    translator = translators.load(learned, "cpu")
    with pytest.warns(UserWarning, match="cut to 11 tokens") as told:
        texts = list(translator.translate(text))
    assert [str(one.message).split()[1] for one in told] == ["2", "5", "6"]
    assert texts == printed.splitlines()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut = list(translator.translate(["a b", long[:21], "", "c " * 11, "c " * 11, long[:21]]))
    assert cut == texts


def test_hypotheses_end_where_the_model_does(learned, lines):
    translator = translators.load(learned, "cpu")
    for options in ({}, {"search": "sample"}, {"stopping": "exhaustive", "max_length_b": 1000}):
        for (one,) in translator.translate(lines[:4], hypotheses=True, min_length_b=1000, **options):
            assert len(one.tokens) == 12
            assert one.truncated


def test_targets_and_prefixes_too_long_for_the_model_are_named(learned, tmp_path):
    translator = translators.load(learned, "cpu")
    long = " ".join("abcdefghij" * 2)
    with pytest.raises(UserError, match=r"line 2: prefix of 20 tokens; model\.max_positions=12"):
        list(translator.translate(["a", "b"], prefixes=["", long]))
    window = translators.Window(translator.task.encode(["a", "b"]), translator.task.encode_target(["c", long]))
    with pytest.raises(UserError, match="line 2: target of 20 tokens"):
        list(translator.decode([window], translator.config(), score=True))


def test_checkpoints_that_do_not_fit_each_other(run, tmp_path):
    write_corpus(tmp_path, {"train": 50, "valid": 5})
    with pytest.raises(UserError, match="at least one"):
        translators.load([])
    with pytest.raises(UserError, match="no such folder"):
        translators.load([run, tmp_path / "absent"])
