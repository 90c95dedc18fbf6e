"""A Transformer whose encoder adds an embedding of the target's language to every state."""

import dataclasses

from torch import nn

from s2s.config.schema import option
from s2s.data.batch import tag_of_positions
from s2s.models.transformer import Transformer, TransformerConfig


@dataclasses.dataclass
class TaggedConfig(TransformerConfig):
    type: str = option("tagged", "component")


class TaggedEncoder(nn.Module):
    tags = ("target_language",)
    segmented = True  # so is the inner one

    def __init__(self, encoder: nn.Module, values: int, width: int):
        super().__init__()
        self.inner, self.languages = encoder, nn.Embedding(values, width)
        self.layers, self.exits = encoder.layers, encoder.exits

    def forward(self, states):
        language = tag_of_positions(states.tags["target_language"], states.packing)
        states.values = states.values + self.languages(language)
        return self.inner(states)

    def flops(self, lengths):
        return self.inner.flops(lengths)


class TaggedTransformer(Transformer):
    Config = TaggedConfig

    def __init__(self, config, spec):
        super().__init__(config, spec)
        languages = len(spec.tags.get("target_language", []))
        self.encoder = TaggedEncoder(self.encoder, languages, config.encoder.width)
        self.draw(self.encoder.languages)
