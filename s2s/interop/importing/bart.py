"""BART and its relatives as folders of Hugging Face: BART, mBART-50, M2M-100, NLLB and Pegasus.

They are one stack of layers with other norms, positions and symbols. The decoder of all but Pegasus begins with the end
symbol, and the first token that it writes is given: the language of the target, or in BART the beginning of a line.
"""

from typing import Any

from torch import Tensor

from s2s.errors import UserError
from s2s.interop.importing import marian
from s2s.interop.importing.imported import Folder, Imported, arranged, by_id
from s2s.interop.importing.marian import copies, notes
from s2s.interop.importing.stacks import generation, of_library, pieces, sizes
from s2s.interop.places import Place, Table, bart_stack, fused
from s2s.tasks.translation import TranslationConfig, TranslationTask
from s2s.text.sentencepiece import processor_of
from s2s.text.tokenizer import Tokenizer

SHARED = {"dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0}
LARGE = {"d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 16,
         "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096, **SHARED}  # fmt: skip
# For each family: what its config has by default, and our options.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bart": ({**LARGE, "activation_function": "gelu"},
             {"norm": "post", "positions": "learned", "embedding_norm": True}),
    "mbart": ({**LARGE, "activation_function": "gelu"},
              {"norm": "pre", "positions": "learned", "embedding_norm": True}),
    "m2m_100": ({**LARGE, "activation_function": "relu"}, {"norm": "pre", "positions": "sinusoidal_fairseq"}),
    "pegasus": ({**LARGE, "activation_function": "gelu"}, {"norm": "pre", "positions": "sinusoidal"}),
}  # fmt: skip
OFFSET = 2  # rows of learned positions that are not used
UNUSED = 103  # symbols of Pegasus before its pieces, without </s> and <pad>
BEGIN = "begin"  # the tag that stands for <s>, which begins each line of BART


def read(folder: Folder) -> Imported:
    """Read a model. Raises UserError: files are missing or damaged, or the model is another one than they say."""
    kind = folder.config["model_type"]
    defaults, options = KINDS[kind]
    options = sizes(folder, defaults) | options | {"scale_embeddings": folder.get("scale_embedding", kind == "m2m_100")}
    tensors, tied = folder.weights(), folder.get("tie_word_embeddings", True)
    options["tie_embeddings"] = "all" if tied else "inputs"
    if options["positions"] == "learned":
        options["max_positions"] = folder.get("max_position_embeddings", 1024)
    if folder.has("source.spm"):  # as s2s-export writes it
        (source, rows), (target, _) = (marian.tokenizer(folder, side, True) for side in ("source", "target"))
        task = marian.task_of(folder, source, target)
    else:
        source, rows, told, values = _tokenizer(folder, kind)
        task = TranslationTask(source, source, config=told)
        task.tags = task.tag_values = values
    ignored = ("model.*.embed_positions.weight*",) if options["positions"] != "learned" else ()
    return Imported(
        family=f"{kind} (Hugging Face)", options=options, task=task, table=table(kind, options, rows, tensors),
        tensors=tensors, where=folder.path, ignored=ignored, same=copies(options["tie_embeddings"]),
        decode=generation(folder), notes=notes(folder),
    )  # fmt: skip


def table(kind: str, options: dict[str, Any], rows: Tensor, tensors: dict[str, Tensor]) -> Table:
    """The place of each weight.

    Args:
        kind: The family.
        options: Ours.
        rows: Of our symbols.
        tensors: Theirs.
    """
    table = {"frontend.embedding.tokens.weight": Place(("model.shared.weight",), rows)}
    if "final_logits_bias" in tensors or kind != "m2m_100":
        table["output.bias"] = Place(("final_logits_bias",), rows, flat=True)
    if options["tie_embeddings"] == "inputs":
        table["output.weight"] = Place(("lm_head.weight",), rows)
    for side, part in (("encoder", "frontend"), ("decoder", "decoder")):
        theirs = f"model.{side}"
        table |= bart_stack(side, options[f"{side}.layers"])
        if options["norm"] == "pre":
            table |= fused(f"{side}.norm", theirs, ("layer_norm",))
        if options.get("embedding_norm"):
            table |= fused(f"{part}.embedding.norm", theirs, ("layernorm_embedding",))
        if options["positions"] == "learned":
            table[f"{part}.embedding.positions.weight"] = Place((f"{theirs}.embed_positions.weight",), skip=OFFSET)
    return table


