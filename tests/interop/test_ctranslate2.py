"""An exported model gives the same lines and scores in CTranslate2 as in s2s-generate."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.config import compose
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError
from s2s.interop.ctranslate2 import specification, write
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.stack import DecoderConfig
from s2s.models.subnets import subnet
from s2s.models.transformer import TransformerConfig
from s2s.tasks.translation import TranslationTask
from s2s.text.tokenizer import load_tokenizer
from s2s.text.vocabulary import BOS, EOS, PAD, SPECIALS, Vocabulary
from s2s.text.words import WordTokenizer
from s2s_cli.generate import GenerateCommand
from tests.conftest import _call

ctranslate2 = pytest.importorskip("ctranslate2")

LONGEST = 40
# CTranslate2 normalises over what is not masked, and cuts at the greatest length where we write EOS: so nothing is
# masked here, and what was cut is not compared.
OURS = {"allow_unknown": True, "min_length_b": 0, "max_length_a": 0.0, "max_length_b": LONGEST}
THEIRS = {"min_decoding_length": 0, "max_decoding_length": LONGEST, "max_input_length": 0, "return_scores": True}


def task_of(source: int, target: int | None = None, transform: str = "none") -> TranslationTask:
    """A task over words that are numbers; without `target` the sides share a vocabulary."""

    def tokenizer(size: int) -> WordTokenizer:
        return WordTokenizer(WordTokenizer.Config(), Vocabulary([*SPECIALS, *map(str, range(size - len(SPECIALS)))]))

    one = tokenizer(source)
    return TranslationTask(one, one if target is None else tokenizer(target), transform)


def model_of(task: TranslationTask, config: TransformerConfig, seed: int = 0):
    """Random weights, biases and norms. PAD and BOS are as good as impossible, as in a trained model; with learned
    positions EOS grows more probable from one to the next, so that hypotheses end."""
    torch.manual_seed(seed)
    model = task.model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.normal_(float("norm.weight" in name), 0.2)
        last = model.decoder.norm if config.norm == "pre" else model.decoder.layers[-1].feedforward_norm
        last.weight[0], last.bias[0] = 0, 1
        model.output.weight[[PAD, BOS], 0] = -50
        if config.positions == "learned":
            model.decoder.embedding.positions.weight[:LONGEST, 1] = torch.linspace(-4, 12, LONGEST)
            model.output.weight[EOS, 1] = 1
    return model


def config_of(encoder: dict | None = None, decoder: dict | None = None, **changes) -> TransformerConfig:
    size = {"layers": 2, "width": 32, "heads": 4, "ffn_width": 48}
    return TransformerConfig(
        encoder=EncoderConfig(**size | (encoder or {})), decoder=DecoderConfig(**size | (decoder or {})), **changes
    )


def sentences(size: int, count: int, seed: int = 0) -> list[list[int]]:
    """Source ids of ragged lengths, an empty sentence among them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (count,), generator=generator).tolist()
    return [torch.randint(len(SPECIALS), size, (n,), generator=generator).tolist() for n in lengths] + [[]]


def symbols(task: TranslationTask, side: str, ids: list[int]) -> list[str]:
    known = getattr(task, f"{side}_tokenizer").vocabulary.symbols
    return [known[i] for i in ids]


def check(model, task: TranslationTask, folder: Path, sources: list[list[int]], **options) -> int:
    """Both give the same symbols and scores; of a sentence that was cut, the same symbols if the search is greedy.
    Returns how many were not cut.

    Args:
        options: Of DecodeConfig.
    """
    if not folder.exists():
        write(model, task, folder)
    config = DecodeConfig(**OURS | options)
    translator = ctranslate2.Translator(str(folder), "cpu", intra_threads=1)
    inputs = [symbols(task, "source", ids) for ids in sources]
    search = {"beam_size": config.beam_size, "length_penalty": config.length_penalty}
    results = translator.translate_batch(inputs, **search, **THEIRS)
    whole = 0
    generator = Generator([model], config, Sides.of(task))
    for (ours,), theirs in zip(generator.generate(sources), results, strict=True):
        cut = ours.truncated or len(theirs.hypotheses[0]) >= LONGEST
        if not cut or config.beam_size == 1:
            assert symbols(task, "target", ours.ids) == theirs.hypotheses[0]
        if not cut:
            assert theirs.scores[0] == pytest.approx(ours.score, abs=1e-4)
            whole += 1
    return whole


