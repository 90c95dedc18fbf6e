"""Vocabulary extension: symbols for what the tokenizer of a trained model does not know.

Paper: Lopes et al., "Lite Training Strategies for Portuguese-English and English-Portuguese Translation", WMT 2020,
https://arxiv.org/abs/2008.08769.

`tokenizer.extend` appends each character of a text that a SentencePiece model lacks to its pieces, with the lowest
score of all pieces. Ids and segmentations of all other text do not change. `more_symbols`, beside `tokenizer_from`,
appends the symbols of a file to the vocabularies of a store, run or imported model; of SentencePiece, a character is
appended as above, and a longer text becomes a piece that is never cut. `more_reserved` appends reserved symbols, such
as the tag of another language. Training goes on by `train.init.checkpoint=RUN`: rows are matched by symbol, and a new
row is the mean of all rows, or, with `train.init.new_rows=pieces`, of the rows of the pieces that spelled its symbol
before, or, with `train.init.copy_rows=[<new>=<old>]`, the row of another symbol.

Use: tokenizer=sentencepiece tokenizer.model=old-store/source.spm.model tokenizer.extend=characters.txt

Left out: nothing; the prefix of the source that names the direction is `source_tokenizer.pre=prefix`. Without byte
pieces nothing spelled a new character, and its row is the mean of all rows.
"""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from s2s.config.documents import read_json, to_json
from s2s.errors import UserError
from s2s.files import write
from s2s.text.sampling import NORMAL, Model
from s2s.text.tokenizer import Tokenizer, load_tokenizer
from s2s.text.vocabulary import UNK, Vocabulary

WHOLE = b"\x18\x04"  # the type of a piece that is never cut


def extended(model: bytes, symbols: Iterable[str]) -> bytes:
    """A serialised model with further pieces. Appending to a protocol buffer extends its repeated field."""
    before = Model(model)
    score = b"\x15" + struct.pack("<f", min(before.scores[i] for i in before.of_types(NORMAL).values()))
    pieces = (_field(1, symbol.encode()) + score + WHOLE * (len(symbol) > 1) for symbol in symbols)
    return model + b"".join(_field(1, piece) for piece in pieces)


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes, after its length in groups of 7 bits."""
    size, length = len(value), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def widened(tokenizer: Tokenizer, symbols: Sequence[str], reserved: Sequence[str]) -> Tokenizer:
    """A tokenizer with further symbols; those that it has are left out.

    Args:
        tokenizer: A tokenizer of any type; it stays as it is.
        symbols: Symbols of texts.
        reserved: Reserved symbols.

    Raises:
        UserError: the tokenizer cannot have further symbols, or a name is not that of a reserved symbol.
    """
    config, vocabulary = tokenizer.config, tokenizer.vocabulary
    symbols = [symbol for symbol in dict.fromkeys(symbols) if vocabulary.index(symbol) == UNK]
    reserved = [name for name in dict.fromkeys(reserved) if name not in vocabulary.reserved]
    if symbols and not tokenizer.widens:
        raise UserError(f"more_symbols: tokenizer={config.type} cannot have further symbols of texts")
    if not symbols and not reserved:
        return tokenizer
    texts = vocabulary.without(config.reserved)
    every = [*config.reserved, *reserved]
    with TemporaryDirectory() as folder:
        tokenizer.save(Path(folder), "new")
        file, model = (Path(folder) / f"new.{ending}" for ending in ("tokenizer.json", "spm.model"))
        write(file, to_json({**read_json(file), "reserved": every}))
        Vocabulary([*texts.symbols, *symbols]).with_reserved(every).save(Path(folder) / "new.vocabulary.txt")
        if symbols and model.exists():
            write(model, extended(model.read_bytes(), symbols))
        return load_tokenizer(Path(folder), "new")
