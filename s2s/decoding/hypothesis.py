"""What decoding returns."""

from dataclasses import dataclass

from s2s.errors import Failure, UserError

NEVER = float("-inf")


class Skipped(UserError):
    """What cannot be read, and is left out by the user's word: it has failed, and stops nothing."""


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
        alignment: For each token, and then for EOS, the position of the source of the greatest attention, from 0 (the
            last one is, or holds, EOS of a text); None: was not asked for.
        times: From when to when each token is said, in seconds, where that was asked for; None also where CTC has no
            alignment for it.
        passes: In speculative decoding, passes of the decoder that it took.
        source_truncated: Whether the source was cut to decode.max_source, or to the most that the model can take.
        error: Why the sentence has no hypothesis: a UserError that says what is wrong with its input, a Failure that
            says what went wrong with it. It is the only one of its sentence then, without tokens. None: all is well.
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
    source_truncated: bool = False
    error: UserError | Failure | None = None

    @classmethod
    def empty(cls) -> "Hypothesis":
        """The translation of an empty source, which no model has seen."""
        return cls([], 0.0, 0.0, [])

    @classmethod
    def failed(cls, error: UserError | Failure) -> "Hypothesis":
        """In place of the hypotheses of a sentence that has failed."""
        return cls([], NEVER, NEVER, [], error=error.with_traceback(None))  # which would keep what its frames hold

    @classmethod
    def not_finite(cls) -> "Hypothesis":
        """In place of the hypotheses of a sentence of which none has a finite score."""
        return cls.failed(Failure("no hypothesis has a finite probability: the model's output is not finite"))

    def check(self, where: str) -> None:
        """Raise the error that it holds, if there is one that stops, as one of its kind that says where."""
        if self.error is not None and not isinstance(self.error, Skipped):
            kind = UserError if isinstance(self.error, UserError) else Failure
            raise kind(f"{where}: {self.error}") from self.error


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
        source_tokens: The same of the positions of the source, where an alignment was asked for; one may hold several.
        words: With times those of the words, None as they are.
    """

    text: str
    tokens: list[str]
    source_tokens: list[str] | None = None
    words: list[Word] | None = None
