"""Sampled segmentations: SentencePiece's own distribution, the text unharmed, a line's draw its seed's alone."""

import io
import math
import random
import threading
from collections import Counter

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.errors import UserError
from s2s.text import sampling
from s2s.text.sampling import SPACE, Model, sampler
from s2s.text.sentencepiece import SentencePieceTokenizer
from s2s.text.tokenizer import load_tokenizer
from s2s.text.words import WordTokenizer

Config = SentencePieceTokenizer.Config
UNIGRAM, BPE = {"model_type": "unigram"}, {"model_type": "bpe"}
OURS = {"normalization_rule_name": "identity"}
BYTES = OURS | {"byte_fallback": True}
SYMBOLS = {"user_defined_symbols": ["bc", "<de>", f"{SPACE}ca"]}
MODELS = {
    "unigram": UNIGRAM | OURS,
    "unigram, byte fallback": UNIGRAM | BYTES,
    "unigram, symbols of the user, NFKC": UNIGRAM | SYMBOLS,
    "unigram, pieces across words": UNIGRAM | {"split_by_whitespace": False},
    "unigram, spaces at the ends": UNIGRAM | {"treat_whitespace_as_suffix": True},
    "unigram, lines as they are": UNIGRAM | {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "bpe": BPE | OURS,
    "bpe, byte fallback": BPE | BYTES,
    "bpe, symbols of the user, NFKC": BPE | SYMBOLS,
    "bpe, pieces across words": BPE | {"split_by_whitespace": False},
}
LINES = ["abca bc", f"a <de>caä q☃☃ç bc{SPACE}", "  bbca  d "]


@pytest.fixture(scope="module")
def text() -> list[str]:
    rng = random.Random(3)
    words = ["".join(rng.choices("aabbcd", k=rng.randrange(1, 6))) for _ in range(60)]
    return [" ".join(rng.choices(words, k=6)) for _ in range(400)]


def train(text: list[str], **options) -> bytes:
    model = io.BytesIO()
    options = {"vocab_size": 300 if "byte_fallback" in options else 45} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, minloglevel=4, hard_vocab_limit=False, **options
    )
    return model.getvalue()


