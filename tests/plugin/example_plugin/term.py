"""A term: the cost of the end of each target, whose weight rises until the end costs no more than is wanted."""

import dataclasses

import torch

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.term import Term, TermConfig, Value
from s2s.data.batch import Batch
from s2s.text.vocabulary import EOS


@dataclasses.dataclass
class EndConfig(TermConfig):
    """Options of the term; `weight` is that of the first update."""

    type: str = option("end", "component")
    aim: float = option(0.1, "nats that are wanted for an end", at_least=0)
    gain: float = option(0.001, "how fast the weight follows", at_least=0)


class End(Term):
    """-log p(end) after the last token, for each example."""

    Config = EndConfig
    only_in_training = True

    def __init__(self, config: EndConfig):
        super().__init__(config)
        self.change = 0.0

    @property
    def weight(self) -> float:
        """Its factor in the loss, of the next batch."""
        return max(0.0, self.config.weight + self.change)

    def count(self, batch: Batch) -> int:
        """Examples."""
        return batch.counts.sentences

    def __call__(self, run: Run) -> Value:
        """The sum over the ends of a batch."""
        logits = run.output.output(run.states[run.target == EOS])
        return Value(-logits.float().log_softmax(-1)[:, EOS].sum())

    def updated(self, update: int, values: dict[str, float]) -> None:
        """Move the weight."""
        self.change += self.config.gain * (values["end"] - self.config.aim)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """How far the weight has moved."""
        return {"change": torch.tensor(self.change, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """As it was."""
        self.change = float(state["change"])
