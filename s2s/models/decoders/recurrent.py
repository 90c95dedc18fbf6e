"""Recurrent decoders: LSTM or GRU layers, with dot, additive or no attention, and input feeding.

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

The first state is zero. With `start=encoder` each layer begins with the last state of the encoder's layer of the same
number, as in Sutskever et al., https://arxiv.org/abs/1409.3215; for both directions it is that of each, side by side. A
learned map changes its width where that of the decoder is another. With `attention=none` this is all that the decoder
sees of the source.

Use: model=lstm; model=gnmt; model.decoder=gru model.decoder.attention=additive model.decoder.input_feeding=false;
model=lstm model.decoder.attention=none model.decoder.input_feeding=false model.decoder.start=encoder

Left out: Luong's local attention. Bahdanau's state attends before it reads the last token; here it attends after that,
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
    input_width: int | None = option(
        None, "width of the embedded tokens, which the first layer reads; null: width", at_least=1, at_most=65_536
    )
    output_width: int | None = option(
        None, "width of a learned linear map of the states, which the output layer reads; null: no map", at_least=1,
        at_most=65_536,
    )  # fmt: skip
    start: str = option("zero", "the first state: zero, or the last one of the encoder", ("zero", "encoder"))
    attention: str = option(
        "dot", "how a state is compared with the memory; none: the decoder does not attend to it", (*SCORES, "none")
    )
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

    Attributes:
        width: Width of what the output layer reads.
        reads_last: Whether what is seen includes the last states of the encoder, as in `Memory.last`.

    Raises:
        UserError: options that exclude each other.
    """

    Config = LstmDecoderConfig
    segmented = sees_shares = True
    attends, heads = True, ()

    def __init__(self, config: LstmDecoderConfig, shared: Shared, embedding: Embedding, memory_width: int,
                 heads: list[int] = ()):  # fmt: skip
        super().__init__()
        check("model.decoder", config, shared)
        self.bottom = config.attention_layer == "bottom"
        if heads:
            raise UserError(f"model.auxiliary_heads: model.decoder={config.type} has none")
        if self.bottom and config.layers == 1:
            raise UserError("model.decoder.attention_layer=bottom needs a layer above: model.decoder.layers is 1")
        self.reads_last, asks = config.start == "encoder", config.attention != "none"
        if not asks and (self.bottom or not self.reads_last):
            raise UserError("model.decoder.attention=none requires model.decoder.start=encoder, without which nothing "
                            "is seen of the source, and attention_layer=top")  # fmt: skip
        self.config, D = config, config.width
        self.dropout, self.embedding, self.most = shared.dropout, embedding, embedding.positions.most
        self.fed = (memory_width if self.bottom else D) if config.input_feeding else 0  # width of the fed input
        first, above = (config.input_width or D) + self.fed, D + (memory_width if self.bottom else 0)
        self.layers = nn.ModuleList(Recurrence(config.type, above if n else first, D) for n in range(config.layers))
        self.scores = Scores(config.attention, D, memory_width) if asks else None
        self.joined = nn.Linear(D + memory_width, D, bias=False) if asks and not self.bottom else None
        self.width = config.output_width or D
        self.outer = None if config.output_width is None else nn.Linear(D, config.output_width)
        parts = PARTS[config.type] if self.reads_last and memory_width != D else 0
        self.first = nn.ModuleList(nn.Linear(memory_width, D) for _ in range(parts))
        self.attention_shape = (1, 1) if asks else (0, 0)

    @staticmethod
    def attending(config: LstmDecoderConfig) -> int:
        """Number of layers that attend to the memory."""
        return 1

    def _begin(self, seen: list[Tensor], rows: int) -> list[Tensor]:
        """The state before the first step: the states of all layers, and then the fed input; each [rows, width]."""
        count, like = PARTS[self.config.type] * len(self.layers), seen[0]
        if not self.reads_last:
            return [like.new_zeros(rows, size) for size in [self.config.width] * count + [self.fed]]
        states = list(seen[1].unbind(1))
        if self.first:
            states = [self.first[n % len(self.first)](state) for n, state in enumerate(states)]
        return [*states, like.new_zeros(rows, self.fed)]

    def _advance(self, x: Tensor, carried: list[Tensor], attend, run=None) -> tuple[Tensor, list[Tensor]]:
        """Run the layers over positions.

        Args:
            x: Embedded tokens, [B, T, width]; T is 1 with input feeding.
            carried: State after the previous position, with the tensors of `_begin`.
            attend: Function from states [B, T, D] to contexts [B, T, M].
            run: Function that runs a layer over its input from a state, in another form than rows; None: the layer.

        Returns:
            States for the output layer [B, T, D], and the state after the last position.
        """
        *states, fed = carried
        parts, new, context = PARTS[self.config.type], [], x.new_zeros(x.size(0), 1, 0)
        for n, layer in enumerate(self.layers):
            extra = fed[:, None].to(x.dtype) if n == 0 else context
            given = torch.cat([x, extra], dim=2) if extra.size(2) else x
            state = states[n * parts : (n + 1) * parts]
            y, state = layer(given, state) if run is None else (run(layer, given, state), state)
            y = dropout(y, self.dropout, self.training)
            x, new = x + y if residual(self.config, n) else y, new + state
            if n == 0 and self.bottom:
                fed = context = attend(x)
        if self.joined is not None:
            x = fed = dropout(torch.tanh(self.joined(torch.cat([x, attend(x)], dim=2))), self.dropout, self.training)
        elif not self.bottom:
            fed = x
        if self.outer is not None:
            x = dropout(self.outer(x), self.dropout, self.training)
        return x, [*new, fed[:, 0] if self.fed else carried[-1]]

    def decode(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, packing: Packing | None = None,
               kept: list[Tensor] | None = None) -> tuple[Tensor, dict[int, Tensor]]:  # fmt: skip
        """Teacher forcing.

        Args:
            seen: The memory states [B, S, M], and then the last states of the encoder if the decoder `reads_last`.
            seen_mask: Bool [B, 1, 1 or T, S], true at the positions that a target position may see.
            decoder_input: [B, T] int64, BOS first, right-padded.
            packing: Which example each position belongs to, where rows are packed.
            kept: A list to which the attention weights are appended, [B, T or 1, S] each.

        Returns:
            States for the output layer [B, T, width], and an empty dict of heads.
        """
        x, memory = self.embedding(decoder_input, packing and packing.positions), seen[0]
        mask, keys = seen_mask.squeeze(1), None if self.scores is None else self.scores.key(memory)
        examples = None if packing is None else Examples(*packing)
        carried = first = self._begin(seen, len(x) if examples is None else len(examples.lengths))

        def attend(query: Tensor, mask: Tensor = mask) -> Tensor:
            weights = self.scores.weights(query, keys, mask)
            if kept is not None:
                kept.append(weights)
            return weights.to(memory.dtype) @ memory

        if not self.fed:

            def run(layer: nn.Module, x: Tensor, state: list[Tensor]) -> Tensor:
                return layer(x, state)[0] if examples is None else examples.back(layer(examples.rows(x), state)[0])

            return self._advance(x, carried, attend, run)[0], {}
        tops = []
        for t in range(x.size(1)):
            if packing is not None:  # a row takes up the first state of each example where it begins
                counts = packing.segments[:, -1] + 1
                number = packing.segments[:, t] + counts.cumsum(0) - counts
                goes_on = packing.positions[:, t : t + 1] > 0
                carried = [start[number] if t == 0 else torch.where(goes_on, state, start[number])
                           for state, start in zip(carried, first, strict=True)]  # fmt: skip
            here = mask if mask.size(1) == 1 else mask[:, t : t + 1]
            top, carried = self._advance(x[:, t : t + 1], carried, lambda query, here=here: attend(query, here))
            tops.append(top)
        return torch.cat(tops, dim=1), {}

    def cross_attention(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, layer: int) -> Tensor:
        """Attention weights under teacher forcing, fp32 [B, 1, T, S]. At most one layer attends, so `layer` is not
        used. Raises UserError: none does."""
        if self.scores is None:
            raise UserError("model.decoder.attention=none: there are no weights of attention")
        weights: list[Tensor] = []
        self.decode(seen, seen_mask, decoder_input, kept=weights)
        return torch.cat(weights, dim=1)[:, None].float()

    def start(self, seen: list[Tensor], seen_mask: Tensor, rows: int) -> CarriedState:
        """The state before the first step, with `rows` rows for each sentence; other arguments as in `decode`."""
        memory = seen[0]
        held = [] if self.scores is None else [self.scores.key(memory), memory]
        first = [state.repeat_interleave(rows, 0) for state in self._begin(seen, len(memory))]
        return CarriedState(held, seen_mask[:, 0, 0], first, rows, self.most)

    def step(self, tokens: Tensor, state: CarriedState) -> Tensor:
        """Advance every row by one token. tokens: [R] int64. Returns states for the output layer, [B, K,
        width]."""
        state.begin()
        K = state.rows
        x = self.embedding(tokens.view(-1, K), positions=state.positions.expand(-1, K), length=state.length)

        def attend(query: Tensor) -> Tensor:
            keys, memory = state.held
            weights = self.scores.weights(query.view(-1, K, query.size(2)), keys, state.mask[:, None])
            return (weights @ memory).flatten(0, 1)[:, None]

        x, carried = self._advance(x.flatten(0, 1)[:, None], state.carried, attend)
        state.advance(carried)
        return x.view(-1, K, x.size(2))

    def flops(self, memory: Tensor, target: Tensor) -> int:
        """Floating-point operations of the matrix products; memory, target: lengths, [B] int64 each."""
        S, T = int(memory.sum()), int(target.sum())
        linear = sum(p.numel() for p in self.parameters() if p.dim() == 2)
        once = sum(p.numel() for p in self.first.parameters() if p.dim() == 2)
        key = 0 if self.scores is None else self.scores.key.weight.numel()
        linear -= sum(p.numel() for p in self.embedding.parameters()) + key + once
        pairs = 0 if self.scores is None else int((memory * target).sum())
        return 2 * (S * key + T * linear + len(target) * len(self.layers) * once) + 4 * self.config.width * pairs


class GruDecoder(RecurrentDecoder):
    """The decoder with GRU layers."""

    Config = GruDecoderConfig
    segmented = True
