"""Options of decoding, the same for s2s-generate and for the validation of s2s-train. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2s import registry
from s2s.config.schema import components, group, option
from s2s.decoding.component import check, chosen
from s2s.errors import UserError


@dataclass
class DecodeConfig:
    """How hypotheses are searched for. A length is in tokens and does not count EOS, unless it is said; that of a
    recording is in positions of the encoder, 25 a second where 4 frames of 10 ms make one."""

    search: Any = group(
        "searcher",
        "beam",
        "beam search (greedy with beam_size=1), sampling, stochastic beam search (sampling without replacement) or "
        "another; speculative and ctc are what decode.speculative and decode.ctc_weight=1 choose",
    )
    scorers: dict[str, Any] = components(
        "scorer",
        [],
        "what rates hypotheses beside the model; language_model, coverage_penalty and ctc_weight choose such, too",
    )
    rules: dict[str, Any] = components(
        "rule", [], "what hypotheses may hold; no_repeat_ngram, forbidden and allowed choose such, too"
    )
    beam_size: int = option(
        5, "hypotheses kept alive for each sentence in either beam search", at_least=1, at_most=10_000
    )
    n_best: int = option(
        1, "hypotheses returned for each sentence; in sampling, how many are drawn", at_least=1, at_most=10_000
    )
    diverse_groups: int = option(
        1,
        "beam search in so many groups of equal size, each kept away from what the earlier ones choose",
        at_least=1,
        at_most=1000,
    )
    diverse_strength: float = option(
        0.5, "taken off a token's log-probability for each earlier group's row that chose it at the step", at_least=0,
        at_most=1e6, needs="diverse_groups",
    )  # fmt: skip
    length_penalty: float = option(
        1.0, "alpha of the length normalisation: 0 is none, larger prefers longer hypotheses (length counts EOS)",
        at_least=-10, at_most=10,
    )  # fmt: skip
    length_normalization: str = option(
        "power", "power: score / length^alpha; gnmt: score / ((5 + length) / 6)^alpha", ("power", "gnmt")
    )
    word_reward: float = option(
        0.0, "added to a hypothesis's score for each of its tokens; negative: a penalty", at_least=-1000, at_most=1000
    )
    min_length_a: float = option(
        0.0, "no hypothesis is shorter than a * source length + b: a", at_least=0, at_most=1000
    )
    min_length_b: int = option(1, "no hypothesis is shorter than a * source length + b: b", at_least=0, at_most=10**6)
    max_length_a: float = option(
        2.0, "a hypothesis is ended at a * source length + b tokens: a", at_least=0, at_most=1000
    )
    max_length_b: int = option(
        50, "a hypothesis is ended at a * source length + b tokens: b", at_least=0, at_most=10**6
    )
    stopping: str = option(
        "first_finished",
        "a sentence is done when: beam_size hypotheses have finished; no live one can still enter the n_best; "
        "all have reached the maximum length",
        ("first_finished", "best_possible", "exhaustive"),
    )
    allow_unknown: bool = option(False, "whether the unknown symbol may be generated")
    no_repeat_ngram: int = option(
        0, "no hypothesis holds the same n tokens twice; 0: any may", at_least=0, at_most=10_000
    )
    forbidden: str | None = option(
        None, "file of words or phrases, one a line, whose tokens no hypothesis holds one after the other"
    )
    allowed: str | None = option(None, "file of outputs, one a line: nothing else is produced, whatever its length")
    temperature: float = option(
        1.0,
        "logits are divided by it: those that are drawn from, or in beam search those that rate: above 1, less sure "
        "models keep more hypotheses in the beam",
        at_least=0.01,
        at_most=1000,
    )
    eos_scale: float = option(
        1.0, "beam search: EOS's log-probability times this: below 1, hypotheses end earlier", at_least=0.01, at_most=1
    )
    top_k: int = option(0, "sampling: only from the k most probable tokens; 0: all", at_least=0)
    top_p: float = option(
        1.0, "sampling: only from the most probable tokens that together reach p", at_least=0, at_most=1
    )
    epsilon: float = option(
        0.0, "sampling: only tokens of at least this probability among those that are left", at_least=0, below=1
    )
    ctc_weight: float | None = option(
        None,
        "share of CTC in a hypothesis's score. 1: CTC alone, the best path with beam_size=1, else prefix beam search; "
        "null: 1 for a model without a decoder and with early exits, 0.3 for one with both, 0 for one without CTC",
        at_least=0,
        at_most=1,
    )
    auxiliary_weights: list[float] = option(
        [], "share of each of model.auxiliary_heads in the logits, the top has the rest; empty: the top alone",
        at_least=0, at_most=1,
    )  # fmt: skip
    exit_layer: int | None = option(
        None,
        "CTC alone on this one of model.encoder.ctc_layers; what is above it is not computed",
        at_least=1,
        at_most=1000,
    )
    exit_confidence: float | None = option(
        None,
        "CTC alone; a recording goes no further than the first of model.encoder.ctc_layers where the most probable "
        "labels have this probability (geometric mean over the positions)",
        at_least=0,
        at_most=1,
    )
    chunk_seconds: float | None = option(
        None,
        "longer recordings are decoded in chunks of so many seconds, put together by CTC's times",
        at_least=1,
        at_most=1e6,
    )
    chunk_overlap: float = option(
        4.0, "seconds that a chunk shares with the next one", at_least=0, needs="chunk_seconds"
    )
    language_model: str | None = option(
        None, "a run or checkpoint of task=language_modeling with the same target vocabulary, which rates tokens too"
    )
    language_model_weight: float = option(
        0.3,
        "its log-probability, so many times, is added to a token's score; negative: likely text is ranked down",
        at_least=-1000,
        at_most=1000,
        needs="language_model",
    )
    ensemble: str = option(
        "linear",
        "several models: average of their probabilities, or of their log-probabilities (normalised again)",
        ("linear", "log_linear"),
    )
    ensemble_weights: list[float] = option(
        [], "weight of each model in that average; empty: all the same", at_least=0, at_most=1e6
    )
    mbr: str = option(
        "none",
        "minimum Bayes risk: of the n_best, the only output is the one most like all of them by sentence chrF or BLEU",
        ("none", "chrf", "bleu"),
    )
    batch_tokens: int = option(
        6000,
        "budget of memory: sentences side by side x hypotheses a sentence x longest source of them (EOS included); of "
        "target tokens that they may come to, 8 times as many; one sentence goes always",
        at_least=1,
        at_most=10**9,
    )
    slots: int | None = option(
        None,
        "sentences decoded side by side at most; null: as many as batch_tokens allows for their length",
        at_least=1,
        at_most=10**6,
    )
    buffer: int | None = option(
        None,
        "lines or recordings read ahead, sorted by length and decoded together; null: 4096 lines, 256 recordings",
        at_least=1,
        at_most=10**9,
    )
    max_source: int | None = option(
        None,
        "longest source, in tokens or in positions of the encoder; time grows with its square. null: 4096 tokens of "
        "text, 15000 positions (ten minutes) of a recording without chunk_seconds",
        at_least=1,
        at_most=10**7,
    )
    long_source: str = option(
        "crop", "a longer source is cut to it, and counted at the end; or its sentence fails", ("crop", "refuse")
    )
    on_error: str = option(
        "stop",
        "where a sentence fails (its model output is not finite, it does not fit into memory): stop with an error that "
        "names it, or mark it by an empty line, in JSON an error, and go on",
        ("stop", "mark"),
    )
    backend: str = option(
        "auto",
        "what computes a step: PyTorch's operators (eager), or on a CPU kernels compiled at first use (native); auto: "
        "native on a CPU where there is a C++ compiler",
        ("auto", "eager", "native"),
    )
    dtype: str = option(
        "fp32",
        "type of the weights: fp32; on a CPU int8 (fastest) or bf16 (with AVX512-BF16 or AMX); on a GPU bf16 or fp16",
        ("fp32", "bf16", "fp16", "int8"),
    )
    shortlist: str | None = option(
        None,
        "file of s2s-shortlist: a hypothesis holds only likely translations of its source's symbols (not in scoring)",
    )

    coverage_penalty: float = option(
        0.0,
        "beta: finished hypotheses are ranked by score + beta * sum over source tokens of log(min(attention, 1))",
        at_least=0,
        at_most=1e6,
    )
    alignment_layer: int | None = option(
        None,
        "decoder layer, from 1, whose attention makes alignments and coverage; null: the last but one",
        at_least=1,
        at_most=1000,
    )
    alignment_head: int | None = option(None, "its head, from 1; null: the mean of all", at_least=1, at_most=1000)

    speculative: str = option(
        "none",
        "greedy search, several tokens a step: guessed by copying from the source, or by the model draft=CHECKPOINT",
        ("none", "input", "draft"),
    )
    speculative_tokens: int = option(
        4, "tokens guessed for a step", at_least=1, at_most=100, needs=("speculative", "draft")
    )

    def __post_init__(self):
        if isinstance(self.search, str):  # in Python and in requests, where a name is enough
            self.search = registry.find("searcher", self.search).Config()

    def searcher(self, ctc_weight: float | None = None) -> type:
        """What searches; `ctc_weight`: what it is of models where the options do not say it. Raises UserError."""
        names = [] if self.search.type == "beam" else [self.search.type]
        if self.ctc_weight == 1 or ctc_weight == 1 or (self._exits and self.ctc_weight is None):
            names.append("ctc")
        if self.speculative != "none":
            names.append("speculative")
        found = [registry.find("searcher", name) for name in dict.fromkeys(names or ["beam"])]
        if len(found) > 1:
            raise UserError(f"{found[0].said(self)} and {found[1].said(self)}: each says how to search; leave one out")
        return found[0]

    @property
    def _exits(self) -> list[str]:
        return [key for key in ("exit_layer", "exit_confidence") if getattr(self, key) is not None]

    def check_alignment(self, wanted: bool, by: str) -> None:
        """Whether what `alignment_*` say is read by anything; `by` is what else reads it. Raises UserError."""
        attends = any(getattr(one.found, "attends", False) for one in chosen(self))
        for key in ("alignment_layer", "alignment_head"):
            value = getattr(self, key)
            if value is not None and not (wanted or attends):
                raise UserError(f"decode.{key}={value}: does nothing without {by} or decode.coverage_penalty")

    def check(self, given: Mapping[str, str] | None = None) -> None:
        """Check what concerns several keys; `given`: as of `component.check`. Raises UserError."""
        if self.search.type == "ctc" and self.ctc_weight not in (None, 1):
            raise UserError(f"decode.search=ctc: is decode.ctc_weight=1, and not {self.ctc_weight:g}")
        if self._exits and self.ctc_weight not in (None, 1):
            raise UserError(f"decode.{self._exits[0]}: a decoder reads the last layer only; the exits are for CTC "
                            "alone, decode.ctc_weight=1")  # fmt: skip
        check(self, self.searcher(), given or {})
        if sum(self.auxiliary_weights) > 1:
            raise UserError(f"decode.auxiliary_weights={self.auxiliary_weights}: their sum must be at most 1; the top "
                            "has the rest")  # fmt: skip
        if self.chunk_seconds and self.chunk_overlap > self.chunk_seconds / 2:
            raise UserError(f"decode.chunk_overlap={self.chunk_overlap:g}: at most half of "
                            f"decode.chunk_seconds={self.chunk_seconds:g}")  # fmt: skip
        if self.mbr != "none" and self.n_best < 2:
            raise UserError(f"decode.mbr={self.mbr}: needs decode.n_best of at least 2, to choose from")

    @property
    def rows(self) -> int:
        """K: hypotheses that are decoded side by side for each sentence."""
        return self.searcher().rows(self)
