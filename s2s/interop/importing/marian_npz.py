"""Marian's own models: an `.npz` with the weights and, as an array of bytes, their options; vocabularies are `.yml` or
`.spm`.

The decoder begins with zeros, which are the row of our BOS. There is no padding symbol.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2s.config.documents import parse_yaml, read_yaml
from s2s.config.shapes import Limits
from s2s.errors import UserError
from s2s.interop.importing.dictionaries import splitter
from s2s.interop.importing.imported import Imported, arranged, by_id, checked, read_tensors
from s2s.interop.importing.stacks import pieces
from s2s.interop.places import IMPOSSIBLE, Place, Table
from s2s.tasks.translation import TranslationTask
from s2s.text.sentencepiece import processor_of
from s2s.text.tokenizer import Tokenizer
from s2s.text.vocabulary import Vocabulary
from s2s.text.words import WordConfig, WordTokenizer

OPTIONS = ("vocabularies", "sentencepiece")  # of s2s-import
CONFIG = "special:model.yml"
ACTIVATIONS = {"relu": "relu", "swish": "silu"}  # its gelu is an approximation that we do not have
# Options that a model must have, one of these values; the first one where they are missing.
PLAIN: dict[str, tuple[Any, ...]] = {
    "type": ("transformer",), "transformer-decoder-autoreg": ("self-attention",), "transformer-no-projection": (False,),
    "transformer-ffn-activation": tuple(ACTIVATIONS), "transformer-ffn-depth": (2,), "transformer-tied-layers": ([],),
    "transformer-train-position-embeddings": (False,), "transformer-postprocess-emb": ("d", ""),
    "transformer-decoder-dim-ffn": (0,), "transformer-pool": (False,), "lemma-dim-emb": (0,),
    "input-types": ([], ["sequence"]),
}  # fmt: skip
NORMS = {("", "dan", ""): "post", ("n", "da", "n"): "pre"}
LARGE = Limits(size=1 << 28, values=1 << 24)


def recognises(path: Path) -> bool:
    """Whether a path is such a file."""
    return path.suffix == ".npz"


def read(path: Path, vocabularies: Sequence[str] = (), sentencepiece: Sequence[str] = ()) -> Imported:
    """Read a model.

    Args:
        path: The file.
        vocabularies: One file for both sides, or one for each: `.yml`, or `.spm`, which splits the text, too.
        sentencepiece: Models that split the text where the vocabularies are `.yml`; none: lines are words.

    Raises:
        UserError: files are missing or damaged, or the model is one that is not read; lists what it has.
    """
    if not 1 <= len(vocabularies) <= 2:
        raise UserError("vocabularies=[SOURCE,TARGET] is required with format=marian: .yml or .spm files")
    tensors = read_tensors(path)
    if CONFIG not in tensors:
        raise UserError(f"{path}: has no {CONFIG}, the options of a Marian model")
    text = bytes(tensors.pop(CONFIG).flatten().to(torch.uint8).tolist()).rstrip(b"\0")
    config = parse_yaml(text, f"{path}: {CONFIG}", {...: object})
    norm = _check(config, path)
    tensors = {name: value.flatten() if value.dim() == 2 and value.size(0) == 1 else
               value if name.endswith("Wemb") else value.T for name, value in tensors.items()}  # fmt: skip
    one = "Wemb" in tensors
    if own := [name for name in ("decoder_ff_logit_out_W", "decoder_ff_logit_out_Wt") if name in tensors]:
        raise UserError(f"{path}: {own[0]}: only an output with the matrix of the target embedding is read")
    names = {side: "Wemb" if one else f"{side}_Wemb" for side in ("encoder", "decoder")}
    made, rows = {}, {}
    for side, name in names.items():
        if name not in tensors:
            raise UserError(f"{path}: has no {name}, the embedding of the {side}")
        count = len(tensors[name])
        vocabulary = Path(vocabularies[0 if side == "encoder" else -1])
        split = splitter("source" if side == "encoder" else "target", [Path(each) for each in sentencepiece], path)
        made[side], rows[side] = _tokenizer(vocabulary, split, count, one)
    for name in dict.fromkeys(names.values()):  # zeros, for our PAD and BOS
        tensors[name] = torch.cat([tensors[name], torch.zeros(1, tensors[name].size(1))])
    bias = tensors.get("decoder_ff_logit_out_b")
    if bias is not None:
        tensors["decoder_ff_logit_out_b"] = torch.cat([bias.flatten(), torch.tensor([IMPOSSIBLE])])
    options = _options(config, tensors[names["encoder"]].size(1), norm, path)
    options["tie_embeddings"] = "all" if one else "decoder"
    source = made["encoder"]
    target = source if one and len(set(vocabularies)) == 1 and len(set(sentencepiece)) < 2 else made["decoder"]
    return Imported(
        family="Marian", options=options, task=TranslationTask(source, target), table=_table(options, names, rows),
        tensors=tensors, where=path, ignored=("special:*",), preset="ctranslate2",
        notes=["no sentencepiece: lines are words, already split"] if isinstance(source, WordTokenizer) else [],
    )  # fmt: skip


def _check(config: dict[str, Any], where: Path) -> str:
    """`norm`. Raises UserError for a model that is not read; names all options that stand against it."""
    wrong = [f"{name}={value}" for name, plain in PLAIN.items() if (value := config.get(name, plain[0])) not in plain]
    kinds = ("transformer-preprocess", "transformer-postprocess", "transformer-postprocess-top")
    given = tuple(str(config.get(name) or "") for name in kinds)
    if given not in NORMS:
        wrong += [f"{name}={value!r}" for name, value in zip(kinds, given, strict=True)]
    if wrong:
        raise UserError(f"{where}: Marian's model is not read with {', '.join(wrong)}")
    return NORMS[given]


def _options(config: dict[str, Any], width: int, norm: str, where: Path) -> dict[str, Any]:
    """Our options. Raises UserError as `checked`."""

    def get(name: str, default: Any) -> Any:
        return checked(name, config.get(name, default), default, where)

    options: dict[str, Any] = {
        "norm": norm, "positions": "sinusoidal", "scale_embeddings": True, "output.bias": True,
        "activation": ACTIVATIONS[get("transformer-ffn-activation", "relu")],
        "dropout": float(get("transformer-dropout", 0.0)),
        "attention_dropout": float(get("transformer-dropout-attention", 0.0)),
        "activation_dropout": float(get("transformer-dropout-ffn", 0.0)),
    }  # fmt: skip
    for side, depth in {"encoder": "enc-depth", "decoder": "dec-depth"}.items():
        options |= {f"{side}.layers": get(depth, 6), f"{side}.width": width,
                    f"{side}.heads": get("transformer-heads", 8),
                    f"{side}.ffn_width": get("transformer-dim-ffn", 2048)}  # fmt: skip
    return options


def _tokenizer(vocabulary: Path, split: Path | None, count: int, joint: bool) -> tuple[Tokenizer, Tensor]:
    """The tokenizer of a side, and the row of each of its symbols.

    Args:
        vocabulary: Its file.
        split: The SentencePiece model that splits the text; None: the vocabulary, or lines are words.
        count: W; the row after them is of zeros.
        joint: Whether both sides have one matrix.
    """
    if not vocabulary.is_file():
        raise UserError(f"{vocabulary}: no such vocabulary")
    if vocabulary.suffix in (".spm", ".model"):
        if split not in (None, vocabulary):
            raise UserError(
                f"sentencepiece={split}: the vocabulary {vocabulary} splits the text; leave sentencepiece= out"
            )
        split = vocabulary
        try:
            processor = processor_of(vocabulary.read_bytes())
        except ValueError as error:
            raise UserError(f"{vocabulary}: not a SentencePiece model: {error}") from error
        symbols = processor.id_to_piece(list(range(processor.get_piece_size())))
    else:
        symbols = by_id(read_yaml(vocabulary, {...: int}, limits=LARGE), vocabulary)
    if missing := [name for name in ("</s>", "<unk>") if name not in symbols]:
        raise UserError(f"{vocabulary}: has no {' and no '.join(missing)}")
    if len(symbols) != count:
        raise UserError(f"{vocabulary}: {len(symbols):,} symbols, and the embedding has {count:,} rows: the vocabulary "
                        "is that of another model")  # fmt: skip
    symbols = [*symbols, "<s>"]  # the row of zeros, of <pad> too
    ours, names, rows = arranged(symbols, [count, symbols.index("<unk>"), count, symbols.index("</s>")], count + 1)
    if split is None:
        config = WordConfig(normalization="none", reserved=names, joint=joint)
        return WordTokenizer(config, Vocabulary(ours)), rows
    if not split.is_file():
        raise UserError(f"{split}: no such file")
    return pieces(split, ours, names, joint=joint), rows


def _table(options: dict[str, Any], names: dict[str, str], rows: dict[str, Tensor]) -> Table:
    """The place of each weight.

    Args:
        options: Ours.
        names: Of the embedding of each side.
        rows: Of the symbols of each side.
    """
    pre = "_pre" * (options["norm"] == "pre")

    def linear(ours: str, theirs: str, parts: Sequence[str]) -> Table:
        return {f"{ours}.weight": Place(tuple(f"{theirs}_W{part}" for part in parts)),
                f"{ours}.bias": Place(tuple(f"{theirs}_b{part}" for part in parts))}  # fmt: skip

    def norm(ours: str, theirs: str, suffix: str = "") -> Table:
        return {f"{ours}.weight": Place((f"{theirs}_ln_scale{suffix}",)),
                f"{ours}.bias": Place((f"{theirs}_ln_bias{suffix}",))}  # fmt: skip

    table: Table = {"frontend.embedding.tokens.weight": Place((names["encoder"],), rows["encoder"]),
                    "output.bias": Place(("decoder_ff_logit_out_b",), rows["decoder"])}  # fmt: skip
    if names["encoder"] != names["decoder"]:
        table["decoder.embedding.tokens.weight"] = Place((names["decoder"],), rows["decoder"])
    for side in names:
        for n in range(options[f"{side}.layers"]):
            ours, theirs = f"{side}.layers.{n}", f"{side}_l{n + 1}"
            table |= linear(f"{ours}.attention.qkv", f"{theirs}_self", "qkv")
            table |= linear(f"{ours}.attention.output", f"{theirs}_self", "o")
            table |= norm(f"{ours}.attention_norm", f"{theirs}_self_Wo", pre)
            if side == "decoder":
                table |= linear(f"{ours}.cross.query", f"{theirs}_context", "q")
                table |= linear(f"{ours}.cross.key_value", f"{theirs}_context", "kv")
                table |= linear(f"{ours}.cross.output", f"{theirs}_context", "o")
                table |= norm(f"{ours}.cross_norm", f"{theirs}_context_Wo", pre)
            table |= linear(f"{ours}.feedforward.inner", f"{theirs}_ffn", "1")
            table |= linear(f"{ours}.feedforward.outer", f"{theirs}_ffn", "2")
            table |= norm(f"{ours}.feedforward_norm", f"{theirs}_ffn_ffn", pre)
        if pre:
            table |= norm(f"{side}.norm", f"{side}_top")
    return table
