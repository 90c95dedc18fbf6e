"""A pre-tokenizer: a capital letter is a small one behind a mark, so that `The` and `the` share their pieces."""

import dataclasses
import re

from s2s.config.schema import option
from s2s.text.pretokenizers.pretokenizer import PreTokenizer


@dataclasses.dataclass
class CapitalsConfig:
    """Options of the pre-tokenizer."""

    type: str = option("capitals", "component")
    mark: str = option("^", "character before a letter that was a capital; itself, it is written twice")


class Capitals(PreTokenizer):
    """`The ^` is `^the ^^`. Capitals that do not come back from their small letters stay."""

    Config = CapitalsConfig

    def apply(self, line: str) -> str:
        """As PreTokenizer."""
        return "".join(map(self._written, line))

    def _written(self, character: str) -> str:
        mark, small = self.config.mark, character.lower()
        is_capital = small != character and len(small) == 1 and small.upper() == character
        return mark + small if is_capital else mark * 2 if character == mark else character

    def undo(self, text: str) -> str:
        """As PreTokenizer."""
        return re.sub(re.escape(self.config.mark) + "(.)", lambda pair: pair[1].upper(), text)
