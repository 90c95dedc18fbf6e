"""What a search is to the rest of the toolkit. Imports no torch."""

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

# Options of `decode`: of what is rated token by token, and of lengths, which a search by steps keeps.
RATED = frozenset(["length_penalty", "length_normalization", "word_reward", "ensemble", "ensemble_weights",
                   "auxiliary_weights", "encoder_layer", "allow_unknown"])  # fmt: skip
LENGTHS = frozenset(["min_length_a", "min_length_b", "max_length_a", "max_length_b"])


@dataclasses.dataclass
class SearcherConfig:
    """Options of a searcher that has none of its own."""

    type: str = option("", "component")


class Searcher:
    """From sentences to hypotheses.

    Attributes:
        Config: Its own options, `decode.search.NAME`, in `self.own`.
        options: Options of `decode` that it reads beside those of every search (`COMMON`).
        takes: What goes with it: `rules`, `scorers` (that rate tokens) and `final_scorers` (that rate hypotheses), the
            name of a single scorer or rule; of a call `prefix`, `constraints`, `alignment`; `several_models`.
        seeded: Whether hypotheses depend on the seed, and on the number of their sentence.
        cooled: Whether tokens are rated at `decode.temperature`; else it is of what the search draws from.
        normalised: Whether length normalises the score of a hypothesis.

    Args:
        config: Decode options.
        setting: Models, and what else it works with.
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
    def called(cls) -> str:
        """What chooses it, for messages."""
        return f"decode.search={cls.Config().type}"

    @classmethod
    def said(cls, config: Any) -> str:
        """What has chosen it."""
        return cls.called()

    @classmethod
    def reads(cls, key: str) -> bool:
        """Whether it reads an option of `decode`."""
        owner = FLAT.get(key) or next((flat for flat in FLAT.values() if key in flat.options.values()), None)
        features = {owner.component, f"{owner.kind}s", f"final_{owner.kind}s"} if owner else set()
        return key in COMMON | cls.options or bool(features & cls.takes)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check what concerns several options. Raises UserError."""

    @classmethod
    def rows(cls, config: Any) -> int:
        """K: hypotheses that are decoded side by side for each sentence, for the budget of memory."""
        return config.beam_size if "beam_size" in cls.options else config.n_best

    @property
    def max_length(self) -> int | None:
        """Tokens of a hypothesis at most, EOS among them; None: any number."""
        return self.setting.scorer.max_length

    def run(self, sentences: list[Sentence], first: int = 0) -> "Iterator[list[tuple[int, list[Hypothesis]]]]":
        """Decode; sentences come by falling length of their sources.

        Args:
            sentences: What to decode, each with a source of at least one token.
            first: What is added to their numbers for the sake of samples, which depend on them.

        Yields:
            Now and then, some numbers of sentences that are done, with up to n_best hypotheses of each (fewer only if
            fewer exist), the best first. A sentence without any of finite score has failed. Where memory is short
            (`torch.OutOfMemoryError`), it is called again with fewer sentences.
        """
        raise NotImplementedError

    def score(self, inputs: "Inputs", decoder_input: "Tensor", target: "Tensor") -> "Tensor":
        """Log-probabilities [B, T] of given targets by teacher forcing; decoder_input and target: [B, T] int64."""
        return self.setting.scorer.score(inputs, decoder_input, target)


class StepSearcher(Searcher):
    """A search in which every hypothesis goes on by a token a step, in the slots of the engine."""

    def __init__(self, config: Any, setting: "Setting"):
        super().__init__(config, setting)
        from s2s.decoding.engine import Engine

        self.engine = Engine(config, setting, self.choice)

    def choice(self, slots: int, sentences: list[Sentence], first: int) -> "Chooser":
        """How a step goes on, for a run with so many slots over these sentences; `first` as of `run`."""
        raise NotImplementedError

    def run(self, sentences: list[Sentence], first: int = 0) -> "Iterator[list[tuple[int, list[Hypothesis]]]]":
        return self.engine.run(sentences, first)
