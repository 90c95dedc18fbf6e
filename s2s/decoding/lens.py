"""DecoderLens: the decoder reads a lower encoder layer, so that its output shows what this layer represents.

Paper: Langedijk et al., "DecoderLens: Layerwise Interpretation of Encoder-Decoder Transformers", Findings of NAACL
2024, https://arxiv.org/abs/2310.03686.

A trained model is decoded without change, except that the decoder attends to the states after the first n encoder
layers, normalised by the last norm of the encoder, [B, S, D]. The layers above n are not computed. The CTC output of a
speech model reads the same states.

Use: `s2s-generate checkpoint=RUN input=test.de output=2.en decode.encoder_layer=2`, for each layer, and `s2s-score
hypothesis=2.en reference=test.en`

Left out: nothing. A bridge that mixes encoder layers is refused, because its decoder was not trained on a single layer.
Uncertain: whether the paper applies the last norm; the decoder of a pre-norm encoder was trained on normalised states.
"""

from torch import nn

from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


def lens(model: EncoderDecoder, layer: int) -> EncoderDecoder:
    """A copy of a model whose decoder reads encoder layer `layer`, from 1. The weights are shared, and the model does
    not change.

    Raises:
        UserError: there is no such layer, or the decoder reads several encoder layers.
    """
    said = f"decode.encoder_layer={layer}"
    if not model.has_decoder or model.encoder is None or not hasattr(model.encoder, "first"):
        raise UserError(f"{said}: the model has no encoder layers that a decoder could read")
    if model.bridge.needs:
        raise UserError(f"{said}: model.bridge={model.config.bridge.type} has the decoder read several encoder layers")
    if layer > len(model.encoder.layers):
        raise UserError(f"{said}: the encoder has {len(model.encoder.layers)} layers")
    more = nn.ModuleList(encoder.first(layer) for encoder in model.more_encoders)
    return model.light(encoder=model.encoder.first(layer), more_encoders=more)
