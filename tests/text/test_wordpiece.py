"""WordPiece: every merge is the likeliest one, and both directions against plain definitions."""

import functools
import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.text.tokenizer import LearningError, load_tokenizer
from s2s.text.vocabulary import SPECIALS, UNK, Vocabulary
from s2s.text.wordpiece import Merges, WordPieceConfig, WordPieceTokenizer

WORDS = Counter({"banana": 5, "bandana": 3, "aaaa": 4, "nab": 2, "abab": 6, "n": 7, "dabab": 1})


def log_likelihood(words: list[tuple[list[str], int]]) -> float:
    """Of all units, under their own relative frequencies."""
    counts = Counter()
    for units, times in words:
        for unit in units:
            counts[unit] += times
    total = sum(counts.values())
    return sum(count * math.log(count / total) for count in counts.values())


def merged(units: list[str], pair: tuple[str, str]) -> list[str]:
    result, place = [], 0
    while place < len(units):
        if tuple(units[place : place + 2]) == pair:
            result.append(pair[0] + pair[1])
            place += 2
        else:
            result.append(units[place])
            place += 1
    return result


def random_words(seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    return {"".join(rng.choices("abc", k=rng.randrange(1, 9))): rng.randrange(1, 20) for _ in range(30)}


@pytest.mark.parametrize("words", [WORDS, random_words(1), random_words(2)])
def test_every_merge_raises_the_likelihood_the_most(words):
    merges = Merges(words)
    slow = [(list(word), times) for word, times in words.items()]
    for _ in range(40):
        before = log_likelihood(slow)
        pairs = {pair for units, _ in slow for pair in itertools.pairwise(units)}
        gains = {
            pair: log_likelihood([(merged(units, pair), times) for units, times in slow]) - before for pair in pairs
        }
        known = dict(zip(merges.pieces, merges.counts, strict=True))
        if not merges.step():
            assert max(gains.values(), default=0) < 1e-9
            break
        (made,) = (p for p, n in zip(merges.pieces, merges.counts, strict=True) if n > known.get(p, 0))
        pair = max((pair for pair in pairs if "".join(pair) == made), key=gains.__getitem__)
        assert gains[pair] == pytest.approx(max(gains.values()), abs=1e-9)
        slow = [(merged(units, pair), times) for units, times in slow]
        counts = Counter(unit for units, times in slow for unit in units for _ in range(times))
        assert merges.counts == [counts[piece] for piece in merges.pieces]


def tokenizer(pieces: list[str], direction: str = "forward") -> WordPieceTokenizer:
    return WordPieceTokenizer(WordPieceConfig(direction=direction), Vocabulary([*SPECIALS, *pieces]))


def shown(tokenizer: WordPieceTokenizer, line: str) -> list[str]:
    return [tokenizer.vocabulary.symbols[i] for i in tokenizer.encode(line)]


PIECES = ["▁", "a", "b", "c", "▁a", "ab", "bc", "▁ab", "cab"]


def test_both_directions_and_the_choice_between_them():
    assert shown(tokenizer(PIECES), "abcab bc") == ["▁ab", "cab", "▁", "bc"]
    assert shown(tokenizer(PIECES, "backward"), "abcab abc") == ["▁ab", "cab", "▁a", "bc"]
    assert shown(tokenizer(PIECES), "abc") == ["▁ab", "c"]
    # Ranks: ▁a 8, bc 10 against c 7, ▁ab 11. The most frequent piece of the forward cut is the more frequent one.
    assert shown(tokenizer(PIECES, "bidirectional"), "abc") == ["▁ab", "c"]
    rarer = ["▁", "a", "b", "▁a", "bc", "▁ab", "c"]
    assert shown(tokenizer(rarer, "bidirectional"), "abc") == ["▁a", "bc"]


def test_unknown_characters_are_one_symbol_a_run():
    for direction in ("forward", "backward", "bidirectional"):
        some = tokenizer(PIECES, direction)
        assert shown(some, "axxb xyz") == ["▁a", "<unk>", "b", "▁", "<unk>"]
        assert some.decode(some.encode("axxb")) == "a\ufffdb"
        assert UNK in some.encode("a▁b")  # the sign of a beginning is no character


@functools.cache
def of_words(direction: str) -> WordPieceTokenizer:
    config = WordPieceConfig(vocab_size=16, direction=direction)
    return WordPieceTokenizer.learn(config, [[" ".join(WORDS.elements())]])


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text("abnd", min_size=1, max_size=12), max_size=6),
       direction=st.sampled_from(["forward", "backward", "bidirectional"]))  # fmt: skip
def test_known_text_comes_back_in_one_space(words, direction):
    learned = of_words(direction)
    assert learned.decode(learned.encode("  ".join(words))) == " ".join(words)


def test_a_greedy_cut_has_the_longest_piece_at_its_end():
    learned = WordPieceTokenizer.learn(WordPieceConfig(vocab_size=20), [[" ".join(WORDS.elements())]])
    pieces = set(learned.vocabulary.symbols[4:])
    for word in WORDS:
        rest, expected = f"▁{word}", []
        while rest:
            piece = max((rest[:n] for n in range(1, len(rest) + 1) if rest[:n] in pieces), key=len)
            expected, rest = [*expected, piece], rest[len(piece) :]
        assert shown(learned, word) == expected


def test_pieces_are_in_the_order_of_their_frequency_and_saved(tmp_path):
    learned = WordPieceTokenizer.learn(WordPieceConfig(vocab_size=14), [[" ".join(WORDS.elements())]])
    merges = Merges({f"▁{word}": times for word, times in WORDS.items()})
    while len(merges.pieces) < 10 and merges.step():
        pass
    counts = dict(zip(merges.pieces, merges.counts, strict=True))
    assert [counts[piece] for piece in learned.vocabulary.symbols[4:]] == sorted(counts.values(), reverse=True)
    learned.save(tmp_path, "source")
    assert load_tokenizer(tmp_path, "source").encode("banana nab") == learned.encode("banana nab")


def test_a_vocabulary_that_is_too_small_is_an_error_that_says_how_many():
    with pytest.raises(LearningError, match=r"vocab_size=6 is too small.*at least vocab_size=9"):
        WordPieceTokenizer.learn(WordPieceConfig(vocab_size=6), [[" ".join(WORDS.elements())]])
