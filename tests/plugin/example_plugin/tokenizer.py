"""A tokenizer: words, of which those with hyphens are several."""

import dataclasses

from s2s.config.schema import option
from s2s.text.words import WordConfig, WordTokenizer


@dataclasses.dataclass
class HyphenConfig(WordConfig):
    """Options of the word tokenizer."""

    type: str = option("hyphens", "component")


class HyphenTokenizer(WordTokenizer):
    """`so-called` is `so -called`, and comes back as it was."""

    Config = HyphenConfig

    @classmethod
    def _learn(cls, config, chunks, seed: int) -> "HyphenTokenizer":
        """As of the word tokenizer."""
        return super()._learn(config, ([line.replace("-", " -") for line in lines] for lines in chunks), seed)

    def _encode(self, lines: list[str]):
        return super()._encode([line.replace("-", " -") for line in lines])

    def _decode(self, ids: list[int]) -> str:
        return super()._decode(ids).replace(" -", "-")
