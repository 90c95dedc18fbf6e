"""fairseq's checkpoints: the Transformer and the LSTM of its translation models, BART, and Transformer language models.

The decoder begins with `</s>`, whose row is that of our BOS. Dictionaries lie beside the checkpoint, or in a folder
that is given.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.interop.importing.dictionaries import read_dictionary, splitter, tokenizer
from s2s.interop.importing.fairseq_lstm import Sizes
from s2s.interop.importing.imported import Imported, checked
from s2s.interop.importing.records import read_checkpoint
from s2s.interop.places import Place, Table, bart_stack, fused
from s2s.tasks.language_modeling import LanguageModelingTask
from s2s.tasks.translation import TranslationTask

OPTIONS = ("dictionaries", "bpe_codes", "sentencepiece")  # of s2s-import
NAMES = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")  # of the checkpoint in a folder
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu"}
TASKS = ("translation", "denoising", "language_modeling")
NOT_READ = ("pointer_generator", "lightconv", "multilingual", "from_pretrained")  # in names of architectures
# Options that a model must not have, with the value that has no effect; more than one: any of them.
PLAIN: dict[str, Sequence[Any]] = {
    "adaptive_softmax_cutoff": (None, ""), "adaptive_input": (None, False), "no_cross_attention": (None, False),
    "cross_self_attention": (None, False), "no_decoder_final_norm": (None, False), "scale_fc": (None, False),
    "scale_attn": (None, False), "scale_heads": (None, False), "scale_resids": (None, False),
    "character_embeddings": (None, False), "base_layers": (None, 0), "use_stable_embedding": (None, False),
    "merge_src_tgt_embed": (None, False),
}  # fmt: skip
OFFSET = 2  # rows of learned positions that are not used
BUFFERS = ("*.version", "*.embed_positions._float_tensor")


class Settings:
    """The options of a checkpoint, whichever layout it has: `args`, or `cfg` of Hydra, with groups or without.

    Args:
        checkpoint: Its content.
        where: Its path.
    """

    def __init__(self, checkpoint: dict[str, Any], where: Path):
        config, self.where = checkpoint.get("cfg") or checkpoint.get("args"), where
        if not isinstance(config, dict):
            raise UserError(f"{where}: has neither args nor cfg, the options of fairseq")
        grouped = isinstance(config.get("model"), dict)
        self.model = config["model"] if grouped else config
        self.task = config.get("task") if isinstance(config.get("task"), dict) else config
        name = self.model.get("arch") or self.model.get("_name") or config.get("arch")
        self.arch, task = str(name), self.task.get("_name") or config.get("task")
        self.task_name = task if isinstance(task, str) else "translation"

    def get(self, name: str, default: Any) -> Any:
        """An option of the model, which has the type of the default. Raises UserError as `checked`."""
        group, _, key = name.partition("_")
        nested = self.model.get(group)
        value = self.model.get(name, nested.get(key) if isinstance(nested, dict) else None)
        if value is None or default is None:
            return default if value is None else value
        return checked(name, value, default, self.where)


def recognises(path: Path) -> bool:
    """Whether a path is a checkpoint of fairseq, or a folder with one and its dictionary."""
    if path.is_dir():
        return any((path / name).is_file() for name in NAMES) and any(path.glob("dict*.txt"))
    if path.suffix != ".pt":
        return False
    content = read_checkpoint(path)
    return "model" in content and ("args" in content or "cfg" in content)


def read(path: Path, dictionaries: str | None = None, bpe_codes: Sequence[str] = (),
         sentencepiece: Sequence[str] = ()) -> Imported:  # fmt: skip
    """Read a model.

    Args:
        path: The checkpoint, or its folder.
        dictionaries: Folder of the dictionaries; None: that of the checkpoint.
        bpe_codes, sentencepiece: Files that split the text: one, or one for each side; none: those beside the
            dictionaries.

    Raises:
        UserError: files are missing or damaged, or the model is one that is not read; lists what it has.
    """
    if path.is_dir():
        if not (names := [name for name in NAMES if (path / name).is_file()]):
            raise UserError(f"{path}: has no {' or '.join(NAMES)}")
        path = path / names[0]
    checkpoint = read_checkpoint(path)
    settings, tensors = Settings(checkpoint, path), checkpoint.get("model")
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: model: is not a state dict, of tensors by name")
    alone = settings.arch.startswith("transformer_lm")
    recurrent = None
    if settings.arch.startswith("lstm") and not settings.arch.startswith("lstm_lm"):
        recurrent = Sizes(settings)
        tensors = recurrent.arranged(tensors)
    else:
        _check(settings, tensors)
        tensors = _upgraded(tensors)
    if bpe_codes and sentencepiece:
        raise UserError("bpe_codes and sentencepiece: one of them is needed, which splits the text")
    folder = Path(dictionaries) if dictionaries else path.parent
    files = [Path(name) for name in (*bpe_codes, *sentencepiece)]
    task, rows, split = _task(settings, tensors, folder, files, alone)
    notes = [] if split else ["no bpe_codes or sentencepiece, and none beside the dictionary: lines are words of it, "
                              "already split"]  # fmt: skip
    notes += [f"{name}={rate}: layers are not left out in training" for name in
              ("encoder_layerdrop", "decoder_layerdrop") if (rate := settings.get(name, 0.0))]  # fmt: skip
    common: dict[str, Any] = {"family": f"fairseq {settings.arch}", "task": task, "tensors": tensors, "where": path}
    if recurrent is not None:
        return Imported(options=recurrent.options(), table=recurrent.table(*rows), preset="fairseq",
                        notes=notes + recurrent.notes(), same=recurrent.copies(), **common)  # fmt: skip
    options = _options(settings, tensors, alone)
    return Imported(
        model="transformer_lm" if alone else "transformer", options=options, table=table(options, *rows),
        preset="" if alone else "fairseq", notes=notes, ignored=(*BUFFERS, "classification_heads.*"),
        same=copies(options["tie_embeddings"]), **common,
    )  # fmt: skip


def _check(settings: Settings, tensors: dict[str, Tensor]) -> None:
    """Raise UserError for a model that is not read; names all options that stand against it."""
    arch, where = settings.arch, settings.where
    if not arch.startswith(("transformer", "bart")) or any(name in arch for name in NOT_READ):
        raise UserError(f"{where}: architecture {arch}: not read; transformer, transformer_lm, lstm and bart are, "
                        "with the names that begin with these")  # fmt: skip
    wrong = [f"{name}={value}" for name, plain in PLAIN.items() if (value := settings.get(name, None)) not in plain]
    if settings.task_name not in TASKS:
        wrong.append(f"task={settings.task_name}")
    if (activation := settings.get("activation_fn", "relu")) not in ACTIVATIONS:
        wrong.append(f"activation_fn={activation}")
    sides = ("decoder",) if arch.startswith("transformer_lm") else ("encoder", "decoder")
    width = settings.get("decoder_embed_dim", 512)
    wrong += [f"{name}={value} beside decoder_embed_dim={width}" for name in ("decoder_input_dim", "decoder_output_dim")
              if (value := settings.get(name, width)) != width]  # fmt: skip
    if len(sides) == 2:
        wrong += [f"encoder_{name}={first} beside decoder_{name}={second}" for name in
                  ("normalize_before", "learned_pos")
                  if (first := _flag(settings, "encoder", name))
                  != (second := _flag(settings, "decoder", name))]  # fmt: skip
    for side in sides:
        version = tensors.get(f"{side}.version")
        if _flag(settings, side, "normalize_before") and f"{side}.layer_norm.weight" not in tensors and (
            version is None or version.item() < 3):  # fmt: skip
            wrong.append(f"{side}_normalize_before=True without a norm after the last layer, as before 2018")
    if wrong:
        raise UserError(f"{where}: {arch} is not read with {', '.join(wrong)}")


def _flag(settings: Settings, side: str, name: str) -> bool:
    """A flag of a side; language models of fairseq are always pre-norm."""
    if name == "normalize_before" and settings.arch.startswith("transformer_lm"):
        return True
    return settings.get(f"{side}_{name}", settings.arch.startswith("bart") and name == "learned_pos")


def _upgraded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with their present names: queries, keys and values were one matrix once, and norms had numbers."""
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for part, norms in (("encoder", ("self_attn", "final")), ("decoder", ("self_attn", "encoder_attn", "final"))):
            if name.startswith(f"{part}.layers."):
                for number, norm in enumerate(norms):
                    name = name.replace(f".layer_norms.{number}.", f".{norm}_layer_norm.")
        name = "decoder.output_projection.weight" if name == "decoder.embed_out" else name
        stem, _, kind = name.rpartition(".in_proj_")
        if stem:
            parts = zip("qkv", value.chunk(3), strict=True)
            result |= {f"{stem}.{letter}_proj.{kind}": each for letter, each in parts}
        else:
            result[name] = value
    return result


