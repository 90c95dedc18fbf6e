"""The interface of searchers. Imports no torch."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from s2s.config.schema import option
from s2s.decoding.component import COMMON, FLAT
from s2s.decoding.sentence import Sentence

if TYPE_CHECKING:
    from torch import Tensor

    from s2s.data.batch import Inputs
    from s2s.decoding.hypothesis import Hypothesis
    from s2s.decoding.search.choice import Chooser
    from s2s.decoding.setting import Setting

# Options of `decode`: those of scoring token by token, and the length limits of searches by steps.
RATED = frozenset(["length_penalty", "length_normalization", "word_reward", "ensemble", "ensemble_weights",
                   "auxiliary_weights", "encoder_layer", "split_keys", "decoder_exit_similarity",
                   "cross_attention_k", "allow_unknown"])  # fmt: skip
LENGTHS = frozenset(["min_length_a", "min_length_b", "max_length_a", "max_length_b"])


@dataclasses.dataclass
class SearcherConfig:
    """The options of a searcher without options of its own."""

    type: str = option("", "component")


class Searcher:
    """Searches for the hypotheses of sentences.

    Attributes:
        Config: The dataclass of its own options, `decode.search.NAME`; their values are in `self.own`.
        options: Options of `decode` that it reads in addition to those of every searcher (`COMMON`).
        takes: What goes with it: groups of components (`rules`, `scorers` of tokens, `final_scorers` of hypotheses),
            the name of a single scorer or rule, arguments of a call (`prefix`, `constraints`, `alignment`), and
            `several_models`.
        seeded: Whether hypotheses depend on the seed and on the number of their sentence.
        cooled: Whether models score tokens at `decode.temperature`. If not, the searcher applies it itself, to the
            distribution that it samples from.
        normalised: Whether the score of a hypothesis is normalised by its length.

    Args:
        config: Decode options.
        setting: Models and task.
    """

    Config: ClassVar[type]
    options: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset()
    seeded: ClassVar[bool] = False
    cooled: ClassVar[bool] = True
    normalised: ClassVar[bool] = True

    def __init__(self, config: Any, setting: "Setting"):
        self.config, self.own, self.setting = config, config.search, setting

    @classmethod
    def option(cls) -> str:
        """The option that chooses it, for messages."""
        return f"decode.search={cls.Config().type}"

    @classmethod
    def label(cls, config: Any) -> str:
        """The setting that has chosen it, for messages."""
        return cls.option()

    @classmethod
    def reads(cls, key: str) -> bool:
        """Whether it reads an option of `decode`."""
        owner = FLAT.get(key) or next((flat for flat in FLAT.values() if key in flat.options.values()), None)
        features = {owner.component, f"{owner.kind}s", f"final_{owner.kind}s"} if owner else set()
        return key in COMMON | cls.options or bool(features & cls.takes)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check options against each other. Raises UserError."""

    @classmethod
    def needs(cls, config: Any) -> dict[str, str]:
        """Arguments of a call that these options require and no others accept, such as `draft` -> the message of the
        error if it is missing."""
        return {}

    @classmethod
    def check_task(cls, config: Any, task: Any) -> None:
        """Check that it can search with the models of a task. Raises UserError."""

    @classmethod
    def rows(cls, config: Any) -> int:
        """K, the hypotheses that are decoded in parallel for each sentence; the memory budget uses it."""
        return config.beam_size if "beam_size" in cls.options else config.n_best

    @property
    def max_length(self) -> int | None:
        """Maximum length of a hypothesis in tokens, EOS among them; None: there is none."""
        return self.setting.scorer.max_length

    def run(self, sentences: list[Sentence], first: int = 0) -> "Iterator[list[tuple[int, list[Hypothesis]]]]":
        """Decode sentences. After `torch.OutOfMemoryError` it is called again with fewer sentences.

        Args:
            sentences: By falling length of their sources, each of at least one token.
            first: Added to the sentences' numbers, on which samples depend.

        Yields:
            Lists of finished sentences: number, and up to n_best hypotheses (fewer only if fewer exist), the best
            first. A sentence without a hypothesis of finite score has one that carries an error.
        """
        raise NotImplementedError

    def score(self, inputs: "Inputs", decoder_input: "Tensor", target: "Tensor") -> "Tensor":
        """Log-probabilities [B, T] of given targets by teacher forcing; decoder_input and target: [B, T] int64."""
        return self.setting.scorer.score(inputs, decoder_input, target)


class StepSearcher(Searcher):
    """A search that extends every hypothesis by one token per step, in the slots of the engine."""

    def __init__(self, config: Any, setting: "Setting"):
        super().__init__(config, setting)
        from s2s.decoding.engine import Engine

        self.engine = Engine(config, setting, self.choice)

    def choice(self, slots: int, sentences: list[Sentence], first: int) -> "Chooser":
        """Make the chooser of a run.

        Args:
            slots: B.
            sentences: All sentences of the run.
            first: As in `run`.
        """
        raise NotImplementedError

    def run(self, sentences: list[Sentence], first: int = 0) -> "Iterator[list[tuple[int, list[Hypothesis]]]]":
        return self.engine.run(sentences, first)
