"""Scheduled sampling: the decoder reads some of its own predictions in place of target tokens, more and more of them.

Paper: Bengio et al., "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks", NIPS 2015,
https://arxiv.org/abs/1506.03099; in two passes as Mihaylova and Martins, "Scheduled Sampling for Transformers", ACL
2019 workshop, https://arxiv.org/abs/1906.07651.

A first pass reads the target, and makes a prediction of each target token, [B, T]: a sample of the distribution, or its
most probable token (`choice`). In the second pass, the input of each position is the token of the target with the
probability e, and otherwise the prediction of it. The term is the label-smoothed cross-entropy of the second pass. No
gradient goes through the predictions. After i updates e is at least `least`, and by `decay` 1 - i / `updates` (linear),
exp(-i / `updates`) (exponential), or k / (k + exp(i / k)) with k = `updates` (inverse_sigmoid). The number of updates
is saved with the checkpoint.

Use: criterion=scheduled_sampling criterion.scheduled_sampling.updates=2000

Left out: predictions that depend on earlier predictions, which would need a pass for each token; mixtures of embeddings
instead of samples (Mihaylova and Martins); one choice for a whole sentence. The first pass computes the plain
cross-entropy too, with weight 0.
"""

import dataclasses
import math

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.positions import CHUNK, LEAST, Rows, losses
from s2s.criterions.sequences import rewritten
from s2s.criterions.term import Term, TermConfig, Value, require_decoder
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class ScheduledSamplingConfig(TermConfig):
    """Options of the term."""

    type: str = option("scheduled_sampling", "component")
    decay: str = option(
        "inverse_sigmoid", "how the probability e of a target token falls", ("linear", "exponential", "inverse_sigmoid")
    )
    updates: int = option(1000, "updates that set how fast e falls", at_least=1)
    least: float = option(0.5, "least value of e", at_least=0, at_most=1)
    choice: str = option("sample", "the prediction: a sample, or the most probable token", ("sample", "best"))
    label_smoothing: float = option(
        0.1, "share of the target probability spread evenly over the vocabulary", at_least=0, below=1
    )


class ScheduledSampling(Term):
    """The cross-entropy of targets given prefixes in which some tokens are predicted."""

    Config = ScheduledSamplingConfig
    trains = ("decoder",)
    only_in_training = True

    def __init__(self, config: ScheduledSamplingConfig):
        super().__init__(config)
        self.update = 0

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has a decoder. Raises UserError."""
        require_decoder(self.name, model)

    @property
    def kept(self) -> float:
        """e, the probability that a token of the target is read."""
        k, i = self.config.updates, self.update
        sigmoid = k / (k + math.exp(min(i / k, 700.0)))
        by = {"linear": 1 - i / k, "exponential": math.exp(-i / k), "inverse_sigmoid": sigmoid}
        return max(self.config.least, by[self.config.decay])

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        batch = run.batch
        before = torch.full_like(batch.decoder_input, -1)  # the prediction of the token that each position reads
        predicted = torch.full_like(batch.target, -1).flatten().index_put((run.positions,), self._predicted(run))
        before[:, 1:] = predicted.view_as(batch.target)[:, :-1]
        if batch.target_packing is not None:
            before = before.masked_fill(batch.target_packing.positions == 0, -1)  # the first position reads <s>
        drawn = torch.rand(before.shape, device=before.device) >= self.kept
        shown = torch.where(drawn & (before >= 0), before, batch.decoder_input)
        other = rewritten(run, shown, batch.target, batch.target_lengths, batch.counts.target)
        loss, *_ = losses(Rows([other], [other.output]), run.target, self.config.label_smoothing, 1.0)
        return Value(loss)

    @torch.no_grad()
    def _predicted(self, run: Run) -> Tensor:
        """A prediction of each of the P target tokens, int64 [P]."""
        rows, made = Rows([run], [run.output]), []
        for first in range(0, len(rows.states), CHUNK):
            logits = rows.logits(first, first + CHUNK).float().clamp_min(LEAST)
            best = self.config.choice == "best"
            made.append(logits.argmax(1) if best else torch.multinomial(logits.softmax(1), 1)[:, 0])
        return torch.cat(made)

    def updated(self, update: int, values: dict[str, float]) -> None:
        """As in Term."""
        self.update = update

    def state_dict(self) -> dict[str, Tensor]:
        """As in Term."""
        return {"update": torch.tensor(self.update)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """As in Term."""
        self.update = int(state["update"])
