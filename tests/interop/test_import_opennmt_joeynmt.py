"""Models of OpenNMT-py, eole and JoeyNMT come in. The test writes files of their formats itself, because their packages
cannot be installed beside the versions that the tests are pinned to. The weights are those of PyTorch's own
`nn.Transformer`, whose logits and lines are what they have to give."""

import argparse
import json
import os
import pathlib
import tempfile

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from s2s.checkpoint.loading import load_model
from s2s.nn.positions import sinusoidal
from s2s.tasks.translation import ended
from s2s_cli import importing
from tests.interop.taught import teach, words

SYMBOLS = ["das", "haus", "ist", "klein", "ein", "hund", "und", "der", "alte", "baum"]
D, LONGEST = 16, 28
HOSTILE = pathlib.Path(tempfile.gettempdir()) / "s2s-joeynmt-was-run"


class Theirs(nn.Module):
    """The Transformer of these toolkits, of PyTorch's layers. Ids: 0 unknown, 1 padding, 2 beginning, 3 end."""

    def __init__(self, pre=True, source_end=False):
        super().__init__()
        torch.manual_seed(0)
        self.source_end = source_end
        self.tokens = nn.Embedding(14, D)
        self.body = nn.Transformer(D, 2, 2, 1, 24, 0.0, batch_first=True, norm_first=pre, layer_norm_eps=1e-2)
        if not pre:
            self.body.encoder.norm = self.body.decoder.norm = None
        self.bias = nn.Parameter(torch.zeros(14))
        self.body.encoder.enable_nested_tensor = False
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.2)

    def embedded(self, ids):
        half = torch.arange(ids.size(1))[:, None] / 10000 ** (torch.arange(0, D, 2) / D)
        return self.tokens(ids) * D**0.5 + torch.stack([half.sin(), half.cos()], 2).flatten(1)

    def forward(self, input_ids, decoder_input_ids=None, labels=None):
        if labels is not None:
            input_ids = input_ids if self.source_end else input_ids[:, :-1]
            decoder_input_ids = torch.cat([torch.full_like(labels[:, :1], 2), labels[:, :-1]], 1)
        mask, size = input_ids == 1, decoder_input_ids.size(1)
        states = self.body(self.embedded(input_ids), self.embedded(decoder_input_ids),
                           tgt_mask=nn.Transformer.generate_square_subsequent_mask(size), src_key_padding_mask=mask,
                           memory_key_padding_mask=mask)  # fmt: skip
        self.logits = states @ self.tokens.weight.T + self.bias
        self.loss = labels is not None and nn.functional.cross_entropy(self.logits.transpose(1, 2), labels)
        return self

    @torch.no_grad()
    def search(self, source, K):
        """Beam search by fairseq's rule, slowly. Returns the ids without the end."""
        live, done = [(0.0, [])], []
        for step in range(LONGEST + 1):
            rated = []
            for score, ids in live:
                row = self(torch.tensor([source]), torch.tensor([[2, *ids]])).logits[0, -1].log_softmax(0)
                rated += [(score + value, [*ids, n]) for n, value in enumerate(row.tolist()) if n not in (1, 2)]
            rated.sort(key=lambda pair: -pair[0])
            done += [(s / (step + 1), ids[:-1]) for s, ids in rated[:K] if ids[-1] == 3]
            live = [pair for pair in rated if pair[1][-1] != 3][:K]
            if len(done) >= K:
                return max(done[:K])[1]
        return None


