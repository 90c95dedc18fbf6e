"""Transformers of OpenNMT-py 3 (`.pt`) and of its successor eole (a folder with config.json, vocab.json and weights).

Both are pre-norm. A source does not end with `</s>`, and the decoder begins with `<s>`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2s.config.documents import read_json
from s2s.errors import UserError
from s2s.interop.importing.dictionaries import of_symbols, splitter
from s2s.interop.importing.imported import LARGE, Imported, arranged, checked, read_tensors
from s2s.interop.importing.records import read_checkpoint
from s2s.interop.importing.stacks import kind_of_positions
from s2s.interop.places import Names, Place, Table, fused, named_stack
from s2s.tasks.translation import TranslationConfig, TranslationTask

OPTIONS = ("bpe_codes", "sentencepiece")  # of s2s-import
SPECIAL = {"pad_token": "<blank>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
MAPS = ("linear_query", "linear_keys", "linear_values", "final_linear")
ATTENTION = {"encoder": "self_attn", "decoder": "self_attn"}
ONMT = Names(
    layers={"encoder": "encoder.transformer.{}", "decoder": "decoder.transformer_layers.{}"}, attention=ATTENTION,
    cross="context_attn", maps=MAPS, inner=("feed_forward.w_1", "feed_forward.w_3"), outer="feed_forward.w_2",
    norms={"encoder": ("layer_norm", "feed_forward.layer_norm"),
           "decoder": ("layer_norm_1", "layer_norm_2", "feed_forward.layer_norm")},
)  # fmt: skip
EOLE = Names(
    layers={"encoder": "encoder.transformer_layers.{}", "decoder": "decoder.transformer_layers.{}"},
    attention=ATTENTION, cross="context_attn", maps=MAPS, inner=("mlp.gate_up_proj", "mlp.up_proj"),
    outer="mlp.down_proj",
    norms={"encoder": ("input_layernorm", "post_attention_layernorm"),
           "decoder": ("input_layernorm", "precontext_layernorm", "post_attention_layernorm")},
)  # fmt: skip
EMBEDDINGS = {
    "onmt": {"source": "encoder.embeddings.make_embedding.emb_luts.0.weight",
             "target": "decoder.embeddings.make_embedding.emb_luts.0.weight"},
    "eole": {"source": "src_emb.embeddings.weight", "target": "tgt_emb.embeddings.weight"},
}  # fmt: skip
ACTIVATIONS = {
    "onmt": {"relu": "relu", "gelu": "gelu", "silu": "swiglu", "gated-gelu": "geglu"},
    "eole": {"relu": "relu", "gelu": "gelu", "silu": "silu", "gated-silu": "swiglu", "gated-gelu": "geglu"},
}
# Options that a model must not have, with the values that have no effect.
PLAIN: dict[str, tuple[Any, ...]] = {
    "encoder_type": ("transformer",), "decoder_type": ("transformer",), "parallel_residual": (False,),
    "max_relative_positions": (0,), "relative_positions_buckets": (0,), "n_positions": (0,), "num_kv": (0,),
    "heads_kv": (0,), "num_experts": (0,), "sliding_window": (0,), "copy_attn": (False,), "ffn_layernorm": (False,),
    "encoder_layer_style": ("standard",), "normalize": (False,), "embed_scale": (1.0,), "feat_merge": ("concat",),
    "generator_function": ("softmax",), "self_attn_type": ("scaled-dot", "scaled-dot-flash"),
    "position_encoding_type": ("SinusoidalInterleaved",), "query_norm": (False,), "key_norm": (False,),
    "qk_norm_post_rope": (False,), "quant_type": ("",), "model_task": ("seq2seq",),
}  # fmt: skip


class Settings:
    """The options of a model.

    Args:
        groups: Of the model as a whole, and of `encoder`, `decoder` and `embeddings`, where they have their own.
        where: Its path.
    """

    def __init__(self, groups: dict[str, Any], where: Path):
        self.where = where
        self.whole = groups
        self.groups = {name: value for name in ("encoder", "decoder", "embeddings")
                       if isinstance(value := groups.get(name), dict)}  # fmt: skip

    def get(self, name: str, default: Any, side: str = "") -> Any:
        """An option of a side, or of the model, which has the type of the default. Raises UserError as `checked`."""
        short = {"encoder": "enc", "decoder": "dec"}.get(side, side)
        value = self.groups.get(side, {}).get(name)
        for key in (f"{short}_{name}", name):
            value = self.whole.get(key) if value is None else value
        value = value[0] if isinstance(value, list) and len(value) and name.endswith("dropout") else value
        return default if value is None else checked(name, value, default, self.where)


def recognises(path: Path) -> bool:
    """Whether a path is such a checkpoint, or such a folder."""
    if path.is_dir():
        return (path / "config.json").is_file() and (path / "vocab.json").is_file() and any(path.glob("model.*"
                "safetensors")) and "model_type" not in read_json(path / "config.json", {...: object})  # fmt: skip
    if path.suffix != ".pt":
        return False
    content = read_checkpoint(path)
    return "model" in content and "generator" in content and "opt" in content


def read(path: Path, bpe_codes: Sequence[str] = (), sentencepiece: Sequence[str] = ()) -> Imported:
    """Read a model.

    Args:
        path: The checkpoint of OpenNMT-py, or the folder of eole.
        bpe_codes, sentencepiece: Files that split the text: one, or one for each side; none: those beside the model.

    Raises:
        UserError: files are missing or damaged, or the model is one that is not read; lists what it has.
    """
    if bpe_codes and sentencepiece:
        raise UserError("bpe_codes and sentencepiece: one of them is needed, which splits the text")
    kind = "eole" if path.is_dir() else "onmt"
    settings, tensors, known = (_eole if kind == "eole" else _onmt)(path)
    tensors = {name: value for name, value in tensors.items() if not _one(name, value)}
    positions, files = _check(kind, settings, tensors), [Path(name) for name in (*bpe_codes, *sentencepiece)]
    shared, output = settings.get("share_embeddings", False), settings.get("share_decoder_embeddings", False)
    matrices = EMBEDDINGS[kind]
    if shared and matrices["source"] in tensors:  # it may be there once
        tensors.setdefault(matrices["target"], tensors[matrices["source"]])
    sides, rows, notes = _sides(kind, settings, tensors, known, files)
    options = _options(kind, settings, tensors) | {
        "positions": positions, "scale_embeddings": positions != "none",
        "tie_embeddings": ("all" if output else "inputs") if shared else "decoder" if output else "none",
    }  # fmt: skip
    if kind == "eole" and "norm_eps" not in str(settings.whole):
        notes.append("norm_eps, which config.json does not have: 1e-5, the default of eole 0.6")
    return Imported(
        family={"eole": "eole", "onmt": "OpenNMT-py"}[kind], options=options,
        task=TranslationTask(*sides, config=TranslationConfig(source_end=False)),
        table=_table(kind, options, *rows), tensors=tensors | _without_bias(kind, options, tensors), where=path,
        ignored=("*.pe", "*.pe.pe"), same=_copies(kind, options["tie_embeddings"]), preset="fairseq",
        decode={"max_length_b": 250}, notes=notes,
    )  # fmt: skip


def _one(name: str, value: Tensor) -> bool:
    """Whether a weight is a factor of 1, as eole has for other models."""
    return name.endswith(".layer_scalar") and bool((value == 1).all())


def _onmt(path: Path) -> tuple[Settings, dict[str, Tensor], dict[str, Any]]:
    """Options, weights and vocabularies of a checkpoint of OpenNMT-py."""
    content = read_checkpoint(path)
    parts = {name: content.get(name) for name in ("model", "generator", "opt", "vocab")}
    if wrong := [name for name, value in parts.items() if not isinstance(value, dict)]:
        hint = ", as before OpenNMT-py 3" if wrong == ["vocab"] else ""
        raise UserError(f"{path}: {', '.join(wrong)}: missing, or of another kind{hint}")
    tensors = {**content["model"], **{f"generator.{name.removeprefix('0.')}": value for name, value in
                                      content["generator"].items()}}  # fmt: skip
    if not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: model: is not a state dict, of tensors by name")
    return Settings(content["opt"], path), tensors, content["vocab"]


def _eole(path: Path) -> tuple[Settings, dict[str, Tensor], dict[str, Any]]:
    """Options, weights and vocabularies of a folder of eole."""
    config = read_json(path / "config.json", {"model": {...: object}, ...: object}, limits=LARGE)
    known = read_json(path / "vocab.json", {"src": [str], "tgt": [str], ...: object}, limits=LARGE)
    tensors: dict[str, Tensor] = {}
    if not (files := sorted(path.glob("model.*safetensors"))):
        raise UserError(f"{path}: has no model.00.safetensors; the folder is incomplete")
    for file in files:
        tensors |= read_tensors(file)
    return Settings(config["model"], path / "config.json"), tensors, known


def _check(kind: str, settings: Settings, tensors: dict[str, Tensor]) -> str:
    """Our kind of the positions. Raises UserError for a model that is not read; names all options that stand against
    it."""
    wrong = []
    for name, plain in PLAIN.items():
        values = {side: settings.groups.get(side, {}).get(name) for side in settings.groups}
        values[""] = settings.whole.get(name)
        wrong += [f"{side}{'.' * bool(side)}{name}={value}" for side, value in values.items()
                  if value is not None and value not in plain]  # fmt: skip
    tables = [value.flatten(0, -2) for name, value in tensors.items() if name.endswith(".pe")]
    kinds = {kind_of_positions(table) for table in tables} or {"none"}
    if len(kinds) != 1 or None in kinds:
        wrong.append("positions that are not sinusoidal")
    for key in ("activation_fn", "mlp_activation_fn"):
        for side in ("encoder", "decoder"):
            value = settings.get(f"pos_ffn_{key}" if key == "activation_fn" else key, "relu", side)
            if value not in ACTIVATIONS[kind]:
                wrong.append(f"{key}={value}")
    if wrong:
        raise UserError(f"{settings.where}: this Transformer is not read with {', '.join(dict.fromkeys(wrong))}")
    return str(*kinds)


def _sides(kind: str, settings: Settings, tensors: dict[str, Tensor], known: dict[str, Any], files: list[Path]):
    """The tokenizers of both sides, the rows of their symbols, and what could not be taken over."""
    special, where = SPECIAL | (known.get("specials") or {}), settings.where
    begin = known.get("decoder_start_token") or special["bos_token"]
    joint = known.get("src") == known.get("tgt")
    made: list[Any] = []
    rows: list[Tensor] = []
    last = None
    for side, short in {"source": "src", "target": "tgt"}.items():
        symbols, matrix = known.get(short), tensors.get(EMBEDDINGS[kind][side])
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise UserError(f"{where}: the vocabulary of the {side} is not a list of symbols")
        if matrix is None:
            raise UserError(f"{where}: {EMBEDDINGS[kind][side]} missing, the embedding of the {side}")
        names = (special["pad_token"], special["unk_token"], begin if side == "target" or joint else
                 special["bos_token"], special["eos_token"])  # fmt: skip
        place = {symbol: number for number, symbol in enumerate(symbols)}
        if missing := [name for name in names if name not in place]:
            raise UserError(f"{where}: the vocabulary of the {side} has no {' and no '.join(missing)}")
        ours, apart, row = arranged(symbols, [place[name] for name in names], len(matrix))
        split = splitter(side, files, where.parent)
        one = side == "target" and joint and split == last
        made.append(made[0] if one else of_symbols(ours, apart, split, joint))
        rows.append(row)
        last = split
    notes = [] if last else ["no bpe_codes or sentencepiece: lines are words of the vocabulary, already split"]
    return made, rows, notes


def _options(kind: str, settings: Settings, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Our options, without those of the embeddings."""
    get = settings.get
    rate = float(get("dropout", 0.1))
    options: dict[str, Any] = {
        "norm": "pre", "norm_epsilon": float(get("norm_eps", 1e-5 if kind == "eole" else 1e-6, "decoder")),
        "norm_type": {"standard": "layer"}.get(name := get("layer_norm", "standard", "decoder"), name),
        "activation": ACTIVATIONS[kind][get("pos_ffn_activation_fn" if kind == "onmt" else "mlp_activation_fn", "relu",
                                            "decoder")],
        "dropout": rate, "attention_dropout": float(get("attention_dropout", rate)), "activation_dropout": rate,
        "output.bias": True,
    }  # fmt: skip
    for side, part in (("encoder", "source"), ("decoder", "target")):
        width = tensors[EMBEDDINGS[kind][part]].size(1)
        options |= {f"{side}.layers": get("layers", 6, side), f"{side}.width": width,
                    f"{side}.heads": get("heads", 8, side),
                    f"{side}.ffn_width": get("transformer_ff", 2048, side)}  # fmt: skip
    return options


