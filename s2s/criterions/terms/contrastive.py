"""The contrastive term of CoCa: source and target of a pair are nearer to each other than to the rest of the batch.

Paper: Yu et al., "CoCa: Contrastive Captioners are Image-Text Foundation Models", TMLR 2022,
https://arxiv.org/abs/2205.01917.

The vector of a source is the mean of its encoder states. The vector of a target is the state of its last position,
which has read the whole target, after the decoder layer in `model.auxiliary_heads`. All vectors are [B, D], with length
1. The logits are their dot products divided by `temperature`, [B, B]. The term is the mean of two cross-entropies: of
the target of each source within the batch, and of the source of each target. The layer must be below the layers with
cross-attention, so that the vector of a target does not depend on the source.

Use: `model.decoder=some_cross model.decoder.cross_layers=[3,4] model.auxiliary_heads=[2] criterion=contrastive`

Left out: attentional pooling, linear maps of both vectors, a learned temperature, and negatives of other processes.
Encoder and decoder must have the same width.
"""

import dataclasses

import torch
from torch.nn.functional import cross_entropy, normalize

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.nn.attention import length_mask


@dataclasses.dataclass
class ContrastiveConfig(TermConfig):
    """Options of the term."""

    type: str = option("contrastive", "component")
    weight: float = option(0.5, "of the contrastive loss of an example", at_least=0)
    temperature: float = option(0.07, "products of vectors are divided by it", at_least=1e-3, at_most=1000)


class Contrastive(Term):
    """The contrastive loss between the sources and the targets of a batch."""

    Config = ContrastiveConfig
    trains = ("auxiliary_heads",)
    only_in_training = True
    couples_examples = True

    def check(self, model: EncoderDecoder) -> None:
        """Check for one head below cross-attention, and equal widths of encoder and decoder. Raises UserError."""
        heads = model.auxiliary_heads
        attends = [number for number, layer in enumerate(getattr(model.decoder, "layers", []), 1)
                   if getattr(layer, "attends", True)]  # fmt: skip
        if len(heads) != 1 or not attends or heads[0] >= min(attends):
            raise UserError(f"criterion.terms: {self.name} needs one layer in model.auxiliary_heads, below those that "
                            "attend to the source: model.decoder=some_cross")  # fmt: skip
        if model.encoder is None or model.encoder.width != model.decoder.width:
            raise UserError(f"criterion.terms: {self.name} needs an encoder and a decoder of one width")

    def count(self, batch: Batch) -> int:
        """Number of examples."""
        return batch.counts.sentences

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term, in validation too."""
        return {self.name: COUNT}

    def __call__(self, run: Run) -> Value:
        """As in Term. Raises UserError: packed rows."""
        batch, memory = run.batch, run.memory
        if batch.target_packing is not None:
            raise UserError(f"criterion.terms: {self.name} compares rows, and a packed row holds several examples; "
                            "data.batching=token_budget")  # fmt: skip
        real = length_mask(memory.lengths, memory.top.size(1))[:, 0, 0, :, None]
        sources = (memory.top.float() * real).sum(1) / memory.lengths[:, None]
        (states,) = run.output.heads.values()
        rows = torch.arange(len(states), device=states.device)
        targets = states[rows, batch.target_lengths - 1].float()
        logits = normalize(sources, dim=-1) @ normalize(targets, dim=-1).T / self.config.temperature
        both = cross_entropy(logits, rows, reduction="sum") + cross_entropy(logits.T, rows, reduction="sum")
        return Value(both / 2)