def renamed(theirs, layers, attention, cross, maps, norms, inner, outer):
    """The weights of the layers under the names of a toolkit."""
    state, result = dict(theirs.body.state_dict()), {}
    for side in ("encoder", "decoder"):
        for n in range(len(getattr(theirs.body, side).layers)):
            ours, name = f"{side}.layers.{n}", layers[side].format(n)
            pairs = {"self_attn": attention[side], **({"multihead_attn": cross} if side == "decoder" else {})}
            for part, their in pairs.items():
                for kind in ("weight", "bias"):
                    values = (*state[f"{ours}.{part}.in_proj_{kind}"].chunk(3), state[f"{ours}.{part}.out_proj.{kind}"])
                    result |= {f"{name}.{their}.{map_}.{kind}": v for map_, v in zip(maps, values, strict=True)}
            for kind in ("weight", "bias"):
                for number, their in enumerate(norms[side], 1):
                    result[f"{name}.{their}.{kind}"] = state[f"{ours}.norm{number}.{kind}"]
                result[f"{name}.{inner}.{kind}"] = state[f"{ours}.linear1.{kind}"]
                result[f"{name}.{outer}.{kind}"] = state[f"{ours}.linear2.{kind}"]
        for kind in ("weight", "bias"):
            if getattr(theirs.body, side).norm is not None:
                result[f"{side}.layer_norm.{kind}"] = state[f"{side}.norm.{kind}"]
    return {name: value.clone() for name, value in result.items()}


LINEAR = ("linear_query", "linear_keys", "linear_values", "final_linear")
PE = torch.stack([half := torch.arange(50)[:, None] / 10000 ** (torch.arange(0, D, 2) / D), half + torch.pi / 2], 2)
PE = PE.sin().flatten(1)


def onmt(folder, theirs, **changes):
    tensors = renamed(
        theirs, {"encoder": "encoder.transformer.{}", "decoder": "decoder.transformer_layers.{}"},
        dict.fromkeys(("encoder", "decoder"), "self_attn"), "context_attn", LINEAR,
        {"encoder": ("layer_norm", "feed_forward.layer_norm"),
         "decoder": ("layer_norm_1", "layer_norm_2", "feed_forward.layer_norm")}, "feed_forward.w_1",
        "feed_forward.w_2")  # fmt: skip
    for side in ("encoder", "decoder"):
        tensors[f"{side}.embeddings.make_embedding.emb_luts.0.weight"] = theirs.tokens.weight.data
        tensors[f"{side}.embeddings.make_embedding.pe.pe"] = PE[:, None]
    options = {"encoder_type": "transformer", "decoder_type": "transformer", "enc_layers": 2, "dec_layers": 1,
               "heads": 2, "transformer_ff": 24, "pos_ffn_activation_fn": "relu", "layer_norm": "standard",
               "norm_eps": 1e-2, "dropout": [0.1], "attention_dropout": [0.1], "share_embeddings": True,
               "share_decoder_embeddings": True, "max_relative_positions": 0, "num_kv": 0, **changes}  # fmt: skip
    vocabulary = ["<unk>", "<blank>", "<s>", "</s>", *SYMBOLS]
    torch.save({"model": tensors, "generator": {"weight": theirs.tokens.weight.data, "bias": theirs.bias.data},
                "vocab": {"src": vocabulary, "tgt": vocabulary, "data_task": "seq2seq"}, "optim": {"step": 3},
                "opt": argparse.Namespace(**options)}, folder / "model_step_3.pt")  # fmt: skip
    return folder / "model_step_3.pt"


