"""Options that the families of Hugging Face have in common."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.interop.importing.imported import Folder, arranged, by_id, checked
from s2s.nn.positions import SINUSOIDAL, sinusoidal
from s2s.text import tokenizer_json
from s2s.text.pieces import PiecesConfig, PiecesTokenizer
from s2s.text.tokenizer_json import TokenizerJsonConfig, TokenizerJsonTokenizer
from s2s.text.vocabulary import Vocabulary

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu"}


def sizes(folder: Folder, defaults: dict[str, Any]) -> dict[str, Any]:
    """Sizes, activation and dropout of BART and its relatives, as our options.

    Args:
        folder: The model.
        defaults: Those of the family.

    Raises:
        UserError: an activation that we do not have.
    """
    value = {name: folder.get(name, default) for name, default in defaults.items()}
    options: dict[str, Any] = {"output.bias": True}
    for side in ("encoder", "decoder"):
        options |= {f"{side}.layers": value[f"{side}_layers"], f"{side}.width": value["d_model"],
                    f"{side}.heads": value[f"{side}_attention_heads"],
                    f"{side}.ffn_width": value[f"{side}_ffn_dim"]}  # fmt: skip
    options["activation"] = activation(folder, value["activation_function"])
    return options | {name: value[name] for name in ("dropout", "attention_dropout", "activation_dropout")}


# Options of `generate` that we do not take over, with the value that does nothing.
NEUTRAL: dict[str, Any] = {
    "do_sample": False, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "num_beam_groups": 1,
    "encoder_no_repeat_ngram_size": 0, "exponential_decay_length_penalty": None, "sequence_bias": None,
    "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip


def activation(folder: Folder, name: str) -> str:
    """Our name of an activation. Raises UserError: we do not have it."""
    if name not in ACTIVATIONS:
        raise UserError(f"{folder.path / 'config.json'}: activation function {name}: not known; "
                        f"{', '.join(ACTIVATIONS)} are")  # fmt: skip
    return ACTIVATIONS[name]


def pieces(file: Path, symbols: list[str], reserved: list[str], **options: Any) -> PiecesTokenizer:
    """The tokenizer of a SentencePiece model.

    Args:
        file: The model.
        symbols: Our symbols.
        reserved: Those that never occur in text, which follow.
        options: Those of `PiecesConfig`.

    Raises:
        UserError: the file is not a model.
    """
    try:
        return PiecesTokenizer(PiecesConfig(reserved=reserved, **options), file.read_bytes(), Vocabulary(symbols))
    except ValueError as error:
        raise UserError(f"{file}: not a SentencePiece model: {error}") from error


def generation(folder: Folder) -> dict[str, Any]:
    """Options of decoding that give the lines of the folder's own `generate`."""

    def get(name: str, default: Any) -> Any:
        return checked(name, folder.generate(name, default), default, folder.path / "generation_config.json")

    most = get("max_new_tokens", 0) or get("max_length", 20) - 1  # the symbol that the decoder begins with counts
    least = get("min_new_tokens", 0) or get("min_length", 0) - 1
    given = {"beam_size": get("num_beams", 1), "length_penalty": float(get("length_penalty", 1.0)),
             "min_length_b": max(least, 0), "max_length_b": most - 1,
             "no_repeat_ngram": get("no_repeat_ngram_size", 0)}  # fmt: skip
    if folder.generate("early_stopping", False) is True:
        given["stopping"] = "first_finished"
    defaults = {"length_penalty": 1.0, "no_repeat_ngram": 0, "min_length_b": 0}
    return {key: value for key, value in given.items() if value != defaults.get(key)}


def generation_notes(folder: Folder) -> list[str]:
    """What of the folder's own `generate` is not taken over."""
    given = {name: folder.generate(name, neutral) for name, neutral in NEUTRAL.items()}
    return [f"{name}={value}: not taken over, so lines may differ from those of generate"
            for name, value in given.items() if value not in (NEUTRAL[name], [])]  # fmt: skip


def kind_of_positions(table: Tensor) -> str | None:
    """Our kind of sinusoidal positions whose embeddings are these, [T, D]; None: none."""
    places = torch.arange(len(table))
    for kind in SINUSOIDAL:
        if torch.allclose(table.float(), sinusoidal(places, table.size(1), kind), atol=1e-3):
            return kind
    return None


def of_library(
    folder: Folder,
    size: int,
    apart: dict[str, str],
    begin: int | None = None,
    names: tuple[str, str, str] = ("<pad>", "<unk>", "</s>"),
    start: str | None = None,
) -> tuple[TokenizerJsonTokenizer, Tensor]:
    """The tokenizer of a folder with tokenizer.json, or with GPT-2's vocab.json and merges.txt; and the row of each of
    its symbols.

    Args:
        folder: The model.
        size: Number of rows.
        apart: As in `arranged`; those that the folder does not have are left out.
        begin: What the decoder begins with, where the config does not say; None: the end.
        names: Its symbols of padding, of what is unknown, and of the end.
        start: The symbol that the decoder begins with, whatever the config says; None: it says so.
    """
    file = folder.file("tokenizer.json", "vocab.json")
    try:
        if file.name == "tokenizer.json":
            model = file.read_bytes()
        else:
            lines = folder.file("merges.txt").read_text(encoding="utf-8").splitlines()
            pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
            model = tokenizer_json.byte_pairs(folder.json("vocab.json"), pairs)
        known = tokenizer_json.library().Tokenizer.from_str(model.decode()).get_vocab(with_added_tokens=True)
    except UserError:
        raise
    except Exception as error:  # the library raises plain ones
        raise UserError(f"{file}: not a tokenizer: {' '.join(str(error).split())}") from error
    symbols = by_id(known, file)
    if missing := [name for name in (*names, *([start] if start else [])) if name not in known]:
        raise UserError(f"{file}: has no {' and no '.join(missing)}")
    if len(symbols) > size:
        raise UserError(f"{file}: {len(symbols):,} symbols; config.json has vocab_size={size:,}")
    pad, unk, end = (known[name] for name in names)
    begin = known[start] if start else folder.get("decoder_start_token_id", end if begin is None else begin)
    present = {name: theirs for name, theirs in apart.items() if theirs in known}
    ours, reserved, rows = arranged(symbols, [pad, unk, begin, end], size, present)
    config = TokenizerJsonConfig(reserved=reserved)
    return TokenizerJsonTokenizer(config, model, Vocabulary(ours)), rows
