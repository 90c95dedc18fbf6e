"""CTC on the encoder: -log of the summed probability of all alignments of the target (Graves et al. 2006), in nats.

The target is without BOS and EOS, and the blank is PAD. An example whose target has no alignment, because it is longer
than the encoder's states (with a blank between repeated tokens), adds nothing; the metric `impossible` says how many
there are. Of a model without a decoder it is also the `nll`.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.text.vocabulary import PAD


@dataclasses.dataclass
class CTCConfig(TermConfig):
    """Options of CTC."""

    type: str = option("ctc", "component")


class CTC(Term):
    """CTC on the encoder's last states."""

    Config = CTCConfig
    trains = ("ctc",)

    def check(self, model: EncoderDecoder) -> None:
        """It needs a model with CTC."""
        if not model.has_ctc:
            raise UserError(f"criterion.terms: {self.name} needs a model with CTC: model.ctc=true, or "
                            "criterion=cross_entropy")  # fmt: skip

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As of Term."""
        return {**({} if model.has_decoder else {"nll": COUNT}), self.name: COUNT, "impossible": None}

    def __call__(self, run: Run) -> Value:
        """As of Term."""
        value = ctc(run, -1)
        nll = {} if run.model.has_decoder else {"nll": value.detach()}
        return Value(value, {**nll, "impossible": impossible(run.batch, run.memory.lengths).sum()})


def ctc(run: Run, which: int) -> Tensor:
    """The sum over a batch of -log p(target) by CTC on `memory.states[which]`. Raises UserError: packed rows."""
    batch, memory = run.batch, run.memory
    if batch.target_packing is not None:
        raise UserError("data.batching=packed: CTC aligns one target with one source, and a packed row holds several; "
                        "use token_budget")  # fmt: skip
    return functional.ctc_loss(
        run.model.ctc_log_probabilities(memory, which).transpose(0, 1), batch.target, memory.lengths,
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
