"""Hierarchical autoregressive Transformer, the decoder's side: layers over words, and others that spell the next word.

Paper: Neitemeier, Deiseroth, Eichenberg and Balles, "Hierarchical Autoregressive Transformers: Combining Byte- and
Word-Level Processing for Robust, Adaptable Language Models", ICLR 2025, https://arxiv.org/abs/2501.10322.

A target [T] is cut into N words as by `model.frontend=word_pool`. A word encoder of its kind makes a vector of each
finished word. The backbone, `layers` causal layers of width D with cross-attention, runs over these vectors, [B, N, D].
The state after word n - 1 (before the first word, that of an empty word), through a linear map D -> d, is added to the
first symbol of word n. The speller, `speller_layers` causal layers of width d that see one word each, predicts the
symbol after each symbol; a linear map d -> D gives what the output layer reads. The symbol that begins the next word
ends this one, as [W] does in the paper: the speller of a word predicts it, and the backbone takes its step when it is
read. In decoding, the cache of the backbone has one position for each word, and that of the speller is emptied at each
word. The loss is the cross-entropy of symbols.

Use: tokenizer=bytes model=word_byte_tiny; tokenizer=bytes model.frontend=word_pool model.decoder=word_byte; as a
language model, model=transformer_lm model.decoder=word_byte

Left out: batches with a budget of words; continued pretraining. The paper is a language model; the encoder-decoder is
an addition. The paper puts the state of the backbone before the symbols of a word, at a position of its own; here it is
added to the first symbol, which is known there, so that each step has one position. Uncertain: sizes, as of the
front-end.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.batch import Packing
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.frontends.word_pool import symbol_layer, word_start
from s2s.models.stack import DecoderConfig
from s2s.nn.attention import segment_mask
from s2s.nn.dropout import dropout
from s2s.nn.embedding import Embedding
from s2s.nn.layers import Layer
from s2s.nn.norms import norm_of
from s2s.nn.unpad import RealTokens
from s2s.nn.word_state import WordState
from s2s.nn.words import WordEncoder, Words, within
from s2s.text.vocabulary import PAD


@dataclasses.dataclass
class WordByteConfig(DecoderConfig):
    """Options of the decoder; its layers are those over words."""

    type: str = option("word_byte", "component")
    word_layers: int = option(1, "layers of the encoder of finished words", at_least=1, at_most=1000)
    speller_layers: int = option(1, "layers that spell a word", at_least=1, at_most=1000)
    symbol_width: int | None = option(
        None, "width d of the layers over symbols; null: the width D", at_least=1, at_most=65_536
    )
    symbol_heads: int | None = option(
        None, "attention heads of the layers over symbols; null: one for 64 of their width", at_least=1, at_most=1024
    )
    longest_word: int = option(32, "symbols of a word at most; a longer one is divided", at_least=1, at_most=1024)


class WordByteDecoder(TransformerDecoder):
    """A decoder with layers over words, and others over the symbols of each word.

    Args:
        config, shared, embedding, memory_width: As in TransformerDecoder.
        heads: Must be empty: the layers over words do not predict symbols.

    Raises:
        UserError: auxiliary heads, no symbol between words, or attention heads that do not divide a width.
    """

    Config = WordByteConfig
    State = WordState
    step_block = None  # type: ignore[assignment]  # to drop positions, a state would have to hold words that ended
    heads = ()

    def __init__(self, config: WordByteConfig, shared: Shared, embedding: Embedding, memory_width: int | None,
                 heads: list[int] = ()):  # fmt: skip
        if heads:
            raise UserError(f"model.auxiliary_heads={list(heads)}: the layers of model.decoder=word_byte are of words "
                            "and predict no symbols; leave it out")  # fmt: skip
        shared.refuse("model.decoder=word_byte", "relative_bias")
        super().__init__(config, shared, embedding, memory_width)
        self.start_symbol = word_start(shared.target_starts, "model.decoder=word_byte")
        D, d = config.width, config.symbol_width or config.width
        options = symbol_layer("model.decoder.symbol_", d, config.symbol_heads, shared)
        self.narrow, self.wide = (nn.Identity() if d == D else nn.Linear(*sizes) for sizes in ((D, d), (d, D)))
        self.words = WordEncoder(config.word_layers, options, D)
        self.context = nn.Linear(D, d)
        self.speller = nn.ModuleList(Layer(**options, causal=True) for _ in range(config.speller_layers))
        self.speller_norm = norm_of(shared.norm_type, d) if shared.norm == "pre" else nn.Identity()

    def decode(self, seen: list[Tensor], seen_mask: Tensor | None, decoder_input: Tensor,
               packing: Packing | None = None) -> tuple[Tensor, dict[int, Tensor]]:  # fmt: skip
        """As in TransformerDecoder; there are no heads."""
        words = self._cut(decoder_input, packing)
        x = words.symbols.unpad(self._embedded(decoder_input))  # [P, d]
        y, mask = self._finished(x, words), self._mask(words, seen_mask)  # y: [B, W, D]
        own = None if packing is None else self._own(words)
        for number, layer in enumerate(self.layers):
            y = layer(y, own, seen[number], mask) if layer.attends else layer(y, own)
        context = self.context(self.norm(y)[words.real_words()])
        x = x.index_add(0, words.heads(), context.to(x.dtype))
        real = RealTokens(within(words.lengths, int(words.lengths.max())))
        for layer in self.speller:
            x = layer(x, None, real)
        return words.symbols.pad(self._scaled(self.wide(self.speller_norm(x)))), {}

    def _embedded(self, ids: Tensor) -> Tensor:
        """Symbols without positions, [...] -> [..., d]"""
        x = self.embedding.tokens(ids) * self.embedding.scale
        return self.narrow(dropout(x, self.embedding.dropout, self.training))

    def _cut(self, ids: Tensor, packing: Packing | None = None) -> Words:
        """The words of targets. Padding belongs to none, where it is known."""
        first, real = torch.zeros_like(ids, dtype=torch.bool), ids != PAD
        first[:, 0] = True
        if packing is not None:
            first[:, 1:] = packing.segments[:, 1:] != packing.segments[:, :-1]
            real = first | (packing.positions > 0)
        return Words(ids == self.start_symbol, self.config.longest_word, first, real | first)

    def _finished(self, x: Tensor, words: Words) -> Tensor:
        """The input of the layers over words: at each word the vector of the word before it, which for the first word
        of an example is that of an empty word, and positions within the example. x: [P, d]. Returns [B, W, D]."""
        follows = ~words.first
        closed = torch.cat([follows[1:], follows.new_zeros(1)])  # words with another word after them
        lengths = torch.cat([words.lengths.new_zeros(1), words.lengths[closed]])
        vectors = self.words(x[closed.repeat_interleave(words.lengths)], lengths)
        y, first = words.spread(vectors[follows.cumsum(0) * follows]), words.spread(words.first)
        places = torch.arange(y.size(1), device=y.device)
        return self.embedding.positions(y, places - (places * first).cummax(1).values)

    def _own(self, words: Words) -> Tensor:
        """Mask of self-attention over words of packed rows: bool [B, 1, W, W]."""
        examples = words.spread(words.first).cumsum(1)
        return segment_mask(examples, examples).tril()

    def _mask(self, words: Words, seen_mask: Tensor | None) -> Tensor | None:
        """The mask of cross-attention of words, [B, 1, 1 or W, S]; seen_mask: of symbols, [B, 1, 1 or T, S]."""
        if seen_mask is None or seen_mask.size(2) == 1:
            return seen_mask
        begins = words.spread(words.begins)
        return seen_mask[:, 0][torch.arange(len(begins), device=begins.device)[:, None], begins][:, None]

    def cross_attention(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, layer: int) -> Tensor:
        """As in TransformerDecoder. All symbols of a word have its weights."""
        words = self._cut(decoder_input)
        y = self._finished(words.symbols.unpad(self._embedded(decoder_input)), words)
        for below, memory in zip(self.layers[:layer], seen, strict=False):
            y = below(y, None, memory, seen_mask)
        weights = self.layers[layer].cross_attention(y, None, seen[layer], seen_mask)  # [B, H, W, S]
        return weights.gather(2, words.numbers[:, None, :, None].expand(-1, weights.size(1), -1, weights.size(3)))

    def start(self, seen: list[Tensor], seen_mask: Tensor, rows: int) -> WordState:
        """As in TransformerDecoder."""
        return self.State(*self._start(seen, seen_mask), rows, self.most, len(self.speller), self.config.longest_word)

    def step(self, tokens: Tensor, state: WordState) -> Tensor:
        """As in TransformerDecoder. The layers over words run for the rows whose word has ended."""
        x = self._embedded(tokens)[:, None]
        rows, ids, lengths = state.ended(tokens == self.start_symbol)
        if len(rows):
            y = self.words(self._embedded(ids), lengths)[:, None]
            y = self.embedding.positions(y, state.words.places, state.words.size)
            for n, layer in enumerate(self.layers):
                y = layer.step(y, state.words, n)
            state.words.advance()
            x = x.index_add(0, rows, self.context(self.norm(y)).to(x.dtype))
        state.begin_symbols(tokens)
        for n, layer in enumerate(self.speller):
            x = layer.step(x, state.symbols, n)
        state.symbols.advance()
        state.advance()
        return self._scaled(self.wide(self.speller_norm(x))).view(-1, state.rows, self.width)

    def flops(self, memory: Tensor, target: Tensor) -> int:
        """As in TransformerDecoder, and at most: as if each symbol were a word."""
        symbols = int(target.sum())
        maps = sum(p.numel() for part in (self.narrow, self.wide, self.context, self.speller)
                   for p in part.parameters() if p.dim() == 2)  # fmt: skip
        return super().flops(memory, target) + 2 * symbols * maps + self.words.flops(symbols)
