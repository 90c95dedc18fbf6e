"""The contrastive term of CoCa: source and target of a pair are nearer to each other than to the rest of the batch.

Paper: Yu et al., "CoCa: Contrastive Captioners are Image-Text Foundation Models", TMLR 2022,
https://arxiv.org/abs/2205.01917.

The vector of a source is the mean of its encoder states, that of a target the state of its last position, which has
read all of it, after the decoder layer in `model.auxiliary_heads`; all [B, D], of length 1. Logits are their products
over `temperature`, [B, B]. The term is the mean of the cross-entropies of finding the target of each source and the
source of each target in the batch. The layer must be below those that attend to the source, or the target's vector
would know it.

Use: `model.decoder=some_cross model.decoder.cross_layers=[3,4] model.auxiliary_heads=[2] criterion=contrastive`

Left out: attentional pooling, linear maps of both vectors, a temperature that is learned, and negatives of other
processes. Encoder and decoder have one width.
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
    """Sources and targets of a batch find each other."""

    Config = ContrastiveConfig
    trains = ("auxiliary_heads",)
    only_in_training = True
    couples_examples = True

    def check(self, model: EncoderDecoder) -> None:
        """It needs one head below the attention to the source, and one width."""
        heads = model.auxiliary_heads
        attends = [number for number, layer in enumerate(getattr(model.decoder, "layers", []), 1)
                   if getattr(layer, "attends", True)]  # fmt: skip
        if len(heads) != 1 or not attends or heads[0] >= min(attends):
            raise UserError(f"criterion.terms: {self.name} needs one layer in model.auxiliary_heads, below those that "
                            "attend to the source: model.decoder=some_cross")  # fmt: skip
        if model.encoder is None or model.encoder.width != model.decoder.width:
            raise UserError(f"criterion.terms: {self.name} needs an encoder and a decoder of one width")

    def count(self, batch: Batch) -> int:
        """Examples."""
        return batch.counts.sentences

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term, of validations too."""
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
