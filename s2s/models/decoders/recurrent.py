"""Recurrent decoders with attention: LSTM or GRU layers, dot or additive scores, input feeding.

Paper: Luong et al., "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
https://arxiv.org/abs/1508.04025; Bahdanau et al., ICLR 2015, https://arxiv.org/abs/1409.0473, for additive scores;
Wu et al., "Google's Neural Machine Translation System", 2016, https://arxiv.org/abs/1609.08144, for the bottom layer.

Layers are recurrences over embedded target tokens, [B, T, D]. The states of one of them ask the memory [B, S, M]:
weights are the softmax of the scores over the S positions, the context is the weighted mean of the memory. With
`attention_layer=top` the output is for tanh(W [context; state]); with `bottom` the context is an input of all layers
above the bottom one, and the output is for the top state. `input_feeding` makes that vector, or the context, of the
step before an input of the bottom layer: then training has a step for each position, else it has one call for each
layer. What is carried from step to step is of one size, however long a hypothesis is.

Use: model=lstm; model=gnmt; model.decoder=gru model.decoder.attention=additive model.decoder.input_feeding=false

Left out: Luong's local attention; the first state from the encoder's last one: it is zero, and the memory is looked at
before the first output. Bahdanau's state asks before it takes in the last token, and the one here after that, as
Luong's does. GNMT's bottom state asks one step late in the paper, and here (as in NVIDIA's code) at once, which is what
makes training parallel; with input_feeding=true the bottom layer has the context of the step before, too.
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
from s2s.nn.recurrent import PARTS, Examples, Recurrence
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
        config: Its options.
        shared: Options of the model.
        embedding: Of target tokens.
        memory_width: M.
        heads: Layers whose states predict the target too: there are none.

    Raises:
        UserError: options that do not go together.
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
        self.fed = (memory_width if self.bottom else D) if config.input_feeding else 0  # numbers of what is fed
        above = D + (memory_width if self.bottom else 0)
        self.layers = nn.ModuleList(
            Recurrence(config.type, above if n else D + self.fed, D) for n in range(config.layers)
        )
        self.scores = Scores(config.attention, D, memory_width)
        self.joined = None if self.bottom else nn.Linear(D + memory_width, D, bias=False)

    @staticmethod
    def attending(config: LstmDecoderConfig) -> int:
        """How many of its layers attend to the memory."""
        return 1

    def _zeros(self, rows: int, like: Tensor) -> list[Tensor]:
        """What is carried to the first step: the states of the layers, one after the other, and what is fed."""
        sizes = [self.width] * PARTS[self.config.type] * len(self.layers) + [self.fed]
        return [like.new_zeros(rows, size) for size in sizes]

    def _advance(self, x: Tensor, carried: list[Tensor], attend, run=None) -> tuple[Tensor, list[Tensor]]:
        """Some positions through the layers.

        Args:
            x: Embedded tokens, [B, T, D]; T is 1 with input feeding.
            carried: As of `_zeros`, from the position before.
            attend: States [B, T, D] -> context [B, T, M].
            run: How a layer is run over x; None: from its state.

        Returns:
            What the output is for, [B, T, D], and what is carried on.
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
            seen: What the layer that attends sees, [B, S, M], alone in a list.
            seen_mask: Bool [B, 1, 1 or T, S], true where a target position may look.
            decoder_input: [B, T] int64, BOS first, right-padded.
            packing: Of rows that hold several examples.
            kept: Is given the weights of the attention, each [B, T or 1, S].

        Returns:
            What the output is for, [B, T, D], and no heads.
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
                goes_on = packing.positions[:, t : t + 1] > 0  # else an example begins
                carried = [part * goes_on for part in carried]
            here = mask if mask.size(1) == 1 else mask[:, t : t + 1]
            top, carried = self._advance(x[:, t : t + 1], carried, lambda query, here=here: attend(query, here))
            tops.append(top)
        return torch.cat(tops, dim=1), {}

    def cross_attention(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, layer: int) -> Tensor:
        """Weights of the attention to the memory under teacher forcing, fp32 [B, 1, T, S]; there is one layer of it."""
        weights: list[Tensor] = []
        self.decode(seen, seen_mask, decoder_input, kept=weights)
        return torch.cat(weights, dim=1)[:, None].float()

    def start(self, seen: list[Tensor], seen_mask: Tensor, rows: int) -> CarriedState:
        """State for decoding `rows` rows of each sentence; arguments as of `decode`."""
        (memory,) = seen
        held = [self.scores.key(memory), memory]
        return CarriedState(held, seen_mask[:, 0, 0], self._zeros(len(memory) * rows, memory), rows, self.most)

    def step(self, tokens: Tensor, state: CarriedState) -> Tensor:
        """Advance every row by one token. tokens: [R] int64. Returns what the output is for, [B, K, D]."""
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
        """Operations of matrix products over memories and targets of these lengths, both [B] int64."""
        S, T = int(memory.sum()), int(target.sum())
        key = self.scores.key.weight.numel()
        linear = sum(p.numel() for p in self.parameters() if p.dim() == 2)
        linear -= sum(p.numel() for p in self.embedding.parameters()) + key
        return 2 * (S * key + T * linear) + 4 * self.width * int((memory * target).sum())


class GruDecoder(RecurrentDecoder):
    """GRU layers."""

    Config = GruDecoderConfig
    segmented = True
