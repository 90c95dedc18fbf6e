"""What decoding returns."""

from dataclasses import dataclass


@dataclass
class Hypothesis:
    """One decoded (or given and scored) target.

    Attributes:
        ids: Token ids, without EOS.
        score: Length-normalised log-probability, what hypotheses are ranked by.
        log_probability: Sum of `token_log_probabilities`; nats.
        token_log_probabilities: One for each token, then that of EOS; nats, of the unfiltered model (in beam search
            with decode.temperature and decode.eos_scale).
        truncated: Whether the maximum length ended it.
        unmet: How many of the sentence's constraints it does not hold.
        alignment: For each token, and then for EOS, the source position of the greatest attention, from 0 (EOS of the
            source is the last one); None: was not asked for.
        times: From when to when each token is said, in seconds, where that was asked for; None also where CTC has no
            alignment for it.
        passes: In speculative decoding, passes of the decoder that it took.
    """

    ids: list[int]
    score: float
    log_probability: float
    token_log_probabilities: list[float]
    truncated: bool = False
    unmet: int = 0
    alignment: list[int] | None = None
    times: list[tuple[float, float]] | None = None
    passes: int | None = None

    @classmethod
    def empty(cls) -> "Hypothesis":
        """The translation of an empty source, which no model has seen."""
        return cls([], 0.0, 0.0, [])


@dataclass
class Word:
    """A word, from when to when it is said, in seconds."""

    word: str
    start: float
    end: float


@dataclass(kw_only=True)
class Translation(Hypothesis):
    """A hypothesis as text.

    Attributes:
        text: Detokenized.
        tokens: The symbols of `ids`, and then the end's, `</s>`.
        source_tokens: The same of the source, where an alignment was asked for.
        words: With times those of the words, None as they are.
        source_truncated: Whether the source was cut to the most that the model can take.
    """

    text: str
    tokens: list[str]
    source_tokens: list[str] | None = None
    words: list[Word] | None = None
    source_truncated: bool = False
