"""CTranslate2's folders of Transformers: config.json, model.bin and vocabularies, as its converters and s2s-export
write them. Weights in int8, int16 and half precision become fp32. CTranslate2 itself is not needed.

Where the decoder begins with zeros, as in Marian's models, they are the row of our BOS.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2s.config.documents import read_json
from s2s.errors import UserError
from s2s.interop.importing.dictionaries import of_symbols, splitter
from s2s.interop.importing.imported import LARGE, Imported, arranged, checked
from s2s.interop.importing.stacks import kind_of_positions
from s2s.interop.places import IMPOSSIBLE, Place, Table
from s2s.tasks.translation import TranslationConfig, TranslationTask
from s2s.text.tokenizer import Tokenizer, load_tokenizer

OPTIONS = ("bpe_codes", "sentencepiece")  # of s2s-import
TYPES = ("<f4", "<i1", "<i2", "<i4", "<f2", "<u2")  # the last one holds bfloat16
BFLOAT16, MOST_DIMENSIONS = 5, 8
ACTIVATIONS = {0: "relu", 2: "silu", 3: "gelu"}
GATES = {2: "swiglu", 3: "geglu"}
EMBEDDINGS = {"encoder": "encoder/embeddings_0/weight", "decoder": "decoder/embeddings/weight"}
OUTPUT = "decoder/projection"
READ = {"num_heads", "num_heads_kv", "pre_norm", "activation", "scale_embeddings", "start_from_zero_embedding",
        "rotary_dim", "rotary_interleave", "rotary_base"}  # fmt: skip
IDLE = {"alignment_heads", "alignment_layer", "embeddings_merge", "scale_alibi", "alibi_use_positive_positions"}
PLAIN = {
    "alibi": 0,
    "multi_query_attention": 0,
    "rotary_dim": 0,
    "rotary_interleave": 0,
    "rotary_base": 10_000,
}  # any other value is refused


def recognises(path: Path) -> bool:
    """Whether a path is such a folder."""
    return path.is_dir() and (path / "model.bin").is_file() and (path / "config.json").is_file()


def read(path: Path, bpe_codes: Sequence[str] = (), sentencepiece: Sequence[str] = ()) -> Imported:
    """Read a model.

    Args:
        path: The folder.
        bpe_codes, sentencepiece: Files that split the text: one, or one for each side; none: those in the folder.

    Raises:
        UserError: files are missing or damaged, or the model is one that is not read; lists what it has.
    """
    if bpe_codes and sentencepiece:
        raise UserError("bpe_codes and sentencepiece: one of them is needed, which splits the text")
    file = path / "model.bin"
    if not file.is_file():
        raise UserError(f"{path}: has no model.bin; the folder is incomplete")
    config = read_json(path / "config.json", {...: object}, limits=LARGE)
    tensors, scalars = read_variables(file)
    options = _options(config, tensors, scalars, file)
    zeros = bool(scalars.get("decoder/start_from_zero_embedding", 0))
    files = [Path(name) for name in (*bpe_codes, *sentencepiece)]
    (source, rows, split), (target, target_rows, _) = (
        _tokenizer(side, config, tensors, path, files, zeros) for side in EMBEDDINGS
    )
    one = tensors[EMBEDDINGS["encoder"]] is tensors[EMBEDDINGS["decoder"]]
    if one and source.facts() == target.facts() and source.vocabulary.symbols == target.vocabulary.symbols:
        target = source
    tied = tensors[EMBEDDINGS["decoder"]] is tensors.get(f"{OUTPUT}/weight")
    options["tie_embeddings"] = ("all" if tied else "inputs") if one else "decoder" if tied else "none"
    tensors.setdefault(f"{OUTPUT}/bias", torch.zeros(len(tensors[EMBEDDINGS["decoder"]])))
    more = {}
    for name in {*EMBEDDINGS.values(), f"{OUTPUT}/weight", f"{OUTPUT}/bias"} & tensors.keys():  # PAD's, BOS's
        last = torch.full((1,), IMPOSSIBLE) if name.endswith("bias") else torch.zeros(1, tensors[name].size(1))
        more[name] = torch.cat([tensors[name], last])
    tensors = {**tensors, **more}
    table = _table(options, rows, target_rows)
    names = [name for place in table.values() for name in place.names]
    for name in names:  # a map or a norm may have no bias
        weight = tensors.get(name.removesuffix("bias").removesuffix("beta") + ("gamma" if "beta" in name else "weight"))
        if name.endswith(("/bias", "/beta")) and weight is not None:
            tensors.setdefault(name, torch.zeros(len(weight)))
    tensors = {name: value for name, value in tensors.items() if not name.endswith("position_encodings/encodings")
               or options["positions"] == "learned"}  # fmt: skip
    same = {name: EMBEDDINGS["encoder"] for name in (EMBEDDINGS["decoder"],) if one}
    same |= {f"{OUTPUT}/weight": EMBEDDINGS["encoder" if one else "decoder"]} if tied else {}
    end = bool(config.get("add_source_eos", False))
    notes = (
        []
        if end
        else [
            "add_source_eos=false in config.json: sources do not end with </s>. If who calls CTranslate2 adds it, as "
            "for models of transformers, write true there and import again"
        ]
    )
    notes += [] if split else ["no tokenizer in the folder: lines are words of the vocabulary, already split"]
    return Imported(
        family="CTranslate2", options=options, table=table, tensors=tensors, where=file, same=same, notes=notes,
        task=TranslationTask(source, target, config=TranslationConfig(source_end=end)), preset="ctranslate2",
    )  # fmt: skip


def read_variables(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The weights of a model.bin in fp32, and its numbers. Names for one variable have one tensor.

    Raises:
        UserError: the file is damaged, or the model is no Transformer.
    """
    content = path.read_bytes()
    place = 0

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{form}", content, place)
        place += struct.calcsize(form)
        return value

    def text() -> str:
        nonlocal place
        size = take("H")
        value, place = content[place : place + size], place + size
        if len(value) < size or size == 0:
            raise ValueError("it ends within a name")
        return value[:-1].decode("utf-8")

    variables: dict[str, np.ndarray] = {}
    try:
        version = take("I")
        kind = text() if version >= 2 else ""
        take("I")
        if kind != "TransformerSpec":
            raise UserError(f"{path}: {kind or 'a model of an old version'}: not read; TransformerSpec is")
        for _ in range(take("I")):
            name, rank = text(), take("B")
            if rank > MOST_DIMENSIONS:
                raise ValueError(f"{name} has {rank} dimensions")
            shape = [take("I") for _ in range(rank)]
            number, size = take("B"), take("I")
            array = np.frombuffer(content, TYPES[number], math.prod(shape), place).reshape(shape)
            if array.nbytes != size:
                raise ValueError(f"{name} has {size:,} bytes, not {array.nbytes:,}")
            place += size
            if number == BFLOAT16:
                array = (array.astype(np.uint32) << 16).view(np.float32)
            variables[name] = array
        aliases = [(text(), text()) for _ in range(take("I"))]
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged, or not a model of CTranslate2: {error}") from error
    scales = {name: original for name, original in aliases if name.endswith("_scale")}
    variables |= {name: variables[original] for name, original in scales.items() if original in variables}
    tensors = {name: _whole(array, variables.get(f"{name}_scale")) for name, array in variables.items()
               if array.ndim and not name.endswith("_scale")}  # fmt: skip
    scalars = {name: float(array) for name, array in variables.items() if not array.ndim and "_scale" not in name}
    for name, original in aliases:
        if original in tensors:
            tensors[name] = tensors[original]
        elif original in scalars:
            scalars[name] = scalars[original]
    return tensors, scalars


