"""Which source positions the tokens of a hypothesis look at: weights of cross-attention.

They are found by teacher forcing when hypotheses have finished, so that no step of a search computes weights.

Shapes: B hypotheses, T target positions (EOS among them), S source positions (EOS among them).
"""

import numpy as np
import torch
from torch import Tensor

from s2s.data.batch import Inputs
from s2s.decoding.config import DecodeConfig
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


class Attention:
    """Weights of one decoder layer, of a head or the mean of all; of several models their mean.

    Args:
        models: In evaluation mode.
        config: Decode options.

    Raises:
        UserError: a layer or head that a model does not have.
    """

    def __init__(self, models: list[EncoderDecoder], config: DecodeConfig):
        self.models, self.head = models, config.alignment_head
        self.layers = []  # from 0
        for model in models:
            layers, heads = model.attention_shape
            layer = config.alignment_layer or max(1, layers - 1)
            for key, value, most in (("layer", layer, layers), ("head", self.head or 1, heads)):
                if value > most:
                    raise UserError(f"decode.alignment_{key}={value}: the decoder has {most} of them")
            self.layers.append(layer - 1)

    @torch.inference_mode()
    def __call__(self, inputs: Inputs, decoder_input: Tensor) -> np.ndarray:
        """float32 [B, T, S]; decoder_input: [B, T] int64, BOS first. Row t is of the position that predicts token t."""
        total = 0
        for model, layer in zip(self.models, self.layers, strict=True):
            weights = model.cross_attention(model.encode(*inputs), decoder_input, layer)
            total = total + (weights.mean(dim=1) if self.head is None else weights[:, self.head - 1])
        return (total / len(self.models)).cpu().numpy()
