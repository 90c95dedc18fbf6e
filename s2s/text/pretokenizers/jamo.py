"""Jamo: Hangul syllables are decomposed into letters.

Paper: Lee et al., "KR-BERT: A Small-Scale Korean-Specific Language Model", 2020, https://arxiv.org/abs/2008.03979.

Each syllable, one of 11,172 code points, becomes two or three of 67 conjoining letters (NFKD). Other characters do not
change. NFC composes the syllables again. A line of S syllables has 2 S to 3 S letters. The tokenizer joins them to
pieces, which may end within a syllable, as Korean endings do.

Use: tokenizer.pre=nfkd_jamo tokenizer.normalization=nfc

Left out: compatibility letters (U+3131 ...), full-width letters and other characters that NFKD changes irreversibly.
They do not change, because the rewriting must be reversible.
"""

import dataclasses
import re
import unicodedata

from s2s.config.schema import option
from s2s.text.pretokenizers.pretokenizer import PreTokenizer

SYLLABLES = re.compile("[\uac00-\ud7a3]+")
LETTERS = re.compile("[\u1100-\u11ff\uac00-\ud7a3]+")


@dataclasses.dataclass
class JamoConfig:
    """Options of the pre-tokenizer."""

    type: str = option("nfkd_jamo", "component")


class Jamo(PreTokenizer):
    """Rewrites syllables as letters. This is reversible, because a line in NFC has no sequence of letters that composes
    to a syllable."""

    Config = JamoConfig
    forms = ("nfc", "nfkc")

    def apply(self, line: str) -> str:
        """As PreTokenizer."""
        return SYLLABLES.sub(lambda run: unicodedata.normalize("NFKD", run[0]), line)

    def undo(self, text: str) -> str:
        """As PreTokenizer."""
        return LETTERS.sub(lambda run: unicodedata.normalize("NFC", run[0]), text)
