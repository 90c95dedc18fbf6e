"""Times of tokens and words by CTC's alignment, and decoding of long recordings in chunks."""

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import torch

from s2s.data.batch import Inputs
from s2s.decoding.config import DecodeConfig
from s2s.decoding.ctc import align
from s2s.decoding.hypothesis import Hypothesis, Word
from s2s.models.encoder_decoder import EncoderDecoder

LONG = 1 << 20  # frames of a source so long that the rounding of subsampled lengths is negligible

Ids = list[int]
Times = list[tuple[float, float]]


@torch.inference_mode()
def token_times(model: EncoderDecoder, inputs: Inputs, targets: list[Ids], seconds: float) -> list[Times | None]:
    """Start and end of each token, in seconds from the beginning of the recording.

    Args:
        model: A model with CTC.
        inputs: A batch of recordings.
        targets: Token ids of each recording.
        seconds: Seconds from one frame of the features to the next.

    Returns:
        The times of each target; None: it has no alignment.
    """
    memory = model.encode(*inputs)
    spans = align(model.ctc_log_probabilities(memory), memory.lengths, targets)
    step = seconds * LONG / model.memory_length(LONG)
    return [None if rows is None else [(float(a * step), float(b * step)) for a, b in rows] for rows in spans]


def words(ids: Ids, times: Times, text: Callable[[Ids], str]) -> list[Word]:
    """The words of a hypothesis (spaces separate them in its text) with their times.

    A token belongs to the word that it lengthens. A token that lengthens no word, such as a space, belongs to none.

    Args:
        ids: Token ids.
        times: Times of the tokens.
        text: Detokenizes ids.
    """
    result: list[Word] = []
    before = 0
    for count, (start, end) in enumerate(times, 1):
        pieces = text(ids[:count]).split()
        letters = sum(map(len, pieces))
        if letters > before:
            result += [Word("", start, end) for _ in pieces[len(result) :]]
            result[-1].end = end
        before = letters
    for word, spelled in zip(result, text(ids).split(), strict=False):
        word.word = spelled
    return result


def spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """The first position of each chunk, and the position after its last one. The last chunk has the full size, too, if
    `length` allows it. overlap: less than `size`."""
    starts, last = range(0, max(1, length - overlap), size - overlap), max(0, length - size)
    return [(min(start, last), min(min(start, last) + size, length)) for start in starts]


class Chunks:
    """Cuts a long recording into overlapping chunks, and joins their hypotheses.

    All chunks have the same length, `decode.chunk_seconds`. Each begins `decode.chunk_overlap` seconds before the one
    before it ends. The last chunk ends with the recording, and begins earlier if necessary to have the full length. The
    hypotheses of two chunks are joined in the middle of their overlap, by the times of tokens.

    Args:
        config: Decode options.
        seconds: Seconds from one frame to the next.
    """

    without: ClassVar = dict.fromkeys(
        ["n_best", "final_scorers", "prefix", "constraints"], "only the best hypotheses of chunks are joined"
    )

    def __init__(self, config: DecodeConfig, seconds: float):
        self.seconds = seconds
        self.size, self.overlap = (round(s / seconds) for s in (config.chunk_seconds, config.chunk_overlap))

    def of(self, frames: int) -> list[tuple[int, int]]:
        """The first frame of each chunk, and the frame after its last one."""
        return spans(frames, self.size, self.overlap)

    def merged(self, spans: list[tuple[int, int]], parts: list[Hypothesis]) -> tuple[Ids, list[float], Times]:
        """Join the hypotheses of the chunks of a recording.

        Args:
            spans: As `of` returns them.
            parts: The hypothesis of each chunk, with times.

        Returns:
            Token ids; their log-probabilities, with that of the last chunk's EOS; and the times of the tokens.
        """
        borders = [(left[1] + right[0]) / 2 * self.seconds for left, right in pairwise(spans)]
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
