"""When what a hypothesis says was said: times of tokens by CTC's alignment, and of words; long recordings in chunks."""

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torch

from s2s.data.batch import Inputs
from s2s.decoding.config import DecodeConfig
from s2s.decoding.ctc import align
from s2s.decoding.hypothesis import Hypothesis, Word
from s2s.models.encoder_decoder import EncoderDecoder

LONG = 1 << 20  # frames of a source in which the rounding of a model's subsampling is nothing

Ids = list[int]
Times = list[tuple[float, float]]


@torch.inference_mode()
def token_times(model: EncoderDecoder, inputs: Inputs, targets: list[Ids], seconds: float) -> list[Times | None]:
    """From when to when each token is said, in seconds from the beginning.

    Args:
        model: With CTC.
        inputs: A batch of recordings.
        targets: Token ids of each.
        seconds: From one frame of the features to the next.

    Returns:
        For each target; None: it has no alignment.
    """
    memory = model.encode(*inputs)
    found = align(model.ctc_log_probabilities(memory), memory.lengths, targets)
    step = seconds * LONG / model.memory_length(LONG)
    return [None if rows is None else [(float(a * step), float(b * step)) for a, b in rows] for rows in found]


def words(ids: Ids, times: Times, text: Callable[[Ids], str]) -> list[Word]:
    """The words of a hypothesis, which are what spaces separate in its text.

    A token belongs to the word that it lengthens; one that lengthens none (a space) to none.
    """
    found: list[Word] = []
    before = 0
    for count, (start, end) in enumerate(times, 1):
        pieces = text(ids[:count]).split()
        letters = sum(map(len, pieces))
        if letters > before:
            found += [Word("", start, end) for _ in pieces[len(found) :]]
            found[-1].end = end
        before = letters
    for word, spelled in zip(found, text(ids).split(), strict=False):
        word.word = spelled
    return found


class Chunks:
    """How a long recording is cut into chunks that overlap, and what of their hypotheses is kept.

    All chunks are of one length, `decode.chunk_seconds`, and each begins `decode.chunk_overlap` before the last one
    ends; the last of all ends with the recording and begins as much earlier as it needs to be as long. In the middle of
    what two chunks share the one's tokens end and the other's begin, by the times of the tokens.

    Args:
        config: Decode options.
        seconds: From one frame to the next.
    """

    without: ClassVar = dict.fromkeys(
        ["n_best", "final_scorers", "prefix", "constraints"], "it puts the best hypotheses of chunks together"
    )

    def __init__(self, config: DecodeConfig, seconds: float):
        self.seconds = seconds
        self.size, self.overlap = (round(s / seconds) for s in (config.chunk_seconds, config.chunk_overlap))

    def of(self, frames: int) -> list[tuple[int, int]]:
        """First frame of each chunk, and the one after its last."""
        starts = range(0, max(1, frames - self.overlap), self.size - self.overlap)
        last = max(0, frames - self.size)
        return [(min(start, last), min(min(start, last) + self.size, frames)) for start in starts]

    def merged(self, spans: list[tuple[int, int]], parts: list[Hypothesis]) -> tuple[Ids, list[float], Times]:
        """Tokens of a recording, their log-probabilities (with EOS's, of the last chunk) and times, from the hypotheses
        of its chunks with their times."""
        borders = [(one[1] + other[0]) / 2 * self.seconds for one, other in pairwise(spans)]
        ids: Ids = []
        each: list[float] = []
        times: Times = []
        for (first, _), part, left, right in zip(
            spans, parts, [float("-inf"), *borders], [*borders, float("inf")], strict=True
        ):
            for token, value, (start, end) in zip(part.ids, part.token_log_probabilities, part.times, strict=False):
                start, end = start + first * self.seconds, end + first * self.seconds
                if left <= (start + end) / 2 < right:
                    ids.append(token)
                    each.append(value)
                    times.append((start, end))
        return ids, [*each, parts[-1].token_log_probabilities[-1]], times