def rows(ids: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    return [row.tolist() for row in np.split(ids, np.cumsum(lengths)[:-1])]


def excess(one: Counter, other: Counter) -> float:
    """By how many standard deviations two samples of a size differ more than samples of one distribution should."""
    rare = {key for key in one | other if one[key] + other[key] < 20}
    cells = [(one[key], other[key]) for key in (one | other).keys() - rare]
    if rare:
        cells.append((sum(one[key] for key in rare), sum(other[key] for key in rare)))
    freedom = max(1, len(cells) - 1)
    return (sum((a - b) ** 2 / max(1, a + b) for a, b in cells) - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("strength", [0.1, 0.6])
@pytest.mark.parametrize("kind", MODELS)
def test_segmentations_are_as_frequent_as_sentencepiece_makes_them(text, kind, strength):
    model, draws = train(text, **MODELS[kind]), 6000
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = sampler(model, strength)
    sentencepiece.set_random_generator_seed(5)  # of the threads to come, such as those of the next call
    distinct = 0
    for line in LINES:
        drawn = theirs.encode([line] * draws, enable_sampling=True, nbest_size=-1, alpha=strength, num_threads=1)
        own = rows(*ours.sample([theirs.normalize(line)] * draws, np.arange(draws, dtype=np.uint64)))
        # With two segmentations chi-square has a long tail: one sample in 50,000 is over 12.
        assert excess(Counter(map(tuple, drawn)), Counter(map(tuple, own))) < 12
        distinct += len(set(map(tuple, own)))
    assert distinct > 3


def segmentations(word: str, pieces: dict[str, float]) -> dict[tuple[str, ...], float]:
    """All ways to cut a word and the sums of their scores: slow and obvious."""
    if not word:
        return {(): 0.0}
    return {
        (word[:end], *rest): pieces[word[:end]] + score
        for end in range(1, len(word) + 1)
        if word[:end] in pieces
        for rest, score in segmentations(word[end:], pieces).items()
    }


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_unigram_probabilities_are_those_of_all_segmentations_to_a_power(text, strength):
    serialised, word, draws = train(text, **UNIGRAM, **OURS), f"{SPACE}abcab", 20_000
    model = Model(serialised)
    cuts = segmentations(word, dict(zip(model.pieces, model.scores, strict=True)))
    weights = {cut: math.exp(strength * score) for cut, score in cuts.items()}
    drawn = rows(*sampler(serialised, strength).sample([word] * draws, np.arange(draws, dtype=np.uint64)))
    counts = Counter(tuple(model.pieces[i] for i in ids) for ids in drawn)
    assert len(cuts) > 2
    assert counts.keys() <= cuts.keys()
    for cut, weight in weights.items():
        expected = draws * weight / sum(weights.values())
        assert abs(counts[cut] - expected) < 5 * math.sqrt(expected) + 1


def test_all_merges_dropped_leave_characters(text):
    tokenizer = SentencePieceTokenizer.learn(Config(vocab_size=40, algorithm="bpe", sampling=1.0), [text])
    ids, _ = tokenizer.sample(["abca b"], np.array([4], np.uint64))
    assert [tokenizer.vocabulary.symbols[i] for i in ids] == [SPACE, *"abca", SPACE, "b"]


@pytest.fixture(scope="module")
def tokenizers(text) -> dict[str, SentencePieceTokenizer]:
    options = {"vocab_size": 300, "byte_fallback": True, "sampling": 0.3}
    return {
        algorithm: SentencePieceTokenizer.learn(Config(algorithm=algorithm, **options), [text])
        for algorithm in ("unigram", "bpe")
    }


lines = st.lists(st.text(st.sampled_from("abcdäq ☃é"), max_size=30), min_size=1, max_size=12)


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
@settings(max_examples=150, deadline=None)
@given(lines=lines, seed=st.integers(0, 2**64 - 1), data=st.data())
def test_a_line_depends_on_its_seed_only_and_gives_its_text_back(tokenizers, algorithm, lines, seed, data):
    tokenizer = tokenizers[algorithm]
    seeds = np.arange(len(lines), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed // 2)
    drawn = rows(*tokenizer.sample(lines, seeds))
    assert [tokenizer.decode(ids) for ids in drawn] == [" ".join(line.split()) for line in lines]
    order = data.draw(st.permutations(range(len(lines))))
    again = tokenizer.sample([lines[i] for i in order], seeds[order])
    assert rows(*again) == [drawn[i] for i in order]
    assert rows(*tokenizer.sample(lines[-1:], seeds[-1:])) == drawn[-1:]


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_threads_loaded_copies_and_a_full_cache_draw_the_same(tmp_path, monkeypatch, text, tokenizers, algorithm):
    tokenizer, seeds = tokenizers[algorithm], np.arange(len(text), dtype=np.uint64)
    expected = rows(*tokenizer.sample(text, seeds))
    tokenizer.save(tmp_path, "source")
    loaded = load_tokenizer(tmp_path, "source")
    assert loaded.sampling == 0.3
    monkeypatch.setattr(sampling, "TABLE_SIZE", 50)  # the cache begins anew at nearly every call
    monkeypatch.setattr(sampling, "CELLS", 64)
    results: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        results[number] = [
            row for i in range(0, len(text), 7) for row in rows(*loaded.sample(text[i : i + 7], seeds[i : i + 7]))
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[number] == expected for number in range(4))


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_other_seeds_draw_otherwise(tokenizers, text, algorithm):
    drawn = {tuple(tokenizers[algorithm].sample(text[:5], np.full(5, seed, np.uint64))[0]) for seed in range(50)}
    assert len(drawn) > 40


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_empty_lines_and_no_lines(tokenizers, algorithm):
    ids, lengths = tokenizers[algorithm].sample(["", " ", "a"], np.arange(3, dtype=np.uint64))
    assert lengths[:2].tolist() == [0, 0]
    assert lengths[2] == len(ids) > 0
    ids, lengths = tokenizers[algorithm].sample([], np.zeros(0, np.uint64))
    assert len(ids) == len(lengths) == 0


def test_a_tokenizer_that_does_not_sample_has_one_segmentation(text):
    seeds = np.arange(len(text), dtype=np.uint64)
    words = WordTokenizer.learn(WordTokenizer.Config(), [text])
    for tokenizer in (words, SentencePieceTokenizer.learn(Config(vocab_size=40), [text])):
        assert tokenizer.sampling == 0
        assert rows(*tokenizer.sample(text, seeds)) == rows(*tokenizer.encode_flat(text))


@pytest.mark.parametrize("kind", ["word", "char"])
def test_a_given_model_with_one_segmentation_is_refused(tmp_path, text, kind):
    (tmp_path / "m").write_bytes(train(text, model_type=kind))
    assert SentencePieceTokenizer.learn(Config(model=str(tmp_path / "m")), []).sampling == 0
    with pytest.raises(UserError, match=f"{tmp_path / 'm'}: a model of type {kind} has one segmentation"):
        SentencePieceTokenizer.learn(Config(model=str(tmp_path / "m"), sampling=0.1), [])
