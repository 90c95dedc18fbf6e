"""s2s-import: make a checkpoint of another toolkit's model."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from s2s.config import command
from s2s.config.schema import option
from s2s.errors import UserError
from s2s.files import check_apart, claim

ABOUT = """Make a checkpoint of another toolkit's model; every command takes it like a checkpoint of s2s-train.
Nothing that is read is executed. Weights that are missing or left over are all listed, and nothing is written then.
Example: s2s-import from=FOLDER output=runs/imported"""


@dataclasses.dataclass
class ImportCommand:
    """Schema of s2s-import."""

    from_: str | None = option(None, "folder or file of the model")
    format: str = option(
        "auto",
        "toolkit of the model; auto: the one that the files look like",
        ("auto", "huggingface", "fairseq", "marian", "opennmt", "joeynmt", "ctranslate2", "g2p_en"),
    )
    dictionaries: str | None = option(None, "folder of dict.*.txt of a fairseq model; null: that of the checkpoint")
    bpe_codes: list[str] = option(
        [],
        "codes of subword-nmt or fastBPE that split the text, or the folder of GPT-2's encoder.json and vocab.bpe; "
        "one, or two for source and target; those beside the dictionaries if none is given",
    )
    vocabularies: list[str] = option([], "vocabularies of a Marian model, .yml or .spm: one file, or source and target")
    sentencepiece: list[str] = option([], "SentencePiece models that split the text, as bpe_codes")
    output: str | None = option(None, "folder of the new checkpoint; it appears when it is complete")
    overwrite: bool = option(False, "replace an existing checkpoint")


def _import(config: ImportCommand) -> None:
    if not config.from_ or not config.output:
        raise UserError("from=FOLDER_OR_FILE and output=FOLDER are required")
    output = Path(config.output)
    given = {name: getattr(config, name) for name in ("dictionaries", "bpe_codes", "sentencepiece", "vocabularies")}
    check_apart(output, "output", [config.from_])
    with claim(output, "output"):
        if output.exists() and not (config.overwrite and (output / "model.safetensors").is_file()):
            raise UserError(f"output={output} exists; overwrite=true replaces a checkpoint")
        for line in write(Path(config.from_), config.format, output, given):
            print(line, file=sys.stderr)
    print(output)


def write(path: Path, format: str, output: Path, given: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """Read a model and write its checkpoint, whole or not at all. Returns lines about it. given: options of formats.

    Raises:
        UserError: as `formats.read`, or its weights do not fit.
    """
    from s2s.checkpoint import loading, runs
    from s2s.config import compose
    from s2s.interop.importing import formats
    from s2s.interop.importing.imported import described
    from s2s.training import checkpoints
    from s2s_cli.train import TrainCommand

    imported = formats.read(path, format, given)
    words = [("model", imported.model), *((f"model.{key}", _word(value)) for key, value in imported.options.items())]
    words.append(("task", imported.task.config.type))
    plain = type(imported.task.config)()
    words += [(f"task.{key}", _word(value)) for key, value in vars(imported.task.config).items()
              if value != getattr(plain, key)]  # fmt: skip
    if imported.preset:
        words.append(("decode", imported.preset))
        words += [(f"decode.{key}", _word(value)) for key, value in imported.decode.items()]
    config: Any = compose.compose(TrainCommand, words)
    tensors = imported.weights()
    with loading.AtMost(2 * sum(tensor.numel() for tensor in tensors.values()) + loading.SPARE, imported.where):
        model = imported.task.model(config.model)
    loading.load_weights(model, tensors, imported.where)
    weights = dict(model.named_parameters())
    checkpoints.write(output, {runs.WEIGHTS: weights}, {runs.CONFIG: compose.to_yaml(config), runs.STATE: "{}\n"},
                      imported.task)  # fmt: skip
    size = {key: value for key, value in imported.options.items() if key.startswith(("encoder.", "decoder."))}
    lines = [f"{imported.family}: {sum(p.numel() for p in weights.values()):,} parameters", " ".join(described(size)),
             imported.task.describe()]  # fmt: skip
    sources = getattr(imported.task, "source_tokenizers", {})  # a language model has none
    tokenizers = {**sources, "target": imported.task.target_tokenizer}
    lines += [f"{side} tokenizer: {tokenizer.config.type}" for side, tokenizer in tokenizers.items()]
    lines += [f"{name}: {' '.join(values)}" for name, values in imported.task.tags.items()]
    lines += [f"not taken over: {note}" for note in imported.notes]
    if not imported.preset:
        return lines
    decode = " ".join(f"decode.{word}" for word in described(imported.decode))
    return [*lines, f"for the same lines as before: decode={imported.preset} {decode}".rstrip()]


def _word(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Run the command."""
    command.run("s2s-import", ImportCommand, _import, ABOUT)


if __name__ == "__main__":
    main()
