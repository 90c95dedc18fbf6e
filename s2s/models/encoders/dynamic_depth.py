"""I3D: input-dependent gates decide which blocks of the encoder are computed.

Paper: Peng, Lee and Watanabe, "I3D: Transformer Architectures with Input-Dependent Dynamic Depth for Speech
Recognition", ICASSP 2023, https://arxiv.org/abs/2303.07624.

The attention block and the feed-forward block of each of N layers have a gate: x + g * f(x), x [B, S, D], g [B]. Two
linear maps with ReLU between them predict the gates from the mean of x over real positions, [B, D]. With `gates=local`
each layer predicts its gates from its own input; with `gates=global` all 2 N gates are predicted from the input of the
encoder. In training, g is a Gumbel-softmax sample of two logits, for computing and for skipping. Otherwise g is 1 if
the probability of computing is at least `threshold`, and 0 if not; a block is computed only for rows whose gate is 1.
The term `depth` penalises the share of computed blocks.

Use: `model.encoder=dynamic_depth model.encoder.gates=local criterion=depth criterion.depth.weight=0.1`

Left out: gates of whole layers in place of blocks; CTC, because `model=speech` has another encoder: recordings are read
with `model.frontend=subsampling`. Uncertain: the initial weights; here gates are open initially.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Memory, Shared, States
from s2s.models.stack import LayeredEncoder, StackConfig, check_heads
from s2s.nn.attention import length_mask
from s2s.nn.dropout import dropout
from s2s.nn.layers import Layer
from s2s.nn.norms import norm_of

OPEN = 2.0  # initial logit of computing; that of skipping is 0


@dataclasses.dataclass
class DynamicDepthConfig(StackConfig):
    """Options of the encoder."""

    gates: str = option("local", "gates see the input of their layer, or that of the encoder", ("local", "global"))
    gate_width: int = option(32, "inner width of what predicts gates", at_least=1, at_most=65_536)
    threshold: float = option(0.5, "probability from which a block is computed", at_least=0, at_most=1)
    type: str = option("dynamic_depth", "component")


class Gates(nn.Module):
    """Predicts gates from states.

    Args:
        width: D.
        inner: Inner width.
        count: Number of gates, n.
    """

    def __init__(self, width: int, inner: int, count: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, 2 * count, bias=False)
        self.bias = nn.Parameter(torch.tensor([OPEN, 0.0]))

    def forward(self, x: Tensor, real: Tensor, threshold: float) -> Tensor:
        """x: [B, S, D]; real: bool [B, S, 1]. Returns gates [B, n]: samples in training, otherwise 0 or 1."""
        mean = (x * real).sum(1) / real.sum(1)
        logits = self.outer(self.inner(mean).relu()).unflatten(1, (-1, 2)) + self.bias  # of computing, of skipping
        if self.training:
            return nn.functional.gumbel_softmax(logits.float(), dim=-1)[..., 0]
        return (logits.float().softmax(-1)[..., 0] >= threshold).float()


class GatedLayer(Layer):
    """A pre-norm layer whose blocks are scaled by gates."""

    def forward(self, x: Tensor, mask: Tensor, gates: Tensor) -> Tensor:
        """x: [B, S, D]; mask: as in Layer; gates: [B, 2], of attention and feed-forward."""
        x = self._gated(x, gates[:, 0], lambda x, mask: self.attention(self.attention_norm(x), mask), mask)
        return self._gated(x, gates[:, 1], lambda x, mask: self.feedforward(self.feedforward_norm(x)), mask)

    def _gated(self, x: Tensor, gates: Tensor, block, mask: Tensor) -> Tensor:
        if self.training:
            return x + gates[:, None, None].to(x.dtype) * dropout(block(x, mask), self.dropout, True)
        rows = gates.nonzero()[:, 0]
        return x.index_add(0, rows, block(x[rows], mask[rows]).to(x.dtype)) if len(rows) else x


class DynamicDepthEncoder(LayeredEncoder):
    """A Transformer encoder whose blocks have gates.

    Args:
        config: The options.
        shared: Options that all parts of the model share.

    Attributes:
        needed: As in TransformerEncoder.

    Raises:
        UserError: heads that do not divide the width, or a norm after the blocks.
    """

    Config = DynamicDepthConfig
    exits = ()

    def __init__(self, config: DynamicDepthConfig, shared: Shared):
        super().__init__()
        check_heads("model.encoder", config, shared.positions)
        if shared.norm != "pre":
            raise UserError(f"model.norm={shared.norm}: model.encoder=dynamic_depth has pre only")
        self.config, self.width = config, config.width
        self.layers = nn.ModuleList(GatedLayer(**shared.layer(config)) for _ in range(config.layers))
        shape = [2] * config.layers if config.gates == "local" else [2 * config.layers]
        self.gates = nn.ModuleList(Gates(config.width, config.gate_width, count) for count in shape)
        self.norm, self.needed = norm_of(shared.norm_type, config.width), ()
        self.relative = shared.relative_bias(config.heads, causal=False)

    def forward(self, source: States) -> Memory:
        """As in TransformerEncoder. `auxiliary` holds the gates as `computed`, [B, N, 2]."""
        x, keys, threshold = source.values, length_mask(source.lengths, source.values.size(1)), self.config.threshold
        real = keys[:, 0, 0, :, None]
        every = self.gates[0](x, real, threshold).unflatten(1, (-1, 2)) if self.config.gates == "global" else None
        mask = keys if self.relative is None else self.relative.masked(keys)
        states, computed = [], []
        for number, layer in enumerate(self.layers):
            computed.append(self.gates[number](x, real, threshold) if every is None else every[:, number])
            x = layer(x, mask, computed[-1])
            if number + 1 in self.needed:
                states.append(x)
        return Memory([*states, self.norm(x)], source.lengths, keys, auxiliary={"computed": torch.stack(computed, 1)})
