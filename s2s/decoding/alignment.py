"""Which positions of the source's memory the tokens of a hypothesis look at: weights of cross-attention.

They are found by teacher forcing when hypotheses have finished, so that no step of a search computes weights.

A position is a token of the source (the last one EOS), or several where the front-end makes one state of them.

Shapes: B hypotheses, T target positions (EOS among them), S positions of the memory of a source.
"""

from typing import Any

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
    def __call__(self, inputs: Inputs, decoder_input: Tensor) -> list[np.ndarray]:
        """float32 [T, S] of each sentence; decoder_input: [B, T] int64, BOS first. Row t is of the position that
        predicts token t. Raises UserError: the models' memories of a sentence have different lengths."""
        total, lengths = 0, None
        for model, layer in zip(self.models, self.layers, strict=True):
            memory = model.encode(*inputs)
            if lengths is not None and not torch.equal(memory.lengths, lengths):
                raise UserError("alignment and decode.coverage_penalty: the models make memories of different lengths "
                                "of a source, so that their attention has no mean; use one model")  # fmt: skip
            lengths = memory.lengths
            weights = model.cross_attention(memory, decoder_input, layer)
            total = total + (weights.mean(dim=1) if self.head is None else weights[:, self.head - 1])
        mean = (total / len(self.models)).cpu().numpy()
        return [rows[:, :length] for rows, length in zip(mean, lengths.tolist(), strict=True)]


def position_symbols(task, model: EncoderDecoder, source: Any, size: int) -> list[str]:
    """What the positions of the memory of a source are called.

    Args:
        task: It has names for the tokens of a text and the positions of a recording.
        model: Its front-end says how many tokens become a state, if it is always the same number (`stride`).
        source: Without tags.
        size: Positions of its memory.
    """
    symbols = task.source_symbols(source, size)
    if len(symbols) == size:
        return symbols
    stride = getattr(model.frontend, "stride", None)
    if stride is None or -(-len(symbols) // stride) != size:
        return [f"{place}/{size}" for place in range(1, size + 1)]
    return ["".join(symbols[first : first + stride]) for first in range(0, len(symbols), stride)]
