"""Options of decoding, the same for s2s-generate and for the validation of s2s-train. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2s import registry
from s2s.config.schema import components, group, option
from s2s.decoding.component import check, chosen
from s2s.errors import UserError

# Options of exits, another option that does not go with each, and why.
EXITS_APART = (
    ("encoder_exit_similarity", "pack_source", "the sources of a row would leave together"),
    ("encoder_exit_similarity", "exit_confidence", "each decides where a recording leaves the encoder"),
    ("decoder_exit_similarity", "auxiliary_weights", "each decides which layers predict a token"),
)


@dataclass
class DecodeConfig:
    """Options of the search for hypotheses.

    Lengths are in tokens and do not count EOS unless stated. The length of a recording is in encoder positions: 25 per
    second if 4 frames of 10 ms make one position.
    """

    search: Any = group(
        "searcher",
        "beam",
        "beam search (greedy with beam_size=1), sampling, stochastic beam search (sampling without replacement) or "
        "another; decode.speculative and decode.ctc_weight=1 choose the searches speculative and ctc",
    )
    scorers: dict[str, Any] = components(
        "scorer",
        [],
        "scorers of hypotheses in addition to the model; language_model, coverage_penalty and ctc_weight add theirs",
    )
    rules: dict[str, Any] = components(
        "rule", [], "restrictions of hypotheses; no_repeat_ngram, forbidden and allowed add theirs"
    )
    beam_size: int = option(
        5,
        "hypotheses kept alive for each sentence in beam search and stochastic beam search",
        at_least=1,
        at_most=10_000,
    )
    n_best: int = option(
        1, "hypotheses returned for each sentence; for sampling, the number of samples", at_least=1, at_most=10_000
    )
    diverse_groups: int = option(
        1,
        "number of equal groups in beam search; each group avoids the choices of the earlier ones",
        at_least=1,
        at_most=1000,
    )
    diverse_strength: float = option(
        0.5, "penalty on a token for each hypothesis of earlier groups that chose it at this step", at_least=0,
        at_most=1e6, needs="diverse_groups",
    )  # fmt: skip
    length_penalty: float = option(
        1.0, "alpha of length normalisation: 0 is none, larger values prefer longer hypotheses (EOS counts)",
        at_least=-10, at_most=10,
    )  # fmt: skip
    length_normalization: str = option(
        "power", "power: score / length^alpha; gnmt: score / ((5 + length) / 6)^alpha", ("power", "gnmt")
    )
    word_reward: float = option(
        0.0,
        "reward added to the score of a hypothesis for each token; negative: a penalty",
        at_least=-1000,
        at_most=1000,
    )
    min_length_a: float = option(0.0, "minimum length is a * source length + b: a", at_least=0, at_most=1000)
    min_length_b: int = option(1, "minimum length is a * source length + b: b", at_least=0, at_most=10**6)
    max_length_a: float = option(
        2.0,
        "maximum length is a * source length + b: a; a text counts in tokens, a recording in encoder positions",
        at_least=0,
        at_most=1000,
    )
    max_length_b: int = option(50, "maximum length is a * source length + b: b", at_least=0, at_most=10**6)
    stopping: str = option(
        "first_finished",
        "when a sentence is finished: beam_size hypotheses have finished; no live hypothesis can enter the n_best; "
        "beam_size have finished, and no live one is better now than the worst of them; all hypotheses have reached "
        "the maximum length",
        ("first_finished", "best_possible", "worst_finished", "exhaustive"),
    )
    allow_unknown: bool = option(False, "whether the unknown symbol may be generated")
    free_beginning: bool = option(
        False, "the first token, which task.target_tag forces, has the log-probability 0, as in transformers"
    )
    uncounted: int = option(
        0, "tokens at the beginning, of those that task.target_tag and target_prefix force, that have the "
        "log-probability 0 and do not count in length normalisation, as a prompt in transformers", at_least=0,
        at_most=1000,
    )  # fmt: skip
    replace_unknown: bool = option(
        False,
        "with allow_unknown: write each unknown symbol as the source token that its attention points at (as "
        "alignment=true does)",
    )
    unknown_dictionary: str | None = option(
        None,
        "file of source tokens and what replace_unknown writes for them, one pair per line",
        needs="replace_unknown",
    )  # fmt: skip
    no_repeat_ngram: int = option(
        0, "forbid the same n tokens twice in a hypothesis; 0: allow", at_least=0, at_most=10_000
    )
    forbidden: str | None = option(
        None, "file of words or phrases, one per line, whose sequences of tokens are forbidden in hypotheses"
    )
    allowed: str | None = option(None, "file of the only allowed outputs, one per line, whatever their length")
    temperature: float = option(
        1.0,
        "softmax temperature, for sampling and for beam scores; above 1, the model is less confident, and the beam "
        "more varied",
        at_least=0.01,
        at_most=1000,
    )
    eos_scale: float = option(
        1.0, "beam search: factor of EOS's log-probability; below 1, hypotheses end earlier", at_least=0.01, at_most=1
    )
    top_k: int = option(0, "sampling: draw only from the k most probable tokens; 0: all", at_least=0)
    top_p: float = option(
        1.0, "sampling: draw only from the most probable tokens whose probabilities add up to p", at_least=0, at_most=1
    )
    epsilon: float = option(
        0.0, "sampling: draw only tokens of at least this probability, after top_k and top_p", at_least=0, below=1
    )
    ctc_weight: float | None = option(
        None,
        "weight of CTC in the score. 1: CTC alone, best path with beam_size=1, otherwise prefix beam search; null: 1 "
        "without a decoder and with early exits, 0.3 for a model with CTC and a decoder, 0 for one without CTC",
        at_least=0,
        at_most=1,
    )
    auxiliary_weights: list[float] = option(
        [], "share of each of model.auxiliary_heads in the logits; empty: only the top layer",
        at_least=0, at_most=1,
    )  # fmt: skip
    encoder_layer: int | None = option(
        None,
        "encoder layer, from 1, that the decoder reads in place of the last, to see what it knows (DecoderLens)",
        at_least=1,
        at_most=1000,
    )
    subnet: str | None = option(
        None,
        "part of a model of nested layers: the width of its feed-forward blocks, such as 0.25 of it, or a width for "
        "each layer, 0.5,1,...",
    )
    pack_source: bool = option(
        False, "encode several sources in one row, so that little is computed on padding where lengths differ"
    )
    exit_layer: int | None = option(
        None,
        "decode by the CTC of this layer, one of model.encoder.ctc_layers, and skip the layers above it",
        at_least=1,
        at_most=1000,
    )
    exit_confidence: float | None = option(
        None,
        "decode by CTC, and stop each recording at the first of model.encoder.ctc_layers whose most probable labels "
        "have this probability (geometric mean over positions)",
        at_least=0,
        at_most=1,
    )
    encoder_exit_similarity: float | None = option(
        None,
        "end the encoder for a source at the layer whose states are more similar than this to those before it (mean "
        "cosine over positions)",
        at_least=-1,
        at_most=1,
    )
    decoder_exit_similarity: float | None = option(
        None,
        "with backend=eager: end the decoder for a token at the layer whose state is more similar than this to that "
        "before it (cosine)",
        at_least=-1,
        at_most=1,
    )
    chunk_seconds: float | None = option(
        None,
        "decode longer recordings in chunks of this many seconds, joined by CTC's times",
        at_least=1,
        at_most=1e6,
        reads="recordings",
    )
    chunk_overlap: float = option(
        4.0,
        "seconds of overlap between neighbouring chunks",
        at_least=0,
        needs="chunk_seconds",
        reads="recordings",
    )
    encoder_chunk: int | None = option(
        None,
        "encode longer texts in overlapping chunks of this many tokens, EOS included; the decoder reads them as one "
        "source, and neither model.max_positions nor the default of max_source limits it",
        at_least=2,
        at_most=10**7,
        reads="lines",
    )
    encoder_chunk_overlap: int | None = option(
        None,
        "tokens that neighbouring chunks share; null: half of encoder_chunk",
        at_least=0,
        at_most=10**7,
        needs="encoder_chunk",
        reads="lines",
    )
    cross_attention_k: int | None = option(
        None,
        "without kernels: each head of the attention to the source reads the so many positions with the greatest "
        "logits only; null: all",
        at_least=1,
        at_most=10**7,
    )
    language_model: str | None = option(
        None, "run or checkpoint of task=language_modeling with the same target vocabulary, for shallow fusion"
    )
    language_model_weight: float = option(
        0.3,
        "factor of the language model's log-probability, which is added to the score; negative: demote likely text",
        at_least=-1000,
        at_most=1000,
        needs="language_model",
    )
    ensemble: str = option(
        "linear",
        "ensembles: average probabilities, or log-probabilities (normalised again)",
        ("linear", "log_linear"),
    )
    ensemble_weights: list[float] = option(
        [], "weight of each model of an ensemble; empty: equal weights", at_least=0, at_most=1e6
    )
    mbr: str = option(
        "none",
        "minimum Bayes risk: output the hypothesis of the n_best most similar to all, by sentence chrF or BLEU",
        ("none", "chrf", "bleu"),
    )
    batch_tokens: int | None = option(
        None,
        "memory budget: sentences decoded together x hypotheses per sentence x their longest source (EOS included), "
        "and 8 times as much for the maximum length of targets; one sentence always fits. null: 6000 on a CPU, 32000 "
        "on a GPU",
        at_least=1,
        at_most=10**9,
    )
    slots: int | None = option(
        None,
        "most sentences decoded together; null: as many as batch_tokens allows for their length",
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
        "longest source, in tokens or encoder positions; time grows with its square. null: 4096 tokens of text, "
        "15000 positions (ten minutes) of a recording without chunk_seconds",
        at_least=1,
        at_most=10**7,
    )
    long_source: str = option(
        "crop", "longer sources: cut them to max_source and count them, or fail", ("crop", "refuse")
    )
    on_error: str = option(
        "stop",
        "if a sentence fails (model output not finite, out of memory): stop with an error that names it, or mark it by "
        "an empty line, in JSON an error, and continue",
        ("stop", "mark"),
    )
    backend: str = option(
        "auto",
        "a step is computed by PyTorch's operators (eager), or on a CPU by kernels compiled at first use (native); "
        "auto: native on a CPU with a C++ compiler",
        ("auto", "eager", "native"),
    )
    split_keys: int | None = option(
        None,
        "with backend=eager: a step attends to so many positions at a time, and merges their results exactly",
        at_least=1,
        at_most=10**6,
    )
    dtype: str = option(
        "auto",
        "type of the weights: fp32; on a CPU int8 (fastest) or bf16 (with AVX512-BF16 or AMX); on a GPU bf16 or fp16. "
        "auto: fp32 on a CPU; on a GPU bf16, or fp16 where it has no bf16",
        ("auto", "fp32", "bf16", "fp16", "int8"),
    )
    shortlist: str | None = option(
        None,
        "file of s2s-shortlist: allow only likely translations of the source's symbols (not with mode=score)",
    )

    coverage_penalty: float = option(
        0.0,
        "beta: rank finished hypotheses by score + beta * sum over source tokens of log(min(attention, 1))",
        at_least=0,
        at_most=1e6,
    )
    alignment_layer: int | None = option(
        None,
        "decoder layer, from 1, whose attention gives alignments and coverage; null: the last but one, or the nearest "
        "that attends",
        at_least=1,
        at_most=1000,
    )
    alignment_head: int | None = option(
        None, "attention head of that layer, from 1; null: the mean of all heads", at_least=1, at_most=1000
    )

    speculative: str = option(
        "none",
        "greedy search, several tokens per step, proposed by copying from the source, by the model draft=CHECKPOINT or "
        "by a part of the model (self)",
        ("none", "input", "draft", "self"),
    )
    speculative_tokens: int = option(
        4, "tokens proposed per step", at_least=1, at_most=100, needs=("speculative", "draft")
    )
    draft_subnet: str | None = option(
        None, "the part that proposes, as subnet; null: the smallest", needs="speculative=self"
    )

    def __post_init__(self):
        if isinstance(self.search, str):  # in Python and in requests, where a name is enough
            self.search = registry.find("searcher", self.search).Config()

    def searcher(self, ctc_weight: float | None = None) -> type:
        """The class of the searcher that the options choose.

        Args:
            ctc_weight: The weight that the models have by default, if it is known.

        Raises:
            UserError: two options choose different searchers.
        """
        names = [] if self.search.type == "beam" else [self.search.type]
        if self.ctc_weight == 1 or ctc_weight == 1 or (self._exits and self.ctc_weight is None):
            names.append("ctc")
        if self.speculative != "none":
            names.append("speculative")
        searcher, *others = [registry.find("searcher", name) for name in dict.fromkeys(names or ["beam"])]
        if others:
            raise UserError(f"{searcher.label(self)} and {others[0].label(self)}: each chooses a search; leave one out")
        return searcher

    @property
    def _exits(self) -> list[str]:
        return [key for key in ("exit_layer", "exit_confidence") if getattr(self, key) is not None]

    def check_alignment(self, wanted: bool, by: str) -> None:
        """Check that `alignment_layer` and `alignment_head`, if set, have an effect.

        Args:
            wanted: Whether alignments are returned.
            by: The setting that returns them, for the message.

        Raises:
            UserError: nothing reads them.
        """
        attends = any(getattr(item.component, "attends", False) for item in chosen(self))
        for key in ("alignment_layer", "alignment_head"):
            value = getattr(self, key)
            if value is not None and not (wanted or attends or self.replace_unknown):
                raise UserError(f"decode.{key}={value}: does nothing without {by} or decode.coverage_penalty")

    def check(self, given: Mapping[str, str] | None = None) -> None:
        """Check options against each other; `given` as in `component.check`. Raises UserError."""
        if self.search.type == "ctc" and self.ctc_weight not in (None, 1):
            raise UserError(f"decode.search=ctc: requires decode.ctc_weight=1, not {self.ctc_weight:g}")
        if self._exits and self.ctc_weight not in (None, 1):
            raise UserError(f"decode.{self._exits[0]}: requires CTC alone, decode.ctc_weight=1; a decoder reads the "
                            "last encoder layer only")  # fmt: skip
        check(self, self.searcher(), given or {})
        if self.replace_unknown and not self.allow_unknown:
            raise UserError("decode.replace_unknown=true: requires decode.allow_unknown=true; nothing is unknown "
                            "otherwise")  # fmt: skip
        for key, other, why in EXITS_APART:
            if getattr(self, key) is not None and getattr(self, other) not in (None, False, []):
                raise UserError(f"decode.{key}={getattr(self, key):g}: does not go with decode.{other}: {why}")
        if sum(self.auxiliary_weights) > 1:
            raise UserError(f"decode.auxiliary_weights={self.auxiliary_weights}: their sum must be at most 1; the top "
                            "layer gets the rest")  # fmt: skip
        if self.chunk_seconds and self.chunk_overlap > self.chunk_seconds / 2:
            raise UserError(f"decode.chunk_overlap={self.chunk_overlap:g}: must be at most half of "
                            f"decode.chunk_seconds={self.chunk_seconds:g}")  # fmt: skip
        if self.encoder_chunk and (self.encoder_chunk_overlap or 0) >= self.encoder_chunk:
            raise UserError(f"decode.encoder_chunk_overlap={self.encoder_chunk_overlap}: must be below "
                            f"decode.encoder_chunk={self.encoder_chunk}")  # fmt: skip
        if self.encoder_chunk and self.pack_source:
            raise UserError(f"decode.encoder_chunk={self.encoder_chunk}: does not go with decode.pack_source: each "
                            "decides which rows the encoder reads")  # fmt: skip
        if self.mbr != "none" and self.n_best < 2:
            raise UserError(f"decode.mbr={self.mbr}: requires decode.n_best of at least 2, to choose from")

    @property
    def rows(self) -> int:
        """K, the hypotheses that are decoded in parallel for each sentence."""
        return self.searcher().rows(self)