def _task(settings: Settings, tensors: dict[str, Tensor], folder: Path, files: list[Path], alone: bool) -> Any:
    """The task, the row of each of its symbols for each side, and whether a file splits the text."""
    names = {"target": ""} if alone else {side: settings.task.get(f"{side}_lang") for side in ("source", "target")}
    if not alone and settings.task_name == "denoising":
        names = dict.fromkeys(names, "")
    if unknown := [f"{side}_lang" for side, name in names.items() if not isinstance(name, str)]:
        raise UserError(f"{settings.where}: names no {' and no '.join(unknown)}: which dict.*.txt is it?")
    made: dict[Any, Any] = {}
    sides = []
    for side, language in names.items():
        matrix = tensors.get(f"{'encoder' if side == 'source' else 'decoder'}.embed_tokens.weight")
        if matrix is None:
            raise UserError(f"{settings.where}: has no embedding of the {side}")
        where = folder / (f"dict.{language}.txt" if language else "dict.txt")
        symbols, count = read_dictionary(where), len(matrix)
        if settings.arch.startswith("bart") and count == len(symbols) + 1 and "<mask>" not in symbols:
            symbols.append("<mask>")  # the task of denoising adds it
        file = splitter(side, files, folder)
        key = (tuple(symbols), file)
        if key not in made:
            made[key] = [symbols, count, file, where]
        sides.append(key)
    joint = len(sides) == 2 and len(made) == 1
    built = {key: tokenizer(symbols, count, file, joint, where)
             for key, (symbols, count, file, where) in made.items()}  # fmt: skip
    tokenizers, rows = zip(*(built[key] for key in sides), strict=True)
    task = LanguageModelingTask(*tokenizers) if alone else TranslationTask(*tokenizers)
    return task, (rows[0], rows[-1]), all(key[1] for key in sides)


