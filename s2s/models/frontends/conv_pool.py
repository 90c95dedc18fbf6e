"""Convolutions, pooling and highway layers that shorten a sequence of characters before the encoder.

Paper: Banar, Daelemans and Kestemont, "Character-level Transformer-based Neural Machine Translation", NLPIR 2020,
https://arxiv.org/abs/2005.11239, with the front-end of Lee, Cho and Hofmann, "Fully Character-Level Neural Machine
Translation without Explicit Segmentation", TACL 2017, https://arxiv.org/abs/1610.03017.

Embedded characters [B, S, E] go through parallel convolutions of several widths with ReLU, [B, S, sum of filters], and
a linear map to D. Max pooling over blocks of `stride` positions follows, [B, ceil(S / stride), D], then highway layers
and a layer norm. Padding has no effect. The decoder writes single characters.

Use: tokenizer=characters model.frontend=conv_pool model.frontend.stride=5

Left out: nothing of the front-end. Uncertain: whether the sizes are those of Banar et al.; the defaults follow public
code for Lee et al.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend, real_of
from s2s.nn.convolution import Convolution
from s2s.nn.highway import Highway
from s2s.nn.pooling import maximum_of_blocks


@dataclasses.dataclass
class ConvPoolConfig:
    """Options of the front-end."""

    type: str = option("conv_pool", "component")
    embedding: int = option(128, "width of an embedded character", at_least=1, at_most=65_536)
    kernels: list[int] = option([1, 3, 5, 7], "widths of the convolutions", at_least=1, at_most=1023)
    filters: list[int] = option([128, 256, 512, 512], "filters of each convolution", at_least=1, at_most=65_536)
    stride: int = option(5, "positions of which the greatest value stays", at_least=1, at_most=1023)
    highway: int = option(2, "highway layers", at_least=0, at_most=100)


class ConvPoolFrontend(TextFrontend):
    """Convolutions and max pooling over embedded characters: ids [B, S] to states [B, ceil(S / stride), D].

    Args:
        config: The options.
        source: Gives the vocabulary size.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: different numbers of kernels and filters.
    """

    Config = ConvPoolConfig
    on_states = ("highway.",)

    def __init__(self, config: ConvPoolConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, nn.Embedding(source.size, config.embedding))
        kernels, filters = config.kernels, config.filters
        if len(kernels) != len(filters) or not kernels:
            raise UserError(f"model.frontend.kernels={kernels} and model.frontend.filters={filters}: each kernel needs "
                            "a number of filters")  # fmt: skip
        self.stride = config.stride
        self.convolutions = nn.ModuleList(
            Convolution(config.embedding, count, kernel) for kernel, count in zip(kernels, filters, strict=True)
        )
        self.projection = nn.Linear(sum(filters), width)
        self.highway = nn.Sequential(*(Highway(width) for _ in range(config.highway)))
        self.norm = nn.LayerNorm(width)

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        x, real = self.embed(ids), real_of(ids, lengths)
        x = self.projection(torch.cat([convolution(x, real).relu() for convolution in self.convolutions], dim=2))
        return self.norm(self.highway(maximum_of_blocks(x, real, self.stride))), self.shortened(lengths)
