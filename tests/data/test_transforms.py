"""Transforms are redrawn from (seed, epoch, example) alone, with the frequencies asked for, and orders are undone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.data.target_transforms import target_transform
from s2s.data.transforms import Shuffle, masked, noisy, seeds, splitmix64, uniform
from s2s.text.bytes import ByteConfig, ByteTokenizer
from s2s.text.characters import CharacterConfig, CharacterTokenizer
from s2s.text.sentencepiece import SentencePieceConfig, SentencePieceTokenizer
from s2s.text.vocabulary import UNK
from s2s.text.words import WordConfig, WordTokenizer

TEXT = ["the cat sat on the mat", "a dog", "birds", "on a mat the dog sat"]


def test_splitmix64_gives_the_published_numbers():
    """The first outputs for state 1234567, as in the reference implementation's tests."""
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=30, unique=True), st.randoms())
def test_an_examples_numbers_depend_on_it_alone(examples, random):
    lengths = {example: random.randint(1, 9) for example in examples}

    def draw(order):
        numbers = uniform(seeds(3, 5, np.array(order), "noise"), np.array([lengths[i] for i in order]))
        return dict(zip(order, np.split(numbers, np.cumsum([lengths[i] for i in order])[:-1]), strict=True))

    together = draw(examples)
    random.shuffle(examples)
    for order in (examples, examples[:1]):
        for example, numbers in draw(order).items():
            np.testing.assert_array_equal(numbers, together[example])


def test_seed_epoch_example_and_purpose_all_matter():
    examples = np.arange(1000)
    drawn = [seeds(*key) for key in ((1, 1, examples, "a"), (2, 1, examples, "a"), (1, 2, examples, "a"),
                                     (1, 1, examples + 1000, "a"), (1, 1, examples, "b"))]  # fmt: skip
    assert len(set(np.concatenate(drawn).tolist())) == 5000


def test_uniform_is_uniform_and_masking_has_its_probability():
    numbers = uniform(seeds(1, 1, np.arange(2000), "x"), np.full(2000, 50))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.allclose(np.histogram(numbers, 10, (0, 1))[0] / 100_000, 0.1, atol=0.005)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
    ids = np.full(100_000, 9)
    changed = masked(ids, np.full(2000, 50), seeds(1, 1, np.arange(2000), "x"), 0.15)
    assert set(changed.tolist()) == {9, UNK}
    assert abs((changed == UNK).mean() - 0.15) < 0.005


def test_character_noise_edits_at_its_rate_and_leaves_white_space():
    line = "abcdefghij klmnopqrst" * 50
    noised = noisy(line, 7, 0.1)
    assert noised == noisy(line, 7, 0.1) != noisy(line, 8, 0.1)
    assert noisy(line, 7, 0.0) == line
    assert noised.count(" ") == line.count(" ")
    from rapidfuzz.distance import Levenshtein

    edits = Levenshtein.distance(line, noised)
    assert 0.07 * len(line) < edits < 0.16 * len(line)  # a swap is two edits
    assert noisy("", 1, 0.5) == ""
    assert noisy("  ", 1, 0.9) == "  "


def tokenizers():
    yield WordTokenizer.learn(WordConfig(), [TEXT])
    yield CharacterTokenizer.learn(CharacterConfig(), [TEXT])
    yield ByteTokenizer.learn(ByteConfig(), [TEXT])
    yield SentencePieceTokenizer.learn(SentencePieceConfig(vocab_size=23), [TEXT])


@pytest.mark.parametrize("tokenizer", list(tokenizers()), ids=lambda tokenizer: tokenizer.config.type)
def test_orders_of_a_target(tokenizer):
    def written(kind, line):
        ids = np.array(tokenizer.encode(line), np.int64)
        transform = target_transform(kind, tokenizer)
        model = transform.apply(ids)
        np.testing.assert_array_equal(transform.undo(model), ids)
        return model, tokenizer.decode(model)

    for line in [*TEXT, ""]:
        ids = tokenizer.encode(line)
        assert written("none", line)[0].tolist() == ids
        assert written("reverse", line)[0].tolist() == ids[::-1]
        words = line.split()
        assert written("last_word_first", line)[1] == " ".join([*words[-1:], *words[:-1]])


@pytest.mark.parametrize("tokenizer", list(tokenizers()), ids=lambda tokenizer: tokenizer.config.type)
def test_what_shows_that_a_forced_last_word_is_whole(tokenizer):
    closing = target_transform("last_word_first", tokenizer).closing
    symbols = tokenizer.vocabulary.symbols
    if isinstance(tokenizer, WordTokenizer):
        assert closing is None  # every token does
        return
    found = {symbols[i] for i in np.flatnonzero(closing)}
    if isinstance(tokenizer, SentencePieceTokenizer):
        assert found == {"</s>", *(symbol for symbol in symbols if symbol.startswith("\u2581"))}
    else:
        assert found == {"</s>", "<0x20>" if isinstance(tokenizer, ByteTokenizer) else " "}
    assert target_transform("reverse", tokenizer).closing is None


@given(st.lists(st.integers(4, 9), max_size=12))
def test_last_word_first_is_undone_for_any_ids(ids):
    for tokenizer in (
        CharacterTokenizer.learn(CharacterConfig(), [["ab cd"]]),
        WordTokenizer.learn(WordConfig(), [TEXT]),
    ):
        transform = target_transform("last_word_first", tokenizer)
        ids = [i for i in ids if i < len(tokenizer.vocabulary)]
        assert transform.undo(transform.apply(np.array(ids, np.int64))).tolist() == ids


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 99))
def test_shuffled_tokens_stay_near_their_places_and_in_their_rows(sizes, distance, seed):
    transform = Shuffle(Shuffle.Config(distance=distance), None)
    lengths, examples = np.array(sizes), np.arange(len(sizes))
    ids = np.arange(lengths.sum())
    drawn = seeds(seed, 1, examples, "transform shuffle")
    moved, same = transform(ids, lengths, drawn)
    assert same.tolist() == sizes
    ends = np.cumsum(lengths)
    for row, before, seed_of_row in zip(np.split(moved, ends[:-1]), np.split(ids, ends[:-1]), drawn, strict=True):
        assert sorted(row.tolist()) == before.tolist()
        assert (abs(row - before) <= distance).all()
        alone, _ = transform(before, np.array([len(before)]), np.array([seed_of_row]))
        assert alone.tolist() == row.tolist()


def test_shuffling_moves_most_tokens():
    ids = np.arange(10_000)
    moved, _ = Shuffle(Shuffle.Config(), None)(ids, np.array([10_000]), seeds(1, 1, np.array([0]), "x"))
    assert 0.6 < (moved != ids).mean() < 0.9
