"""s2s-export: convert a checkpoint to another toolkit's model."""

import dataclasses
import sys
from pathlib import Path

from s2s.config import command
from s2s.config.schema import option
from s2s.errors import UserError
from s2s.files import claim

ABOUT = """Write a checkpoint as another toolkit's model, with the tokenizers beside it.
Example: s2s-export checkpoint=RUN format=ctranslate2 output=FOLDER"""

# Files by which an exported model is known.
WRITTEN = (
    ("model.bin", "config.json", "source.tokenizer.json"),
    ("model.safetensors", "config.json", "generation_config.json", "source.spm"),
    ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx", "config.json"),
)


@dataclasses.dataclass
class ExportCommand:
    """Schema of s2s-export."""

    checkpoint: str | None = option(
        None, "a run (its best checkpoint, or else its last one), or the folder of a checkpoint"
    )
    format: str = option("ctranslate2", "toolkit that will read the model", ("ctranslate2", "huggingface", "onnx"))
    subnet: str | None = option(None, "part of the model to export, as decode.subnet; null: all of it")
    output: str | None = option(None, "folder to write; it appears when it is complete")
    overwrite: bool = option(False, "replace an existing exported model")


def _export(config: ExportCommand) -> None:
    if not config.checkpoint or not config.output:
        raise UserError("checkpoint=RUN and output=FOLDER are required")
    output = Path(config.output)
    with claim(output, "output"):
        size = _write(config, output)
    print(output)
    print(f"{config.format}: {size / 1e6:,.1f} MB", file=sys.stderr)


def _write(config: ExportCommand, output: Path) -> int:
    """Write the model. Returns its size in bytes."""
    if output.exists() or output.is_symlink():
        exported = any(all((output / name).is_file() for name in names) for names in WRITTEN)
        if not exported or output.is_symlink():
            raise UserError(f"output={output} exists and is not an exported model; choose another folder")
        if not config.overwrite:
            raise UserError(f"output={output} exists; overwrite=true replaces an exported model")
    from s2s.checkpoint.loading import load_model
    from s2s.interop import ctranslate2, huggingface, onnx
    from s2s.models.subnets import subnet

    model, task, trained = load_model(config.checkpoint)
    if config.subnet is not None:
        model = subnet(model, config.subnet, "subnet")
    if config.format == "ctranslate2":
        ctranslate2.write(model, task, output)
    else:
        writer = huggingface if config.format == "huggingface" else onnx
        writer.write(model, task, output, trained.get("decode") or {})
    return sum(path.stat().st_size for path in output.iterdir())


def main() -> None:
    """Run the command."""
    command.run("s2s-export", ExportCommand, _export, ABOUT)


if __name__ == "__main__":
    main()
