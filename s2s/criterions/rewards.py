"""Rewards of texts that a model writes in training, for terms that make high rewards more probable."""

import dataclasses
import subprocess
from collections.abc import Callable

from s2s import registry
from s2s.config.schema import option
from s2s.criterions.term import Ids, Term, TermConfig, require_decoder
from s2s.data.batch import Batch
from s2s.errors import Failure, UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.scoring import higher_is_better
from s2s.scoring.sentences import sentence_scores

Rewards = Callable[[list[str], list[str]], list[float]]


@dataclasses.dataclass
class RewardConfig(TermConfig):
    """Options of terms with rewards."""

    reward: str = option(
        "bleu",
        "metric of s2s-score, of each text by itself, such as bleu, chrf or per; or command",
        registry.Names("metric", "command"),
    )
    command: str | None = option(
        None,
        "shell command that reads lines of text, tab, reference, and writes the reward of each, a number; it is called "
        "once for each batch",
        needs="reward=command",
    )


class RewardedTerm(Term):
    """A term of rewards. `rewards` is a function of texts and references, line by line; higher is better."""

    trains = ("decoder",)
    only_in_training = True

    def __init__(self, config: RewardConfig):
        super().__init__(config)
        self.rewards = rewards_by(config)

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has a decoder. Raises UserError."""
        require_decoder(self.name, model)

    def count(self, batch: Batch) -> int:
        """Number of examples."""
        return batch.counts.sentences

    def rewards_of(self, batch: Batch, texts: list[list[Ids]], text: Callable[[int, Ids], str]) -> list[list[float]]:
        """The rewards of texts against the targets of a batch, for each example; arguments as in `written`."""
        rows = zip(batch.target.tolist(), batch.target_lengths.tolist(), strict=True)
        targets = [row[: length - 1] for row, length in rows]
        pairs = [(text(row, ids), text(row, target)) for row, target in enumerate(targets) for ids in texts[row]]
        values = iter(self.rewards(*map(list, zip(*pairs, strict=True))))
        return [[next(values) for _ in several] for several in texts]


def rewards_by(config: RewardConfig) -> Rewards:
    """The rewards that options choose: a metric divided by 100, an error rate as 1 - rate; or a command.

    Raises:
        UserError: the metric needs more than hypotheses and references, or there is no command.
    """
    if config.reward == "command":
        if not config.command:
            raise UserError(f"criterion.{config.type}.reward=command: requires criterion.{config.type}.command")
        return Command(config.command)
    scores, higher = sentence_scores(config.reward), higher_is_better(config.reward)

    def rewards(texts: list[str], references: list[str]) -> list[float]:
        return [value / 100 if higher else 1 - value / 100 for value in scores(texts, references)]

    return rewards


class Command:
    """Rewards by a shell command.

    Raises (when called):
        Failure: it fails, or does not write one number for each line.
    """

    def __init__(self, command: str):
        self.command = command

    def __call__(self, texts: list[str], references: list[str]) -> list[float]:
        """As Rewards."""
        rows = ["\t".join(" ".join(text.split()) for text in pair) for pair in zip(texts, references, strict=True)]
        process = subprocess.run(self.command, shell=True, input="".join(f"{row}\n" for row in rows),
                                 capture_output=True, text=True, encoding="utf-8")  # fmt: skip
        if process.returncode:
            said = process.stderr.strip().splitlines()[-1:] or ["it says nothing"]
            raise Failure(f"reward command '{self.command}': exit code {process.returncode}: {said[0]}")
        try:
            values = list(map(float, process.stdout.split()))
        except ValueError as error:
            raise Failure(f"reward command '{self.command}': {error}") from error
        if len(values) != len(rows):
            raise Failure(f"reward command '{self.command}': wrote {len(values)} numbers for {len(rows)} lines")
        return values
