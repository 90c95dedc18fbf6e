"""What SentencePiece adds: models of others, samples of large corpora, errors that say what would do."""

import io
import random
from collections import Counter

import pytest
import sentencepiece

from s2s.errors import UserError
from s2s.text.sentencepiece import SentencePieceTokenizer, sample
from s2s.text.vocabulary import SPECIALS

Config = SentencePieceTokenizer.Config


@pytest.fixture(scope="module")
def lines():
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdeäöü", k=rng.randrange(2, 7))) for _ in range(80)]
    return [" ".join(rng.choices(words, k=8)) for _ in range(500)]


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_the_vocabulary_has_the_size_asked_for(lines, algorithm):
    tokenizer = SentencePieceTokenizer.learn(Config(vocab_size=60, algorithm=algorithm), [lines])
    assert len(tokenizer.vocabulary) == 60
    assert tokenizer.vocabulary.symbols[:4] == list(SPECIALS)


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_too_large_a_vocabulary_names_the_largest_possible_which_then_works(lines, algorithm):
    with pytest.raises(UserError, match=r"vocab_size=90000 is too large.*=\d+$") as error:
        SentencePieceTokenizer.learn(Config(vocab_size=90000, algorithm=algorithm), [lines])
    largest = int(str(error.value).rsplit("=", 1)[1])
    tokenizer = SentencePieceTokenizer.learn(Config(vocab_size=largest, algorithm=algorithm), [lines])
    assert len(tokenizer.vocabulary) == largest


def test_too_small_a_vocabulary_names_the_smallest_possible(lines):
    with pytest.raises(UserError, match=r"vocab_size=6 is too small: .* at least vocab_size=13 "):
        SentencePieceTokenizer.learn(Config(vocab_size=6), [lines])


def test_only_empty_lines_are_nothing_to_learn_from():
    with pytest.raises(UserError, match="only empty lines"):
        SentencePieceTokenizer.learn(Config(), [["", ""]])


def train(lines, **options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=60, minloglevel=4, **options
    )
    return model.getvalue()


@pytest.mark.parametrize(
    "layout",
    [
        {},  # unk 0, bos 1, eos 2, no pad: SentencePiece's default
        {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},  # T5
        {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3},
        {"user_defined_symbols": ["<pad>", "<de>"]},
    ],
)
def test_a_given_model_of_any_layout_keeps_its_pieces_and_gets_our_special_symbols(tmp_path, lines, layout):
    (tmp_path / "m").write_bytes(train(lines, **layout))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m"))
    ours = SentencePieceTokenizer.learn(Config(model=str(tmp_path / "m")), [])
    assert ours.vocabulary.symbols[:4] == list(SPECIALS)
    for line in [*lines[:20], "unknown: xyz"]:
        ids = ours.encode(line)
        pieces = [theirs.id_to_piece(i) for i in theirs.encode(line)]
        assert [ours.vocabulary.symbols[i] for i in ids] == pieces
        assert ours.decode(ids) == theirs.decode(theirs.encode(line))
    ours.save(tmp_path, "source")
    assert SentencePieceTokenizer.load(tmp_path, "source").encode(lines[0]) == ours.encode(lines[0])


def test_a_file_that_is_no_model_is_an_error_that_names_it(tmp_path):
    (tmp_path / "m").write_text("hello")
    for name, message in (
        ("m", "not a SentencePiece model; it is another file, or damaged$"),
        ("n", "no such SentencePiece model file"),
    ):
        with pytest.raises(UserError, match=f"{tmp_path / name}: {message}"):
            SentencePieceTokenizer.learn(Config(model=str(tmp_path / name)), [])


def chunks(total: int, size: int) -> list[list[str]]:
    lines = [str(i) for i in range(total)]
    return [lines[i : i + size] for i in range(0, total, size)]


def test_a_small_text_is_sampled_whole_and_in_order():
    assert sample(chunks(10, 3), 10, 10, seed=1) == [str(i) for i in range(10)]


@pytest.mark.parametrize(("lines", "characters"), [(1, 99), (4, 99), (99, 7), (5, 5)])
def test_a_sample_is_uniform_distinct_in_order_and_does_not_depend_on_chunks(lines, characters):
    counts, size = Counter(), min(lines, characters)
    for seed in range(3000):
        drawn = sample([[chr(65 + int(line)) for line in chunk] for chunk in chunks(30, 7)], lines, characters, seed)
        assert len(set(drawn)) == size
        assert drawn == sorted(drawn) == sample([[chr(65 + i) for i in range(30)]], lines, characters, seed)
        counts.update(drawn)
    expected = 3000 * size / 30
    assert len(counts) == 30
    assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


def test_a_sample_keeps_within_its_characters_whatever_the_lines():
    rng = random.Random(1)
    lines = ["x" * rng.choice((0, 1, 50, 400)) for _ in range(2000)]
    drawn = [sample([lines], 10**9, 5000, seed) for seed in range(20)]
    assert all(4000 < sum(map(len, one)) <= 5000 for one in drawn)


@pytest.mark.parametrize("limit", [{"sample_lines": 60}, {"sample_characters": 2500}])
def test_learning_reads_a_sample_of_a_large_text(lines, limit):
    config = Config(vocab_size=40, **limit)
    first = SentencePieceTokenizer.learn(config, iter([lines[:250], lines[250:]]), seed=1)
    again = SentencePieceTokenizer.learn(config, iter([lines]), seed=1)
    other = SentencePieceTokenizer.learn(config, iter([lines]), seed=2)
    assert first.model == again.model != other.model
