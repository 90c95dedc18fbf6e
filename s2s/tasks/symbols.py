"""Tags as symbols of a vocabulary, for models that are told by a token what to do.

The symbol of a tag's value, such as the language de, is the reserved symbol `<de>`. The symbols of some tags stand
before the source (Johnson et al. 2017, https://arxiv.org/abs/1611.04558), or that of one tag is what the decoder reads
first, in place of `<s>`, or that of one tag is the first token of the target, which is forced in a search (Liu et al.
2020, https://arxiv.org/abs/2001.08210).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.text.vocabulary import Vocabulary


@dataclasses.dataclass
class FirstTagConfig:
    """Option of a task whose targets may begin with a tag."""

    first_tag: str | None = option(
        None, "tag whose symbol the decoder reads first, in place of <s>, such as target_language: de is <de>, a "
        "reserved symbol; training, search and the server know the tag of each sentence",
    )  # fmt: skip


@dataclasses.dataclass
class TagSymbolsConfig(FirstTagConfig):
    """Options of a task whose sources and targets may begin with tags."""

    source_tags: list[str] = option(
        [], "tags whose symbols stand before each source, such as [target_language] or [source_language,"
        "target_language]; they count as source tokens",
    )  # fmt: skip
    target_tag: str | None = option(
        None, "tag whose symbol every target begins with, after <s>, such as target_language; a search forces it, as "
        "for mBART and NLLB",
    )  # fmt: skip


def symbols_of(vocabulary: Vocabulary, values: Sequence[str], key: str) -> np.ndarray:
    """The ids of the symbols of a tag's values, int64 [values].

    Args:
        vocabulary: It has the symbols.
        values: The values.
        key: The option that names the tag, for messages.

    Raises:
        UserError: the vocabulary does not reserve a symbol.
    """
    names = [f"<{value}>" for value in values]
    if missing := [name for name in names if name not in vocabulary.reserved]:
        raise UserError(f"{key}: the vocabulary does not reserve {' '.join(missing)}; make the store with "
                        f"'tokenizer.reserved=[{','.join(names)}]', or with languages=[SOURCE-TARGET,...]")  # fmt: skip
    return np.array([vocabulary.reserved[name] for name in names], np.int64)


def known(tag_values: Mapping[str, list[str]], names: Sequence[str], key: str) -> dict[str, list[str]]:
    """The values of the tags that an option names. Raises UserError: the data do not have one of them."""
    for name in names:
        if name not in tag_values:
            has = f"they have {', '.join(tag_values)}" if tag_values else "they have none"
            raise UserError(f"{key}: reads the tag {name} of the examples; {has}")
    return {name: tag_values[name] for name in names}


def suppressed_of(config: Any, vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of the symbols that a search never writes, and of those that it does not write first.

    Args:
        config: The options of a task, with `suppressed` and `suppressed_first` or without.
        vocabulary: Of the target.

    Raises:
        UserError: an id is that of no symbol.
    """
    always, first = (tuple(getattr(config, name, ())) for name in ("suppressed", "suppressed_first"))
    if wrong := [number for number in always + first if number >= len(vocabulary)]:
        raise UserError(f"task.suppressed, task.suppressed_first: no symbols have the ids {wrong}")
    return always, first


def with_symbol(
    symbol: int | np.ndarray, ids: np.ndarray, lengths: np.ndarray, after: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Add a symbol before or after each row; returns the concatenated ids and the new lengths.

    Args:
        symbol: Id to add, or that of each row, [rows].
        ids: Concatenated ids of the rows.
        lengths: [rows].
        after: Whether the symbol comes after each row; otherwise before.
    """
    ends = np.cumsum(lengths)
    return np.insert(ids, ends if after else ends - lengths, symbol), lengths + 1
