"""Recurrent decoders with attention: LSTM or GRU layers, dot or additive scores, input feeding.

Paper: Luong et al., "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
https://arxiv.org/abs/1508.04025; Bahdanau et al., ICLR 2015, https://arxiv.org/abs/1409.0473, for additive scores;
Wu et al., "Google's Neural Machine Translation System", 2016, https://arxiv.org/abs/1609.08144, for the bottom layer.

The layers are recurrences over embedded target tokens, [B, T, D]. The states of one layer attend to the memory [B, S,
M]: the weights are the softmax of scores over the S positions, and the context is the weighted mean of the memory. With
`attention_layer=top` the output layer reads tanh(W [context; state]). With `bottom` the context is an input of all
layers above the bottom one, and the output layer reads the top state. `input_feeding` adds the tanh vector (with
`bottom`, the context) of the previous step to the input of the bottom layer; training then takes one step for each
position, and otherwise one call for each layer. The state between steps has a fixed size, whatever the length of a
hypothesis.

Use: model=lstm; model=gnmt; model.decoder=gru model.decoder.attention=additive model.decoder.input_feeding=false

Left out: Luong's local attention. The first state is zero and not the last state of the encoder; the decoder attends to
the memory before the first output. Bahdanau's state attends before it reads the last token; here it attends after that,
as in Luong et al. In the GNMT paper the context of the bottom layer is one step late; here (as in NVIDIA's code) it is
of the same step, so that training is parallel. With input_feeding=true the bottom layer also reads the context of the
previous step.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.batch import Packing
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.encoders.recurrent import check, residual
from s2s.nn.carried import CarriedState
from s2s.nn.dropout import dropout
from s2s.nn.embedding import Embedding
from s2s.nn.packed_rows import Examples
from s2s.nn.recurrent import PARTS, Recurrence
from s2s.nn.scores import SCORES, Scores


@dataclasses.dataclass
class LstmDecoderConfig:
    """Options of a recurrent decoder."""

    type: str = option("lstm", "component")
    layers: int = option(2, "number of layers", at_least=1, at_most=1000)
    width: int = option(512, "model width D", at_least=1, at_most=65_536)
    attention: str = option("dot", "how a state is compared with the memory", SCORES)
    attention_layer: str = option(
        "top", "the layer whose states ask the memory; with bottom, the layers above read what it finds",
        ("top", "bottom"),
    )  # fmt: skip
    input_feeding: bool = option(True, "the bottom layer reads what was found in the step before")
    residual: int = option(
        0, "the first layer, from 2, whose input is added to its output; 0: none", at_least=0, at_most=1000
    )


@dataclasses.dataclass
class GruDecoderConfig(LstmDecoderConfig):
    """Options of a recurrent decoder."""

    type: str = option("gru", "component")


class RecurrentDecoder(nn.Module):
    """Recurrent layers, one of which attends to a memory.

    Args:
        config: The options.
        shared: Options that all parts of the model share.
        embedding: The target embedding.
        memory_width: M.
        heads: Must be empty: there are no auxiliary heads.

    Raises:
        UserError: options that exclude each other.
    """

    Config = LstmDecoderConfig
    segmented = sees_shares = True
    attends, heads = True, ()
    attention_shape = (1, 1)

    def __init__(self, config: LstmDecoderConfig, shared: Shared, embedding: Embedding, memory_width: int,
                 heads: list[int] = ()):  # fmt: skip
        super().__init__()
        check("model.decoder", config, shared)
        self.bottom = config.attention_layer == "bottom"
        if heads:
            raise UserError(f"model.auxiliary_heads: model.decoder={config.type} has none")
        if self.bottom and config.layers == 1:
            raise UserError("model.decoder.attention_layer=bottom needs a layer above: model.decoder.layers is 1")
        self.config, self.width, D = config, config.width, config.width
        self.dropout, self.embedding, self.most = shared.dropout, embedding, embedding.positions.most
        self.fed = (memory_width if self.bottom else D) if config.input_feeding else 0  # width of the fed input
        above = D + (memory_width if self.bottom else 0)
        self.layers = nn.ModuleList(
            Recurrence(config.type, above if n else D + self.fed, D) for n in range(config.layers)
        )
        self.scores = Scores(config.attention, D, memory_width)
        self.joined = None if self.bottom else nn.Linear(D + memory_width, D, bias=False)

    @staticmethod
    def attending(config: LstmDecoderConfig) -> int:
        """Number of layers that attend to the memory."""
        return 1

    def _zeros(self, rows: int, like: Tensor) -> list[Tensor]:
        """The state before the first step: the states of all layers, and then the fed input."""
        sizes = [self.width] * PARTS[self.config.type] * len(self.layers) + [self.fed]
        return [like.new_zeros(rows, size) for size in sizes]

    def _advance(self, x: Tensor, carried: list[Tensor], attend, run=None) -> tuple[Tensor, list[Tensor]]:
        """Run the layers over positions.

        Args:
            x: Embedded tokens, [B, T, D]; T is 1 with input feeding.
            carried: State after the previous position, with the tensors of `_zeros`.
            attend: Function from states [B, T, D] to contexts [B, T, M].
            run: Function that runs a layer over its input from a zero state; None: the layer runs from `carried`.

        Returns:
            States for the output layer [B, T, D], and the state after the last position.
        """
        *states, fed = carried
        parts, new, context = PARTS[self.config.type], [], x.new_zeros(x.size(0), 1, 0)
        for n, layer in enumerate(self.layers):
            extra = fed[:, None].to(x.dtype) if n == 0 else context
            given = torch.cat([x, extra], dim=2) if extra.size(2) else x
            state = states[n * parts : (n + 1) * parts]
            y, state = layer(given, state) if run is None else (run(layer, given), state)
            y = dropout(y, self.dropout, self.training)
            x, new = x + y if residual(self.config, n) else y, new + state
            if n == 0 and self.bottom:
                fed = context = attend(x)
        if self.joined is not None:
            x = fed = dropout(torch.tanh(self.joined(torch.cat([x, attend(x)], dim=2))), self.dropout, self.training)
        return x, [*new, fed[:, 0] if self.fed else carried[-1]]

    def decode(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, packing: Packing | None = None,
               kept: list[Tensor] | None = None) -> tuple[Tensor, dict[int, Tensor]]:  # fmt: skip
        """Teacher forcing.

        Args:
            seen: The memory states [B, S, M], in a list of one.
            seen_mask: Bool [B, 1, 1 or T, S], true at the positions that a target position may see.
            decoder_input: [B, T] int64, BOS first, right-padded.
            packing: Which example each position belongs to, where rows are packed.
            kept: A list to which the attention weights are appended, [B, T or 1, S] each.

        Returns:
            States for the output layer [B, T, D], and an empty dict of heads.
        """
        x, (memory,), mask = self.embedding(decoder_input, packing and packing.positions), seen, seen_mask.squeeze(1)
        keys, carried = self.scores.key(memory), self._zeros(len(x), memory)

        def attend(query: Tensor, mask: Tensor = mask) -> Tensor:
            weights = self.scores.weights(query, keys, mask)
            if kept is not None:
                kept.append(weights)
            return weights.to(memory.dtype) @ memory

        if not self.fed:
            examples = None if packing is None else Examples(*packing)

            def run(layer: nn.Module, x: Tensor) -> Tensor:
                return layer(x)[0] if examples is None else examples.back(layer(examples.rows(x))[0])

            return self._advance(x, carried, attend, run)[0], {}
        tops = []
        for t in range(x.size(1)):
            if packing is not None:
                goes_on = packing.positions[:, t : t + 1] > 0  # false where an example begins
                carried = [state * goes_on for state in carried]
            here = mask if mask.size(1) == 1 else mask[:, t : t + 1]
            top, carried = self._advance(x[:, t : t + 1], carried, lambda query, here=here: attend(query, here))
            tops.append(top)
        return torch.cat(tops, dim=1), {}

    def cross_attention(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, layer: int) -> Tensor:
        """Attention weights under teacher forcing, fp32 [B, 1, T, S]. Only one layer attends, so `layer` is not
        used."""
        weights: list[Tensor] = []
        self.decode(seen, seen_mask, decoder_input, kept=weights)
        return torch.cat(weights, dim=1)[:, None].float()

    def start(self, seen: list[Tensor], seen_mask: Tensor, rows: int) -> CarriedState:
        """The state before the first step, with `rows` rows for each sentence; other arguments as in `decode`."""
        (memory,) = seen
        held = [self.scores.key(memory), memory]
        return CarriedState(held, seen_mask[:, 0, 0], self._zeros(len(memory) * rows, memory), rows, self.most)

    def step(self, tokens: Tensor, state: CarriedState) -> Tensor:
        """Advance every row by one token. tokens: [R] int64. Returns states for the output layer, [B, K, D]."""
        state.begin()
        K, (keys, memory) = state.rows, state.held
        x = self.embedding(tokens.view(-1, K), positions=state.positions.expand(-1, K), length=state.length)

        def attend(query: Tensor) -> Tensor:
            weights = self.scores.weights(query.view(-1, K, query.size(2)), keys, state.mask[:, None])
            return (weights @ memory).flatten(0, 1)[:, None]

        x, carried = self._advance(x.flatten(0, 1)[:, None], state.carried, attend)
        state.advance(carried)
        return x.view(-1, K, x.size(2))

    def flops(self, memory: Tensor, target: Tensor) -> int:
        """Floating-point operations of the matrix products; memory, target: lengths, [B] int64 each."""
        S, T = int(memory.sum()), int(target.sum())
        key = self.scores.key.weight.numel()
        linear = sum(p.numel() for p in self.parameters() if p.dim() == 2)
        linear -= sum(p.numel() for p in self.embedding.parameters()) + key
        return 2 * (S * key + T * linear) + 4 * self.width * int((memory * target).sum())


class GruDecoder(RecurrentDecoder):
    """The decoder with GRU layers."""

    Config = GruDecoderConfig
    segmented = True