def _options(settings: Settings, tensors: dict[str, Tensor], alone: bool) -> dict[str, Any]:
    """Our options."""
    get = settings.get
    side, bart = "decoder" if alone else "encoder", settings.arch.startswith("bart")
    learned = _flag(settings, side, "learned_pos")
    options: dict[str, Any] = {
        "activation": ACTIVATIONS[get("activation_fn", "relu")], "output.bias": True,
        "positions": "none" if get("no_token_positional_embeddings", False) else
                     "learned" if learned else "sinusoidal_fairseq",
        "scale_embeddings": not get("no_scale_embedding", False), "dropout": float(get("dropout", 0.1)),
        "attention_dropout": float(get("attention_dropout", 0.0)),
        "activation_dropout": float(get("activation_dropout", 0.0) or get("relu_dropout", 0.0)),
        "embedding_norm": get("layernorm_embedding", bart),
    }  # fmt: skip
    if options["positions"] == "learned":
        tables = [value for name, value in tensors.items() if name.endswith("embed_positions.weight")]
        options["max_positions"] = min(map(len, tables), default=OFFSET + 1) - OFFSET
    for stack in ("decoder",) if alone else ("encoder", "decoder"):
        width = get(f"{stack}_embed_dim", 512)
        options |= {f"{stack}.layers": get(f"{stack}_layers", 6), f"{stack}.width": width,
                    f"{stack}.heads": get(f"{stack}_attention_heads", 8),
                    f"{stack}.ffn_width": get(f"{stack}_ffn_embed_dim", 2048)}  # fmt: skip
    shared, output = get("share_all_embeddings", False), get("share_decoder_input_output_embed", False)
    if alone:
        return options | {"tie_embeddings": output}
    options["norm"] = "pre" if _flag(settings, "encoder", "normalize_before") else "post"
    return options | {"tie_embeddings": "all" if shared else "decoder" if output else "none"}


def table(options: dict[str, Any], source: Tensor, target: Tensor) -> Table:
    """The place of each weight.

    Args:
        options: Ours.
        source, target: Rows of our symbols.
    """
    tie, sides = options["tie_embeddings"], {"encoder": "frontend", "decoder": "decoder"}
    if "encoder.layers" not in options:
        del sides["encoder"]
    rows, table = {"encoder": source, "decoder": target}, {}
    for side, part in sides.items():
        table |= bart_stack(side, options[f"{side}.layers"], "")
        if options.get("norm", "pre") == "pre":
            table |= fused(f"{side}.norm", side, ("layer_norm",))
        if options["embedding_norm"]:
            table |= fused(f"{part}.embedding.norm", side, ("layernorm_embedding",))
        if options["positions"] == "learned":
            table[f"{part}.embedding.positions.weight"] = Place(
                (f"{side}.embed_positions.weight",), torch.arange(options["max_positions"]), skip=OFFSET)  # fmt: skip
        if side == "encoder" or tie != "all":
            table[f"{part}.embedding.tokens.weight"] = Place((f"{side}.embed_tokens.weight",), rows[side])
    if len(sides) == 1:  # a decoder alone attends to nothing else
        table = {name: place for name, place in table.items() if ".cross" not in name}
    if tie in (False, "none"):
        table["output.weight"] = Place(("decoder.output_projection.weight",), target)
    return table


def copies(tie: Any) -> dict[str, str]:
    """Names of copies of shared matrices, and what they are copies of. tie: `tie_embeddings`."""
    if tie == "all":
        names = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
        return dict.fromkeys(names, "encoder.embed_tokens.weight")
    return {} if tie in (False, "none") else {"decoder.output_projection.weight": "decoder.embed_tokens.weight"}
