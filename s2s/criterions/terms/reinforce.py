"""REINFORCE with a greedy baseline: samples that are better than the greedy output become more probable.

Paper: Rennie et al., "Self-critical Sequence Training for Image Captioning", CVPR 2017,
https://arxiv.org/abs/1612.00563.

Before each update the model writes K = `samples` sampled texts y, and one greedy text g, for each source x, with its
present weights. The term is the mean over the samples of -(reward(y) - reward(g)) * log p(y | x). The
log-probabilities, [B, K], have a gradient, and the rewards have none. The gradient of the term is an unbiased estimate
of that of minus the expected reward, which the baseline g does not change. Rewards are those of `minimum_risk`.

Use: criterion=reinforce criterion.reinforce.reward=chrf train.init.checkpoint=runs/first

Left out: nothing of the method. The unknown symbol is never sampled; where it has a high probability, the estimate is
biased by that.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.rewards import RewardConfig, RewardedTerm
from s2s.criterions.sequences import ended, log_probabilities
from s2s.criterions.term import COUNT, Ids, Value, Writing
from s2s.data.batch import Batch
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class ReinforceConfig(RewardConfig):
    """Options of the term."""

    type: str = option("reinforce", "component")
    samples: int = option(1, "texts that are sampled for each source", at_least=1, at_most=1000)


class Reinforce(RewardedTerm):
    """Minus the advantage times the log-probability of the samples, for each example."""

    Config = ReinforceConfig

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term; `greedy_reward` is that of the greedy texts."""
        return {self.name: COUNT, "greedy_reward": COUNT} if model.training else {}

    def writings(self) -> list[Writing]:
        """Samples, and the greedy output."""
        return [Writing({"search": "sample", "n_best": self.config.samples}), Writing({"beam_size": 1})]

    def written(self, batch: Batch, texts: list[list[list[Ids]]], text: Callable[[int, Ids], str]) -> dict[str, Tensor]:
        """Samples and their advantages."""
        samples, greedy = (self.rewards_of(batch, several, text) for several in texts)
        baseline = torch.tensor(greedy)[:, 0]
        columns = ended(texts[0]) | {"advantages": torch.tensor(samples) - baseline[:, None], "greedy": baseline}
        return {f"{self.name}.{name}": value for name, value in columns.items()}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        ids, lengths, advantages, greedy = (
            run.batch.columns[f"{self.name}.{name}"] for name in ("ids", "lengths", "advantages", "greedy")
        )
        logs = log_probabilities(run, ids, lengths)
        return Value(-(advantages * logs).mean(1).sum(), {"greedy_reward": greedy.sum()})
