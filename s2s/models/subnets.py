"""Sub-networks of a model with nested layers, as plain models."""

from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.nn.elastic import cut, light
from s2s.nn.nested import nested_layers


def subnet(model: EncoderDecoder, which: str, option: str = "decode.subnet") -> EncoderDecoder:
    """A copy of a model that has only a part of it. The weights are shared, and the model does not change.

    Args:
        model: A model with nested layers.
        which: The width of the feed-forward blocks, as a fraction; or one for each nested layer, with commas between.
        option: Where `which` comes from, for errors.

    Raises:
        UserError: the model has no such part.
    """
    said = f"{option}={which}"
    other = light(model)
    layers = nested_layers(other)
    if not layers:
        raise UserError(f"{said}: the model has no nested layers, such as those of model=matformer_tiny")
    try:
        widths = [float(word) for word in which.split(",")]
    except ValueError:
        raise UserError(f"{said}: must be a number, or one for each layer, such as 0.5,1,1") from None
    widths *= len(layers) if len(widths) == 1 else 1
    if len(widths) != len(layers):
        raise UserError(f"{said}: {len(widths)} widths, and the model has {len(layers)} nested layers")
    for layer, width in zip(layers, widths, strict=True):
        try:
            layer.narrow(width)
        except UserError as error:
            raise UserError(f"{said}: {error}") from None
    return cut(other)


def smallest(model: EncoderDecoder) -> str:
    """The smallest part of a model, for `subnet`."""
    return ",".join(f"{min(layer.sizes):g}" for layer in nested_layers(model)) or "0"
