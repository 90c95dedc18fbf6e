"""Hierarchical autoregressive Transformer, the encoder's side: small layers make one vector of each word.

Paper: Neitemeier, Deiseroth, Eichenberg and Balles, "Hierarchical Autoregressive Transformers: Combining Byte- and
Word-Level Processing for Robust, Adaptable Language Models", ICLR 2025, https://arxiv.org/abs/2501.10322.

A source [S] is cut into words [S']. A word begins at the symbol that begins words (the space of bytes or characters),
and after `longest_word` symbols: "Hello, world!" is "Hello," and " world!". EOS is a word. A learned marker [W] is put
before the symbols of a word, and `layers` Transformer layers of width d, which see one word each, run over marker and
symbols. The state of the marker, through a linear map d -> D, is the state of the word: [B, S', D]. So the encoder and
cross-attention have one position for each word, and there is no vocabulary of words. Linear maps and feed-forward
blocks compute on real symbols only, without the padding of short words.

Use: tokenizer=bytes model.frontend=word_pool model.frontend.layers=1; with its decoder, model=word_byte_tiny

Left out: words that are divided at punctuation, digits or capitals, because symbols are plain numbers here. Positions
within a word are always rotary. Uncertain: the sizes of the paper's byte models, which differ with its scales.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend, real_of
from s2s.models.stack import StackConfig
from s2s.nn.words import WordEncoder, Words
from s2s.text.vocabulary import EOS


@dataclasses.dataclass
class WordPoolConfig:
    """Options of the front-end."""

    type: str = option("word_pool", "component")
    layers: int = option(1, "layers over the symbols of a word", at_least=1, at_most=1000)
    width: int | None = option(None, "width d of the symbols; null: that of the encoder", at_least=1, at_most=65_536)
    heads: int | None = option(
        None, "attention heads of these layers; null: one for 64 of the width", at_least=1, at_most=1024
    )
    longest_word: int = option(32, "symbols of a word at most; a longer one is divided", at_least=1, at_most=1024)


class WordPoolFrontend(TextFrontend):
    """Words of a small Transformer: ids [B, S] to states [B, S', D], one for each word.

    Args:
        config: The options.
        source: Gives the vocabulary size, and the symbols that begin words.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: no symbol begins a word, or heads that do not divide the width.
    """

    Config = WordPoolConfig
    stride = None

    def __init__(self, config: WordPoolConfig, source: TokenSource, width: int, shared: Shared):
        own = config.width or width
        super().__init__(width, shared, nn.Embedding(source.size, own))
        self.longest = config.longest_word
        self.start = word_start(source.word_starts, "model.frontend=word_pool")
        self.words = WordEncoder(config.layers, symbol_layer("model.frontend.", own, config.heads, shared), width)

    def most(self, length: int) -> int:
        """As in TextFrontend: each symbol may begin a word."""
        return length

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        first = torch.zeros_like(ids, dtype=torch.bool)
        first[:, 0] = True
        begins = (ids == self.start) | (ids == EOS)
        words = Words(begins, self.longest, first, real_of(ids, lengths)[:, :, 0])
        vectors = self.words(words.symbols.unpad(self.embed(ids)), words.lengths)
        return words.spread(vectors), words.counts


def word_start(starts: tuple[int, ...], reader: str) -> int:
    """The symbol that begins words. Raises UserError: there is none, or more than one.

    Args:
        starts: Ids of these symbols.
        reader: The setting that needs the symbol, for the message.
    """
    if len(starts) != 1:
        raise UserError(f"{reader}: one symbol must stand between words, the space of tokenizer=bytes or characters")
    return starts[0]


def symbol_layer(key: str, width: int, heads: int | None, shared: Shared) -> dict:
    """Arguments of a Layer over the symbols of a word.

    Args:
        key: What the names of the options of width and heads begin with, for errors.
        width: d.
        heads: Attention heads; None: one for 64 of the width.
        shared: Options that all parts of the model share.

    Raises:
        UserError: a width that is no multiple of twice the heads.
    """
    heads = heads or max(1, width // 64)
    if width % (2 * heads):
        raise UserError(f"{key}width={width}: must be a multiple of twice {key}heads={heads}, for rotary positions")
    stack = StackConfig(1, width, heads, None, 4 * width)
    return {**dataclasses.replace(shared, log_length_scale=False).layer(stack), "rotary": True}