Read = tuple[Tokenizer, Tensor, TranslationConfig, dict[str, list[str]]]


def _tokenizer(folder: Folder, kind: str) -> Read:
    """The tokenizer, the row of each of its symbols, the options of the task, and the values of its tags."""
    size = folder.get("vocab_size", 0)
    if kind == "bart":
        made, rows = of_library(folder, size, {f"<{BEGIN}>": "<s>", "<mask>": "<mask>"})
        return made, rows, TranslationConfig(source_tags=[BEGIN], target_tag=BEGIN), {BEGIN: [BEGIN]}
    if kind != "pegasus" and not folder.has("sentencepiece.bpe.model") and folder.has("tokenizer.json"):
        known = _languages(folder, kind)
        made, rows = of_library(folder, size, {f"<{language}>": symbol for language, symbol in known.items()}
                                | {"<mask>": "<mask>"})  # fmt: skip
        return made, rows, *_told(known)
    symbols, file = _symbols(folder, kind)
    place = {symbol: number for number, symbol in enumerate(symbols)}
    specials = [place["<pad>"], place["<unk>"], folder.get("decoder_start_token_id", place["</s>"]), place["</s>"]]
    if len(symbols) > size:
        raise UserError(f"{folder.path}: {len(symbols):,} symbols; config.json has vocab_size={size:,}")
    if kind == "pegasus":
        ours, names, rows = arranged(symbols, specials, size, {name: name for name in symbols[2 : UNUSED + 2]})
        return pieces(file, ours, names), rows, TranslationConfig(), {}
    known = _languages(folder, kind)
    apart = {f"<{language}>": symbol for language, symbol in known.items()}
    apart |= {"<mask>": "<mask>"} if "<mask>" in place else {}
    ours, names, rows = arranged(symbols, specials, size, apart)
    return pieces(file, ours, names), rows, *_told(known)


def _told(languages: dict[str, str]) -> tuple[TranslationConfig, dict[str, list[str]]]:
    """The options of the task, and the values of its tags."""
    values = [*languages]
    return (TranslationConfig(source_tags=["source_language"], target_tag="target_language"),
            {"source_language": values, "target_language": values})  # fmt: skip


def _symbols(folder: Folder, kind: str):
    """The symbols by id, and the SentencePiece model."""
    file = folder.file("spiece.model", "spm.model") if kind == "pegasus" else folder.file("sentencepiece.bpe.model")
    try:
        processor = processor_of(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: not a SentencePiece model: {error}") from error
    units = processor.id_to_piece(list(range(processor.get_piece_size())))
    if kind == "pegasus":
        unused = [f"<unk_{number}>" for number in range(2, UNUSED)]
        return ["<pad>", "</s>", "<mask_1>", "<mask_2>", *unused, *units[2:]], file
    languages = [*_languages(folder, kind).values()]
    if folder.has("vocab.json"):  # M2M-100
        return [*by_id(folder.json("vocab.json"), folder.path / "vocab.json"), *languages], file
    return ["<s>", "<pad>", "</s>", "<unk>", *units[3:], *languages, "<mask>"], file


def _languages(folder: Folder, kind: str) -> dict[str, str]:
    """The languages of a model -> their symbols, in the order of their ids. Raises UserError: none is named, or they
    are in another place."""
    settings = folder.json("tokenizer_config.json") if folder.has("tokenizer_config.json") else {}
    if settings.get("legacy_behaviour") or str(settings.get("tokenizer_class", "")).startswith("MBartTokenizer"):
        raise UserError(f"{folder.path / 'tokenizer_config.json'}: in this model a source ends with its language, "
                        "after </s>; only those that begin with it are read")  # fmt: skip
    symbols: list[str] = []
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        found = folder.json(name) if folder.has(name) else {}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            given = found.get(key) or []
            if not symbols and isinstance(given, list):
                symbols = [each.get("content", "") if isinstance(each, dict) else str(each) for each in given]
    symbols = [symbol for symbol in symbols if symbol != "<mask>"]
    if not symbols:
        raise UserError(f"{folder.path}: names no languages: additional_special_tokens of tokenizer_config.json or "
                        "special_tokens_map.json")  # fmt: skip
    return {symbol.strip("_") if kind == "m2m_100" and symbol.startswith("__") else symbol: symbol
            for symbol in symbols}  # fmt: skip
