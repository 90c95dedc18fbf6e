"""BBPE: byte-pair pieces over the bytes of UTF-8, which SentencePiece sees as printable characters.

Paper: Wang, Cho and Gu, "Neural Machine Translation with Byte-Level Subwords", AAAI 2020,
https://arxiv.org/abs/1909.03341.

A printable ASCII character does not change. Any other byte b becomes the letter U+0100 + b; these letters have one
script, so that pieces can span them. The vocabulary contains all of them, and has 2,048 to 4,096 pieces, which may end
within a character. A model may write bytes that are not valid UTF-8. Decoding then keeps as many characters as
possible, which is the result of the paper's dynamic programme f(k) = max over t <= 4 of f(k - t) + [the last t of k
bytes are a character].

Use: tokenizer=bbpe

Left out: the paper's other alphabet of printable characters, which SentencePiece would cut at the borders of scripts.
The context of embeddings (convolution, GRU) is a front-end of its own.
"""

import dataclasses

from s2s.config.schema import option
from s2s.text.bytes import readable
from s2s.text.pretokenizers.pretokenizer import PreTokenizer

CHARACTERS = [chr(byte) if 0x20 <= byte < 0x7F else chr(0x100 + byte) for byte in range(256)]
WRITTEN = dict(enumerate(CHARACTERS))  # for `str.translate` of latin-1
BYTES = {ord(character): bytes((byte,)) for byte, character in enumerate(CHARACTERS)}


@dataclasses.dataclass
class BytesConfig:
    """Options of the pre-tokenizer."""

    type: str = option("bytes", "component")


class Bytes(PreTokenizer):
    """Rewrites a line as its UTF-8 bytes, one character for each byte."""

    Config = BytesConfig
    alphabet = "".join(CHARACTERS).replace(" ", "")

    def apply(self, line: str) -> str:
        """As PreTokenizer."""
        return line.encode("utf-8", "surrogatepass").decode("latin-1").translate(WRITTEN)

    def undo(self, text: str) -> str:
        """As PreTokenizer; a character that stands for no byte does not change."""
        return readable(b"".join(BYTES.get(ord(c)) or c.encode("utf-8", "surrogatepass") for c in text))