def _whole(array: np.ndarray, scale: np.ndarray | None) -> Tensor:
    """A weight in fp32; scale: [rows], or a number; None: the weight is not quantized."""
    value = torch.from_numpy(array.astype(np.float32))
    if scale is None:
        return value
    return value / torch.from_numpy(scale.astype(np.float32)).view(-1, *[1] * (value.dim() - 1))


def _options(config: Mapping[str, Any], tensors: Mapping[str, Tensor], scalars: Mapping[str, float],
             where: Path) -> dict[str, Any]:  # fmt: skip
    """Our options. Raises UserError for a model that is not read; names all that stands against it."""
    wrong = [f"{name}={value:g}" for name, value in scalars.items()
             if (key := name.rpartition("/")[2]) not in READ | IDLE | PLAIN.keys()
             or PLAIN.get(key, value) != value]  # fmt: skip
    wrong += ["add_source_bos=true"] * bool(config.get("add_source_bos"))
    missing = [name for name in EMBEDDINGS.values() if name not in tensors]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} missing")
    both: dict[str, list[Any]] = {"pre_norm": [], "activation": [], "positions": [], "scale": []}
    options: dict[str, Any] = {}
    for side, name in EMBEDDINGS.items():
        width, layer = tensors[name].size(1), f"{side}/layer_0/ffn"
        gated, number = f"{layer}/linear_0_noact/weight" in tensors, int(scalars.get(f"{side}/activation", 0))
        both["activation"].append((GATES if gated else ACTIVATIONS).get(number))
        wrong += [f"{side}/activation={number}"] * (both["activation"][-1] is None)
        both["pre_norm"].append(bool(scalars.get(f"{side}/pre_norm", 1)))
        scale = scalars.get(f"{side}/scale_embeddings", 1)
        both["scale"].append(scale != 0)
        wrong += [f"{side}/scale_embeddings={scale:g}"] * (scale not in (0, 1) and abs(scale - width**0.5) > 1e-3)
        rotary, table = (
            f"{side}/layer_0/self_attention/rotary_dim" in scalars,
            tensors.get(f"{side}/position_encodings/encodings"),
        )
        kind = "rotary" if rotary else None if table is None else kind_of_positions(table) or "learned"
        both["positions"].append("none" if table is not None and not table.any() else kind)
        wrong += [f"{side} without position_encodings"] * (kind is None)
        layers = {key.split("/")[1] for key in tensors if key.startswith(f"{side}/layer_") and key.count("/") > 2}
        heads = int(scalars.get(f"{side}/num_heads", 8))
        options |= {f"{side}.layers": checked("layers", len(layers), 1, where), f"{side}.width": width,
                    f"{side}.heads": heads, f"{side}.ffn_width": tensors.get(f"{layer}/linear_1/weight",
                                                                               torch.zeros(1, 1)).size(1)}  # fmt: skip
        few = int(scalars.get(f"{side}/num_heads_kv", heads))
        options |= {f"{side}.kv_heads": few} if few != heads else {}
    wrong += [f"{name} of the encoder {first}, of the decoder {second}" for name, (first, second) in both.items()
              if first != second]  # fmt: skip
    if wrong:
        raise UserError(f"{where}: this Transformer is not read with {', '.join(wrong)}")
    if both["positions"][0] == "learned":
        options["max_positions"] = min(len(tensors[f"{side}/position_encodings/encodings"]) for side in EMBEDDINGS)
    rms = "decoder/layer_0/ffn/layer_norm/beta" not in tensors
    return options | {
        "norm": "pre" if both["pre_norm"][0] else "post", "activation": both["activation"][0], "output.bias": True,
        "positions": both["positions"][0], "scale_embeddings": both["scale"][0], "norm_type": "rms" if rms else "layer",
        "norm_epsilon": float(config.get("layer_norm_epsilon") or 1e-5),
        "embedding_norm": "decoder/layernorm_embedding/gamma" in tensors,
    }  # fmt: skip


