"""Writes a model as a folder that transformers loads: Marian, Pegasus, BART, mBART, M2M-100 or T5, whichever it fits.

    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

The symbols keep their order. A beginning that is a copy of another symbol's row, as in an imported model, is left out:
there the decoder begins with that symbol. M2M-100 counts positions from the id of the padding symbol, which is 1 there.

The symbol `<de>` of a tag is `>>de<<` there, as in OPUS-MT: a line begins with it where the task has a source tag, and
`generate` gets its id as forced_bos_token_id for a target tag, or as decoder_start_token_id for a first tag.

Shapes: V symbols.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from s2s import __version__
from s2s.errors import UserError
from s2s.files import naming, whole_folder
from s2s.files import write as write_file
from s2s.interop.places import IMPOSSIBLE, Place, Table, bart_stack, fused, t5_stack
from s2s.models.bridges.top import TopBridge
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.encoders.transformer import TransformerEncoder
from s2s.models.frontends.tokens import TokenFrontend
from s2s.nn.layers import Layer
from s2s.text.pieces import PiecesTokenizer
from s2s.text.sentencepiece import SentencePieceTokenizer
from s2s.text.vocabulary import BOS, EOS, PAD, UNK

PARTS = {"frontend": TokenFrontend, "encoder": TransformerEncoder, "bridge": TopBridge, "decoder": TransformerDecoder,
         "output": nn.Linear}  # fmt: skip
PLAIN: dict[str, Any] = {
    "norm_type": "layer", "bias": True, "scale_attention": True, "scale_output": False, "log_length_scale": False,
    "embedding_norm": False, "norm_epsilon": (None, 1e-5),
}  # fmt: skip
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "swish"}
GATES = {"relu": "relu", "geglu": "gated-gelu", "swiglu": "gated-silu"}
# Layout -> what it needs; several values: any of them.
LAYOUTS: dict[str, dict[str, Any]] = {
    "marian": {"norm": "post", "positions": "sinusoidal", "activation": tuple(ACTIVATIONS), **PLAIN},
    "pegasus": {"norm": "pre", "positions": "sinusoidal", "activation": tuple(ACTIVATIONS), **PLAIN},
    "bart": {"norm": "post", "positions": "learned", "activation": tuple(ACTIVATIONS), **PLAIN, "embedding_norm": True},
    "mbart": {"norm": "pre", "positions": "learned", "activation": tuple(ACTIVATIONS), **PLAIN, "embedding_norm": True},
    "m2m_100": {"norm": "pre", "positions": "sinusoidal_fairseq", "activation": tuple(ACTIVATIONS), **PLAIN},
    "t5": {"norm": "pre", "norm_type": "rms", "positions": "relative_bias", "activation": tuple(GATES), "bias": False,
           "scale_attention": False, "scale_embeddings": False, "log_length_scale": False, "embedding_norm": False},
}  # fmt: skip
UNBIASED = ("t5", "m2m_100")  # layouts without a bias of the output
CLASSES = {"marian": "MarianMTModel", "t5": "T5ForConditionalGeneration", **{
    name: f"{start}ForConditionalGeneration" for name, start in
    {"pegasus": "Pegasus", "bart": "Bart", "mbart": "MBart", "m2m_100": "M2M100"}.items()
}}  # fmt: skip
TAGS = "s2s_tags.json"  # a file of our own: which tags the symbols stand for
OFFSET = 2  # rows of learned positions that BART does not use
MOST_WRITTEN = 256  # tokens of an output, if the maximum depends on the source
MOST = 1024  # positions that the config names; transformers makes a table of them


def write(model: nn.Module, task, folder: Path, decode: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write a model's folder. It appears, or replaces an existing one, when it is complete.

    Args:
        model: A model of `task`.
        task: Owns the tokenizers.
        folder: Where to write.
        decode: Options of decoding, which `generate` gets; those that are missing have our defaults.

    Raises:
        UserError: no layout holds what the model does; all reasons of the nearest one are named.
        OSError: for instance, the disk is full; nothing is left behind.
    """
    layout, wrong = nearest(model, task)
    if wrong:
        raise UserError(f"format=huggingface: the nearest layout, {layout}, has no {', and no '.join(wrong)}")
    rows, _ = rows_of(layout, model, task)
    tensors: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, place in _table(layout, model, rows).items():
        tensors |= place.write(parameters[name].detach().float())
    if layout == "pegasus":  # transformers reads the sinusoids from the file
        for side, part in (("encoder", model.frontend), ("decoder", model.decoder)):
            tensors[f"model.{side}.embed_positions.weight"] = part.embedding.positions.table_of(MOST)[:MOST]
    if layout not in UNBIASED and model.output.bias is None:
        tensors["final_logits_bias"] = torch.zeros(1, len(tensors["lm_head.weight"]))
    with whole_folder(folder) as partial, naming(partial / "model.safetensors"):
        write_files(partial, files_of(layout, model, task, decode))
        save_file({name: value.clone().contiguous() for name, value in tensors.items()}, partial / "model.safetensors",
                  metadata={"format": "pt", "s2s": __version__})  # fmt: skip


