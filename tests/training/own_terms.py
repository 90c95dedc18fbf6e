"""Terms of tests, each with a divisor of its own, and a model whose output is not a matrix; `register` makes them
choosable."""

import dataclasses

import torch

from s2s import registry
from s2s.config.schema import option
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.models.transformer import Transformer, TransformerConfig

BEFORE = "from tests.training import own_terms\nown_terms.register()\n"  # of processes that train together


def register() -> None:
    registry.COMPONENTS["model"]["wrapped"] = f"{__name__}:Wrapped"
    registry.COMPONENTS["term"] |= {name: f"{__name__}:{name.title()}" for name in ("spread", "ends", "contrast")}


@dataclasses.dataclass
class SpreadConfig(TermConfig):
    type: str = option("spread", "component")
    aim: float = option(0.5, "of the mean square of a source position's states")


@dataclasses.dataclass
class EndsConfig(TermConfig):
    type: str = option("ends", "component")


@dataclasses.dataclass
class ContrastConfig(TermConfig):
    type: str = option("contrast", "component")


@dataclasses.dataclass
class WrappedConfig(TransformerConfig):
    type: str = option("wrapped", "component")


class Wrapped(Transformer):
    """A Transformer whose output is a linear map inside of another module."""

    Config = WrappedConfig

    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.output = torch.nn.Sequential(self.output)


def real(run) -> torch.Tensor:
    """Bool [B, S], which positions of the memory are real."""
    return run.memory.mask[:, 0, 0]


class Spread(Term):
    """The mean square of the encoder's states, for each source position; its weight is steered."""

    Config = SpreadConfig

    def __init__(self, config):
        super().__init__(config)
        self.push = torch.zeros(2, dtype=torch.float64)

    @property
    def weight(self):
        return self.config.weight + float(self.push[0])

    def count(self, batch):
        return batch.counts.source

    def metrics(self, model):
        return {"spread": COUNT, "loud": "places", "longest": None}

    def __call__(self, run):
        squares = run.memory.top.pow(2).mean(-1)
        where = real(run)
        loud = (run.target > 6).sum()
        return Value((squares * where).sum(), {"loud": (run.target == 7).sum(), "places": loud, "longest": where.sum()})

    def updated(self, update, values):
        self.push += torch.tensor([0.01 * (values["spread"] - self.config.aim), values["loud"]], dtype=torch.float64)

    def state_dict(self):
        return {"push": self.push}

    def load_state_dict(self, state):
        self.push = state["push"]


class Ends(Term):
    """The mean state of each example's memory, for each example."""

    Config = EndsConfig

    def count(self, batch):
        return batch.counts.sentences

    def __call__(self, run):
        where = real(run)[:, :, None]
        return Value((((run.memory.top * where).sum(1) / where.sum(1)) ** 2).mean(-1).sum())


class Contrast(Term):
    """Each example's memory is nearer to itself in another pass than to other examples (InfoNCE)."""

    Config = ContrastConfig
    couples_examples = True
    passes = 2

    def count(self, batch):
        return batch.counts.sentences

    def __call__(self, run):
        mask = real(run)[:, :, None]
        means = [((each.memory.top * mask).sum(1) / mask.sum(1)).float() for each in run.passes]
        means = [torch.nn.functional.normalize(mean, dim=1) for mean in (means[0], means[-1])]
        scores = means[0] @ means[1].T / 0.1
        return Value(torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)), reduction="sum"))