def _tokenizer(side: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path, files: list[Path],
               zeros: bool) -> tuple[Tokenizer, Tensor, bool]:  # fmt: skip
    """The tokenizer of a side, the row of each of its symbols, and whether text is split.

    Args:
        side: `encoder` or `decoder`.
        config: The content of config.json.
        tensors: The weights.
        folder: The model's.
        files: Those that are given to split the text.
        zeros: Whether the decoder begins with zeros.
    """
    name, count = {"encoder": "source", "decoder": "target"}[side], len(tensors[EMBEDDINGS[side]])
    stems = (f"{name}_vocabulary", "shared_vocabulary")
    found = next((file for stem in stems for ending in ("json", "txt")
                  if (file := folder / f"{stem}.{ending}").is_file()), None)  # fmt: skip
    if found is None:
        raise UserError(f"{folder}: has no {stems[0]}.json or {stems[1]}.json; the folder is incomplete")
    if found.suffix == ".json":
        symbols = read_json(found, [str], limits=LARGE)
    else:
        symbols = found.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if len(symbols) > count:
        raise UserError(f"{found}: {len(symbols):,} symbols, and the embedding has {count:,} rows")
    if not files and (folder / f"{name}.tokenizer.json").is_file():
        tokenizer = load_tokenizer(folder, name)
        if tokenizer.vocabulary.symbols != symbols:
            raise UserError(f"{folder}: {name}.vocabulary.txt is not {found.name}")
        return tokenizer, torch.arange(count), True
    special = {key: config.get(f"{key}_token") or default for key, default in
               {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}.items()}  # fmt: skip
    begin = (config.get("decoder_start_token") or special["bos"]) if side == "decoder" else special["bos"]
    symbols += [f"<unnamed_{number}>" for number in range(len(symbols), count)]
    place = {symbol: number for number, symbol in reversed([*enumerate([*symbols, "<zeros>"])])}
    if missing := [each for each in (special["unk"], special["eos"]) if each not in place]:
        raise UserError(f"{found}: has no {' and no '.join(missing)}")
    last = place["<zeros>"]
    pad = last if zeros else next((place[each] for each in ("<pad>", "<blank>") if each in place), last)
    start = last if zeros else place.get(begin, last)
    specials = [pad, place[special["unk"]], start, place[special["eos"]]]
    ours, names, rows = arranged([*symbols, "<zeros>"], specials, count + 1)
    split = splitter(name, files, folder) or next((file for file in (folder / f"{name}.spm", folder / "spm.model")
                                                   if file.is_file()), None)  # fmt: skip
    return of_symbols(ours, names, split, False), rows, split is not None


