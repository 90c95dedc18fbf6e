"""Whisper as a folder of Hugging Face: speech in one of its languages to text, without timestamps.

The decoder begins with <|startoftranscript|>, whose row is that of our BOS. Every target begins with its language
(models of several languages), <|transcribe|> and <|notimestamps|>. A symbol <|x|> is our reserved symbol <x>. The keys
of attention have no bias there: here it is 0, which changes nothing.
"""

from typing import Any

import torch
from torch import Tensor

from s2s.audio.whisper import fixed
from s2s.errors import UserError
from s2s.interop.importing.imported import Folder, Imported, checked
from s2s.interop.importing.stacks import generation, generation_notes, of_library, sizes
from s2s.interop.places import IMPOSSIBLE, Place, Table, bart_stack, fused
from s2s.tasks.speech import SpeechToTextConfig, SpeechToTextTask
from s2s.text import tokenizer_json
from s2s.text.vocabulary import PAD, UNK

DEFAULTS = {
    "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
    "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "activation_function": "gelu",
    "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
}  # fmt: skip
END, START, TOKENS = "<|endoftext|>", "<|startoftranscript|>", "model.decoder.embed_tokens.weight"
SUPPRESSED = {"suppressed": "suppress_tokens", "suppressed_first": "begin_suppress_tokens"}  # option of the task
EXTRACTOR = {"n_fft": 400, "hop_length": 160, "chunk_length": 30, "sampling_rate": 16_000}
POSITIONS = 1500  # of the encoder: those of 30 s


def read(folder: Folder) -> Imported:
    """Read a model. Raises UserError: files are missing or damaged, or the model is another one than they say."""
    bins = _checked(folder)
    tokenizer, rows, told = _target(folder)
    options = sizes(folder, DEFAULTS) | {
        "frontend": "whisper", "frontend.positions": POSITIONS, "norm": "pre", "positions": "learned",
        "max_positions": folder.get("max_target_positions", 448), "tie_embeddings": "decoder",
        "scale_embeddings": folder.get("scale_embedding", False),
    }  # fmt: skip
    languages = [name.strip("<|>") for name in folder.generate("lang_to_id", {})]
    prefix = ["transcribe", "notimestamps"] if languages else ["notimestamps"]
    config = SpeechToTextConfig(target_tag="target_language" if languages else None, target_prefix=prefix, **told)
    task = SpeechToTextTask(tokenizer, fixed(bins), None, config=config)
    task.tags = task.tag_values = {"target_language": languages} if languages else {}
    # Its lengths do not count the symbols that a target begins with.
    decode, longest = generation(folder), options["max_positions"] - 1
    new = folder.generate("max_new_tokens", 0) or folder.generate("max_length", 20)
    decode |= {"max_length_b": min(new + len(prefix) + bool(languages), longest), "allow_unknown": False,
               "uncounted": len(prefix) + bool(languages)}  # fmt: skip
    if decode.get("min_length_b"):
        decode["min_length_b"] += len(prefix) + bool(languages)
    tensors = folder.weights()
    for name in [name for name in tensors if name.endswith("k_proj.weight")]:
        tensors[name.replace("weight", "bias")] = torch.zeros(len(tensors[name]))
    bias = torch.zeros(len(rows))
    bias[[PAD, UNK]] = IMPOSSIBLE  # copies of the end
    notes = ["timestamps, translation into English, and the detection of the language"]
    notes += [note for note in generation_notes(folder) if not note.startswith(tuple(SUPPRESSED.values()))]
    return Imported(
        family="whisper (Hugging Face)", options=options, task=task, table=_table(options, rows), tensors=tensors,
        where=folder.path, same={"proj_out.weight": TOKENS}, decode=decode,
        changed={"output.bias": bias}, notes=notes,
    )  # fmt: skip


def _checked(folder: Folder) -> int:
    """The number of features of a frame. Raises UserError: the model is not read."""
    bins, wrong = folder.get("num_mel_bins", 80), []
    settings = folder.json("preprocessor_config.json") if folder.has("preprocessor_config.json") else {}
    wrong += [f"{name}={value}" for name, plain in (EXTRACTOR | {"feature_size": bins}).items()
              if (value := settings.get(name, plain)) != plain]  # fmt: skip
    if (positions := folder.get("max_source_positions", POSITIONS)) != POSITIONS:
        wrong.append(f"max_source_positions={positions}")
    if not folder.get("tie_word_embeddings", True):
        wrong.append("tie_word_embeddings=False")
    if wrong:
        raise UserError(f"{folder.path}: Whisper is not read with {', '.join(wrong)}")
    return bins


def _target(folder: Folder) -> tuple[Any, Tensor, dict[str, list[int]]]:
    """The tokenizer, the row of each of its symbols, and the symbols that `generate` never writes, as our options."""
    file = folder.file("tokenizer.json")  # vocab.json lacks the special symbols
    try:
        known = tokenizer_json.library().Tokenizer.from_str(file.read_text("utf-8")).get_vocab(with_added_tokens=True)
    except UserError:
        raise
    except Exception as error:  # the library raises plain ones
        raise UserError(f"{file}: not a tokenizer: {' '.join(str(error).split())}") from error
    special = [name for name in known if name.startswith("<|") and name.endswith("|>") and name != END]
    apart = {f"<{name[2:-2]}>": name for name in sorted(special, key=known.__getitem__)}
    tokenizer, rows = of_library(folder, folder.get("vocab_size", 51865), apart, names=(END, END, END), start=START)
    ours = {row: number for number, row in enumerate(rows.tolist())}
    told = {}
    for name, theirs in SUPPRESSED.items():
        given = checked(theirs, folder.generate(theirs, []), [], folder.path / "generation_config.json")
        if unknown := [number for number in given if number not in ours]:
            raise UserError(f"{folder.path / 'generation_config.json'}: {theirs}: no symbols have the ids {unknown}")
        told[name] = sorted(ours[number] for number in given)
    return tokenizer, rows, told


def _table(options: dict[str, Any], rows: Tensor) -> Table:
    """The place of each weight; rows: of our symbols."""
    table: Table = {"decoder.embedding.tokens.weight": Place((TOKENS,), rows),
                    "decoder.embedding.positions.weight": Place(("model.decoder.embed_positions.weight",)),
                    "frontend.positions": Place(("model.encoder.embed_positions.weight",))}  # fmt: skip
    for ours, theirs in {"first": "conv1", "second": "conv2"}.items():
        table |= fused(f"frontend.{ours}", "model.encoder", (theirs,))
    for side in ("encoder", "decoder"):
        table |= bart_stack(side, options[f"{side}.layers"])
        table |= fused(f"{side}.norm", f"model.{side}", ("layer_norm",))
    return table
