"""LOBEF: local byte fusion, by n-gram convolutions or by attention within words.

Paper: Sreedhar, Wan, Cheng and Hu, "Local Byte Fusion for Neural Machine Translation", ACL 2023,
https://arxiv.org/abs/2205.11490.

Transformer layers over embedded bytes [B, S, D] come before the layers of the encoder. With n-grams (`lobef_ncf`) these
layers see the whole text. For n = 2, 3, 4, a convolution of width and stride n then gives [B, ceil(S / n), D], and each
of its states is repeated n times; the result is the sum of these and of the states of the layers, with learned weights.
With words (`lobef_wsf`) each byte sees only the bytes of its own word, and there is no convolution. The length stays S.
A space belongs to the word after it, and EOS is a word; the tokenizer declares which symbols begin a word.

Use: tokenizer=bytes model=transformer_tiny model.frontend=lobef_wsf model.frontend.layers=1 model.encoder.layers=1

Left out: nothing of the encoder. Uncertain: whether the paper's mixture of n-grams has a bias (here it has none, and
all weights are 1/4 initially), and to which word a space belongs.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend, real_of
from s2s.models.stack import StackConfig, check_heads
from s2s.nn.attention import segment_mask
from s2s.nn.convolution import Convolution
from s2s.nn.dropout import dropout
from s2s.nn.layers import Layer
from s2s.text.vocabulary import EOS


@dataclasses.dataclass
class LobefConfig:
    """Options of both front-ends."""

    layers: int = option(4, "layers over bytes, before the encoder's own", at_least=1, at_most=1000)
    heads: int | None = option(None, "attention heads; null: one for 64 of the width", at_least=1, at_most=1024)
    ffn_width: int | None = option(
        None, "inner width of the feed-forward blocks; null: 4 times the width", at_least=1, at_most=1_048_576
    )


@dataclasses.dataclass
class NgramConfig(LobefConfig):
    """Options of the front-end of n-grams."""

    type: str = option("lobef_ncf", "component")
    ngrams: list[int] = option([2, 3, 4], "bytes of the n-grams", at_least=1, at_most=1023)


@dataclasses.dataclass
class WordConfig(LobefConfig):
    """Options of the front-end of words."""

    type: str = option("lobef_wsf", "component")
    layers: int = option(2, "layers inside of words, before the encoder's own", at_least=1, at_most=1000)


class LobefFrontend(TextFrontend):
    """A front-end with Transformer layers: ids [B, S] to states [B, S, D].

    Args:
        config: The options.
        source: Gives the vocabulary size.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: heads that do not divide the width.
    """

    def __init__(self, config: LobefConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, nn.Embedding(source.size, width))
        stack = StackConfig(config.layers, width, config.heads or max(1, width // 64), None,
                            config.ffn_width or 4 * width)  # fmt: skip
        shared.refuse("model.frontend=" + config.type, "relative_bias")
        check_heads("model.frontend", stack, shared.positions)
        self.layers = nn.ModuleList(Layer(**shared.layer(stack)) for _ in range(stack.layers))

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        x, real = dropout(self.positions(self.embed(ids)), self.dropout, self.training), real_of(ids, lengths)
        mask = self.mask(ids, real)
        for layer in self.layers:
            x = layer(x, mask)
        return self.fuse(x, real), lengths

    def place(self, x: Tensor) -> Tensor:
        """The states without change: positions and dropout came before the layers."""
        return x

    def mask(self, ids: Tensor, real: Tensor) -> Tensor:
        """The attention mask of the layers, bool [B, 1, 1 or S, S]; real: bool [B, S, 1]."""
        return real.transpose(1, 2)[:, None]

    def fuse(self, x: Tensor, real: Tensor) -> Tensor:
        """Map the states of the layers to those of the front-end, both [B, S, D]."""
        return x

    def flops(self, lengths: Tensor) -> int:
        """As in TextFrontend. Attention within words counts as much as full attention."""
        return super().flops(lengths) + 4 * len(self.layers) * self.width * int((lengths * lengths).sum())


class NgramFrontend(LobefFrontend):
    """Layers that see the whole text, and n-gram convolutions over their states."""

    Config = NgramConfig

    def __init__(self, config: NgramConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(config, source, width, shared)
        self.ngrams = nn.ModuleList(Convolution(width, width, n, n) for n in config.ngrams)
        count = 1 + len(config.ngrams)
        self.weights = nn.Parameter(torch.full((count,), 1 / count))

    def fuse(self, x: Tensor, real: Tensor) -> Tensor:
        """As in LobefFrontend."""
        spread = [x, *(ngram(x, real).repeat_interleave(ngram.stride, dim=1)[:, : x.size(1)] for ngram in self.ngrams)]
        return sum(weight * y for weight, y in zip(self.weights, spread, strict=True))

    def flops(self, lengths: Tensor) -> int:
        """As in TextFrontend."""
        skipped = sum((length - -(-length // ngram.stride)) * ngram.weight.numel()
                       for ngram in self.ngrams for length in lengths.tolist())  # fmt: skip
        return super().flops(lengths) - 2 * skipped


class WordFrontend(LobefFrontend):
    """Layers in which each position sees its own word. Raises UserError: no symbol begins a word."""

    Config = WordConfig

    def __init__(self, config: WordConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(config, source, width, shared)
        if not source.word_starts:
            raise UserError("model.frontend=lobef_wsf: no symbol of the source begins a word; tokenizer=bytes or "
                            "characters has one for the space between words")  # fmt: skip
        starts = torch.zeros(source.size, dtype=torch.bool)
        starts[[*source.word_starts, EOS]] = True
        self.register_buffer("starts", starts, persistent=False)

    def mask(self, ids: Tensor, real: Tensor) -> Tensor:
        """As in LobefFrontend. Padding belongs to the last word, so that no softmax is empty."""
        words = (self.starts[ids] & real[:, :, 0]).cumsum(1)
        return super().mask(ids, real) & segment_mask(words, words)
