"""Vocabulary extension: pieces for characters that a SentencePiece model does not know.

Paper: Lopes et al., "Lite Training Strategies for Portuguese-English and English-Portuguese Translation", WMT 2020,
https://arxiv.org/abs/2008.08769.

Each character of a text without a piece in the model is appended to the pieces, with the lowest score of all pieces.
Ids and segmentations of all other text do not change. A model that was trained with the old pieces can be trained
further (`train.init.checkpoint=RUN`): rows are matched by symbol, and a new row is initialised as the mean of all rows,
or, with `train.init.new_rows=pieces`, of the rows of the pieces that spelled its symbol before, such as byte pieces.

Use: tokenizer=sentencepiece tokenizer.model=old-store/source.spm.model tokenizer.extend=characters.txt

Left out: nothing; the prefix of the source that names the direction is `source_tokenizer.pre=prefix`. Without byte
pieces nothing spelled a new character, and its row is the mean of all rows.
"""

import struct
from collections.abc import Iterable

from s2s.text.sampling import NORMAL, Model


def extended(model: bytes, characters: Iterable[str]) -> bytes:
    """A serialised model with further pieces. Appending to a protocol buffer extends its repeated field."""
    before = Model(model)
    score = min(before.scores[i] for i in before.of_types(NORMAL).values())
    return model + b"".join(_field(1, _field(1, c.encode()) + b"\x15" + struct.pack("<f", score)) for c in characters)


def _field(number: int, value: bytes) -> bytes:
    """A field of fewer than 128 bytes."""
    return bytes((number << 3 | 2, len(value))) + value
