"""fairseq's dictionaries, and the tokenizers of its models: codes of subword-nmt or fastBPE, SentencePiece models,
GPT-2's byte pairs, or words that are already split."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from s2s.config.documents import read_json
from s2s.config.streams import content
from s2s.errors import UserError
from s2s.interop.importing.imported import LARGE, arranged
from s2s.interop.importing.stacks import pieces
from s2s.text.subword_nmt import SubwordNmtConfig, SubwordNmtTokenizer
from s2s.text.tokenizer import Tokenizer
from s2s.text.tokenizer_json import TokenizerJsonConfig, TokenizerJsonTokenizer, byte_pairs
from s2s.text.vocabulary import Vocabulary
from s2s.text.words import WordConfig, WordTokenizer

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
PAD, END, UNKNOWN = 1, 2, 3
OVERWRITE = "#fairseq:overwrite"
GPT2 = ("encoder.json", "vocab.bpe")
CODES, PIECES = ("bpecodes", "code"), ("sentencepiece.bpe.model", "spm.model", "spiece.model")  # beside a checkpoint


def read_dictionary(path: Path) -> list[str]:
    """The symbols of a dict.txt by id, the four special ones first. A symbol that a later line overwrites has the name
    `<overwritten_ID>`.

    Raises:
        UserError: the file is missing, or a line is not `symbol count`; names the file and the line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such dictionary; dictionaries=FOLDER names the folder of dict.*.txt")
    try:
        lines = content(path).decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: invalid UTF-8 at byte {error.start} of the file") from error
    symbols, places = list(SPECIAL), {symbol: number for number, symbol in enumerate(SPECIAL)}
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        text = line.rstrip().removesuffix(OVERWRITE).rstrip() if line.rstrip().endswith(f" {OVERWRITE}") else line
        symbol, _, count = text.rpartition(" ")
        if not symbol or not re.fullmatch(r"-?\d+", count):
            raise UserError(f"{path}:{number}: `symbol count` is needed, as fairseq-preprocess writes it, not {line!r}")
        if symbol in places:
            if text == line:
                raise UserError(f"{path}:{number}: symbol {symbol!r} appears twice, and the line does not end in "
                                f"{OVERWRITE}")  # fmt: skip
            if places[symbol] >= len(SPECIAL):
                symbols[places[symbol]] = f"<overwritten_{places[symbol]}>"
        places[symbol] = len(symbols)
        symbols.append(symbol)
    return symbols


def splitter(side: str, files: list[Path], folder: Path) -> Path | None:
    """The file that splits the text of a side.

    Args:
        side: `source` or `target`.
        files: Those that are given: none, one, or one for each side.
        folder: Where it is else.
    """
    if len(files) > 2:
        raise UserError(f"{len(files)} files that split the text; one is needed, or one for each side")
    if files:
        return files[0 if side == "source" else -1]
    if all((folder / name).is_file() for name in GPT2):
        return folder
    return next((folder / name for name in (*CODES, *PIECES) if (folder / name).is_file()), None)


def _byte_pairs(symbols: list[str], folder: Path) -> tuple[list[str], bytes]:
    """The symbols of a dictionary whose symbols are ids of GPT-2's pieces, such as `1234`, as these pieces; and the
    tokenizer. folder: of encoder.json and vocab.bpe."""
    encoder, merges = (folder / name for name in GPT2)
    known = read_json(encoder, {...: int}, limits=LARGE)
    pieces = {str(number): piece for piece, number in known.items()}
    lines = content(merges).decode("utf-8").split("\n")
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines if not line.startswith("#v"))
             if right]  # fmt: skip
    if not any(symbol in pieces for symbol in symbols):
        raise UserError(f"{encoder}: none of its ids is a symbol of the dictionary")
    try:
        return [pieces.get(symbol, symbol) for symbol in symbols], byte_pairs(known, pairs)
    except ValueError as error:
        raise UserError(f"{merges}: does not fit {encoder.name}: {error}") from error


def tokenizer(symbols: list[str], count: int, file: Path | None, joint: bool, where: Path) -> tuple[Tokenizer, Tensor]:
    """The tokenizer of a dictionary, and the row of each of its symbols.

    Args:
        symbols: Those of the dictionary by id.
        count: Rows of the embedding.
        file: Codes, a SentencePiece model, or the folder of GPT-2's byte pairs; None: lines are words.
        joint: Whether both sides share it.
        where: The dictionary, for messages.
    """
    if len(symbols) != count:
        raise UserError(f"{where}: {len(symbols):,} symbols with the 4 special ones, and the embedding has {count:,} "
                        "rows: the dictionary is that of another model")  # fmt: skip
    if file is not None and file.is_dir():
        if missing := [name for name in GPT2 if not (file / name).is_file()]:
            raise UserError(f"{file}: has no {' and no '.join(missing)}: GPT-2's byte pairs")
        symbols, model = _byte_pairs(symbols, file)
    # fairseq has <s> and never uses it: the decoder begins with </s>.
    symbols = ["<bos>", *symbols[1:]]
    apart = {name: name for name in symbols if name in ("<bos>", "<mask>") or name.startswith("<overwritten_")}
    ours, names, rows = arranged(symbols, [PAD, UNKNOWN, END, END], count, apart)
    if file is not None and file.is_dir():
        return TokenizerJsonTokenizer(TokenizerJsonConfig(reserved=names, joint=joint), model, Vocabulary(ours)), rows
    return of_symbols(ours, names, file, joint), rows


def of_symbols(ours: list[str], names: list[str], file: Path | None, joint: bool, **options: Any) -> Tokenizer:
    """The tokenizer of a vocabulary.

    Args:
        ours: Our symbols.
        names: Those that never occur in text, which follow.
        file: Codes or a SentencePiece model; None: lines are words.
        joint: Whether both sides share it.
        options: More options of the tokenizer.
    """
    if file is None:
        return WordTokenizer(WordConfig(normalization="none", reserved=names, joint=joint, **options), Vocabulary(ours))
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.suffix in (".model", ".spm"):
        return pieces(file, ours, names, joint=joint, **options)
    try:
        config = SubwordNmtConfig(reserved=names, joint=joint, **options)
        return SubwordNmtTokenizer(config, content(file), Vocabulary(ours))
    except ValueError as error:
        raise UserError(f"{file}: not codes of subword-nmt or fastBPE: {error}") from error
