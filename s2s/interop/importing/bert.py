"""BERT, RoBERTa and XLM-R as folders of Hugging Face: encoders for `train.init`.

Each source begins with [CLS] or <s>, which is the tag `begin` here, and ends with [SEP] or </s>. The embedding of the
first segment is added to that of the positions.
"""

from typing import Any

from torch import Tensor

from s2s.errors import UserError
from s2s.interop.importing.imported import Folder, Imported, arranged
from s2s.interop.importing.stacks import activation, of_library, pieces
from s2s.interop.places import Place, Table, fused
from s2s.tasks.translation import TranslationConfig, TranslationTask
from s2s.text.sentencepiece import processor_of
from s2s.text.tokenizer import Tokenizer

BEGIN = "begin"
BASE: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12, "hidden_act": "gelu", "vocab_size": 30522, "is_decoder": False,
    "position_embedding_type": "absolute",
}  # fmt: skip
SYMBOLS = {"bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
USUAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
# Weights beside the encoder: heads of pretraining, and numbers of positions.
IGNORED = ("*pooler.*", "cls.*", "lm_head.*", "qa_outputs.*", "classifier.*", "*position_ids", "*token_type_ids")


def read(folder: Folder) -> Imported:
    """Read a model. Raises UserError: files are missing or damaged, or the model is another one than they say."""
    kind = folder.config["model_type"]
    value = {name: folder.get(name, default) for name, default in BASE.items()}
    for name in ("is_decoder", "position_embedding_type"):
        if value[name] != BASE[name]:
            raise UserError(f"{folder.path / 'config.json'}: {name}={value[name]}: not read; "
                            f"{BASE[name]} is needed")  # fmt: skip
    unused = 0 if kind == "bert" else 2  # positions begin after the number of <pad>
    options = {
        "encoder.layers": value["num_hidden_layers"], "encoder.width": value["hidden_size"],
        "encoder.heads": value["num_attention_heads"], "encoder.ffn_width": value["intermediate_size"],
        "norm": "post", "norm_epsilon": value["layer_norm_eps"], "positions": "learned",
        "max_positions": value["max_position_embeddings"] - unused,
        "activation": activation(folder, value["hidden_act"]), "dropout": value["hidden_dropout_prob"],
        "attention_dropout": value["attention_probs_dropout_prob"], "embedding_norm": True, "scale_embeddings": False,
    }  # fmt: skip
    tensors = folder.weights()
    prefix = next((f"{name}." for name in ("bert", "roberta") if any(t.startswith(f"{name}.") for t in tensors)), "")
    tokenizer, rows = _tokenizer(folder, kind, value["vocab_size"])
    task = TranslationTask(tokenizer, tokenizer, config=TranslationConfig(source_tags=[BEGIN]))
    task.tags = task.tag_values = {BEGIN: [BEGIN]}
    segments = f"{prefix}embeddings.token_type_embeddings.weight"
    imported = Imported(
        family=f"{kind} (Hugging Face), an encoder", options=options, task=task, tensors=tensors, where=folder.path,
        table=_table(prefix, options["encoder.layers"], rows, unused), ignored=(*IGNORED, segments),
        model="transformer_encoder", preset="", has_output=False,
        notes=["heads of pretraining, and the second segment"],
    )  # fmt: skip
    positions = f"{prefix}embeddings.position_embeddings.weight"
    if segments in tensors and positions in tensors:
        added = tensors[positions][unused:].float() + tensors[segments][0].float()
        imported.changed["frontend.embedding.positions.weight"] = added
    return imported


def _table(prefix: str, layers: int, rows: Tensor, unused: int) -> Table:
    """The place of each weight.

    Args:
        prefix: What their names begin with.
        layers: Number of layers.
        rows: Of our symbols.
        unused: Positions that are not used.
    """
    theirs = f"{prefix}embeddings"
    table: Table = {
        "frontend.embedding.tokens.weight": Place((f"{theirs}.word_embeddings.weight",), rows),
        "frontend.embedding.positions.weight": Place((f"{theirs}.position_embeddings.weight",), skip=unused),
        **fused("frontend.embedding.norm", theirs, ("LayerNorm",)),
    }
    for n in range(layers):
        ours, theirs = f"encoder.layers.{n}", f"{prefix}encoder.layer.{n}"
        queries = ("attention.self.query", "attention.self.key", "attention.self.value")
        for name, parts in {
            "attention.qkv": queries, "attention.output": ("attention.output.dense",),
            "attention_norm": ("attention.output.LayerNorm",), "feedforward.inner": ("intermediate.dense",),
            "feedforward.outer": ("output.dense",), "feedforward_norm": ("output.LayerNorm",),
        }.items():  # fmt: skip
            table |= fused(f"{ours}.{name}", theirs, parts)
    return table


def _tokenizer(folder: Folder, kind: str, size: int) -> tuple[Tokenizer, Tensor]:
    """The tokenizer, and the row of each of its symbols."""
    pad, unk, begin, end, mask = SYMBOLS.get(kind, USUAL)
    apart = {f"<{BEGIN}>": begin, "<mask>": mask}
    if kind == "xlm-roberta" and folder.has("sentencepiece.bpe.model"):
        file = folder.file("sentencepiece.bpe.model")
        try:
            processor = processor_of(file.read_bytes())
        except ValueError as error:
            raise UserError(f"{file}: not a SentencePiece model: {error}") from error
        units = processor.id_to_piece(list(range(processor.get_piece_size())))
        ours, names, rows = arranged([begin, pad, end, unk, *units[3:], mask], [1, 3, 0, 2], size, apart)
        return pieces(file, ours, names), rows
    return of_library(folder, size, apart, names=(pad, unk, end), start=begin)
