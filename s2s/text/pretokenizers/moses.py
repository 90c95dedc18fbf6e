"""Moses: punctuation is separated from words, and the first word of a line may get its usual case.

Paper: Koehn et al., "Moses: Open Source Toolkit for Statistical Machine Translation", ACL 2007,
https://aclanthology.org/P07-2045.

The rules are those of the tokenizer, the truecaser and the punctuation normaliser of Moses, as the package sacremoses
has them. Decoding joins the words again, and begins the line with a capital if there is a truecaser. This is not an
exact inverse: Moses does not keep where spaces were, and normalised punctuation does not come back. What a pattern of
`protect` matches, such as a placeholder or a tag, is not separated further, and comes back as it was.

Use: tokenizer=sentencepiece tokenizer.pre=moses tokenizer.pre.language=de

Left out: training of a truecaser, for which there is `sacremoses train-truecase`.
"""

import dataclasses
import importlib.util
import re
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from s2s.config.schema import option
from s2s.errors import UserError, install
from s2s.files import write
from s2s.text.pretokenizers.pretokenizer import PreTokenizer


@dataclasses.dataclass
class MosesConfig:
    """Options of the pre-tokenizer."""

    type: str = option("moses", "component")
    language: str = option("en", "language whose rules apply, of two letters")
    escape: bool = option(True, "write characters such as & and | as &amp; and &#124;, as Moses does")
    dashes: bool = option(False, "separate the parts of words such as high-speed, by @-@")
    punctuation: bool = option(False, "normalise punctuation first; it does not come back")
    truecase: str | None = option(None, "model of a Moses truecaser, for the first word of a line; it is kept")
    protect: list[str] = option([], "regular expressions of what is not separated further, such as '<[^>]*>'")


class Moses(PreTokenizer):
    """Rewrites a line as the words of Moses, with one space between two.

    Args:
        config: The options, an instance of `Config`.
        cases: Content of the model of the truecaser; None: it is in the file that the options name.

    Raises:
        UserError: the package is not installed, a file is missing, or a pattern is not a regular expression.
    """

    Config = MosesConfig

    def __init__(self, config: MosesConfig, cases: str | None = None):
        super().__init__(config)
        if importlib.util.find_spec("sacremoses") is None:
            raise UserError(f"pre=moses: requires the package sacremoses: {install('moses')}")
        if config.truecase and cases is None:
            try:
                cases = Path(config.truecase).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"pre.truecase={config.truecase}: a model of a truecaser is needed: {error}") from error
        self.cases = cases
        for pattern in config.protect:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"pre.protect={pattern}: not a regular expression: {error}") from error

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any, Any]:
        """Tokenizer, detokenizer, normaliser of punctuation, and truecaser (None: there is none)."""
        import sacremoses

        language, caser = self.config.language, None
        if self.cases is not None:
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".truecase") as file:
                file.write(self.cases)
                file.flush()
                caser = sacremoses.MosesTruecaser(file.name)
        return (sacremoses.MosesTokenizer(language), sacremoses.MosesDetokenizer(language),
                sacremoses.MosesPunctNormalizer(language), caser)  # fmt: skip

    def apply(self, line: str) -> str:
        """As PreTokenizer."""
        tokenizer, _, normaliser, caser = self._parts
        text = normaliser.normalize(line) if self.config.punctuation else line
        words = tokenizer.tokenize(text, aggressive_dash_splits=self.config.dashes, escape=self.config.escape,
                                   protected_patterns=self.config.protect or None)  # fmt: skip
        if caser is not None and words:
            words = caser.truecase(" ".join(words))
        return " ".join(words) or line  # a line of control characters only has no words

    def undo(self, text: str) -> str:
        """As PreTokenizer; nearly the inverse."""
        words = text.split()
        if self.cases is not None and words:
            words[0] = words[0][:1].upper() + words[0][1:]
        return self._parts[1].detokenize(words, unescape=self.config.escape) if words else text

    def save(self, folder: Path, name: str) -> None:
        """As PreTokenizer."""
        if self.cases is not None:
            write(folder / f"{name}.truecase.txt", self.cases)

    @classmethod
    def load(cls, config: MosesConfig, folder: Path, name: str) -> "Moses":
        """As PreTokenizer."""
        if not config.truecase:
            return cls(config)
        path = folder / f"{name}.truecase.txt"
        if not path.is_file():
            raise UserError(f"{path}: this file of a tokenizer is missing")
        return cls(config, path.read_text(encoding="utf-8"))
