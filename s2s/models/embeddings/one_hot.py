"""One-hot vectors for the tokens that the decoder reads: see `s2s/models/frontends/one_hot.py`."""

import dataclasses

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.embeddings.table import TableConfig
from s2s.nn.one_hot import OneHot


@dataclasses.dataclass
class OneHotConfig(TableConfig):
    """Options of the target embedding. Its dropout drops whole tokens."""

    type: str = option("one_hot", "component")


def one_hot(config: OneHotConfig, size: int, width: int) -> OneHot:
    """One-hot vectors, scaled by a learned number. Raises UserError: more symbols than D."""
    check_width("model.embedding", "model.decoder.width", size, width)
    return OneHot(width)


def check_width(part: str, key: str, size: int, width: int) -> None:
    """Raise UserError where the vocabulary is larger than the width.

    Args:
        part: The option of the part, for errors.
        key: The option of the width, for errors.
        size: V.
        width: D.
    """
    if size > width:
        raise UserError(f"{part}=one_hot: {size} symbols do not fit into {key}={width}; it must be at least {size}, or "
                        "the vocabulary smaller (tokenizer=bytes)")  # fmt: skip


one_hot.Config = OneHotConfig
