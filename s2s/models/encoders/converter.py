"""LCS: the upper encoder layers are told the target's language, and the lower ones are not.

Paper: Sun et al., "LCS: A Language Converter Strategy for Zero-Shot Neural Machine Translation", Findings of ACL 2024,
https://arxiv.org/abs/2406.02876.

The lower layers of the encoder do not know into which language a sentence goes, so that they treat all directions
alike. A vector of the target's language, [D], is added to the states of all positions, [B, S, D], before the last
`converters` layers, which turn them towards that language. A tag before the source reaches every layer instead and
leads to copied sources in directions without training data; a tag at the decoder fades with the length of the output.

Use: model.encoder=converter model.encoder.converters=2

Left out: the embedded tag token as the vector, which adds no parameters (here each language has a vector of its own);
uncertain: whether the vector is added once, below the converters, as it is here, or before each of them.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.encoders.transformer import EncoderConfig, TransformerEncoder


@dataclasses.dataclass
class ConverterConfig(EncoderConfig):
    """Options of the encoder."""

    converters: int = option(2, "layers at the top that know the target's language", at_least=1)
    tag: str = option("target_language", "tag of which each value has a vector")
    type: str = option("converter", "component")


class FirstConverter(nn.Module):
    """A layer that adds the vector of a tag's value to its input.

    Args:
        layer: The layer.
        tag: Name of the tag.
        size: Number of its values.
        width: D.
    """

    def __init__(self, layer: nn.Module, tag: str, size: int, width: int):
        super().__init__()
        self.layer, self.languages, self.tags = layer, nn.Embedding(size, width), (tag,)
        for fact in ("unpads", "segmented", "biased"):
            setattr(self, fact, getattr(layer, fact, False))

    def forward(self, x: Tensor, mask: Tensor, real, tags: dict[str, Tensor]) -> Tensor:
        """x: [B, S, D] or real tokens only, [P, D]; tags: int64 [B, 1], [B, S] or [P]."""
        return self.layer(x + self.languages(tags[self.tags[0]]).to(x.dtype), mask, real)


class ConverterEncoder(TransformerEncoder):
    """A Transformer encoder whose upper layers know the value of a tag. The arguments are those of TransformerEncoder.

    Raises:
        UserError: more converters than layers, or layers that read tags themselves.
    """

    Config = ConverterConfig

    def _layers(self, config: ConverterConfig, shared: Shared) -> nn.ModuleList:
        """As in TransformerEncoder."""
        if config.converters > config.layers:
            raise UserError(f"model.encoder.converters={config.converters}: there are {config.layers} layers")
        layers, first = super()._layers(config, shared), config.layers - config.converters
        if hasattr(layers[first], "tags"):
            raise UserError(f"model.encoder=converter: model.encoder.layer={config.layer.type} reads tags itself")
        layers[first] = FirstConverter(layers[first], config.tag, shared.tags[config.tag], config.width)
        return layers
