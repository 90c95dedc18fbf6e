"""RED's loss on the source: a causal decoder-only model predicts its source, too.

Paper: Fu et al., "Decoder-Only or Encoder-Decoder? Interpreting Language Model as a Regularized Encoder-Decoder", 2023,
https://arxiv.org/abs/2304.04052.

The paper writes a decoder-only language model as an encoder-decoder with a causal encoder, shared parameters, decoder
layers that each read the encoder layer of their depth, positions that continue, and an attention over source and target
at once. `model.decoder=prefix` with `mask=causal` computes exactly this. The term is what is left of a language model's
loss: the state of each source position, [B, S, D], predicts the source token after it by the output of the model. The
term is the sum of the negative log-likelihoods of these tokens, in nats for each.

Use: model=red_tiny criterion=source_auto_encoding criterion.source_auto_encoding.weight=0.5

Left out: label smoothing of the source. The first source token is not predicted, because no token is before it. A pass
over the source positions alone computes their states again. Uncertain: the paper's weight of the term.
"""

import dataclasses
import functools

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s2s.config.schema import option
from s2s.criterions.forward import Run, positions_of
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.decoders.prefix import PrefixDecoder
from s2s.models.encoder_decoder import EncoderDecoder

CHUNK = 512  # positions whose logits exist at once


@dataclasses.dataclass
class SourceAutoEncodingConfig(TermConfig):
    """Options of the term."""

    type: str = option("source_auto_encoding", "component")


class SourceAutoEncoding(Term):
    """The negative log-likelihood of source tokens."""

    Config = SourceAutoEncodingConfig

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model can predict its source. Raises UserError."""
        said = f"criterion.terms: {self.name} requires "
        decoder = model.decoder
        if not isinstance(decoder, PrefixDecoder) or decoder.config.mask != "causal" or decoder.partial:
            raise UserError(f"{said}model.decoder=prefix model.decoder.mask=causal without partial attention; a source "
                            "position must not see the token that it predicts")  # fmt: skip
        if model.frontend.tokens is not decoder.embedding.tokens or len(model.encoder.layers):
            raise UserError(f"{said}one embedding of both sides, and model.encoder=none: use one vocabulary and "
                            "model.tie_embeddings=all")  # fmt: skip
        if hasattr(model.output, "keep"):
            raise UserError(f"{said}an output that does not read the source, such as model.output=linear")

    def count(self, batch: Batch) -> int:
        """Number of source tokens, EOS included, without the first of each source."""
        return batch.counts.source - batch.counts.sentences

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term."""
        return {self.name: COUNT}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        (source,), model = run.batch.sources, run.model
        states = model.decoder.source_states(run.memory.top, run.memory.visible())
        count = run.batch.counts.source - len(source.lengths)
        before = positions_of(source.lengths - 1, states.size(1) - 1, count)
        states, target = states[:, :-1].flatten(0, 1)[before], source.values[:, 1:].flatten()[before]
        one = functools.partial(_loss, model.output)
        chunks = zip(states.split(CHUNK), target.split(CHUNK), strict=True)
        total = [checkpoint(one, x, y, use_reentrant=False) if x.requires_grad else one(x, y) for x, y in chunks]
        return Value(sum(total, states.new_zeros((), dtype=torch.float32)))


def _loss(output: nn.Module, states: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output(states).float(), target, reduction="sum")
