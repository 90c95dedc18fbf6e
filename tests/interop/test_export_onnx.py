"""What s2s-export format=onnx writes gives the same logits and greedy lines in onnxruntime, by a loop over ids."""

import json
import sys

import numpy as np
import pytest
import torch

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError
from s2s.interop import onnx
from s2s.tasks.translation import TranslationConfig, TranslationTask
from s2s.text.tokenizer import load_tokenizer
from s2s.text.vocabulary import BOS, EOS, PAD
from tests.interop.test_ctranslate2 import config_of, sentences, task_of
from tests.interop.test_export_huggingface import T5, tokenizers  # noqa: F401  a fixture
from tests.interop.test_export_huggingface import model_of as model_of_options

CHANGES = {
    "rotary": {"positions": "rotary", "activation": "swiglu", "log_length_scale": True, "tie_embeddings": "none"},
    "t5": {"positions": "relative_bias", "norm_type": "rms", "activation": "geglu", "bias": False,
           "scale_attention": False, "scale_embeddings": False, "scale_output": True, "tie_embeddings": "inputs"},
}  # fmt: skip


class Graphs:
    """The three graphs of a folder, called by the names of their inputs and outputs."""

    def __init__(self, folder):
        runtime = pytest.importorskip("onnxruntime")
        self.sessions = {name: runtime.InferenceSession(str(folder / f"{name}_model.onnx"))
                         for name in ("encoder", "decoder", "decoder_with_past")}  # fmt: skip

    def run(self, graph, **inputs):
        session = self.sessions[graph]
        return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))

    def steps(self, ids, mask, target):
        """The logits of each position of target ids [B, T], a step at a time."""
        encoded = self.run("encoder", input_ids=ids, attention_mask=mask)["last_hidden_state"]
        result = self.run(
            "decoder", input_ids=target[:, :1], encoder_hidden_states=encoded, encoder_attention_mask=mask
        )
        past, place = {}, 0
        while True:
            yield result["logits"][:, -1]
            past |= {name.replace("present", "past_key_values"): value for name, value in result.items()
                     if name != "logits"}  # fmt: skip
            place += 1
            result = self.run(
                "decoder_with_past", input_ids=target[:, place : place + 1], encoder_attention_mask=mask, **past
            )


def padded(sources):
    """Ids of sources with EOS, right-padded, and their mask."""
    rows = [[*ids, EOS] for ids in sources]
    ids = np.full((len(rows), max(map(len, rows))), PAD)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = values
    return ids, np.array([[n < len(values) for n in range(ids.shape[1])] for values in rows], np.int64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_same_logits_and_greedy_lines(kind, tmp_path):
    task = task_of(21)
    size = {"layers": 1, "kv_heads": 2 if kind == "rotary" else None}
    torch.manual_seed(1)
    model = task.model(config_of(size, size, **CHANGES[kind])).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 or "relative" in name:
                weight.normal_(float("norm.weight" in name), 0.5)
            elif "layers" in name:
                weight.mul_(3)  # so that the lines depend on their sources
    onnx.write(model, task, tmp_path / "out")
    assert load_tokenizer(tmp_path / "out", "source").encode("3 5") == task.source_tokenizer.encode("3 5")
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    graphs, sources, longest = Graphs(tmp_path / "out"), sentences(21, 12)[:-1], 14
    ids, mask = padded(sources)

    target = np.full((len(sources), longest + 1), config["decoder_start_token_id"])
    never = [number for (number,) in config["bad_words_ids"]]
    with torch.no_grad():
        memory = model.encode(task.collate_sources(sources).sources)
        for place, logits in zip(range(longest), graphs.steps(ids, mask, target), strict=False):
            ours = model.decode(memory, torch.from_numpy(target[:, : place + 1])).logits()[:, -1].numpy()
            np.testing.assert_allclose(logits, ours, rtol=1e-4, atol=1e-4)
            logits[:, never] = -np.inf
            logits[:, EOS] -= np.inf if place < config["min_new_tokens"] else 0
            target[:, place + 1] = logits.argmax(-1)
    options = DecodeConfig(beam_size=1, max_length_a=0, max_length_b=longest)
    written = [hypothesis.ids for (hypothesis,) in Generator([model], options, Sides.of(task)).generate(sources)]
    for ours, theirs in zip(written, target[:, 1:].tolist(), strict=True):
        end = theirs.index(EOS) if EOS in theirs else longest
        assert list(ours) == theirs[:end]
    assert len(set(map(tuple, written))) > 3


@pytest.mark.slow
def test_a_layout_of_transformers_has_its_files_and_ids(tokenizers, tmp_path):  # noqa: F811
    transformers = pytest.importorskip("transformers")
    task = TranslationTask(tokenizers[0], tokenizers[0])
    model = model_of_options(task, "model.norm=post", "model.output.bias=true")
    with torch.no_grad():  # the decoder begins with PAD, as in an imported model
        model.decoder.embedding.tokens.weight[BOS] = model.decoder.embedding.tokens.weight[PAD]
        model.output.bias[BOS] = -100
    onnx.write(model, task, tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.model_type, config.decoder_start_token_id, config.eos_token_id) == ("marian", PAD, EOS - 1)
    line = "das alte haus"
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(line, return_tensors="np")
    source = task.encode([line])
    target = torch.tensor([[BOS, 7, 4, 9]])
    with torch.no_grad():
        ours = model.decode(model.encode(task.collate_sources(source).sources), target).logits()[0].numpy()
    theirs = target.numpy() - (target.numpy() > BOS)
    theirs[:, 0] = PAD
    kept = np.arange(BOS + 1, ours.shape[1])
    steps = Graphs(tmp_path / "out").steps(ids["input_ids"], ids["attention_mask"], theirs)
    for place, logits in zip(range(4), steps, strict=False):
        np.testing.assert_allclose(logits[0, kept - 1], ours[place, kept], rtol=1e-4, atol=1e-4)


def test_what_the_graphs_do_not_hold_is_refused_by_its_options(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    written = []
    monkeypatch.setattr(onnx, "_write_graphs", lambda folder, *graphs: written.append(graphs))

    def message(task, *options):
        with pytest.raises(UserError) as error:
            onnx.write(model_of_options(task, *options), task, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not written
        return str(error.value)

    tagged = TranslationTask(task_of(21).source_tokenizer, task_of(21).target_tokenizer, "reverse",
                             TranslationConfig())  # fmt: skip
    text = message(tagged, "model.encoder.layer=conformer", "model.bridge=last", "model.bridge.layers=2")
    assert "no model.bridge of type LastBridge, and no layer of type ConformerLayer, and no data.target_t" in text
    onnx.write(model_of_options(task_of(21), *T5), task_of(21), tmp_path / "out")
    assert len(written) == 1
    assert (tmp_path / "out" / "config.json").is_file()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnx and onnxscript: pip install .*\[onnx\]"):
        onnx.write(None, None, tmp_path / "other")
