"""GBST: soft subwords that are learned over bytes or characters.

Paper: Tay et al., "Charformer: Fast Character Transformers via Gradient-based Subword Tokenization", ICLR 2022,
https://arxiv.org/abs/2106.12672.

Embedded tokens [B, S, D] go through a convolution, which encodes the order of tokens within a block. For each block
size b = 1 ... M, one linear map scores the means of non-overlapping blocks, [B, ceil(S / b), D]. Each position lies in
M blocks. The softmax of their scores gives weights [B, S, M], and the state of the position is the weighted sum of the
block means. With `consensus`, softmax(P P^T) P replaces the weights P of all positions, so that positions agree.
Finally, mean pooling over `stride` states gives [B, ceil(S / stride), D]. Means do not include padding. The decoder
writes single tokens.

Use: tokenizer=bytes model.frontend=gbst model.frontend.block=4 model.frontend.stride=2

Left out: blocks with other offsets than multiples of their size. Uncertain: the kind of convolution, which the paper
does not specify; here it is depth-wise with a linear map after it, as in public code.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend, odd, real_of
from s2s.nn.convolution import DepthwiseConvolution
from s2s.nn.pooling import mean_of_blocks


@dataclasses.dataclass
class GBSTConfig:
    """Options of the front-end."""

    type: str = option("gbst", "component")
    block: int = option(4, "M, tokens of the largest block", at_least=1, at_most=64)
    stride: int = option(2, "tokens that become one state", at_least=1, at_most=64)
    kernel: int = option(5, "tokens that the convolution spans; odd", at_least=1, at_most=1023)
    consensus: bool = option(False, "weights of all positions agree with each other; takes S x S products")


class GBSTFrontend(TextFrontend):
    """Gradient-based subword tokenization: ids [B, S] to states [B, ceil(S / stride), D].

    Args:
        config: The options.
        source: Gives the vocabulary size.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: an even kernel.
    """

    Config = GBSTConfig

    def __init__(self, config: GBSTConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, nn.Embedding(source.size, width))
        self.block, self.stride, self.consensus = config.block, config.stride, config.consensus
        self.convolution = DepthwiseConvolution(width, odd(config.kernel), causal=False)
        self.mixing, self.score = nn.Linear(width, width), nn.Linear(width, 1)

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        real, S = real_of(ids, lengths), ids.size(1)
        x = self.mixing(self.convolution(self.embed(ids), real))
        means = [mean_of_blocks(x, real, size) for size in range(1, self.block + 1)]

        def spread(blocks: Tensor, size: int) -> Tensor:
            return blocks.repeat_interleave(size, dim=1)[:, :S]

        scores = torch.cat([spread(self.score(y), size) for size, y in enumerate(means, 1)], dim=2)
        weights = scores.softmax(dim=2)  # [B, S, M]
        if self.consensus:
            alike = weights @ weights.transpose(1, 2)
            weights = alike.masked_fill(~real.transpose(1, 2), float("-inf")).softmax(dim=2) @ weights
        x = sum(weights[:, :, size - 1 : size] * spread(y, size) for size, y in enumerate(means, 1))
        return mean_of_blocks(x, real, self.stride), self.shortened(lengths)
