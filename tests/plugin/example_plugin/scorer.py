"""A scorer with a state of its own: tokens that a hypothesis holds already are rated down."""

import dataclasses

import torch

from s2s.config.schema import option
from s2s.decoding.scorers.scorer import FullScorer
from s2s.nn.slots import kept
from s2s.text.vocabulary import SPECIALS


@dataclasses.dataclass
class NoveltyConfig:
    """Options of the scorer."""

    type: str = option("novelty", "component")
    weight: float = option(0.5, "nats taken off a token for each time that a hypothesis holds it", at_least=0)


class Novelty(FullScorer):
    """-weight x how often a row has had each token; the state is these counts, [B, K, V]."""

    Config = NoveltyConfig
    falls = True  # so that decode.stopping=best_possible may stop early

    def __init__(self, config: NoveltyConfig, loaded, setting):
        super().__init__(config, loaded, setting)
        self.weight, self.size, self.counts = config.weight, setting.models[0].target_vocabulary_size, None

    def prepare(self, inputs, memories, rows):
        """How many rows a sentence has, and where: nothing is known of them yet."""
        return rows, inputs.sources[0].values.device

    def admit(self, slots, prepared, which, size):
        """Sentences take slots."""
        rows, device = prepared
        if self.counts is None:
            self.counts = torch.zeros(size, rows, self.size, device=device)
        self.counts[slots] = 0

    def step(self, tokens):
        """Values [R, V] of what comes after tokens [R]."""
        self.counts.view(-1, self.size).scatter_add_(1, tokens[:, None], torch.ones_like(tokens[:, None]).float())
        self.counts[:, :, : len(SPECIALS)] = 0
        return -self.counts.flatten(0, 1)

    def reorder(self, parents):
        """Rows go on from others."""
        self.counts = self.counts.flatten(0, 1)[parents].view_as(self.counts)

    def release(self, keep, slots):
        """Some slots are kept."""
        self.counts = kept(self.counts, keep, slots)

    def close(self):
        """No sentence is left."""
        self.counts = None