def files_of(layout: str, model: nn.Module, task, decode: Mapping[str, Any]) -> dict[str, Any]:
    """The files beside the weights, by name: bytes, or the contents of JSON. Arguments as in `write`."""
    rows, begin = rows_of(layout, model, task)
    return {"config.json": _config(layout, model, rows, begin), **_tokenizer_files(task, rows),
            "generation_config.json": generation_config(rows, begin, decode) | _forced(task, rows)}  # fmt: skip


def write_files(folder: Path, files: Mapping[str, Any]) -> None:
    """Write files as `files_of` gives them."""
    for name, content in files.items():
        write_file(folder / name, content if isinstance(content, bytes) else json.dumps(content, indent=1) + "\n")


def nearest(model: nn.Module, task) -> tuple[str, list[str]]:
    """The layout that the model fits, or nearly fits, and what that layout lacks."""
    wrong = {name: [*(wrong_parts(model) or _wrong_options(name, model)), *_wrong_task(name, task)] for name in LAYOUTS}
    best = min(wrong, key=lambda name: len(wrong[name]))
    return best, wrong[best]


def wrong_parts(model: nn.Module) -> list[str]:
    """Parts of the model that no layout has."""
    if not isinstance(model, EncoderDecoder):
        return [f"model of type {type(model).__name__}"]
    wrong = [f"model.{name} of type {type(part).__name__}" for name, kind in PARTS.items()
             if type(part := getattr(model, name)) is not kind]  # fmt: skip
    wrong += [f"layer of type {type(layer).__name__}" for stack in model.stacks() for layer in stack[:1]
              if type(layer) is not Layer]  # fmt: skip
    return wrong


def _wrong_options(layout: str, model: nn.Module) -> list[str]:
    """Options of the model that a layout does not have, as words of a command line."""
    config, wrong = model.config, []
    for name, needed in LAYOUTS[layout].items():
        value = getattr(config, name, None)
        if value not in (needed if isinstance(needed, tuple) else (needed,)):
            wrong.append(f"model.{name}={str(value).lower()}")
    sides = {"encoder": config.encoder, "decoder": config.decoder}
    for side, stack in sides.items():
        if stack.kv_heads not in (None, stack.heads):
            wrong.append(f"model.{side}.kv_heads={stack.kv_heads}")
        if layout != "t5" and stack.head * stack.heads != stack.width:
            wrong.append(f"model.{side}.head_width={stack.head_width}")
    if config.encoder.width != config.decoder.width:
        wrong.append(f"model.decoder.width={config.decoder.width} beside model.encoder.width={config.encoder.width}")
    if layout == "t5":
        wrong += [f"model.decoder.{key}={getattr(config.decoder, key)} beside model.encoder.{key}="
                  f"{getattr(config.encoder, key)}" for key in ("heads", "ffn_width", "head")
                  if getattr(config.decoder, key) != getattr(config.encoder, key)]  # fmt: skip
    if layout in UNBIASED:
        bias = getattr(model.output, "bias", None)
        if bias is not None and any(value for n, value in enumerate(bias.tolist()) if n != BOS):
            wrong.append("model.output.bias=true")
    if getattr(config, "auxiliary_heads", []):
        wrong.append(f"model.auxiliary_heads={config.auxiliary_heads}")
    shared = model.frontend.tokens is model.decoder.embedding.tokens if not wrong_parts(model) else True
    if not shared and (layout == "t5" or model.config.tie_embeddings == "none"):
        wrong.append(f"model.tie_embeddings={config.tie_embeddings} with one matrix for each side")
    return wrong


