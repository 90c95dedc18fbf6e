"""Marian's Transformer as a folder of Hugging Face: the OPUS-MT models.

The decoder begins with the padding symbol, whose row is that of our BOS. A line of a model with several target
languages begins with a code, such as `>>fra<<`.
"""

from typing import Any

from torch import Tensor

from s2s.config.documents import read_json
from s2s.config.shapes import mapping
from s2s.errors import UserError
from s2s.interop.huggingface import TAGS
from s2s.interop.importing.imported import Folder, Imported, arranged, by_id
from s2s.interop.importing.stacks import generation, generation_notes, pieces, sizes
from s2s.interop.places import Place, Table, bart_stack
from s2s.tasks.translation import TranslationConfig, TranslationTask
from s2s.text.pieces import PiecesTokenizer
from s2s.text.tokenizer import Tokenizer

DEFAULTS = {
    "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 16,
    "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096, "activation_function": "gelu",
    "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0,
}  # fmt: skip


def read(folder: Folder) -> Imported:
    """Read a model. Raises UserError: files are missing or damaged, or the model is another one than they say."""
    one = folder.get("share_encoder_decoder_embeddings", True)
    tied = folder.get("tie_word_embeddings", True)
    source, source_rows = tokenizer(folder, "source", one)
    target, target_rows = tokenizer(folder, "target", one)
    options = sizes(folder, DEFAULTS) | {
        "norm": "post", "positions": "sinusoidal", "scale_embeddings": folder.get("scale_embedding", False),
        "tie_embeddings": ("all" if tied else "inputs") if one else ("decoder" if tied else "none"),
    }  # fmt: skip
    layers = options["encoder.layers"], options["decoder.layers"]
    return Imported(
        family="Marian (Hugging Face)", options=options, task=task_of(folder, source, target),
        table=table(*layers, source_rows, target_rows, options["tie_embeddings"]), tensors=folder.weights(),
        where=folder.path, ignored=("model.*.embed_positions.weight",), same=copies(options["tie_embeddings"]),
        decode=generation(folder), notes=notes(folder),
    )  # fmt: skip


def task_of(folder: Folder, source: Tokenizer, target: Tokenizer) -> TranslationTask:
    """The task, with the tags that s2s-export writes beside its tokenizers; none in a folder of another origin. Raises
    UserError: the tags are damaged."""
    told = _tags(folder)
    values = told.pop("values", {})
    task = TranslationTask(source, target, config=TranslationConfig(**told))
    task.tags = task.tag_values = values
    return task


def _tags(folder: Folder) -> dict[str, Any]:
    """The options of the task about tags, and their values as `values`; empty: there are none."""
    if not folder.has(TAGS):
        return {}
    tag = (str, None)
    shape = {"source_tags": [str], "target_tag": tag, "first_tag": tag, "values": mapping([str])}
    return read_json(folder.path / TAGS, shape)


def tokenizer(folder: Folder, side: str, one: bool) -> tuple[PiecesTokenizer, Tensor]:
    """The tokenizer of a side, and the rows of its symbols.

    Args:
        folder: The model.
        side: `source` or `target`.
        one: Whether both sides share a vocabulary.
    """
    name = "vocab.json" if one or side == "source" else "target_vocab.json"
    known = folder.json(name)
    if missing := [symbol for symbol in ("<unk>", "</s>", "<pad>") if symbol not in known]:
        raise UserError(f"{folder.path / name}: has no {' and no '.join(missing)}")
    begin = folder.get("decoder_start_token_id", known["<pad>"])
    symbols = by_id(known, folder.path / name)
    size = folder.get("vocab_size", 58101)
    if side == "target" and not one:
        size = folder.get("decoder_vocab_size", None) or size
    if len(symbols) > size:
        raise UserError(f"{folder.path / name}: {len(symbols):,} symbols; config.json has vocab_size={size:,}")
    values = {value for each in _tags(folder).get("values", {}).values() for value in each}
    apart = {f"<{value}>": f">>{value}<<" for value in sorted(values) if f">>{value}<<" in known}
    begin = begin if side == "target" or one else known.get("<s>", known["<pad>"])
    ours, names, rows = arranged(symbols, [known["<pad>"], known["<unk>"], begin, known["</s>"]], size, apart)
    codes = side == "source" and any(symbol.startswith(">>") and symbol.endswith("<<") for symbol in ours)
    return pieces(folder.file(f"{side}.spm"), ours, names, joint=False, codes=codes), rows


def table(encoder: int, decoder: int, source: Tensor, target: Tensor, tie: str) -> Table:
    """The place of each weight.

    Args:
        encoder, decoder: Numbers of layers.
        source, target: Rows of our symbols.
        tie: `tie_embeddings`.
    """
    shared = tie in ("all", "inputs")
    of = ("model.shared.weight",) * 2 if shared else ("model.encoder.embed_tokens.weight",
                                                      "model.decoder.embed_tokens.weight")  # fmt: skip
    table = {"frontend.embedding.tokens.weight": Place((of[0],), source),
             "output.bias": Place(("final_logits_bias",), target, flat=True)}  # fmt: skip
    if not shared:
        table["decoder.embedding.tokens.weight"] = Place((of[1],), target)
    if tie in ("inputs", "none"):
        table["output.weight"] = Place(("lm_head.weight",), target)
    return table | bart_stack("encoder", encoder) | bart_stack("decoder", decoder)


def copies(tie: str) -> dict[str, str]:
    """Names of copies of shared matrices, and what they are copies of."""
    if tie in ("all", "inputs"):
        names = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"]
        return dict.fromkeys([*names, *["lm_head.weight"] * (tie == "all")], "model.shared.weight")
    return {"lm_head.weight": "model.decoder.embed_tokens.weight"} if tie == "decoder" else {}


def notes(folder: Folder) -> list[str]:
    """What cannot be taken over."""
    return [f"{name}={folder.config[name]}: layers are not left out in training"
            for name in ("encoder_layerdrop", "decoder_layerdrop") if folder.config.get(name)
            ] + generation_notes(folder)  # fmt: skip