def _table(options: dict[str, Any], source: Tensor, target: Tensor) -> Table:
    """The place of each weight; source, target: rows of our symbols."""
    tie = options["tie_embeddings"]
    table: Table = {"frontend.embedding.tokens.weight": Place((EMBEDDINGS["encoder"],), source),
                    "output.bias": Place((f"{OUTPUT}/bias",), target)}  # fmt: skip
    if tie not in ("all", "inputs"):
        table["decoder.embedding.tokens.weight"] = Place((EMBEDDINGS["decoder"],), target)
    if tie not in ("all", "decoder"):
        table["output.weight"] = Place((f"{OUTPUT}/weight",), target)

    def linear(ours: str, *theirs: str) -> Table:
        return {f"{ours}.{kind}": Place(tuple(f"{name}/{kind}" for name in theirs)) for kind in ("weight", "bias")}

    def norm(ours: str, theirs: str) -> Table:
        kinds = {"weight": "gamma", "bias": "beta"} if options["norm_type"] == "layer" else {"weight": "gamma"}
        return {f"{ours}.{kind}": Place((f"{theirs}/{name}",)) for kind, name in kinds.items()}

    gated = options["activation"] in GATES.values()
    for side, part in (("encoder", "frontend"), ("decoder", "decoder")):
        for n in range(options[f"{side}.layers"]):
            ours, theirs = f"{side}.layers.{n}", f"{side}/layer_{n}"
            table |= linear(f"{ours}.attention.qkv", f"{theirs}/self_attention/linear_0")
            table |= linear(f"{ours}.attention.output", f"{theirs}/self_attention/linear_1")
            table |= norm(f"{ours}.attention_norm", f"{theirs}/self_attention/layer_norm")
            if side == "decoder":
                for number, name in enumerate(("query", "key_value", "output")):
                    table |= linear(f"{ours}.cross.{name}", f"{theirs}/attention/linear_{number}")
                table |= norm(f"{ours}.cross_norm", f"{theirs}/attention/layer_norm")
            maps = [f"{theirs}/ffn/linear_0", f"{theirs}/ffn/linear_0_noact"]
            table |= linear(f"{ours}.feedforward.inner", *maps[: 1 + gated])
            table |= linear(f"{ours}.feedforward.outer", f"{theirs}/ffn/linear_1")
            table |= norm(f"{ours}.feedforward_norm", f"{theirs}/ffn/layer_norm")
        if options["norm"] == "pre":
            table |= norm(f"{side}.norm", f"{side}/layer_norm")
        if options["embedding_norm"]:
            table |= norm(f"{part}.embedding.norm", f"{side}/layernorm_embedding")
        if options["positions"] == "learned":
            place = Place((f"{side}/position_encodings/encodings",), torch.arange(options["max_positions"]))
            table[f"{part}.embedding.positions.weight"] = place
    return table
