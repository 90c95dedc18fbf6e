"""The searchers of the toolkit: which options each reads, which components go with it, and what it runs. Imports no
torch, so that a command can quickly report options that do not go together."""

import dataclasses
from typing import TYPE_CHECKING, Any

from s2s.config.schema import option
from s2s.decoding.search.searcher import LENGTHS, RATED, Searcher, SearcherConfig, StepSearcher
from s2s.decoding.sentence import Sentence
from s2s.errors import UserError

if TYPE_CHECKING:
    from s2s.decoding.search.choice import Chooser

DRAWN = frozenset(["temperature", "top_k", "top_p", "epsilon"])


@dataclasses.dataclass
class BeamConfig(SearcherConfig):
    """It has no options of its own; it reads those of `decode`."""

    type: str = option("beam", "component")


class BeamSearch(StepSearcher):
    """Beam search: plain, in diverse groups, with constraints, or with partial scorers. beam_size=1 is greedy."""

    Config = BeamConfig
    options = RATED | LENGTHS | {"beam_size", "diverse_groups", "diverse_strength", "stopping", "temperature",
                                 "eos_scale", "shortlist", "free_beginning", "uncounted"}  # fmt: skip
    takes = frozenset(["rules", "scorers", "final_scorers", "prefix", "constraints", "alignment", "several_models"])

    @classmethod
    def check(cls, config: Any) -> None:
        _within_beam(config)
        if config.beam_size % config.diverse_groups:
            raise UserError(f"decode.diverse_groups={config.diverse_groups}: must divide "
                            f"decode.beam_size={config.beam_size}")  # fmt: skip

    def choice(self, slots: int, sentences: list[Sentence], first: int) -> "Chooser":
        from s2s.decoding.search.beam import Beam, NativeBeam

        config, setting = self.config, self.setting
        constraints = {first + sentence.number: sentence.constraints for sentence in sentences}
        if any(constraints.values()):
            from s2s.decoding.search.constrained import ConstrainedBeam

            return ConstrainedBeam(config, slots, constraints, setting.device)
        if setting.scorer.partial:
            from s2s.decoding.search.partial import PartialBeam

            return PartialBeam(config, setting.device, setting.scorer)
        if config.diverse_groups > 1:
            from s2s.decoding.search.diverse import DiverseBeam

            return DiverseBeam(config, setting.device)
        native = setting.scorer.native and not setting.rules_of(sentences)
        return NativeBeam(config, setting.device) if native else Beam(config, setting.device)


@dataclasses.dataclass
class SampleConfig(SearcherConfig):
    """It has no options of its own; it reads those of `decode`."""

    type: str = option("sample", "component")


class Sample(StepSearcher):
    """Independent samples from the model's distribution."""

    Config = SampleConfig
    options = RATED | LENGTHS | DRAWN | {"shortlist"}
    takes = frozenset(["rules", "prefix", "alignment", "several_models"])
    seeded, cooled = True, False

    def choice(self, slots: int, sentences: list[Sentence], first: int) -> "Chooser":
        from s2s.decoding.search.sampling import Sampling

        return Sampling(self.config, slots, self.setting.device, self.setting.seed)


@dataclasses.dataclass
class StochasticBeamConfig(SearcherConfig):
    """It has no options of its own; it reads those of `decode`."""

    type: str = option("stochastic_beam", "component")


class StochasticBeamSearch(StepSearcher):
    """Samples without replacement. The noise depends on symbol ids, so a shortlist, which changes them, is refused."""

    Config = StochasticBeamConfig
    options = RATED | LENGTHS | DRAWN | {"beam_size"}
    takes = frozenset(["rules", "prefix", "alignment", "several_models"])
    seeded, cooled = True, False

    @classmethod
    def check(cls, config: Any) -> None:
        _within_beam(config)

    def choice(self, slots: int, sentences: list[Sentence], first: int) -> "Chooser":
        from s2s.decoding.search.stochastic import StochasticBeam

        return StochasticBeam(self.config, slots, self.setting.device, self.setting.seed)


def _within_beam(config: Any) -> None:
    if config.n_best > config.beam_size:
        raise UserError(f"decode.n_best={config.n_best}: must be at most decode.beam_size={config.beam_size}")


@dataclasses.dataclass
class SpeculativeConfig(SearcherConfig):
    """It has no options of its own; it reads those of `decode`."""

    type: str = option("speculative", "component")


class SpeculativeSearch(Searcher):
    """Greedy search with several tokens per step; see s2s/decoding/search/speculative.py."""

    Config = SpeculativeConfig
    options = (RATED - {"split_keys"}) | LENGTHS | {"beam_size", "speculative", "speculative_tokens", "draft_subnet"}
    takes = frozenset(["prefix", "alignment"])

    @classmethod
    def option(cls) -> str:
        return "decode.speculative"

    @classmethod
    def label(cls, config: Any) -> str:
        return f"decode.speculative={config.speculative}"

    @classmethod
    def check(cls, config: Any) -> None:
        if config.speculative == "none":
            raise UserError("decode.search=speculative: requires decode.speculative=input, draft or self")
        if config.beam_size > 1:
            raise UserError(f"{cls.label(config)} requires greedy search, decode.beam_size=1")
        _within_beam(config)

    @classmethod
    def needs(cls, config: Any) -> dict[str, str]:
        message = "decode.speculative=draft requires draft=CHECKPOINT, an argument of s2s-generate and s2s.load"
        return {"draft": message} if config.speculative == "draft" else {}

    @classmethod
    def check_task(cls, config: Any, task: Any) -> None:
        if config.speculative == "input" and not (task.shared_vocabulary and len(task.spec.sources) == 1):
            raise UserError("decode.speculative=input copies from the source: there must be a single source, and it "
                            "must share a vocabulary with the target")  # fmt: skip

    def __init__(self, config: Any, setting):
        super().__init__(config, setting)
        from s2s.decoding.search.speculative import Speculative

        self.run = Speculative(config, setting).run


@dataclasses.dataclass
class CtcConfig(SearcherConfig):
    """It has no options of its own; it reads those of `decode`."""

    type: str = option("ctc", "component")


class CtcSearch(Searcher):
    """CTC alone; see s2s/decoding/search/ctc.py."""

    Config = CtcConfig
    # Frames limit the length. A maximum length that allows as many tokens, as that of decode=speech, has no effect.
    options = frozenset(["beam_size", "word_reward", "exit_layer", "exit_confidence", "allow_unknown", "max_length_a",
                         "max_length_b"])  # fmt: skip
    takes = frozenset(["language_model"])
    max_length, normalised = None, False

    @classmethod
    def option(cls) -> str:
        return "decode.ctc_weight=1"

    @classmethod
    def label(cls, config: Any) -> str:
        return "CTC alone (decode.ctc_weight=1)"

    @classmethod
    def check(cls, config: Any) -> None:
        _within_beam(config)
        if config.max_length_a < 1:
            raise UserError(f"decode.max_length_a={config.max_length_a:g}: does nothing with {cls.label(config)}, "
                            "which writes up to one token per encoder position; it must be at least 1")  # fmt: skip

    def __init__(self, config: Any, setting):
        super().__init__(config, setting)
        from s2s.decoding.search.ctc import CtcDecoder

        decoder = CtcDecoder(config, setting)
        self.run, self.score = decoder.run, decoder.score