def eole(folder, theirs):
    tensors = renamed(
        theirs, dict.fromkeys(("encoder", "decoder"), "{side}.transformer_layers.{{}}") | {
            side: f"{side}.transformer_layers.{{}}" for side in ("encoder", "decoder")},
        dict.fromkeys(("encoder", "decoder"), "self_attn"), "context_attn", LINEAR,
        {"encoder": ("input_layernorm", "post_attention_layernorm"),
         "decoder": ("input_layernorm", "precontext_layernorm", "post_attention_layernorm")}, "mlp.gate_up_proj",
        "mlp.down_proj")  # fmt: skip
    tensors = {name: value for name, value in tensors.items() if not (name.endswith("bias") and "linear_" in name)}
    tensors |= {"src_emb.embeddings.weight": theirs.tokens.weight.data.clone(), "src_emb.pe.pe": PE[:, None].clone(),
                "tgt_emb.pe.pe": PE[:, None].clone(), "generator.bias": theirs.bias.data,
                "decoder.transformer_layers.0.layer_scalar": torch.ones(1)}  # fmt: skip
    save_file(tensors, folder / "model.00.safetensors")
    stack = {"heads": 2, "transformer_ff": 24, "norm_eps": 1e-2, "position_encoding_type": "SinusoidalInterleaved"}
    model = {"architecture": "transformer", "encoder": {"layers": 2, "encoder_type": "transformer", **stack},
             "decoder": {"layers": 1, "decoder_type": "transformer", **stack}, "share_embeddings": True,
             "share_decoder_embeddings": True}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model": model, "training": {}}))
    vocabulary = ["<unk>", "<blank>", "<s>", "</s>", *SYMBOLS]
    (folder / "vocab.json").write_text(json.dumps({"src": vocabulary, "tgt": vocabulary}))
    return folder


def joeynmt(folder, theirs, change=None, level="word", content=None):
    sides = ("encoder", "decoder")
    tensors = renamed(
        theirs, {side: f"{side}.layers.{{}}" for side in sides}, {"encoder": "src_src_att", "decoder": "trg_trg_att"},
        "src_trg_att", ("q_layer", "k_layer", "v_layer", "output_layer"),
        {"encoder": ("layer_norm", "feed_forward.layer_norm"),
         "decoder": ("x_layer_norm", "dec_layer_norm", "feed_forward.layer_norm")}, "feed_forward.pwff_layer.0",
        "feed_forward.pwff_layer.3")  # fmt: skip
    for name in ("src_embed.lut.weight", "trg_embed.lut.weight", "decoder.output_layer.weight"):
        tensors[name] = theirs.tokens.weight.data
    tensors |= {f"{side}.pe.pe": PE[None] for side in sides}
    torch.save({"model_state": tensors, "stats_state": {"steps": 3}, **(content or {})}, folder / "best.ckpt")
    stack = {"type": "transformer", "num_heads": 2, "hidden_size": D, "ff_size": 24, "dropout": 0.1,
             "layer_norm": "post" if theirs.body.encoder.norm is None else "pre"}  # fmt: skip
    model = {side: {**stack, "num_layers": count, "embeddings": {"embedding_dim": D, "scale": True}}
             for side, count in zip(sides, (2, 1), strict=True)}  # fmt: skip
    model |= {"tied_embeddings": True, "tied_softmax": True}
    config = {"name": "a", "data": {"src": {"lang": "de", "level": level}, "trg": {"lang": "en", "level": level}},
              "testing": {"beam_size": 5, "beam_alpha": 1.0, "max_output_length": 60}, "model": model}  # fmt: skip
    if change:
        change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for side in ("src", "trg"):
        (folder / f"{side}_vocab.txt").write_text("\n".join(["<unk>", "<pad>", "<s>", "</s>", *SYMBOLS]) + "\n")
    return folder


