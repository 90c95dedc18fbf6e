"""Sub-networks of a model with nested layers or of a super-transformer, as models of their own."""

from pathlib import Path

from s2s.config.documents import read_yaml
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.nn.elastic import cut, light
from s2s.nn.nested import nested_layers
from s2s.nn.super_stack import SuperStack

SHAPE = {"layers": int, ...: [int]}
SIDES = {"encoder?": SHAPE, "decoder?": SHAPE}


def subnet(model: EncoderDecoder, which: str, option: str = "decode.subnet") -> EncoderDecoder:
    """A copy of a model that has only a part of it. The weights are shared, and the model does not change.

    Args:
        model: A model with nested layers, or a super-transformer.
        which: The width of the feed-forward blocks, as a fraction; or one for each nested layer, with commas between.
            For a super-transformer: a YAML file that has a choice (s2s/nn/super_stack.py) for each side.
        option: Where `which` comes from, for errors.

    Raises:
        UserError: the model has no such part.
    """
    said = f"{option}={which}"
    if stacks(model):
        try:
            return chosen(model, read_yaml(Path(which), SIDES))
        except UserError as error:
            raise UserError(f"{said}: {error}") from None
    other = light(model)
    layers = nested_layers(other)
    if not layers:
        raise UserError(f"{said}: the model has no parts, as those of model=matformer_tiny and model=hat_tiny have")
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


def stacks(model: EncoderDecoder) -> dict[str, SuperStack]:
    """The parts of a super-transformer, by `encoder` and `decoder`; there are none in other models."""
    sides = {"encoder": model.encoder, "decoder": model.decoder}
    return {side: part for side, part in sides.items() if isinstance(part, SuperStack)}


def chosen(model: EncoderDecoder, choices: dict[str, dict]) -> EncoderDecoder:
    """The sub-network of a super-transformer that has these choices; for each side that is not there, all of it."""
    other = light(model)
    parts = stacks(other)
    for side in choices.keys() - parts.keys():
        raise UserError(f"{side}: model.{side} is not super")
    for side, choice in choices.items():
        parts[side].use(choice)
    other = cut(other)
    for part in stacks(other).values():
        part.cut()
    return other


def smallest(model: EncoderDecoder) -> str:
    """The smallest part of a model with nested layers, for `subnet`. Raises UserError: it has none."""
    layers = nested_layers(model)
    if not layers:
        raise UserError("decode.speculative=self: the model has no nested layers, as those of model=matformer_tiny; "
                        "decode.draft_subnet names a part of another model")  # fmt: skip
    return ",".join(f"{min(layer.sizes):g}" for layer in layers)
