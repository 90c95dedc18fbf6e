"""T5 as a folder of Hugging Face: T5, T5 1.1, Flan-T5, mT5 and ByT5.

The decoder begins with the padding symbol. A source begins with the words of its task, which are plain text.
"""

from typing import Any

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.interop.importing import marian
from s2s.interop.importing.imported import Folder, Imported, arranged
from s2s.interop.importing.stacks import generation, generation_notes, of_library, pieces
from s2s.interop.places import Place, Table, t5_stack
from s2s.text.bytes import ByteConfig, ByteTokenizer
from s2s.text.sentencepiece import processor_of
from s2s.text.tokenizer import Tokenizer

BYTES = 256
PAD, END, UNKNOWN = 0, 1, 2  # their ids
MOST_EXTRA = 1000  # symbols <extra_id_N> that are looked for
BLOCKS = {"relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu"}


def read(folder: Folder) -> Imported:
    """Read a model. Raises UserError: files are missing or damaged, or the model is another one than they say."""
    size = folder.get("vocab_size", 32128)
    if folder.has("source.spm"):  # as s2s-export writes it
        (tokenizer, rows), (target, _) = (marian.tokenizer(folder, side, True) for side in ("source", "target"))
    else:
        tokenizer, rows = _tokenizer(folder, size)
        target = tokenizer
    tensors = folder.weights()
    tied = "lm_head.weight" not in tensors or _same(tensors["lm_head.weight"], tensors.get("shared.weight"))
    options = _options(folder, tied)
    return Imported(
        family="T5 (Hugging Face)", options=options, task=marian.task_of(folder, tokenizer, target),
        table=table(options, rows), tensors=tensors, where=folder.path, same=copies(tied),
        ignored=("decoder.block.*.EncDecAttention.relative_attention_bias.weight",), decode=generation(folder),
        notes=[f"{apart} symbols that never occur in text, such as <extra_id_0>, are not read in text"
               for apart in [len(tokenizer.vocabulary.reserved)] if apart] + generation_notes(folder),
    )  # fmt: skip


def _same(left: Tensor, right: Tensor | None) -> bool:
    return right is not None and torch.equal(left, right)


def _options(folder: Folder, tied: bool) -> dict[str, Any]:
    """Our options. tied: whether the output has the matrix of the embeddings."""
    where, kind = folder.path / "config.json", folder.config["model_type"]
    block = folder.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
    if block not in BLOCKS:
        raise UserError(f"{where}: feed_forward_proj={block}: not known; {', '.join(BLOCKS)} are")
    layers, rate = folder.get("num_layers", 6), float(folder.get("dropout_rate", 0.1))
    scaled = kind == "t5" and folder.get("tie_word_embeddings", True) is not False
    options: dict[str, Any] = {
        "norm_type": "rms", "norm_epsilon": float(folder.get("layer_norm_epsilon", 1e-6)),
        "positions": "relative_bias", "activation": BLOCKS[block], "bias": False,
        "scale_attention": False, "scale_embeddings": False, "output.bias": True,
        "scale_output": folder.get("scale_decoder_outputs", scaled), "tie_embeddings": "all" if tied else "inputs",
        "relative_buckets": folder.get("relative_attention_num_buckets", 32),
        "relative_distance": folder.get("relative_attention_max_distance", 128),
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), rate),
    }  # fmt: skip
    counts = {"encoder": layers, "decoder": folder.get("num_decoder_layers", None) or layers}
    for side, count in counts.items():
        options |= {f"{side}.layers": count, f"{side}.width": folder.get("d_model", 512),
                    f"{side}.heads": folder.get("num_heads", 8), f"{side}.head_width": folder.get("d_kv", 64),
                    f"{side}.ffn_width": folder.get("d_ff", 2048)}  # fmt: skip
    return options


def _tokenizer(folder: Folder, size: int) -> tuple[Tokenizer, Tensor]:
    """The tokenizer, and the row of each of its symbols; size: number of rows."""
    begin = folder.get("decoder_start_token_id", PAD)
    if (
        not (folder.has("spiece.model") or folder.has("tokenizer.json")) and size == 384
    ):  # ByT5 has no file that says so
        names = [f"<extra_id_{number}>" for number in range(size - 3 - BYTES)]
        return (ByteTokenizer.learn(ByteConfig(normalization="none", reserved=names)),
                torch.tensor([PAD, UNKNOWN, begin, END, *range(3, size)]))  # fmt: skip
    if not folder.has("spiece.model") and folder.has("tokenizer.json"):
        return of_library(folder, size, {f"<extra_id_{n}>": f"<extra_id_{n}>" for n in range(MOST_EXTRA)}, PAD)
    file = folder.file("spiece.model")
    try:
        processor = processor_of(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: not a SentencePiece model: {error}") from error
    symbols = processor.id_to_piece(list(range(processor.get_piece_size())))
    if len(symbols) > size or (processor.pad_id(), processor.eos_id(), processor.unk_id()) != (PAD, END, UNKNOWN):
        raise UserError(f"{file}: is not the SentencePiece model of a T5 with {size:,} symbols, the first of which are "
                        "<pad>, </s> and <unk>")  # fmt: skip
    extra = folder.json("tokenizer_config.json").get("extra_ids", 100) if folder.has("tokenizer_config.json") else 100
    extra = min(extra if isinstance(extra, int) else 100, size - len(symbols)) if "<extra_id_0>" not in symbols else 0
    apart = [f"<extra_id_{number}>" for number in reversed(range(extra))]
    ours, names, rows = arranged([*symbols, *apart], [PAD, UNKNOWN, begin, END], size, {name: name for name in apart})
    return pieces(file, ours, names), rows


def table(options: dict[str, Any], rows: Tensor) -> Table:
    """The place of each weight.

    Args:
        options: Ours.
        rows: Of our symbols.
    """
    table = {"frontend.embedding.tokens.weight": Place(("shared.weight",), rows)}
    if options["tie_embeddings"] == "inputs":
        table["output.weight"] = Place(("lm_head.weight",), rows)
    gated = options["activation"] != "relu"
    return table | t5_stack("encoder", options["encoder.layers"], gated) | t5_stack(
        "decoder", options["decoder.layers"], gated)  # fmt: skip


def copies(tied: bool) -> dict[str, str]:
    """Names of copies of the shared matrix."""
    names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *["lm_head.weight"] * tied]
    return dict.fromkeys(names, "shared.weight")
