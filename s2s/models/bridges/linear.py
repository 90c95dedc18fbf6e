"""Linear bridge: each decoder layer sees a learned linear map of all encoder layers.

Paper: Song, "Rethinking the adaptive relationship between Encoder Layers and Decoder Layers", 2024,
https://arxiv.org/abs/2405.08570.

The states of the N encoder layers are concatenated, [B, S, N * D]. Each decoder layer has a matrix [N * D, D] without
bias, which maps them to the memory of this layer, [B, S, D]. With `weights=layer`, one number for each encoder layer
replaces a block [D, D] of the matrix. Initially the matrix is the identity on one encoder layer. With `start=top` this
is the last layer, so that the model equals one without the bridge; with `start=same_depth` it is the encoder layer at
the depth of the decoder layer. States below the top are normalised without weights, because a pre-norm encoder does not
normalise them.

Use: `model.bridge=linear model.bridge.start=top`

Left out: nothing of the architecture; fine-tuning a trained model is `train.init.checkpoint=RUN` with `start=top`.
Uncertain: the paper's second start, which it calls GCA, is not written out where we could read it; `same_depth` is the
usual meaning.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from s2s.config.schema import option
from s2s.models.contract import Memory


@dataclasses.dataclass
class LinearBridgeConfig:
    """Options of the bridge."""

    type: str = option("linear", "component")
    weights: str = option("matrix", "for each encoder layer: a matrix, or one number (layer)", ("matrix", "layer"))
    start: str = option(
        "top", "encoder layer that a decoder layer sees at first: the last, or that of its own depth",
        ("top", "same_depth"),
    )  # fmt: skip


class LinearBridge(nn.Module):
    """A linear map of all encoder layers for each decoder layer.

    Args:
        config: The options.
        width: D.
        encoder_layers: N.
        decoder_layers: Number of decoder layers with cross-attention.

    Attributes:
        needs, width: As in TopBridge.
        weights: [decoder layers, N * D, D], or [decoder layers, N].
    """

    Config = LinearBridgeConfig

    def __init__(self, config: LinearBridgeConfig, width: int, encoder_layers: int, decoder_layers: int):
        super().__init__()
        self.width, self.needs = width, tuple(range(1, encoder_layers))
        layers = torch.arange(1, decoder_layers + 1)
        first = (layers * encoder_layers / decoder_layers).ceil().long() - 1
        if config.start == "top":
            first = torch.full_like(layers, encoder_layers - 1)
        weights = torch.eye(encoder_layers)[first]  # [decoder layers, N]
        if config.weights == "matrix":
            weights = (weights[:, :, None, None] * torch.eye(width)).flatten(1, 2)
        self.weights = nn.Parameter(weights)

    def join(self, memories: list[Memory]) -> Memory:
        """As in TopBridge."""
        (memory,) = memories
        return memory

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """The memory states of each decoder layer, [B, S, D]."""
        states = [*(layer_norm(x, x.shape[-1:]) for x in memory.states[:-1]), memory.top]
        if self.weights.dim() == 3:
            beside = torch.cat(states, -1)
            return [beside @ matrix for matrix in self.weights]
        several = torch.stack(states, -1)  # [B, S, D, N]
        return [several @ weights for weights in self.weights]
