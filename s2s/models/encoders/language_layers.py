"""Language-specific layers: some encoder layers have a copy for each source or target language.

Paper: Pires et al., "Learning Language-Specific Layers for Multilingual Machine Translation", ACL 2023,
https://arxiv.org/abs/2305.02665.

A layer of `source_layers` is a set of layers, one for each source language; those of `target_layers` have one for each
target language, and all others are shared. Each row of the states, [B, S, D], passes the copy of its language, so a
token passes as many layers as before. Rows of a language are computed together, for which `data.homogeneous=language`
helps. Sources near the input and targets near the top work best in the paper. With `search=true` each layer is all
three at once, shared, by source and by target, and their outputs are mixed by learned weights, a softmax over three
numbers a layer. `examples/methods/placement.py RUN` prints the largest weight of each layer as options.

Use: model.encoder=language_layers model.encoder.source_layers=[1] model.encoder.target_layers=[5]

Left out: a decoder for each target language, and initial copies that are trained first as one dense model; uncertain:
when the search's weights are read in the paper, here at the end of a run.
"""

import copy
import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.encoders.transformer import EncoderConfig, TransformerEncoder, layers_of
from s2s.models.stack import LayeredEncoder

SOURCE, TARGET = "source_language", "target_language"


@dataclasses.dataclass
class LanguageLayersConfig(EncoderConfig):
    """Options of the encoder."""

    source_layers: list[int] = option([], "numbers of the layers with a copy for each source language, from 1")
    target_layers: list[int] = option([], "numbers of the layers with a copy for each target language, from 1")
    search: bool = option(False, "mix shared, source and target copies of every layer by learned weights")
    type: str = option("language_layers", "component")


def _positions(layer: nn.Module, real: Tensor) -> Tensor | None:
    """What a layer is told of padding: which positions are real, unless it needs no more than the mask."""
    return None if getattr(layer, "unpads", False) else real


class SpecificLayer(nn.Module):
    """A layer with a copy for each value of a tag.

    Args:
        tag: Name of the tag.
        copies: A layer for each of its values.
    """

    unpads = segmented = False

    def __init__(self, tag: str, copies: nn.ModuleList):
        super().__init__()
        self.tags, self.copies, self.biased = (tag,), copies, getattr(copies[0], "biased", False)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, tags: dict[str, Tensor]) -> Tensor:
        """x: [B, S, D]; mask: of each row or of all; real: bool [B, S, 1]; tags: int64 [B, 1]."""
        y, values = torch.empty_like(x), tags[self.tags[0]][:, 0]
        for value, layer in enumerate(self.copies):
            rows = (values == value).nonzero()[:, 0]
            if len(rows) or self.training:  # in training each weight has a gradient, perhaps of no rows
                own = layer(x[rows], mask if len(mask) == 1 else mask[rows], _positions(layer, real[rows]))
                y = y.to(own.dtype).index_copy(0, rows, own)
        return y

    def passed(self) -> list[nn.Module]:
        """What a token passes."""
        return [self.copies[0]]


class MixedLayer(nn.Module):
    """A mixture of a shared layer, one by source language and one by target language; `weights` are its logits, [3]."""

    unpads = segmented = False
    tags = (SOURCE, TARGET)

    def __init__(self, shared: nn.Module, by_source: SpecificLayer, by_target: SpecificLayer):
        super().__init__()
        self.shared, self.by_source, self.by_target = shared, by_source, by_target
        self.weights, self.biased = nn.Parameter(torch.zeros(3)), getattr(shared, "biased", False)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor, tags: dict[str, Tensor]) -> Tensor:
        """As SpecificLayer.forward."""
        shares = self.weights.float().softmax(0)
        kinds = (self.shared(x, mask, _positions(self.shared, real)), self.by_source(x, mask, real, tags),
                 self.by_target(x, mask, real, tags))  # fmt: skip
        return sum(share * kind for share, kind in zip(shares, kinds, strict=True)).to(kinds[0].dtype)

    def passed(self) -> list[nn.Module]:
        """What a token passes."""
        return [self.shared, *self.by_source.passed(), *self.by_target.passed()]


class LanguageLayersEncoder(TransformerEncoder):
    """A Transformer encoder with layers of languages. The arguments are those of TransformerEncoder.

    Raises:
        UserError: no layers of languages, or layers that there are not; layers that read tags themselves; `unpad`.
    """

    Config = LanguageLayersConfig

    def __init__(self, config: LanguageLayersConfig, shared: Shared):
        if config.unpad or config.unpad_attention:
            raise UserError("model.encoder=language_layers: takes whole rows with their padding; leave "
                            "model.encoder.unpad and model.encoder.unpad_attention out")  # fmt: skip
        super().__init__(config, shared)

    def _layers(self, config: LanguageLayersConfig, shared: Shared) -> nn.ModuleList:
        """As in TransformerEncoder."""
        kinds = {number: SOURCE for number in config.source_layers}
        if twice := [number for number in config.target_layers if number in kinds]:
            raise UserError(f"model.encoder.target_layers: layer {twice[0]} is in source_layers, too")
        kinds |= {number: TARGET for number in config.target_layers}
        if config.search == bool(kinds):
            raise UserError("model.encoder=language_layers: requires source_layers or target_layers, or search=true "
                            "without them")  # fmt: skip
        if outside := [number for number in kinds if not 1 <= number <= config.layers]:
            raise UserError(f"model.encoder=language_layers: there is no layer {outside[0]}; they are 1 to "
                            f"{config.layers}")  # fmt: skip
        layers = super()._layers(config, shared)
        if hasattr(layers[0], "tags"):
            raise UserError(f"model.encoder=language_layers: model.encoder.layer={config.layer.type} reads tags itself")

        def specific(tag: str) -> SpecificLayer:
            return SpecificLayer(tag, layers_of(dataclasses.replace(config, layers=shared.tags[tag]), shared))

        for number, tag in kinds.items():
            layers[number - 1] = specific(tag)
        if config.search:
            layers = nn.ModuleList(MixedLayer(layer, specific(SOURCE), specific(TARGET)) for layer in layers)
        return layers

    def flops(self, lengths: Tensor) -> int:
        """As in LayeredEncoder; a token passes one copy of a layer."""
        one = copy.copy(self)
        passed = [part for layer in self.layers for part in (layer.passed() if hasattr(layer, "passed") else [layer])]
        one._modules = {**self._modules, "layers": nn.ModuleList(passed)}
        return LayeredEncoder.flops(one, lengths)
