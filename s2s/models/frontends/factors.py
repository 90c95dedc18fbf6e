"""Source factors: properties of a sentence, such as its emotion, are embedded into every token.

Paper: Goel et al., "Emotion-Aware Transformer Encoder for Empathetic Dialogue Generation", ACII workshops 2021,
https://arxiv.org/abs/2204.11320.

The factors of a sentence are tags of it (`tags`), each with a table of vectors, [values, D]. With `sum_norm` the
embedded tokens, [B, S, D], and the vectors of their sentence are added and layer-normalised, before positions. With
`concat` they stand beside each other and a linear map makes D of them. In training a tag is that of a store or corpus;
in decoding each line may have its own (`line_tags`).

Use: model.frontend=factors model.frontend.tags=[emotion]

Left out: factors of single tokens, such as parts of speech, and the paper's Transformer-XL layers; uncertain: whether
the paper adds positions before or after the norm.
"""

import dataclasses

import torch
from torch import nn

from s2s.config.schema import option
from s2s.data.batch import Source, tag_of_positions
from s2s.data.spec import TokenSource
from s2s.errors import UserError
from s2s.models.contract import Shared, States
from s2s.models.frontends.tokens import TokenFrontend
from s2s.nn.dropout import dropout


@dataclasses.dataclass
class FactorsConfig:
    """Options of the front-end."""

    type: str = option("factors", "component")
    tags: list[str] = option([], "tags of a sentence that are its factors")
    combine: str = option("sum_norm", "sum and layer norm, or a linear map of all vectors", ("sum_norm", "concat"))


class FactorsFrontend(TokenFrontend):
    """Embeds each token together with the tags of its sentence; the length does not change.

    Args:
        config, source, width, shared: As in TokenFrontend.

    Raises:
        UserError: no tags, or tags that the examples do not have.
    """

    Config = FactorsConfig

    def __init__(self, config: FactorsConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(config, source, width, shared)
        shared.refuse("model.frontend=factors", "embedding_norm")
        if not config.tags:
            raise UserError("model.frontend=factors: requires tags, such as model.frontend.tags=[target_language]")
        self.tags = tuple(config.tags)
        self.factors = nn.ModuleList(nn.Embedding(shared.tags[name], width) for name in self.tags)
        summed = config.combine == "sum_norm"
        self.norm = nn.LayerNorm(width) if summed else None
        self.join = None if summed else nn.Linear((1 + len(self.tags)) * width, width)

    def forward(self, source: Source) -> States:
        """source: ids [B, S]. Returns States [B, S, D]."""
        embedding, positions = self.embedding, source.packing and source.packing.positions
        x = embedding.tokens(source.values) * embedding.scale
        vectors = [table(tag_of_positions(source.tags[name], source.packing)).expand_as(x) * embedding.scale
                   for name, table in zip(self.tags, self.factors, strict=True)]  # fmt: skip
        x = self.join(torch.cat([x, *vectors], -1)) if self.norm is None else self.norm(x + sum(vectors))
        x = dropout(embedding.positions(x, positions), embedding.dropout, self.training)
        return States(x, source.lengths, source.packing)

    def flops(self, lengths) -> int:
        """Of the linear map; lengths: [B] int64."""
        return 0 if self.join is None else 2 * int(lengths.sum()) * self.join.weight.numel()
