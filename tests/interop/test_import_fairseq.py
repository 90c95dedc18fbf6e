"""Checkpoints in the format of fairseq come in. Their weights are those of models of transformers that were ported from
fairseq, so that library says what is right."""

import argparse
import json
import os
import pathlib
import tempfile

import pytest
import torch

from s2s.checkpoint.loading import load_model
from s2s.interop.importing.dictionaries import read_dictionary
from s2s_cli import importing
from tests.interop.taught import compare, same_logits, teach, words, written

transformers = pytest.importorskip("transformers")

SYMBOLS = ["das", "haus", "ist", "klein", "ein", "hund", "und", "der", "alte", "baum"]
FSMTS = ("transformer_iwslt_de_en", "transformer_wmt_en_fr")
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
FSMT = {"langs": ["de", "en"], "src_vocab_size": 16, "tgt_vocab_size": 16, "d_model": 16, "encoder_layers": 2,
        "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 20, "dropout": 0.0, "init_std": 0.2, "forced_eos_token_id": None}  # fmt: skip
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "dropout": 0.0, "init_std": 0.2,
        "max_position_embeddings": 40, "forced_eos_token_id": None, "bos_token_id": 0, "pad_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 2}  # fmt: skip


class MBart(transformers.MBartForConditionalGeneration):
    """Its decoder begins with the end symbol, as that of translation models."""

    def forward(self, labels=None, decoder_input_ids=None, **inputs):
        if labels is not None:
            decoder_input_ids = torch.cat([torch.full_like(labels[:, :1], 2), labels[:, :-1]], 1)
        return super().forward(labels=labels, decoder_input_ids=decoder_input_ids, **inputs)


def made(kind):
    """A model of transformers, and the options of fairseq that mean the same."""
    torch.manual_seed(0)
    options = {
        "encoder_embed_dim": 16, "decoder_embed_dim": 16, "encoder_layers": 2, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_embed_dim": 24,
        "decoder_ffn_embed_dim": 20, "dropout": 0.3, "attention_dropout": 0.1, "decoder_output_dim": 16,
        "adaptive_softmax_cutoff": None, "share_all_embeddings": False, "share_decoder_input_output_embed": False,
        "encoder_normalize_before": False, "decoder_normalize_before": False, "activation_fn": "relu",
        "encoder_learned_pos": False, "decoder_learned_pos": False, "no_scale_embedding": False,
    }  # fmt: skip
    if kind in FSMTS:
        tied = kind == "transformer_iwslt_de_en"
        model = transformers.FSMTForConditionalGeneration(
            transformers.FSMTConfig(**FSMT, scale_embedding=True, tie_word_embeddings=tied))  # fmt: skip
        for side in (model.model.encoder, model.model.decoder):  # sinusoids, which fairseq does not learn
            side.embed_positions.weight.requires_grad_(False)
        if tied:
            model.model.decoder.output_projection.weight = model.model.decoder.embed_tokens.weight
        options["share_decoder_input_output_embed"] = tied
    elif kind == "bart_base":
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(vocab_size=15, **BART))
        options |= {"share_all_embeddings": True, "activation_fn": "gelu", "no_scale_embedding": True,
                    "encoder_learned_pos": True, "decoder_learned_pos": True, "layernorm_embedding": True}  # fmt: skip
    else:  # a pre-norm Transformer with learned positions
        model = MBart(transformers.MBartConfig(vocab_size=14, **BART, scale_embedding=True, activation_function="relu"))
        options |= {"share_all_embeddings": True, "encoder_normalize_before": True, "decoder_normalize_before": True,
                    "encoder_learned_pos": True, "decoder_learned_pos": True, "layernorm_embedding": True}  # fmt: skip
    return model, options


