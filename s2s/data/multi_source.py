"""The recipe of `task=multi_source`: lines with several sources and a target."""

import dataclasses

from s2s.config.schema import option
from s2s.data.preprocess import Field, PreprocessConfig, TextRecipe
from s2s.errors import UserError


@dataclasses.dataclass
class MultiSourceRecipeConfig(PreprocessConfig):
    """Keys of `s2s-preprocess task=multi_source`."""

    task: str = option("multi_source", "what a store is made for; its keys are those of the task")
    more_sources: list[str] = option([], "endings of the files of the second source and of those after it")


class MultiSourceRecipe(TextRecipe):
    """As TextRecipe, with `source2.tokens` and so on beside `source.tokens`. In a TSV file the sources come first."""

    Config = MultiSourceRecipeConfig

    def fields(self) -> list[Field]:
        """What is read of each line."""
        source, target = super().fields()
        return [source, *(Field(f"source{n}", ending) for n, ending in enumerate(self.config.more_sources, 2)), target]

    def find(self) -> None:
        """As Recipe.find."""
        if not self.config.more_sources:
            raise UserError("task=multi_source: more_sources=[ENDING] is needed, the files of the second source")
        super().find()
