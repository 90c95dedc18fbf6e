"""The results of decoding: hypotheses, as token ids and as text."""

from dataclasses import dataclass

from s2s.errors import Failure, UserError

NEVER = float("-inf")


class Skipped(UserError):
    """A sentence that cannot be read and is skipped, as `skip_broken=true` allows: it fails, but decoding goes on."""


@dataclass
class Hypothesis:
    """One target, decoded, or given and scored.

    Attributes:
        ids: Token ids, without EOS.
        score: Length-normalised log-probability, by which hypotheses are ranked.
        log_probability: Sum of `token_log_probabilities`, in nats.
        token_log_probabilities: One for each token, then that of EOS, in nats. They are those of the unfiltered model;
            in beam search with decode.temperature and decode.eos_scale.
        truncated: Whether the hypothesis ended because it reached the maximum length.
        unmet: How many of the sentence's constraints the hypothesis does not contain.
        alignment: For each token, and then for EOS, the source position with the largest attention weight, from 0; the
            source's EOS is the last position. None: no alignment was requested.
        attention: The attention weights from which the alignment comes: for each token, that of each
            source position. None: they were not requested.
        times: Start and end of each token, in seconds. None: times were not requested, or CTC has no alignment.
        passes: In speculative decoding, the number of passes of the decoder.
        source_truncated: Whether the source was cut to decode.max_source, or to the maximum length of the model.
        error: Why the sentence has no hypothesis. A UserError: its input is invalid. A Failure: decoding it went
            wrong. This is then the only hypothesis of its sentence, and has no tokens. None: no error.
    """

    ids: list[int]
    score: float
    log_probability: float
    token_log_probabilities: list[float]
    truncated: bool = False
    unmet: int = 0
    alignment: list[int] | None = None
    attention: list[list[float]] | None = None
    times: list[tuple[float, float]] | None = None
    passes: int | None = None
    source_truncated: bool = False
    error: UserError | Failure | None = None

    @classmethod
    def empty(cls) -> "Hypothesis":
        """The hypothesis of an empty source; no model is run for it."""
        return cls([], 0.0, 0.0, [])

    @classmethod
    def failed(cls, error: UserError | Failure) -> "Hypothesis":
        """The only hypothesis of a sentence that has failed."""
        # A traceback would keep the tensors of its frames in memory.
        return cls([], NEVER, NEVER, [], error=error.with_traceback(None))

    @classmethod
    def not_finite(cls) -> "Hypothesis":
        """The only hypothesis of a sentence if no hypothesis has a finite score."""
        return cls.failed(Failure("no hypothesis has a finite probability: the model's output is not finite"))

    def check(self, where: str) -> None:
        """Raise its error, unless it is Skipped, as an error of the same kind that names the place `where`."""
        if self.error is not None and not isinstance(self.error, Skipped):
            kind = UserError if isinstance(self.error, UserError) else Failure
            raise kind(f"{where}: {self.error}") from self.error


@dataclass
class Word:
    """A word with its start and end, in seconds."""

    word: str
    start: float
    end: float


@dataclass(kw_only=True)
class Translation(Hypothesis):
    """A hypothesis as text.

    Attributes:
        text: Detokenized text.
        tokens: The symbols of `ids`, then `</s>` for EOS.
        source_tokens: A text for each source position, which may stand for several symbols. None: no alignment was
            requested.
        words: Words with their times. None: see `times`.
    """

    text: str
    tokens: list[str]
    source_tokens: list[str] | None = None
    words: list[Word] | None = None