def save(kind, folder, layout="args", old=False):
    """A taught model in the format of fairseq: the model, and functions from lines to ids and back."""
    folder.mkdir()
    model, options = made(kind)
    source, target = [*SPECIALS, *SYMBOLS], [*SPECIALS, *SYMBOLS[::-1]]
    if kind in FSMTS:
        source, target = [*source, "madeupword0000", "madeupword0001"], [*target, "madeupword0000", "madeupword0001"]
    else:
        target = source
    teach(model, range(4, 14), 2)
    sinusoids = not options["encoder_learned_pos"]
    tensors = {name.removeprefix("model."): value for name, value in model.state_dict().items()
               if name.startswith("model.") and not (sinusoids and "embed_positions" in name)}  # fmt: skip
    tensors.pop("shared.weight", None)
    tensors["decoder.output_projection.weight"] = tensors.get(
        "decoder.output_projection.weight", model.get_output_embeddings().weight.data
    )
    tensors |= {"encoder.version": torch.tensor([3.0]), "decoder.version": torch.tensor([3.0])}
    if sinusoids:
        tensors["encoder.embed_positions._float_tensor"] = torch.zeros(1)
    if old:
        tensors = as_of_2018(tensors)
    for language, symbols in {"de": source, "en": target}.items():
        (folder / f"dict.{language}.txt").write_text("".join(f"{s} {99 - n}\n" for n, s in enumerate(symbols[4:])
                                                             if s != "<mask>"))  # fmt: skip
    options |= {"arch": kind, "source_lang": "de", "target_lang": "en", "task": "translation"}
    content = {"model": tensors, "optimizer_history": [{"num_updates": 3}], "extra_state": {"epoch": 1}}
    task = {"_name": "translation", "source_lang": "de", "target_lang": "en"}
    if layout == "args":
        content |= {"args": argparse.Namespace(**options)}
    elif layout == "mixed":
        content |= {"args": None, "cfg": {"_name": None, "model": argparse.Namespace(**options), "task": task}}
    else:
        omegaconf = pytest.importorskip("omegaconf")
        nested = {side: {key.removeprefix(f"{side}_"): value for key, value in options.items()
                         if key.startswith(f"{side}_")} for side in ("encoder", "decoder")}  # fmt: skip
        flat = {key: value for key, value in options.items() if not key.startswith(("encoder_", "decoder_"))}
        content |= {"cfg": omegaconf.OmegaConf.create(
            {"model": {"_name": kind, **flat, **nested}, "task": task})}  # fmt: skip
    torch.save(content, folder / "checkpoint_best.pt")
    known = {symbol: number for number, symbol in enumerate(source)}
    model.generation_config = transformers.GenerationConfig(
        bad_words_ids=[[1]], decoder_start_token_id=2, eos_token_id=2, pad_token_id=1, bos_token_id=0)  # fmt: skip
    return (model, lambda line: [*(known.get(word, 3) for word in line.split()), 2],
            lambda ids: " ".join(target[i] for i in ids if i > 2), target)  # fmt: skip


def as_of_2018(tensors):
    """The names that fairseq had then."""
    result = {}
    for name, value in tensors.items():
        if ".q_proj." in name:
            rest = [tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "kv"]
            result[name.replace("q_proj.", "in_proj_")] = torch.cat([value, *rest])
        elif ".k_proj." not in name and ".v_proj." not in name:
            for side, norms in {"encoder": ("self_attn", "final"),
                                "decoder": ("self_attn", "encoder_attn", "final")}.items():  # fmt: skip
                for number, norm in enumerate(norms):
                    if name.startswith(side):
                        name = name.replace(f".{norm}_layer_norm.", f".layer_norms.{number}.")
            result[name.replace("output_projection.weight", "embed_out")] = value
    return result


