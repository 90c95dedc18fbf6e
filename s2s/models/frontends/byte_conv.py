"""ByteFormer's token reduction: a strided convolution over embedded bytes.

Paper: Horton et al., "Bytes Are All You Need: Transformers Operating Directly On File Bytes", TMLR 2024,
https://arxiv.org/abs/2306.00238.

Embedded bytes [B, S, D] go through one convolution over `kernel` bytes with stride `stride`, [B, ceil(S / stride), D],
and a layer norm. The window of state i is centred on the i-th block of `stride` bytes. Padding is not seen.

Use: tokenizer=bytes model.frontend=byte_conv model.frontend.kernel=4 model.frontend.stride=2

Left out: attention in shifted windows and pairwise merging of states, which belong to the encoder; files of images and
sound; classification. Here the bytes are those of text. Uncertain: whether the paper has a norm after the convolution;
here there is one.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend, real_of
from s2s.nn.convolution import Convolution


@dataclasses.dataclass
class ByteConvConfig:
    """Options of the front-end."""

    type: str = option("byte_conv", "component")
    kernel: int = option(4, "bytes that the convolution spans; at least stride", at_least=1, at_most=1023)
    stride: int = option(2, "bytes that become one state", at_least=1, at_most=1023)


class ByteConvFrontend(TextFrontend):
    """A strided convolution over embedded bytes: ids [B, S] to states [B, ceil(S / stride), D].

    Args:
        config: The options.
        source: Gives the vocabulary size.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: a kernel smaller than the stride, which would skip bytes.
    """

    Config = ByteConvConfig
    on_states = ("convolution.",)

    def __init__(self, config: ByteConvConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, nn.Embedding(source.size, width))
        if config.kernel < config.stride:
            raise UserError(f"model.frontend.kernel={config.kernel} must be at least "
                            f"model.frontend.stride={config.stride}, or bytes are left out")  # fmt: skip
        self.stride = config.stride
        self.convolution = Convolution(width, width, config.kernel, config.stride)
        self.norm = nn.LayerNorm(width)

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        return self.norm(self.convolution(self.embed(ids), real_of(ids, lengths))), self.shortened(lengths)
