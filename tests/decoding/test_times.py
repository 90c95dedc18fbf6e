"""Times of tokens and words, and long recordings in chunks, by a model whose CTC says what its frames hold."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ctc import tiny_joint
from slow_search import collate, sides
from torch import nn

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.decoding.times import Chunks, words
from s2s.errors import UserError
from s2s.models.contract import Memory
from s2s.nn.attention import length_mask
from s2s.text.vocabulary import EOS

V, SILENCE = 9, 8
SECONDS = 0.25


class Plain(nn.Module):
    """A frame is a label, or SILENCE."""

    has_decoder, has_ctc, max_length, max_source, target_vocabulary_size = False, True, None, None, V

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, sources, tags):
        (source,) = sources
        return Memory([source.values], source.lengths, length_mask(source.lengths, source.values.size(1)))

    def memory_length(self, length):
        return length

    def ctc_log_probabilities(self, memory):
        labels = memory.top.masked_fill((memory.top == SILENCE) | (memory.top == EOS), 0)
        return (8.0 * nn.functional.one_hot(labels, V)).log_softmax(2)


def decode(sources, beam_size=1, **options):
    timestamps = options.pop("timestamps", False)
    config = DecodeConfig(beam_size=beam_size, backend="eager", **options)
    generator = Generator([Plain()], config, Sides(collate, seconds=SECONDS), timestamps=timestamps)
    return [n_best[0] for n_best in generator.generate(sources)]


def spoken(seed, count):
    """Random labels, each for one or two frames, and one to three frames of silence after it."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high, (), generator=random))  # noqa: E731
    frames, labels = [], []
    for _ in range(count):
        labels.append(draw(4, 8))
        frames += [labels[-1]] * draw(1, 3) + [SILENCE] * draw(1, 4)
    return frames, labels


@pytest.mark.parametrize("beam_size", [1, 3])
def test_tokens_have_the_times_of_their_frames(beam_size):
    frames = [SILENCE, 5, 5, SILENCE, 6, 4, SILENCE, SILENCE]
    one, other = decode([frames, [7]], beam_size, timestamps=True)
    assert one.ids == [5, 6, 4]
    assert one.times == [(0.25, 0.75), (1.0, 1.25), (1.25, 1.5)]
    assert other.times == [(0.0, 0.25)]
    assert decode([frames], beam_size)[0].times is None


@pytest.mark.parametrize("beam_size", [1, 3])
@given(st.integers(0, 1000), st.integers(8, 40), st.integers(16, 40))
@settings(max_examples=20)
def test_a_recording_in_chunks_has_the_hypothesis_that_it_has_in_one_piece(beam_size, seed, count, size):
    frames, labels = spoken(seed, count)
    short, few = spoken(seed + 1, 2)
    options = {"chunk_seconds": size * SECONDS, "chunk_overlap": 8 * SECONDS}
    whole = decode([frames, short, []], beam_size, timestamps=True)
    found = decode([frames, short, []], beam_size, timestamps=True, **options)
    assert [one.ids for one in found] == [labels, few, []]
    assert [one.times for one in found] == [one.times for one in whole]
    assert len(found[0].token_log_probabilities) == len(labels) + 1
    assert found[0].log_probability == sum(found[0].token_log_probabilities)
    assert decode([frames], beam_size, **options)[0].times is None


@given(st.integers(1, 500), st.integers(4, 60), st.floats(0, 0.5))
def test_chunks_cover_a_recording(frames, size, share):
    overlap = int(size * share)
    config = DecodeConfig(chunk_seconds=size * SECONDS, chunk_overlap=overlap * SECONDS)
    spans = Chunks(config, SECONDS).of(frames)
    assert spans[0][0] == 0
    assert spans[-1][1] == frames
    assert all(b - a == min(size, frames) for a, b in spans)
    for (a, b), (c, d) in pairwise(spans):
        assert a < c <= b - overlap < d


def test_words_are_what_spaces_separate():
    symbols = ["▁he", "llo", "▁", "wor", "ld", "▁!"]
    times = [(float(i), i + 0.5) for i in range(6)]
    found = words(list(range(6)), times, lambda ids: "".join(symbols[i] for i in ids).replace("▁", " ").strip())
    assert [(word.word, word.start, word.end) for word in found] == [
        ("hello", 0.0, 1.5),
        ("world", 3.0, 4.5),  # not from the space on
        ("!", 5.0, 5.5),
    ]
    assert words([], [], lambda ids: "") == []


def test_given_targets_are_aligned_as_far_as_they_can_be():
    model = tiny_joint(1)
    generator = Generator([model], DecodeConfig(), Sides(collate, seconds=SECONDS), timestamps=True)
    one, other = generator.score([[4, 5, 6], [7]], [[5, 4], [4, 4, 4]])
    assert len(one.times) == 2
    assert other.times is None  # three times the same label needs five frames


def test_what_does_not_go_together():
    model, plain = tiny_joint(1), [[4, 5]]
    with pytest.raises(UserError, match=r"timestamps=true requires recordings"):
        Generator([model], DecodeConfig(), sides, timestamps=True)
    with pytest.raises(UserError, match=r"decode.chunk_seconds requires recordings"):
        Generator([model], DecodeConfig(chunk_seconds=10), sides)
    with pytest.raises(UserError, match="requires CTC"):
        Generator([model], DecodeConfig(ctc_weight=0.0), Sides(collate, seconds=SECONDS), timestamps=True)
    with pytest.raises(UserError, match="at most half"):
        DecodeConfig(chunk_seconds=10, chunk_overlap=6).check()
    with pytest.raises(UserError, match=r"decode.n_best"):
        DecodeConfig(chunk_seconds=10, n_best=2).check()
    chunked = Generator(
        [model],
        DecodeConfig(chunk_seconds=10),
        Sides(collate, seconds=SECONDS),
    )
    with pytest.raises(UserError, match="only the best hypotheses of chunks are joined"):
        list(chunked.generate(plain, [[4]]))