def check(kind, tmp_path, s2s, beams, count=50, **how):
    theirs, encode, decode, target = save(kind, tmp_path / "theirs", **how)
    report = importing.write(tmp_path / "theirs" / "checkpoint_best.pt", "auto", tmp_path / "ours")
    assert report[0].startswith(f"fairseq {kind}")
    assert "already split" in " ".join(report)
    assert "decode=fairseq" in report[-1]
    model, task, _ = load_model(str(tmp_path / "ours"))
    known = {symbol: number for number, symbol in enumerate(target)} | {"<bos>": 0, "<mask>": len(target)}
    row = [1, 3, 2, 2, *(known[symbol] for symbol in task.target_tokenizer.vocabulary.symbols[4:])]
    assert sorted(row) == sorted([*range(theirs.get_output_embeddings().weight.size(0)), 2])
    lines = words(count, SYMBOLS)
    lines[7] = "das wort hund"
    if task.shared_vocabulary:
        same_logits(theirs, model, task, lines, encode, row)
    for count in beams:
        expected = written(theirs, lines, encode, decode, count, 30)
        compare(s2s, tmp_path, tmp_path / "ours", lines, expected, count, "decode.allow_unknown=true")


def test_a_transformer_with_old_names(tmp_path, s2s):
    check("transformer_iwslt_de_en", tmp_path, s2s, [5], 20, old=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layout"),
    [("transformer_iwslt_de_en", "omegaconf"), ("transformer_wmt_en_fr", "mixed"), ("transformer_prenorm", "omegaconf"),
     ("bart_base", "args")],
)  # fmt: skip
def test_same_logits_and_lines(kind, layout, tmp_path, s2s):
    check(kind, tmp_path, s2s, [1, 5], layout=layout)


def small(folder, change=None, **options):
    """A random checkpoint that nobody taught, with dictionaries and codes."""
    folder.mkdir(parents=True)
    names, D = ["das", "hau@@", "s", "madeupword0000"], 8
    options = {"arch": "transformer", "source_lang": "de", "target_lang": "en", "task": "translation",
               "share_decoder_input_output_embed": True} | options  # fmt: skip
    sizes = {"embed_dim": D, "layers": 1, "attention_heads": 2, "ffn_embed_dim": 8}
    options |= {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in sizes.items()}
    tensors = {}

    def linear(name, rows=D, columns=D):
        tensors.update({f"{name}.weight": torch.randn(rows, columns), f"{name}.bias": torch.randn(rows)})

    def norm(name):
        tensors.update({f"{name}.weight": torch.ones(D), f"{name}.bias": torch.zeros(D)})

    alone = options["arch"].startswith("transformer_lm")
    for side, attentions in {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}.items():
        if alone and side == "encoder":
            continue
        layer = f"{side}.layers.0"
        for attention in attentions[: 1 if alone else 2]:
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(f"{layer}.{attention}.{part}")
            norm(f"{layer}.{attention}_layer_norm")
        linear(f"{layer}.fc1")
        linear(f"{layer}.fc2")
        norm(f"{layer}.final_layer_norm")
        tensors[f"{side}.embed_tokens.weight"] = torch.randn(8, D)
        tensors[f"{side}.version"] = torch.tensor([3.0])
        if alone:
            norm("decoder.layer_norm")
    content = {"args": argparse.Namespace(**options), "model": tensors}
    if change:
        change(content)
    torch.save(content, folder / "model.pt")
    for name in ("dict.de.txt", "dict.en.txt", "dict.txt"):
        (folder / name).write_text("".join(f"{symbol} 5\n" for symbol in names))
    (folder / "bpecodes").write_text("#version: 0.2\nh a\nha u\nd a\nda s</w>\n")
    return folder


def test_codes_beside_the_checkpoint_split_the_text(tmp_path):
    report = importing.write(small(tmp_path / "theirs"), "auto", tmp_path / "ours")
    assert not any("already split" in line for line in report)
    _, task, _ = load_model(str(tmp_path / "ours"))
    tokenizer = task.source_tokenizer
    ids = tokenizer.encode("das haus xs")
    assert [tokenizer.vocabulary.symbols[i] for i in ids] == ["das", "hau@@", "s", "<unk>", "s"]
    assert tokenizer.decode(ids) == "das haus <unk> s"