def _wrong_task(layout: str, task) -> list[str]:
    """Properties of the task that no folder has."""
    wrong = []
    for side, tokenizer in {**task.source_tokenizers, "target": task.target_tokenizer}.items():
        config = tokenizer.config
        if not isinstance(tokenizer, (SentencePieceTokenizer, PiecesTokenizer)):
            wrong.append(f"{side} tokenizer={config.type}")
        wrong += [f"{side} tokenizer.{key}={str(value).lower()}" for key, value in
                  {"lowercase": config.lowercase, "pre": config.pre and config.pre.type, "protect": config.protect,
                   "normalization": config.normalization == "nfkc" and "nfkc"}.items() if value]  # fmt: skip
    if len(task.source_tokenizers) != 1:
        wrong.append(f"task={task.config.type}")
    if layout != "marian" and not task.shared_vocabulary:
        wrong.append("tokenizer.joint=false")
    if not getattr(task, "source_end", True):
        wrong.append("task.source_end=false")
    if read := [name for name in task.tags if name not in _symbolic(task)]:
        wrong.append(f"tags that the model reads ({', '.join(read)})")
    if len(task.source_tags) > 1:
        wrong.append(f"task.source_tags=[{','.join(task.source_tags)}]: one symbol begins a line")
    if not task.target_transform.is_none:
        wrong.append(f"data.target_transform={task.target_transform.kind}, which decoding would have to undo")
    return wrong


def _symbolic(task) -> list[str]:
    """The tags whose values are symbols of the vocabulary."""
    return [name for name in dict.fromkeys((*task.source_tags, task.target_tag, task.first_tag)) if name]


def _forced(task, rows: dict[str, Tensor | None]) -> dict[str, int]:
    """Options of `generate` for tags of the target that have one value only."""
    target, forced = rows["target"], {}
    for name, tag, symbols in (("forced_bos_token_id", task.target_tag, task.target_symbols),
                               ("decoder_start_token_id", task.first_tag, task.first_symbols)):  # fmt: skip
        if tag and len(task.tags[tag]) == 1:
            number = int(symbols()[0])
            forced[name] = number if target is None else int(target[number])
    return forced


def rows_of(layout: str, model: nn.Module, task) -> tuple[dict[str, Tensor | None], int]:
    """For `source` and `target`, their row of each of our symbols, int64 [V]; None: the same. And their id of what the
    decoder begins with."""
    tokens, bias = model.decoder.embedding.tokens.weight, model.output.bias
    same = [place for place in (PAD, EOS) if torch.equal(tokens[place], tokens[BOS])]
    copied = bool(same) and bias is not None and bias[BOS].item() <= IMPOSSIBLE / 2
    if not copied and layout != "m2m_100":
        return {"source": None, "target": None}, BOS
    rows = {}
    for side, size in {"source": len(task.source_tokenizer.vocabulary), "target": len(model.output.weight)}.items():
        place = torch.arange(size)
        if layout == "m2m_100":
            place[PAD], place[UNK] = UNK, PAD
        if copied:
            place[BOS + 1 :] -= 1
            place[BOS] = place[same[0]]
        rows[side] = place
    return rows, int(rows["target"][BOS])


