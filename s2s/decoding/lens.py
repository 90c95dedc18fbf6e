"""DecoderLens: the decoder reads a lower layer of the encoder, and its output shows what that layer knows.

Paper: Langedijk et al., "DecoderLens: Layerwise Interpretation of Encoder-Decoder Transformers", Findings of NAACL
2024, https://arxiv.org/abs/2310.03686.

A trained model is decoded as it is, but what the decoder attends to are the states after the first n encoder layers,
through the encoder's last norm, [B, S, D]; the layers above n are not computed. CTC of a model of speech reads the same
states.

Use: `s2s-generate checkpoint=RUN input=test.de output=2.en decode.encoder_layer=2`, for each layer, and `s2s-score
hypothesis=2.en reference=test.en`

Left out: nothing. A bridge that mixes encoder layers is refused: its decoder never read one layer alone. Uncertain:
whether the paper applies the last norm; without it, the states of a pre-norm encoder are not what the decoder knows.
"""

from torch import nn

from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


def lens(model: EncoderDecoder, layer: int) -> EncoderDecoder:
    """A model whose decoder reads an encoder layer, from 1; weights are shared, and the model stays as it is.

    Raises:
        UserError: there is no such layer, or the decoder does not read the last one alone.
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
