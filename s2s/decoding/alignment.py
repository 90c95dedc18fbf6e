"""Alignments of target tokens to positions of the source's memory, from the weights of cross-attention.


The weights are computed by teacher forcing after hypotheses have finished, so no step of a search computes them.

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
    """Cross-attention weights of one decoder layer: of one head, or the mean of all heads; the mean over an ensemble.

    Args:
        models: One or an ensemble, in evaluation mode.
        config: Decode options; `alignment_layer` and `alignment_head` choose the weights.

    Raises:
        UserError: a model has no such layer or head.
    """

    def __init__(self, models: list[EncoderDecoder], config: DecodeConfig):
        self.models, self.head = models, config.alignment_head
        self.layers = []  # from 0
        for model in models:
            layers, heads = model.attention_shape
            if not layers:
                raise UserError("alignment and decode.coverage_penalty: the decoder does not attend to the source")
            layer = config.alignment_layer or _default(model, layers)
            for key, value, count in (("layer", layer, layers), ("head", self.head or 1, heads)):
                if value > count:
                    raise UserError(f"decode.alignment_{key}={value}: the decoder has only {count} {key}s")
            self.layers.append(layer - 1)

    @torch.inference_mode()
    def __call__(self, inputs: Inputs, decoder_input: Tensor) -> list[np.ndarray]:
        """Weights, float32 [T, S] for each sentence; row t belongs to the position that predicts token t.

        Args:
            inputs: Sources, as the models' input.
            decoder_input: [B, T] int64, BOS first.

        Raises:
            UserError: the models' memories of a sentence have different lengths.
        """
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


def _default(model: EncoderDecoder, layers: int) -> int:
    """The layer before the last one, from 1, or the nearest that attends to the source."""
    wanted = max(1, layers - 1)
    attending = [number for number, layer in enumerate(getattr(model.decoder, "layers", ()), 1)
                 if getattr(layer, "attends", True)]  # fmt: skip
    return min(attending, key=lambda number: abs(number - wanted), default=wanted)


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
