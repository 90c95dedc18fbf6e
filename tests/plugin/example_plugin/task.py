"""A task with a column of its own: PREFIX.rating has a number for each pair, and bad pairs count less in training."""

import dataclasses

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.term import Term, TermConfig, Value
from s2s.data.preprocess import Field, PreprocessConfig, TextRecipe
from s2s.tasks.translation import TranslationTask


@dataclasses.dataclass
class RatedPreprocessConfig(PreprocessConfig):
    """Keys of `s2s-preprocess task=rated`."""

    task: str = option("rated", "task of the store; it decides which other keys there are")
    rating: str = option("rating", "ending of the files of ratings")


class RatedRecipe(TextRecipe):
    """Pairs and their ratings."""

    Config = RatedPreprocessConfig

    def fields(self) -> list[Field]:
        """What is read of each line."""
        return [*super().fields(), Field("rating", self.config.rating, "number")]


@dataclasses.dataclass
class RatedConfig:
    """Options of the task."""

    type: str = option("rated", "component")
    empty: str = option("", "what is written where the model writes nothing")


class RatedTask(TranslationTask):
    """Translation of rated pairs."""

    Config = RatedConfig

    def text(self, ids: list[int], source: list[int]) -> str:
        """As TextTask.text."""
        return super().text(ids, source) or self.config.empty


@dataclasses.dataclass
class RatedTermConfig(TermConfig):
    """Options of the term."""

    type: str = option("rated", "component")


class RatedTerm(Term):
    """Cross-entropy, in which each target token has the weight of its pair. Rows are not packed."""

    Config, trains, columns = RatedTermConfig, ("decoder",), ("rating",)

    def __call__(self, run: Run) -> Value:
        """The sum over a batch."""
        rating = run.batch.columns["rating"].repeat_interleave(run.batch.target_lengths)
        log = run.output.output(run.states).float().log_softmax(-1)
        return Value(-(rating * log.gather(1, run.target[:, None])[:, 0]).sum())