def test_a_slice_of_a_nested_model_is_a_transformer(tmp_path):
    pairs = [("encoder.layer", "nested"), ("decoder", "nested"),
             *((f"{side}.{key}", value) for side in ("encoder", "decoder")
               for key, value in (("layers", "2"), ("width", "32"), ("heads", "4"), ("ffn_width", "48")))]  # fmt: skip
    built = compose.build(TransformerConfig, compose.by_key([compose.Override(*pair) for pair in pairs]))
    built.fill()
    task = task_of(21)
    model, sources = model_of(task, built.config), sentences(21, 12)
    for which in ("1", "0.5", "0.25,1,0.5,1"):
        check(subnet(model, which), task, tmp_path / which, sources, beam_size=1, backend="eager")
    check(model, task, tmp_path / "whole", sources, beam_size=1)


@st.composite
def configs(draw):
    def stack() -> dict:
        heads = draw(st.sampled_from([1, 2, 4]))
        fewer = [n for n in (1, 2, 4) if heads % n == 0]
        return {"layers": draw(st.integers(1, 2)), "width": draw(st.sampled_from([16, 32])), "heads": heads,
                "kv_heads": draw(st.sampled_from([None, *fewer]))}  # fmt: skip

    choices = {
        "norm": ("pre", "post"),
        "positions": ("sinusoidal", "sinusoidal_fairseq", "sinusoidal_interleaved", "learned", "rotary", "none"),
        "activation": ("relu", "gelu", "swiglu", "silu"),
        "scale_embeddings": (True, False),
        "embedding_norm": (False, True),
        "norm_epsilon": (None, 1e-2),
        "tie_embeddings": ("none", "decoder", "auto"),
    }
    return config_of(stack(), stack(), **{key: draw(st.sampled_from(values)) for key, values in choices.items()})


