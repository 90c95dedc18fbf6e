"""CTC beside the cross-entropy of a decoder, or alone (Graves et al. 2006, Watanabe et al. 2017)."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from s2s.config.schema import option
from s2s.criterions.cross_entropy import CrossEntropy, Loss
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.contract import Memory
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.text.vocabulary import PAD

SHARE = 0.3  # of CTC beside a decoder


@dataclasses.dataclass
class CTCAttentionConfig:
    """Options of CTC and cross-entropy."""

    type: str = option("ctc_attention", "component")
    ctc: float | None = option(
        None, f"share of CTC in the loss; the decoder has the rest; null: {SHARE}, or 1 without a decoder",
        at_least=0, at_most=1,
    )  # fmt: skip
    intermediate: float = option(
        0.5, "share in CTC of model.encoder.ctc_layers, where there are any", at_least=0, at_most=1,
        needs="model.encoder.ctc_layers",
    )  # fmt: skip
    label_smoothing: float = option(
        0.1, "share of the target probability spread evenly over the vocabulary, of the decoder", at_least=0, below=1
    )
    auxiliary: float = option(
        0.3, "share of model.auxiliary_heads in the decoder's loss, where there are any", at_least=0, at_most=1,
        needs="model.auxiliary_heads",
    )  # fmt: skip


class CTCAttention(CrossEntropy):
    """(1 - w) * cross-entropy of the decoder + w * CTC of the encoder, in nats.

    CTC is -log of the summed probability of all alignments of the target, without BOS and EOS; with intermediate
    layers (1 - i) times that of the last and i times the mean of theirs. An example whose target has no alignment,
    because it is longer than the encoder's states (with a blank between repeated tokens), adds nothing to CTC; the
    metric `impossible` says how many there are.

    A model without a decoder has the CTC as its `nll`, and no `correct` tokens.
    """

    Config = CTCAttentionConfig
    counted = ("impossible",)

    def check(self, model: EncoderDecoder) -> None:
        """Whether it trains all of a model. Raises UserError."""
        weight = self.config.ctc
        if not model.has_ctc:
            raise UserError(
                "criterion=ctc_attention is for a model with CTC: model.ctc=true, or criterion=cross_entropy"
            )
        if weight == 0:
            raise UserError("criterion.ctc=0 does not train the model's CTC: model.ctc=false criterion=cross_entropy")
        if not model.has_decoder and weight not in (None, 1):
            raise UserError(f"criterion.ctc={weight}: without a decoder (model.decoder.layers=0) it can only be 1")
        smoothing = self.config.label_smoothing
        if not model.has_decoder and smoothing != CTCAttentionConfig.label_smoothing:
            raise UserError(f"criterion.label_smoothing={smoothing}: does nothing without a decoder "
                            "(model.decoder.layers=0)")  # fmt: skip
        if model.has_decoder and weight == 1:
            raise UserError("criterion.ctc=1 does not train the decoder: model.decoder.layers=0")
        if model.exits and not self.config.intermediate:
            raise UserError("criterion.intermediate=0 leaves model.encoder.ctc_layers out of the loss; leave them out")
        self._check_heads(model)

    def names(self, model: EncoderDecoder) -> list[str]:
        """As CrossEntropy.names."""
        metrics = self._plain_names(model) if model.has_decoder else ["nll"]
        return [*metrics, "ctc", *(f"ctc_{number}" for number in model.exits), *self.counted]

    def __call__(self, model: EncoderDecoder, batch: Batch) -> Loss:
        """Run the model on a batch; returns the Loss."""
        memory = model.encode(batch.sources, batch.tags)
        last, *others = (self._ctc(model, memory, which, batch) for which in range(-1, len(memory.states) - 1))
        ctc, share = last, self.config.intermediate
        if others:
            ctc = (1 - share) * last + share * sum(others) / len(others)
        numbers = model.exits
        metrics = {"ctc": last, **{f"ctc_{n}": value for n, value in zip(numbers, others, strict=True)}}
        metrics = {name: value.detach() for name, value in metrics.items()}
        metrics["impossible"] = impossible(batch, memory.lengths).sum()
        if not model.has_decoder:
            return Loss(ctc, batch.counts.target, {"nll": last.detach(), **metrics})
        weight = SHARE if self.config.ctc is None else self.config.ctc
        attention = self.of(model, batch, [memory])
        loss = (1 - weight) * attention.sum + weight * ctc
        return Loss(loss, batch.counts.target, {**attention.metrics, **metrics})

    def _ctc(self, model: EncoderDecoder, memory: Memory, which: int, batch: Batch) -> Tensor:
        """The sum over a batch of -log p(target) by CTC on `memory.states[which]`."""
        return functional.ctc_loss(
            model.ctc_log_probabilities(memory, which).transpose(0, 1), batch.target, memory.lengths,
            batch.target_lengths - 1, blank=PAD, reduction="sum", zero_infinity=True,
        )  # fmt: skip


def impossible(batch: Batch, lengths: Tensor) -> Tensor:
    """Bool [B], which targets no path of so many states can be: each token needs one, and one between equal tokens.

    Args:
        batch: Its targets end with EOS, which CTC does not count.
        lengths: [B] int64, of the encoder's states.
    """
    tokens = batch.target_lengths - 1
    within = torch.arange(1, batch.target.size(1), device=tokens.device) < tokens[:, None]
    repeated = (batch.target[:, 1:] == batch.target[:, :-1]) & within
    return tokens + repeated.sum(1) > lengths