def test_byte_pairs_of_gpt2(tmp_path):
    pytest.importorskip("tokenizers")
    folder = small(tmp_path / "theirs")
    (folder / "bpecodes").unlink()
    pieces = ["d", "a", "s", "da", "das", "\u0120", "\u0120das"]
    (folder / "encoder.json").write_text(json.dumps({piece: n + 40 for n, piece in enumerate(pieces)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\nd a\nda s\n\u0120 das\n")
    for name in ("dict.de.txt", "dict.en.txt"):
        (folder / name).write_text("46 9\n44 8\n42 7\nmadeupword0000 0\n")
    importing.write(folder, "auto", tmp_path / "ours")
    model, task, _ = load_model(str(tmp_path / "ours"))
    ids = task.source_tokenizer.encode("das dasa")
    assert [task.source_tokenizer.vocabulary.symbols[i] for i in ids] == ["das", "\u0120das", "<unk>"]
    assert task.source_tokenizer.decode(ids[:2]) == "das das"
    theirs = torch.load(folder / "model.pt", weights_only=False)["model"]["encoder.embed_tokens.weight"]
    torch.testing.assert_close(model.frontend.tokens.weight[ids], theirs[[5, 4, 3]])


def test_a_language_model_scores_as_its_mathematics(tmp_path, s2s):
    """Against the layers of PyTorch itself."""
    folder = small(tmp_path / "theirs", arch="transformer_lm_gpt", task="language_modeling", activation_fn="gelu",
                   decoder_learned_pos=True, no_scale_embedding=True,
                   change=lambda content: content["model"].update(
                       {"decoder.embed_positions.weight": torch.randn(14, 8)}))  # fmt: skip
    assert importing.write(folder, "auto", tmp_path / "ours")[0].startswith("fairseq transformer_lm_gpt")
    model, task, _ = load_model(str(tmp_path / "ours"))
    tensors = torch.load(folder / "model.pt", weights_only=False)["model"]
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    name = "decoder.layers.0."
    joined = {kind: torch.cat([tensors[f"{name}self_attn.{part}_proj.{kind}"] for part in "qkv"])
              for kind in ("weight", "bias")}  # fmt: skip
    state = {f"self_attn.in_proj_{kind}": value for kind, value in joined.items()}
    for theirs, ours in {"self_attn.out_proj": "self_attn.out_proj", "fc1": "linear1", "fc2": "linear2",
                         "self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"}.items():  # fmt: skip
        state |= {f"{ours}.{kind}": tensors[f"{name}{theirs}.{kind}"] for kind in ("weight", "bias")}
    layer.load_state_dict(state)
    rows = torch.tensor([[2, 4, 6, 5]])
    x = tensors["decoder.embed_tokens.weight"][rows] + tensors["decoder.embed_positions.weight"][2:6]
    with torch.no_grad():
        x = layer(x, torch.nn.Transformer.generate_square_subsequent_mask(4), is_causal=True)
        wanted = torch.nn.functional.layer_norm(x, (8,)) @ tensors["decoder.embed_tokens.weight"].T
        symbols = task.target_tokenizer.vocabulary.symbols
        target = torch.tensor([[2, *(symbols.index(symbol) for symbol in ("das", "s", "hau@@"))]])
        found = model.decode(model.encode(task.collate_sources([[]]).sources), target).logits()
    order = [symbols.index(symbol) for symbol in ("<bos>", "<pad>", "</s>", "<unk>", "das", "hau@@", "s")]
    torch.testing.assert_close(found[..., order], wanted[..., :7], rtol=1e-4, atol=1e-4)


def test_a_language_model_beside_a_translation_model(tmp_path, s2s):
    for arch, task in {"transformer": "translation", "transformer_lm": "language_modeling"}.items():
        folder = small(tmp_path / f"{arch}.theirs", arch=arch, task=task)
        report = importing.write(folder, "auto", tmp_path / arch)
    assert not any("same lines" in line for line in report)  # it does not decode by itself
    (tmp_path / "in").write_text("das haus\nhaus das s\ndas\n")
    for backend in ("auto", "eager"):
        assert s2s("generate", f"checkpoint={tmp_path / 'transformer'}", f"input={tmp_path / 'in'}", "device=cpu",
                   f"output={tmp_path / backend}", f"decode.language_model={tmp_path / 'transformer_lm'}",
                   f"decode.backend={backend}", "decode.max_length_b=9", "format=tsv") == 0  # fmt: skip
    first, second = ([line.split("\t") for line in (tmp_path / backend).read_text().splitlines()]
                     for backend in ("auto", "eager"))  # fmt: skip
    assert [line[2] for line in first] == [line[2] for line in second]
    assert [float(line[1]) for line in first] == pytest.approx([float(line[1]) for line in second], abs=1e-4)


def test_what_is_not_read_is_refused_and_nothing_is_written(tmp_path, s2s, capsys):
    number = iter(range(100))

    def refused(*words, files=None, **options):
        folder = small(tmp_path / f"theirs{next(number)}", **options)
        for name, content in (files or {}).items():
            (folder / name).unlink() if content is None else (folder / name).write_text(content)
        assert s2s("importing", f"from={folder / 'model.pt'}", f"output={tmp_path / 'new' / 'run'}", *words) == 2
        assert not (tmp_path / "new").exists()
        assert not HOSTILE.exists()
        return capsys.readouterr().err

    assert "posix.system" in refused(change=lambda content: content.update(extra=Hostile()))
    assert "encoder_layers=1,000,000: 1 to 1,000 are possible" in refused(
        change=lambda content: setattr(content["args"], "encoder_layers", 10**6)
    )
    shared, itself = [], []
    for _ in range(12):
        shared = [shared] * 10
    assert "more than 1,048,576 values" in refused(change=lambda content: content.update(extra=shared))
    itself.append(itself)
    assert "more than 100 values in each other" in refused(change=lambda content: content.update(extra=itself))
    assert "architecture fconv_iwslt_de_en: not read" in refused(arch="fconv_iwslt_de_en")
    message = refused(decoder_output_dim=4, adaptive_softmax_cutoff="9,99", activation_fn="tanh", task="latent")
    for part in ("decoder_output_dim=4", "adaptive_softmax_cutoff=9,99", "activation_fn=tanh", "task=latent"):
        assert part in message
    assert "dict.en.txt: no such dictionary" in refused(files={"dict.en.txt": None})
    assert "dict.en.txt:2: `symbol count`" in refused(files={"dict.en.txt": "a 3\nb\n"})
    assert "dict.en.txt:2: symbol 'a' appears twice" in refused(files={"dict.en.txt": "a 3\na 3\n"})
    assert "5 symbols" in refused(files={"dict.en.txt": "a 3\n"})
    assert "not codes" in refused(files={"bpecodes": "a b c d\n"})
    assert "no such file" in refused("bpe_codes=nowhere")
    assert "bpe_codes and sentencepiece" in refused("bpe_codes=a", "sentencepiece=b")
    lost = refused(change=lambda content: content["model"].pop("encoder.layers.0.fc1.bias"))
    assert "1 weights do not fit" in lost
    assert "encoder.layers.0.fc1.bias missing" in lost


def test_dictionary_with_overwritten_symbols(tmp_path):
    (tmp_path / "dict.txt").write_text("a 9\nb 8\na 7 #fairseq:overwrite\n<unk> 6 #fairseq:overwrite\n\u00a0 2\n")
    assert read_dictionary(tmp_path / "dict.txt") == [*SPECIALS, "<overwritten_4>", "b", "a", "<unk>", "\u00a0"]


HOSTILE = pathlib.Path(tempfile.gettempdir()) / "s2s-fairseq-was-run"


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {HOSTILE}",)