@settings(max_examples=25, deadline=None)
@given(configs(), st.booleans(), st.integers(0, 1000))
def test_every_transformer_gives_the_same_lines_and_scores(tmp_path_factory, config, shared, seed):
    task = task_of(21) if shared else task_of(21, 18)
    model, sources = model_of(task, config, seed), sentences(21, 12, seed)
    folder = tmp_path_factory.mktemp("model") / "exported"
    for beam_size in (1, 5):
        check(model, task, folder, sources, beam_size=beam_size)
    targets = sentences(len(task.target_tokenizer.vocabulary), 12, seed + 1)
    sources, targets = sources[:-1], targets[:-1]
    ours = Generator([model], DecodeConfig(), Sides.of(task)).score(sources, targets)
    theirs = ctranslate2.Translator(str(folder), "cpu", intra_threads=1).score_batch(
        [symbols(task, "source", ids) for ids in sources], [symbols(task, "target", ids) for ids in targets]
    )
    for hypothesis, result in zip(ours, theirs, strict=True):
        assert result.log_probs == pytest.approx(hypothesis.token_log_probabilities, abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
def test_same_stopping_and_length_normalisation(tmp_path, beam_size, length_penalty):
    task = task_of(30)
    model, sources = model_of(task, config_of(positions="learned")), sentences(30, 100)
    # Without length normalisation CTranslate2 goes on until the best row ends: then nothing can beat it.
    stopping = "first_finished" if length_penalty else "best_possible"
    options = {"beam_size": beam_size, "length_penalty": length_penalty, "stopping": stopping}
    assert check(model, task, tmp_path / "model", sources, **options) == len(sources)


def test_the_preset_is_the_defaults_of_ctranslate2(tmp_path):
    task = task_of(30)
    # What it masks it leaves out of the probabilities, so that with other weights a line in a hundred may differ.
    model, sources = model_of(task, config_of(positions="learned"), seed=4), sentences(30, 100)
    write(model, task, tmp_path / "model")
    translator = ctranslate2.Translator(str(tmp_path / "model"), "cpu", intra_threads=1)
    results = translator.translate_batch([symbols(task, "source", ids) for ids in sources])
    config = compose.compose(GenerateCommand, [("decode", "ctranslate2")]).decode
    found = list(Generator([model], config, Sides.of(task)).generate(sources))
    lines = [(symbols(task, "target", ours.ids), theirs.hypotheses[0])
             for (ours,), theirs in zip(found, results, strict=True)]  # fmt: skip
    assert all(ours == theirs for ours, theirs in lines)
    assert len({str(ours) for ours, _ in lines}) > 20
    other = Generator([model], DecodeConfig(), Sides.of(task)).generate(sources)
    assert any(ours.ids != one.ids for (ours,), (one,) in zip(found, other, strict=True))


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run that has learned a little: 1+1 layers, words to the same words in reverse order."""
    run = tmp_path_factory.mktemp("run") / "run"
    words = (f"store={store}", f"run={run}", "model=transformer_tiny", "model.encoder.layers=1",
             "model.decoder.layers=1", "device=cpu", "train.samples=0", "train.max_updates=120",
             "train.valid_updates=120", "data.batch_tokens=600", "optim.warmup_updates=50",
             "optim.lr=3e-3")  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert _call(monkeypatch, "s2s_cli.train", *words) == 0
    return run


@pytest.mark.parametrize("beam_size", [1, 5])
def test_a_trained_model_gives_the_same_lines_by_the_commands(trained, store, s2s, tmp_path, beam_size):
    assert s2s("export", f"checkpoint={trained}", "format=ctranslate2", f"output={tmp_path / 'model'}") == 0
    source, target = (load_tokenizer(tmp_path / "model", side) for side in ("source", "target"))
    lines = [*(store.parent / "valid.src").read_text().splitlines(), "", "a b unheard"]
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    translator = ctranslate2.Translator(str(tmp_path / "model"), "cpu", intra_threads=1)
    inputs = [[source.vocabulary.symbols[i] for i in source.encode(line)] for line in lines]
    # The defaults of both give the same lines, and without the masks that CTranslate2 normalises over, the same scores.
    same_scores = [f"decode.{key}={str(value).lower()}" for key, value in OURS.items()]
    for words, options in (([], {"return_scores": True}), (same_scores, THEIRS)):
        files = f"checkpoint={trained}", f"input={tmp_path / 'lines'}", f"output={tmp_path / 'output'}"
        assert s2s("generate", *files, "device=cpu", "format=json", f"decode.beam_size={beam_size}", *words) == 0
        ours = [json.loads(line) for line in (tmp_path / "output").read_text().splitlines()]
        theirs = translator.translate_batch(inputs, beam_size=beam_size, **options)
        for mine, result in zip(ours, theirs, strict=True):
            text = target.decode([target.vocabulary.index(symbol) for symbol in result.hypotheses[0]])
            assert text == mine["hypothesis"]
            if words:
                assert result.scores[0] == pytest.approx(mine["score"], abs=1e-4)
        assert len({mine["hypothesis"] for mine in ours}) > len(lines) / 2


def test_what_ctranslate2_does_not_have_is_named():
    task = task_of(20, transform="reverse")
    with pytest.raises(UserError, match=r"no data\.target_transform=reverse"):
        specification(task.model(config_of()), task)
    with pytest.raises(
        UserError, match=r"no model of type Linear .the model is a Linear., and no data\.target_transform=reverse"
    ):
        specification(torch.nn.Linear(1, 1), task)
    told = task_of(20)
    model = told.model(config_of())
    told.first_tag = "target_language"
    with pytest.raises(UserError, match=r"no task\.first_tag=target_language: its decoders begin with one symbol"):
        specification(model, told)
    told.first_tag, told.source_tags, told.target_tag = None, ("a", "b"), "c"
    with pytest.raises(UserError, match=r"no task\.source_tags=\[a,b\].*, and no task\.target_tag=c: it adds"):
        specification(model, told)


def test_a_missing_package_is_said(trained, s2s, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert s2s("export", f"checkpoint={trained}", f"output={tmp_path / 'model'}") == 2
    assert "pip install -e '.[export]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_written_whole_and_replaced_only_when_asked_to(trained, s2s, tmp_path, monkeypatch, capsys):
    words = "export", f"checkpoint={trained}", f"output={tmp_path / 'model'}"
    assert s2s(*words) == 0
    assert (s2s(*words), s2s(*words, "overwrite=true")) == (2, 0)
    assert "exists; overwrite=true replaces" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "mine", trained):
        before = sorted(path.iterdir())
        assert s2s("export", f"checkpoint={trained}", f"output={path}", "overwrite=true") == 2
        assert "is not an exported model" in capsys.readouterr().err
        assert sorted(path.iterdir()) == before
    assert s2s(*words, "overwrite=true", "subnet=0.5") == 2
    assert "subnet=0.5: the model has no parts" in capsys.readouterr().err
    assert s2s("export", f"checkpoint={trained}") == 2
    assert "output=FOLDER" in capsys.readouterr().err

    def fail(self, folder):
        (Path(folder) / "model.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device", folder)

    monkeypatch.setattr(ctranslate2.specs.TransformerSpec, "save", fail)
    before = (tmp_path / "model" / "model.bin").read_bytes()
    assert s2s(*words, "overwrite=true") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]
    assert (tmp_path / "model" / "model.bin").read_bytes() == before