WRITERS = {"onmt": onmt, "eole": eole, "joeynmt": joeynmt, "joeynmt_post": joeynmt}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "onmt")) for kind in WRITERS])
def test_same_logits_and_lines(kind, tmp_path, s2s, monkeypatch):
    theirs = Theirs(kind != "joeynmt_post", kind.startswith("joeynmt"))
    theirs.bias.requires_grad_(not kind.startswith("joeynmt"))
    if kind == "eole":  # its maps of queries, keys and values have no bias by default
        for layer in (*theirs.body.encoder.layers, *theirs.body.decoder.layers):
            for name in ("self_attn", "multihead_attn"):
                if hasattr(layer, name):
                    getattr(layer, name).in_proj_bias.requires_grad_(False)
    teach(theirs, range(4, 14), 3)
    if kind.startswith("joeynmt"):
        monkeypatch.setattr("s2s.interop.importing.joeynmt.EPSILON", 1e-2)
    (tmp_path / "theirs").mkdir()
    path = WRITERS[kind](tmp_path / "theirs", theirs)
    report = importing.write(path, "auto", tmp_path / "ours")
    assert report[0].startswith({"onmt": "OpenNMT-py: ", "eole": "eole: "}.get(kind, "JoeyNMT: "))
    model, task, _ = load_model(str(tmp_path / "ours"))
    assert task.target_tokenizer.vocabulary.symbols[4:] == SYMBOLS
    lines = words(8 if kind == "onmt" else 50, SYMBOLS)
    lines[7] = "das wort hund"
    row, known = [1, 2, 0, 3, *range(4, 14)], {symbol: n for n, symbol in enumerate(SYMBOLS, 4)}
    row = [1, 0, 2, 3, *range(4, 14)] if task.target_tokenizer.vocabulary.symbols[1] == "<unk>" else row
    place = [row.index(n) for n in range(14)]
    sources = [[known.get(word, 0) for word in line.split()] + [3] * theirs.source_end for line in lines]
    assert [[place[i] for i in source if i != 3] for source in sources] == task.encode(lines)
    target = torch.randint(4, 14, (len(lines), 9))
    target[:, 0] = 2
    width = max(map(len, sources))
    batch = torch.tensor([source + [1] * (width - len(source)) for source in sources])
    with torch.no_grad():
        wanted = theirs(batch, target).logits
        (source,) = task.collate_sources(task.encode(lines)).sources
        found = model.decode(model.encode((source,)), torch.tensor(place)[target]).logits()
    keep = [0, 1, *range(3, 14)]
    torch.testing.assert_close(found[..., [place[i] for i in keep]], wanted[..., keep], rtol=1e-4, atol=1e-4)
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    for beams in (1, 5):
        expected = [theirs.search(source, beams) for source in sources]
        assert s2s("generate", f"checkpoint={tmp_path / 'ours'}", f"input={tmp_path / 'in'}", "decode=fairseq",
                   f"output={tmp_path / 'out'}", f"decode.beam_size={beams}", f"decode.max_length_b={LONGEST}",
                   "decode.min_length_b=0", "device=cpu") == 0  # fmt: skip
        written = (tmp_path / "out").read_text().splitlines()
        pairs = [(line, " ".join((["<unk>"] + ["?"] * 3 + SYMBOLS)[i] for i in ids))
                 for line, ids in zip(written, expected, strict=True) if ids is not None]  # fmt: skip
        assert len(pairs) > len(lines) / 2
        assert len({line for line, _ in pairs}) > len(lines) / 3
        assert not [pair for pair in pairs if pair[0] != pair[1]]


def test_what_is_not_read_is_refused(tmp_path, s2s, capsys):
    theirs, number = Theirs(), iter(range(99))

    def refused(writer, **how):
        folder = tmp_path / f"theirs{next(number)}"
        folder.mkdir()
        path = writer(folder, theirs, **how)
        assert s2s("importing", f"from={path}", f"output={tmp_path / 'new'}") == 2
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    message = refused(onmt, encoder_type="brnn", max_relative_positions=20, pos_ffn_activation_fn="tanh")
    for part in ("encoder_type=brnn", "max_relative_positions=20", "activation_fn=tanh"):
        assert part in message
    message = refused(joeynmt, change=lambda config: config["model"]["encoder"].update(type="recurrent"))
    assert "encoder.type=recurrent" in message
    assert "encoder.layer_norm=post with a norm after the last layer" in refused(
        joeynmt, change=lambda config: config["model"]["encoder"].update(layer_norm="post")
    )
    codes = {"tokenizer_type": "subword-nmt", "tokenizer_cfg": {"codes": "somewhere/codes.txt"}}
    assert "codes.txt: no such file" in refused(
        joeynmt, level="bpe", change=lambda config: config["data"]["src"].update(codes)
    )
    assert "posix.system" in refused(joeynmt, content={"train_iter_state": Hostile()})
    assert not HOSTILE.exists()
    assert "encoder.layers.1.layer_norm.bias missing" in refused(
        lambda folder, theirs: _without(joeynmt(folder, theirs), "encoder.layers.1.layer_norm.bias")
    )