def _table(layout: str, model: nn.Module, rows: dict[str, Tensor | None]) -> Table:
    """The place of each weight, copies among them."""
    sizes = {side: getattr(model.config, side).layers for side in ("encoder", "decoder")}
    source, target = (("frontend.embedding.tokens.weight", rows["source"]),
                      ("decoder.embedding.tokens.weight", rows["target"]))  # fmt: skip
    if layout == "t5":
        names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
        gated = model.config.activation != "relu"
        table = {name: place for side, count in sizes.items() for name, place in t5_stack(side, count, gated).items()}
    else:
        names = ("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
        table = {name: place for side, count in sizes.items() for name, place in bart_stack(side, count).items()}
        for side, part in (("encoder", "frontend"), ("decoder", "decoder")):
            if model.config.norm == "pre":
                table |= fused(f"{side}.norm", f"model.{side}", ("layer_norm",))
            if model.config.embedding_norm:
                table |= fused(f"{part}.embedding.norm", f"model.{side}", ("layernorm_embedding",))
            if model.config.positions == "learned":
                place = Place((f"model.{side}.embed_positions.weight",), skip=OFFSET)
                table[f"{part}.embedding.positions.weight"] = place
        if model.output.bias is not None and layout not in UNBIASED:
            table["output.bias"] = Place(("final_logits_bias",), rows["target"], flat=True)
    shared = model.frontend.tokens is model.decoder.embedding.tokens
    table[source[0]] = Copies(names[:2] if shared else names[1:2], source[1])
    table[target[0]] = Copies(names if shared else names[2:], target[1])
    table["output.weight"] = Place(("lm_head.weight",), rows["target"])
    return table


class Copies(Place):
    """Several names for the same weight."""

    def write(self, value: Tensor) -> dict[str, Tensor]:
        """As Place."""
        (written,) = Place(self.names[:1], self.rows).write(value).values()
        return dict.fromkeys(self.names, written)


def ids_of(rows: dict[str, Tensor | None], begin: int) -> dict[str, int]:
    """The ids of special symbols, as configurations name them; rows, begin: as `rows_of` returns them."""
    pad, end = (number if rows["target"] is None else int(rows["target"][number]) for number in (PAD, EOS))
    return {"pad_token_id": pad, "eos_token_id": end, "decoder_start_token_id": begin}


def _config(layout: str, model: nn.Module, rows: dict[str, Tensor | None], begin: int) -> dict[str, Any]:
    """The contents of config.json."""
    config, sides = model.config, {"encoder": model.config.encoder, "decoder": model.config.decoder}
    shared = model.frontend.tokens is model.decoder.embedding.tokens
    tied = model.output.weight is model.decoder.embedding.tokens.weight
    tables = {"source": model.frontend.tokens, "target": model.decoder.embedding.tokens}
    size = {side: len(tokens.weight) if place is None else int(place.max()) + 1
            for (side, tokens), place in zip(tables.items(), rows.values(), strict=True)}  # fmt: skip
    common = {"model_type": layout, "architectures": [CLASSES[layout]], "is_encoder_decoder": True,
              "d_model": config.decoder.width, "vocab_size": size["source"], **ids_of(rows, begin)}  # fmt: skip
    if layout == "t5":
        stack = config.encoder
        common |= {
            "d_kv": stack.head, "d_ff": stack.ffn_width, "num_layers": stack.layers, "num_heads": stack.heads,
            "num_decoder_layers": config.decoder.layers, "feed_forward_proj": GATES[config.activation],
            "relative_attention_num_buckets": config.relative_buckets, "dropout_rate": config.dropout,
            "relative_attention_max_distance": config.relative_distance,
            "layer_norm_epsilon": config.norm_epsilon or 1e-6,
            "tie_word_embeddings": bool(config.scale_output), "scale_decoder_outputs": bool(config.scale_output),
        }  # fmt: skip
    else:
        for side, stack in sides.items():
            common |= {f"{side}_layers": stack.layers, f"{side}_attention_heads": stack.heads,
                       f"{side}_ffn_dim": stack.ffn_width}  # fmt: skip
        most = config.max_positions if config.positions == "learned" else MOST
        common |= {
            "activation_function": ACTIVATIONS[config.activation], "scale_embedding": config.scale_embeddings,
            "max_position_embeddings": most, "dropout": config.dropout, "attention_dropout": config.attention_dropout,
            "activation_dropout": config.activation_dropout, "tie_word_embeddings": tied, "forced_eos_token_id": None,
        }  # fmt: skip
        if layout == "marian":
            common |= {"share_encoder_decoder_embeddings": shared, "decoder_vocab_size": size["target"]}
    return common


def generation_config(rows: dict[str, Tensor | None], begin: int, decode: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of generation_config.json; decode: as in `write`."""
    ids, unknown = ids_of(rows, begin), UNK if rows["target"] is None else int(rows["target"][UNK])
    never = sorted({ids["pad_token_id"], begin, *([] if decode.get("allow_unknown") else [unknown])}
                   - {ids["eos_token_id"]})  # fmt: skip
    return {
        **ids,
        **_search(decode),
        "forced_eos_token_id": None,
        "bad_words_ids": [[number] for number in never],
    }


def _search(decode: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `generate` that mean the same as these of ours."""
    stopping = {"first_finished": True, "worst_finished": False, "best_possible": "never"}
    options = {
        "num_beams": decode.get("beam_size", 5), "min_new_tokens": decode.get("min_length_b", 1),
        "early_stopping": stopping.get(decode.get("stopping", ""), True),
        # What the decoder begins with and EOS count there. It has no maximum that depends on the source.
        "max_length": MOST_WRITTEN if decode.get("max_length_a", 1) else decode["max_length_b"] + 2,
    }  # fmt: skip
    if decode.get("length_normalization", "power") == "power":
        options["length_penalty"] = float(decode.get("length_penalty", 1.0))
    if repeated := decode.get("no_repeat_ngram", 0):
        options["no_repeat_ngram_size"] = repeated
    return options


def _tokenizer_files(task, rows: dict[str, Tensor | None]) -> dict[str, Any]:
    """The files of the tokenizer: SentencePiece models and vocabularies, as Marian has them."""
    shared = task.shared_vocabulary
    config: dict[str, Any] = {
        "tokenizer_class": "MarianTokenizer", "unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>",
        "separate_vocabs": not shared, "model_max_length": MOST,
    }  # fmt: skip
    codes = {f"<{value}>": f">>{value}<<" for name in _symbolic(task) for value in task.tags[name]}
    files: dict[str, Any] = {"tokenizer_config.json": config}
    if codes:
        config["extra_special_tokens"] = [*codes.values()]
        files[TAGS] = {"source_tags": list(task.source_tags), "target_tag": task.target_tag,
                       "first_tag": task.first_tag, "values": dict(task.tags)}  # fmt: skip
    for side, tokenizer in (("source", task.source_tokenizer), ("target", task.target_tokenizer)):
        place = rows[side]
        # A beginning that is a copy of another symbol has its id, and no name.
        symbols = {number if place is None else int(place[number]): symbol
                   for number, symbol in enumerate(tokenizer.vocabulary.symbols)
                   if number != BOS or place is None or int((place == place[BOS]).sum()) == 1}  # fmt: skip
        files[f"{side}.spm"] = tokenizer.model
        name = "vocab.json" if side == "source" else "target_vocab.json"
        if side == "source" or not shared:
            files[name] = {codes.get(symbols[number], symbols[number]): number for number in sorted(symbols)}
    return files
