"""Minimum risk training: the expected error of sampled translations, by any metric.

Paper: Shen et al., "Minimum Risk Training for Neural Machine Translation", ACL 2016, https://arxiv.org/abs/1512.02433.

Before each update the model samples `samples` texts for each source, with its present weights. Equal samples count
once, and the target is added (`reference`), so that an example has K candidates y. Their log-probabilities, [B, K], are
computed with a gradient. The term is the expected risk, the sum over y of q(y) * (1 - reward(y)). Here q is the softmax
of `sharpness` * log p(y | x) over the candidates. The reward is a metric of s2s-score of each text by itself (`reward`;
an error rate as 1 - rate), or comes from a command.

Use: criterion=minimum_risk criterion.minimum_risk.reward=chrf train.init.checkpoint=runs/first

Left out: nothing. The paper has 100 samples, which are 10 by default here. The unknown symbol is never sampled.
Uncertain: nothing. A model with random weights learns little from this term: start from one that is trained by
cross-entropy.
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
class MinimumRiskConfig(RewardConfig):
    """Options of the term."""

    type: str = option("minimum_risk", "component")
    samples: int = option(10, "texts that are sampled for each source", at_least=1, at_most=1000)
    sharpness: float = option(5e-3, "factor of log-probabilities in the distribution over candidates", at_least=1e-6)
    reference: bool = option(True, "the target is a candidate, too")


class MinimumRisk(RewardedTerm):
    """The expected risk over candidates, for each example."""

    Config = MinimumRiskConfig

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term; `sampled_reward` is the mean over the samples."""
        return {self.name: COUNT, "sampled_reward": COUNT} if model.training else {}

    def writings(self) -> list[Writing]:
        """Samples."""
        return [Writing({"search": "sample", "n_best": self.config.samples})]

    def written(self, batch: Batch, texts: list[list[list[Ids]]], text: Callable[[int, Ids], str]) -> dict[str, Tensor]:
        """Candidates and their risks."""
        (samples,) = texts
        rewards = self.rewards_of(batch, samples, text)
        candidates: list[dict[tuple[int, ...], float]] = []
        rows = zip(samples, rewards, batch.target.tolist(), batch.target_lengths.tolist(), strict=True)
        for number, (several, values, target, length) in enumerate(rows):
            candidates.append({tuple(ids): 1 - value for ids, value in zip(several, values, strict=True)})
            if self.config.reference and (ids := tuple(target[: length - 1])) not in candidates[-1]:
                own = text(number, list(ids))
                candidates[-1][ids] = 1 - self.rewards([own], [own])[0]
        columns = ended([list(several) for several in candidates])
        risks = torch.zeros(columns["lengths"].shape)
        for i, several in enumerate(candidates):
            risks[i, : len(several)] = torch.tensor(list(several.values()))
        means = torch.tensor([sum(values) / len(values) for values in rewards])
        return {f"{self.name}.{name}": value for name, value in {**columns, "risks": risks, "rewards": means}.items()}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        ids, lengths, risks, rewards = (
            run.batch.columns[f"{self.name}.{name}"] for name in ("ids", "lengths", "risks", "rewards")
        )
        logs = log_probabilities(run, ids, lengths).masked_fill(lengths == 0, -torch.inf)  # [B, K]
        share = (self.config.sharpness * logs).softmax(1)
        return Value((share * risks).sum(), {"sampled_reward": rewards.sum()})
