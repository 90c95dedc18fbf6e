"""Options that the families of Hugging Face have in common."""

from pathlib import Path
from typing import Any

from s2s.errors import UserError
from s2s.interop.importing.imported import Folder
from s2s.text.pieces import PiecesConfig, PiecesTokenizer
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
    most = folder.generate("max_new_tokens", None) or folder.generate("max_length", 20) - 1  # the first is given
    given = {"beam_size": folder.generate("num_beams", 1),
             "length_penalty": float(folder.generate("length_penalty", 1.0)),
             "max_length_b": most - 1, "no_repeat_ngram": folder.generate("no_repeat_ngram_size", 0)}  # fmt: skip
    defaults = {"length_penalty": 1.0, "no_repeat_ngram": 0}
    return {key: value for key, value in given.items() if value != defaults.get(key)}
