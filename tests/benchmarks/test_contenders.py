"""What is measured side by side does the same: all of fp32 find the same hypotheses."""

import importlib
from pathlib import Path

import pytest
import torch

from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import TransformerConfig
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary
from s2s.text.words import WordTokenizer


@pytest.mark.parametrize("beam_size", [1, 3])
def test_all_contenders_find_the_same_hypotheses(monkeypatch, beam_size):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    module = importlib.import_module("contenders")
    tokenizer = WordTokenizer(WordTokenizer.Config(), Vocabulary([*SPECIALS, *map(str, range(26))]))
    task = TranslationTask(tokenizer, tokenizer)
    size = {"layers": 2, "width": 32, "heads": 4, "ffn_width": 48}
    torch.manual_seed(15)
    model = task.model(TransformerConfig(encoder=EncoderConfig(**size), decoder=DecoderConfig(**size))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.normal_(float("norm.weight" in name), 0.3)
        model.decoder.norm.weight[0], model.decoder.norm.bias[0] = 0, 1
        model.output.weight[:, 0] = 0
        model.output.weight[[PAD, UNK, BOS], 0] = -50
        model.output.weight[EOS, 0] = 2
    sources = [torch.randint(4, 30, (length,)).tolist() for length in (9, 7, 7, 4, 2)]
    setting = module.Setting(model, task, "cpu", beam_size, 2)
    found = {
        name: make(setting)([module.Job(sources)])
        for name, make in module.all_contenders(setting).items()
        if name.endswith("fp32")
    }
    assert len(found) >= 4
    first = found["s2s-fp32"]
    assert len({tuple(ids) for ids in first}) > 2
    assert all(0 < len(ids) < 50 for ids in first)
    for name, ids in found.items():
        assert ids == first, name
    lines = [" ".join(str(i - 4) for i in ids) for ids in sources]
    texts = {name: module.all_contenders(setting)[name](setting)([module.Job([], lines=lines)])
             for name in ("s2s-fp32", "ctranslate2-fp32")}  # fmt: skip
    assert texts["s2s-fp32"] == texts["ctranslate2-fp32"] == [task.text(ids, None) for ids in first]
    for name, make in module.all_contenders(setting).items():
        lengths = {len(ids) for ids in make(setting)([module.Job(sources[:2], 6)])}
        assert lengths <= {5, 6}, name  # the sixth token is EOS, or another one where a contender cuts


def test_candidates_are_the_ways_to_use_the_threads(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    module = importlib.import_module("contenders")
    kinds = {
        batch: module.candidates("ctranslate2-int8", module.Setting(None, None, "cpu", 5, batch, threads=2))
        for batch in (1, 8, None)
    }
    assert kinds[1] == [{"threads": f"1 x {within}", "batch": "1 examples"} for within in (1, 2)]
    assert kinds[8] == [{"threads": threads, "batch": "8 examples"} for threads in ("2 x 1", "1 x 2")]
    assert len(kinds[None]) == 6
    assert module.candidates("s2s-int8", module.Setting(None, None, "cpu", 5, 8, threads=2)) == [{}]
