"""The recipe of `task=denoising`: lines of one language, without translations."""

import dataclasses

from s2s.config.schema import option
from s2s.data.noises.noise import MODES, SENTINELS
from s2s.data.preprocess import Field, PreprocessConfig, TextRecipe
from s2s.data.store_writer import StoreWriter
from s2s.errors import UserError
from s2s.text.vocabulary import MASK


@dataclasses.dataclass
class DenoisingRecipeConfig(PreprocessConfig):
    """Keys of `s2s-preprocess task=denoising`."""

    task: str = option("denoising", "task of the store; it decides which other keys there are")
    sentinels: int = option(SENTINELS, "symbols <extra_id_0> ... of the vocabulary, for task.noise=spans and ul2",
                            at_least=0, at_most=10_000)  # fmt: skip


class DenoisingRecipe(TextRecipe):
    """Lines of the files PREFIX.TARGET. The tokenizer is that of both sides of the models."""

    Config = DenoisingRecipeConfig

    def fields(self) -> list[Field]:
        """As in TextRecipe."""
        return [Field("target", self.config.target)]

    def find(self) -> None:
        """As in Recipe."""
        config = self.config
        if config.source != "source" or config.source_tokenizer is not None:
            raise UserError("task=denoising: has one side, target=LANGUAGE; leave source= and source_tokenizer= out")
        super().find()

    @property
    def symbols(self) -> tuple[str, ...]:
        """As in Recipe."""
        marks = (f"<extra_id_{number}>" for number in range(self.config.sentinels))
        return (*super().symbols, MASK, *MODES, *marks)

    @property
    def languages(self) -> dict[str, str]:
        """As in Recipe."""
        return dict.fromkeys(("source_language", "target_language"), self.config.target)

    def check_reserved(self, tokenizers) -> None:
        """As in Recipe: a noise says itself what it lacks, since none needs all symbols."""

    def before(self, writer: StoreWriter) -> None:
        """As in Recipe."""
        super().before(writer)
        writer.add_tokenizer(self.tokenizers["target"], "source")
