"""CTC on the encoder: -log of the summed probability of all alignments of the target (Graves et al. 2006), in nats.

The target is without BOS and EOS, and the blank is PAD. A target that is longer than the encoder's states (a blank
between repeated tokens included) has no alignment; such an example adds nothing. The metric `impossible` counts these
examples. For a model without a decoder, the term is also reported as `nll`.
"""

import dataclasses

import torch
from torch import Tensor

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
    """CTC on the last states of the encoder."""

    Config = CTCConfig
    trains = ("ctc",)

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has CTC. Raises UserError."""
        if not model.has_ctc:
            raise UserError(f"criterion.terms: {self.name} requires a model with CTC: set model.ctc=true, or choose "
                            "criterion=cross_entropy")  # fmt: skip

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term."""
        return {**({} if model.has_decoder else {"nll": COUNT}), self.name: COUNT, "impossible": None}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        value = ctc(run, -1)
        nll = {} if run.model.has_decoder else {"nll": value.detach()}
        return Value(value, {**nll, "impossible": impossible(run.batch, run.memory.lengths).sum()})


def ctc(run: Run, which: int) -> Tensor:
    """The sum over a batch of -log p(target) by CTC on `memory.states[which]`, in nats.

    Raises:
        UserError: the batch has packed rows.
    """
    batch, memory = run.batch, run.memory
    if batch.target_packing is not None:
        raise UserError("data.batching=packed: does not go with CTC, which aligns one target with one source, while a "
                        "packed row has several; use token_budget")  # fmt: skip
    log_probabilities = run.model.ctc_log_probabilities(memory, which).transpose(0, 1)
    states, targets = run.host_lengths
    tokens = [length - 1 for length in targets]  # without EOS
    # torch.nn.functional.ctc_loss is this too, but copies the targets to the host first, even if no kernel needs them.
    each, _ = torch._ctc_loss(log_probabilities, batch.target, states, tokens, PAD, True)
    return each.masked_fill(each == torch.inf, 0).sum()


def impossible(batch: Batch, lengths: Tensor) -> Tensor:
    """Which targets have no alignment, bool [B]: each token needs a state, and repeated tokens one more between them.

    Args:
        batch: Its targets end with EOS, which CTC does not count.
        lengths: [B] int64, numbers of encoder states.
    """
    tokens = batch.target_lengths - 1
    within = torch.arange(1, batch.target.size(1), device=tokens.device) < tokens[:, None]
    repeated = (batch.target[:, 1:] == batch.target[:, :-1]) & within
    return tokens + repeated.sum(1) > lengths