def test_a_config_with_anchors(tmp_path, s2s, capsys):
    """As in JoeyNMT's own examples. A few aliases that stand for billions of values are refused."""
    folder = joeynmt(tmp_path, Theirs(source_end=True))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    text = yaml.safe_dump({key: value for key, value in config.items() if key != "model"})
    stacks = {side: config["model"].pop(side) for side in ("encoder", "decoder")}
    layers = {side: stack.pop("num_layers") for side, stack in stacks.items()}
    common = yaml.safe_dump(stacks["encoder"], default_flow_style=True, width=1000).strip()
    text += f"base: &base {common}\nmodel:\n"
    text += "".join(f"    {side}:\n        <<: *base\n        num_layers: {count}\n" for side, count in layers.items())
    (folder / "config.yaml").write_text(text + "    tied_embeddings: &yes true\n    tied_softmax: *yes\n")
    assert importing.write(folder, "auto", tmp_path / "ours")[0].startswith("JoeyNMT: ")
    model, _, _ = load_model(str(tmp_path / "ours"))
    assert (model.config.encoder.layers, model.config.decoder.layers, model.config.decoder.ffn_width) == (2, 1, 24)
    laughs = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    (folder / "config.yaml").write_text(laughs + text)
    assert s2s("importing", f"from={folder}", f"output={tmp_path / 'new'}") == 2
    assert "more than 65,536 values" in capsys.readouterr().err
    (folder / "config.yaml").write_text("data: &a {b: *a}\nmodel: {}\n")
    assert s2s("importing", f"from={folder}", f"output={tmp_path / 'new'}") == 2
    assert "config.yaml:1: no value before this line has the anchor &a" in capsys.readouterr().err


def _without(folder, name):
    content = torch.load(folder / "best.ckpt", weights_only=True)
    del content["model_state"][name]
    torch.save(content, folder / "best.ckpt")
    return folder


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {HOSTILE}",)


def test_tokenizers_of_joeynmt(tmp_path):
    """Characters, and words that Moses tokenizes."""
    pytest.importorskip("sacremoses")

    def moses(config):
        for side in ("src", "trg"):
            config["data"][side] |= {"lowercase": True, "tokenizer_cfg": {"pretokenizer": "moses"}}

    joeynmt(tmp_path, Theirs(source_end=True), change=moses)
    importing.write(tmp_path, "auto", tmp_path / "words")
    task = load_model(str(tmp_path / "words"))[1]
    assert task.source_tokenizer.texts("Das Haus, klein.") == ["das", "haus", ",", "klein", "."]
    assert task.target_tokenizer.decode(task.target_tokenizer.encode("das haus")) == "das haus"
    letters = ["<unk>", "<pad>", "<s>", "</s>", *"abcdefghi\u2581"]
    joeynmt(tmp_path, Theirs(source_end=True), level="char")
    for side in ("src", "trg"):
        (tmp_path / f"{side}_vocab.txt").write_text("\n".join(letters) + "\n")
    importing.write(tmp_path, "auto", tmp_path / "letters")
    tokenizer = load_model(str(tmp_path / "letters"))[1].source_tokenizer
    assert tokenizer.encode("a cab") == [4, 13, 6, 4, 5]
    assert tokenizer.decode([4, 13, 6]) == "a c"


def test_sources_without_their_end():
    ids, lengths = ended(np.array([4, 5, 6]), np.array([0, 2, 0, 1, 0]), end=False)
    assert ids.tolist() == [3, 4, 5, 3, 6, 3]
    assert lengths.tolist() == [1, 2, 1, 1, 1]


def test_the_order_of_interleaved_positions():
    torch.testing.assert_close(sinusoidal(torch.arange(50), D, "sinusoidal_interleaved"), PE, rtol=1e-4, atol=1e-4)