def _table(kind: str, options: dict[str, Any], source: Tensor, target: Tensor) -> Table:
    """The place of each weight; source, target: rows of our symbols."""
    tie, names, matrices = options["tie_embeddings"], EOLE if kind == "eole" else ONMT, EMBEDDINGS[kind]
    table: Table = {"frontend.embedding.tokens.weight": Place((matrices["source"],), source),
                    "output.bias": Place(("generator.bias",), target)}  # fmt: skip
    if tie not in ("all", "inputs"):
        table["decoder.embedding.tokens.weight"] = Place((matrices["target"],), target)
    if tie not in ("all", "decoder"):
        table["output.weight"] = Place(("generator.weight",), target)
    for side in ("encoder", "decoder"):
        table |= named_stack(side, options[f"{side}.layers"], names, options["activation"] in ("swiglu", "geglu"))
        table |= fused(f"{side}.norm", side, ("layer_norm",))
    if options["norm_type"] == "rms":
        table = {name: place for name, place in table.items() if not name.endswith("norm.bias")}
    return table


def _copies(kind: str, tie: str) -> dict[str, str]:
    """Names of copies of shared matrices, and what they are copies of."""
    matrices = EMBEDDINGS[kind]
    copies = {matrices["target"]: matrices["source"]} if tie in ("all", "inputs") else {}
    if tie in ("all", "decoder"):
        copies["generator.weight"] = matrices["source" if tie == "all" else "target"]
    return copies


def _without_bias(kind: str, options: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the biases of those maps that have none in any layer (`add_qkvbias`, `add_ffnbias`)."""
    names = [name for place in _table(kind, options, *[torch.zeros(0)] * 2).values() for name in place.names]
    biases = [name for name in names if name.endswith(".bias") and "norm" not in name]
    kinds = {name: name.split(".")[-2] for name in biases}
    has = {part for name, part in kinds.items() if name in tensors}
    return {name: torch.zeros(len(weight)) for name, part in kinds.items() if part not in has
            if (weight := tensors.get(name.removesuffix("bias") + "weight")) is not None}  # fmt: skip
