"""Vocabulary extension: pieces for characters that a SentencePiece model does not know.

Paper: Lopes et al., "Lite Training Strategies for Portuguese-English and English-Portuguese Translation", WMT 2020,
https://arxiv.org/abs/2008.08769.

Each character of a text that has no piece in the model gets one, after all others, with the lowest score of a piece;
ids and segmentations of all other text stay. A model that was trained with the old pieces goes on from its weights
(`train.init.checkpoint=RUN`): symbols find their rows, and new ones begin as the mean of all rows.

Use: tokenizer=sentencepiece tokenizer.model=old-store/source.spm.model tokenizer.extend=characters.txt

Left out: a prefix of the source that names the direction, which is text of the corpus. A new row does not begin as
the mean of the pieces that spelled its character: without byte pieces there were none.
"""

import struct
from collections.abc import Iterable

from s2s.text.sampling import NORMAL, Model


def extended(model: bytes, characters: Iterable[str]) -> bytes:
    """A serialised model with more pieces: a protocol buffer whose repeated field goes on at its end."""
    before = Model(model)
    score = min(before.scores[i] for i in before.of_types(NORMAL).values())
    return model + b"".join(_field(1, _field(1, c.encode()) + b"\x15" + struct.pack("<f", score)) for c in characters)


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes; fewer than 128 of them."""
    return bytes((number << 3 | 2, len(value))) + value
