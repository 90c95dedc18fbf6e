"""MANTa: bytes are pooled into blocks by predicted soft frontiers.

Paper: Godey, Castagné, de la Clergerie and Sagot, "MANTa: Efficient Gradient-Based Tokenization for Robust End-to-End
Language Modeling", Findings of EMNLP 2022, https://arxiv.org/abs/2212.07284.

A Transformer layer that sees `window` bytes on either side predicts, for each embedded byte, the probability f_i that a
block begins there, [B, S]; f is 0 at the first byte. The block number of byte i is a random variable. Its mean m_i is
the sum of f up to f_i, and its variance v_i is the sum of f (1 - f). The probability p_ib that byte i is in block b is
proportional to exp(-(m_i - b)^2 / (2 sqrt(v_i))), over b = 0, 1, ...: [B, S', S]. The state of block b is the maximum
over all bytes of a depth-wise convolution over the bytes, weighted with p_ib, [B, S', D]. A linear map follows. The
number of blocks S' depends on the text: the mean block number of the last byte plus 3 deviations, but at most
ceil(`blocks` x S).

Use: tokenizer=bytes model.frontend=manta model.frontend.blocks=0.5

Left out: several convolutions of different widths with highway layers after them, which are options of public code. As
in public code, the probability above has the deviation where a normal distribution has the variance. Uncertain: how the
paper limits the number of blocks; here the limit depends on the number of bytes of the text.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend, odd, real_of
from s2s.models.stack import StackConfig, check_heads
from s2s.nn.attention import context_mask
from s2s.nn.layers import Layer

LEAST = 1e-2  # of a variance: certain frontiers have blocks that are not quite certain, or they would learn nothing


@dataclasses.dataclass
class MantaConfig:
    """Options of the front-end."""

    type: str = option("manta", "component")
    blocks: float = option(0.5, "blocks at most, as a share of the bytes", at_least=0.01, at_most=1)
    window: int = option(8, "bytes on either side that the predictor of frontiers sees", at_least=0, at_most=1_000_000)
    layers: int = option(1, "layers of the predictor", at_least=1, at_most=1000)
    heads: int | None = option(None, "its attention heads; null: one for 64 of the width", at_least=1, at_most=1024)
    kernel: int = option(3, "bytes that the convolution spans; odd", at_least=1, at_most=63)


class MantaFrontend(TextFrontend):
    """Pooling of bytes into predicted blocks: ids [B, S] to states of at most [B, ceil(blocks x S), D].

    Args:
        config: The options.
        source: Gives the vocabulary size.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: an even kernel, or heads that do not divide the width.
    """

    Config = MantaConfig
    stride = None

    def __init__(self, config: MantaConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, nn.Embedding(source.size, width))
        self.blocks, self.window = config.blocks, config.window
        stack = StackConfig(config.layers, width, config.heads or max(1, width // 64), None, 4 * width)
        check_heads("model.frontend", stack, "rotary")  # a window needs relative positions
        options = {**shared.layer(stack), "rotary": True}
        self.layers = nn.ModuleList(Layer(**options) for _ in range(stack.layers))
        self.frontier = nn.Linear(width, 1)
        bound = odd(config.kernel) ** -0.5
        self.weight = nn.Parameter(torch.empty(config.kernel, width).uniform_(-bound, bound))
        self.projection = nn.Linear(width, width)

    def most(self, length: int) -> int:
        """As in TextFrontend."""
        return math.ceil(self.blocks * length)

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        x, real = self.embed(ids), real_of(ids, lengths)
        mean, deviation = self.numbers(x, real)
        last = (lengths - 1)[:, None]
        end = (mean.gather(1, last) + 3 * deviation.gather(1, last))[:, 0]
        limit = torch.ceil(self.blocks * lengths.double()).long()
        counts = torch.minimum(end.floor().long() + 1, limit).clamp(min=1)
        block = torch.arange(int(counts.max()), device=ids.device)
        within = (block < counts[:, None])[:, :, None]  # [B, S', 1]
        score = -((mean[:, None] - block[:, None]) ** 2) / (2 * deviation[:, None])
        share = score.masked_fill(~within, float("-inf")).softmax(1) * real.transpose(1, 2)  # [B, S', S]
        return self.projection(self.pool(x, share, real)), counts

    def numbers(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the block number of each byte, both [B, S]; x: embedded bytes [B, S, D]."""
        mask = context_mask(real.transpose(1, 2)[:, None], 1, self.window, self.window)
        for layer in self.layers:
            x = layer(x, mask)
        logits = self.frontier(x)[:, 1:, 0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # sums of bf16 would miss frontiers
        begins = functional.pad(logits.sigmoid(), (1, 0)) * real[:, :, 0]
        return begins.cumsum(1), ((begins * (1 - begins)).cumsum(1) + LEAST).sqrt()

    def pool(self, x: Tensor, share: Tensor, real: Tensor) -> Tensor:
        """The states of blocks, [B, S', D]: the maximum over bytes of a convolution over weighted bytes.

        Args:
            x: Embedded bytes, [B, S, D].
            share: Probability of each block for each byte, [B, S', S].
            real: Bool [B, S, 1].
        """
        around, S = len(self.weight) // 2, x.size(1)
        x = functional.pad(x.masked_fill(~real, 0), (0, 0, around, around))
        share = functional.pad(share, (around, around))
        y = sum(share[:, :, k : k + S, None] * (x[:, k : k + S] * self.weight[k])[:, None]
                for k in range(len(self.weight)))  # fmt: skip
        return y.masked_fill(~real[:, None], float("-inf")).amax(2)
