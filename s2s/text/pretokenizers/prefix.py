"""Source prefix: the same words before every source, which name the task or the direction.

Paper: Lopes et al., "Lite Training Strategies for Portuguese-English and English-Portuguese Translation", WMT 2020,
https://arxiv.org/abs/2008.08769; Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", JMLR 2020, https://arxiv.org/abs/1910.10683.

The tokenizer reads the prefix as part of each line that is not blank, in training and in decoding, so that it needs no
symbols of its own. It adds its tokens to S. Decoding a text removes the prefix again. Missing characters of a
SentencePiece model are added by `tokenizer.extend`, and `train.init.new_rows=pieces` gives their rows.

Use: source_tokenizer=sentencepiece source_tokenizer.pre=prefix source_tokenizer.pre.text='"translate to English: "'

Left out: a prefix of its own for each example, which is a tag (`tags`). A target cannot have a prefix, and it does not
go with a vocabulary that is given as a file of words or characters.
"""

import dataclasses

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.text.pretokenizers.pretokenizer import PreTokenizer


@dataclasses.dataclass
class PrefixConfig:
    """Options of the pre-tokenizer."""

    type: str = option("prefix", "component")
    text: str = option("", "the prefix, with the space after it")


class Prefix(PreTokenizer):
    """Writes a text before each line.

    Raises:
        UserError: the text is blank, or has a line feed.
    """

    Config = PrefixConfig
    whole = True

    def __init__(self, config: PrefixConfig):
        super().__init__(config)
        if not config.text.strip() or "\n" in config.text:
            raise UserError(f"pre=prefix: pre.text={config.text!r}: needs a text without line feeds, such as "
                            "'to English: '")  # fmt: skip

    @classmethod
    def reverses(cls, config: PrefixConfig) -> bool:
        """As PreTokenizer; false: in a target, prefixes and constraints of a search would have it too."""
        return False

    def apply(self, line: str) -> str:
        """As PreTokenizer."""
        return self.config.text + line if line.strip() else line

    def undo(self, text: str) -> str:
        """As PreTokenizer. A text without the prefix does not change."""
        return text.removeprefix(self.config.text)
