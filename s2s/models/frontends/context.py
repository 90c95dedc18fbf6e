"""Context on embeddings: a convolution or a recurrence over bytes or byte-level subwords before the encoder.

Paper: Wang, Cho and Gu, "Neural Machine Translation with Byte-Level Subwords", AAAI 2020,
https://arxiv.org/abs/1909.03341.

A byte-level subword may be a part of a character, or of several, so that its embedding alone means little. Embedded
tokens [B, S, D] go through a depth-wise convolution over `kernel` tokens with a residual connection, or through a
bidirectional GRU of width D / 2 in each direction. The length does not change. Neither sees padding.

Use: tokenizer=bytes model.frontend=context model.frontend.kind=gru

Left out: nothing of the model. Uncertain: whether the paper's convolution has a residual connection, as it has here.
Positions are added after the context; public code adds them before a GRU, which models order by itself.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend, odd, real_of
from s2s.nn.convolution import DepthwiseConvolution


@dataclasses.dataclass
class ContextConfig:
    """Options of the front-end."""

    type: str = option("context", "component")
    kind: str = option("conv", "depth-wise convolution, or bidirectional GRU", ("conv", "gru"))
    kernel: int = option(5, "tokens that the convolution spans; odd", at_least=1, at_most=1023, needs="kind=conv")


class ContextFrontend(TextFrontend):
    """A convolution or a GRU over embedded tokens: ids [B, S] to states [B, S, D].

    Args:
        config: The options.
        source: Gives the vocabulary size.
        width: D; even.
        shared: Options that all parts of the model share.

    Raises:
        UserError: an even kernel, or an odd width.
    """

    Config = ContextConfig

    def __init__(self, config: ContextConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, nn.Embedding(source.size, width))
        self.convolution = self.recurrence = None
        if config.kind == "conv":
            self.convolution = DepthwiseConvolution(width, odd(config.kernel), causal=False)
        else:
            if width % 2:
                raise UserError(f"model.frontend.kind=gru: model.encoder.width={width} must be even")
            self.recurrence = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        x = self.embed(ids)
        if self.convolution is not None:
            return x + self.convolution(x, real_of(ids, lengths)), lengths
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.recurrence(rows)[0], batch_first=True, total_length=x.size(1))
        return states, lengths
