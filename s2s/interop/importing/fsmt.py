"""FSMT as a folder of Hugging Face: fairseq's Transformers of WMT, with their Moses tokenization.

The decoder begins with `</s>`, whose row is that of our BOS. A word is tokenized by Moses and split by byte pairs.
"""

from typing import Any

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.interop.importing.imported import Folder, Imported, arranged, by_id
from s2s.interop.importing.marian import notes
from s2s.interop.importing.stacks import generation, sizes
from s2s.interop.places import Place, Table, bart_stack
from s2s.tasks.translation import TranslationTask
from s2s.text.pretokenizers.moses import MosesConfig
from s2s.text.subword_nmt import END, GOES_ON, SubwordNmtConfig, SubwordNmtTokenizer
from s2s.text.vocabulary import Vocabulary

DEFAULTS = {
    "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 16,
    "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096, "activation_function": "relu",
    "dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0,
}  # fmt: skip
DECODER = "model.decoder.embed_tokens.weight"
OUTPUT = "model.decoder.output_projection.weight"
VERSION = b"#version: 0.2\n"  # of codes in which the end of a word is a part of its last letter


def read(folder: Folder) -> Imported:
    """Read a model. Raises UserError: files are missing or damaged, or the model is another one than they say."""
    (source, rows), (target, target_rows) = (_tokenizer(folder, side) for side in ("source", "target"))
    tensors = folder.weights()
    if folder.get("tie_word_embeddings", False):  # one matrix, of which each side has rows of its own
        tensors.setdefault("model.encoder.embed_tokens.weight", tensors.get(DECODER, torch.zeros(1, 1)))
    tied = _tied(folder, tensors)
    options = sizes(folder, DEFAULTS) | {
        "norm": "post", "positions": "sinusoidal_fairseq", "scale_embeddings": folder.get("scale_embedding", True),
        "tie_embeddings": "decoder" if tied else "none",
    }  # fmt: skip
    return Imported(
        family="FSMT (Hugging Face)", options=options, task=TranslationTask(source, target),
        table=_table(options, rows, target_rows), tensors=tensors, where=folder.path,
        ignored=("model.*.embed_positions.weight",), decode=generation(folder),
        same={"lm_head.weight": OUTPUT} | ({OUTPUT: DECODER} if tied else {}),
        notes=[*notes(folder), "punctuation that is not of ASCII is normalised by the rules of Moses alone"],
    )  # fmt: skip


def _tied(folder: Folder, tensors: dict[str, Tensor]) -> bool:
    """Whether the output has the matrix of the decoder's embedding."""
    tokens, output = tensors.get(DECODER), tensors.get(OUTPUT)
    if output is None:
        return folder.get("tie_word_embeddings", False)
    return tokens is not None and tokens.shape == output.shape and bool((tokens == output).all())


def _tokenizer(folder: Folder, side: str) -> tuple[SubwordNmtTokenizer, Tensor]:
    """The tokenizer of a side, and the row of each of its symbols."""
    short = {"source": "src", "target": "tgt"}[side]
    name, size = f"vocab-{short}.json", folder.get(f"{short}_vocab_size", 42024)
    known = folder.json(name)
    if missing := [symbol for symbol in ("<unk>", "</s>", "<pad>") if symbol not in known]:
        raise UserError(f"{folder.path / name}: has no {' and no '.join(missing)}")
    begin = folder.get("decoder_start_token_id", 2) if side == "target" else known["</s>"]
    symbols = [_ours(symbol) for symbol in by_id(known, folder.path / name)]
    specials = [known["<pad>"], known["<unk>"], begin, known["</s>"]]
    apart = {"<bos>": "<s>"} if "<s>" in symbols and symbols.index("<s>") != begin else {}
    ours, names, rows = arranged(symbols, specials, size, apart)
    codes = folder.file("merges.txt").read_bytes()
    codes = codes if codes.startswith(b"#version") else VERSION + codes
    config = SubwordNmtConfig(reserved=names, joint=False, **_settings(folder, side))
    try:
        return SubwordNmtTokenizer(config, codes, Vocabulary(ours)), rows
    except ValueError as error:
        raise UserError(f"{folder.path / 'merges.txt'}: not byte pairs: {error}") from error


def _settings(folder: Folder, side: str) -> dict[str, Any]:
    """Options of the tokenizer of a side: the rules of Moses for its language."""
    settings = folder.json("tokenizer_config.json") if folder.has("tokenizer_config.json") else {}
    languages = settings.get("langs") or folder.config.get("langs") or []
    if len(languages) != 2 or not all(isinstance(each, str) for each in languages):
        raise UserError(f"{folder.path}: langs of config.json or tokenizer_config.json: two languages are needed")
    pre = MosesConfig(language=languages[side == "target"], dashes=True, punctuation=True)
    return {"pre": pre, "lowercase": bool(settings.get("do_lower_case", False))}


def _ours(symbol: str) -> str:
    """A piece as subword-nmt writes it: a word that goes on has a mark, and not one that ends."""
    if symbol in ("<s>", "</s>", "<pad>", "<unk>") or symbol.startswith("madeupword"):
        return symbol
    return symbol.removesuffix(END) if symbol.endswith(END) else symbol + GOES_ON


def _table(options: dict[str, Any], source: Tensor, target: Tensor) -> Table:
    """The place of each weight; source, target: rows of our symbols."""
    table: Table = {"frontend.embedding.tokens.weight": Place(("model.encoder.embed_tokens.weight",), source),
                    "decoder.embedding.tokens.weight": Place((DECODER,), target)}  # fmt: skip
    if options["tie_embeddings"] == "none":
        table["output.weight"] = Place((OUTPUT,), target)
    return table | bart_stack("encoder", options["encoder.layers"]) | bart_stack("decoder", options["decoder.layers"])
