"""Words of bytes: the front-end and the decoder against a loop over words, and steps against teacher forcing."""

from collections import Counter

import pytest
import torch
from torch import nn

from s2s.config import compose
from s2s.data.batch import Packing, Source
from s2s.data.spec import Spec, TokenSource
from s2s.decoding.config import DecodeConfig
from s2s.decoding.similarity import leaving
from s2s.decoding.splitting import splitting
from s2s.errors import UserError
from s2s.models.language_model import LanguageModel
from s2s.models.transformer import Transformer
from s2s.nn.words import Words
from s2s.text.vocabulary import BOS, EOS
from tests.specs import target_spec, text_spec

V, SPACE, LONGEST = 12, 4, 5
SMALL = ["decoder=word_byte", *(f"decoder.{size}" for size in ("layers=2", "width=16", "heads=2", "ffn_width=24")),
         "decoder.symbol_width=8", "decoder.symbol_heads=2", f"decoder.longest_word={LONGEST}",
         "dropout=0"]  # fmt: skip
READER = ["frontend=word_pool", "frontend.width=8", "frontend.heads=2", f"frontend.longest_word={LONGEST}",
          *(f"encoder.{size}" for size in ("layers=1", "width=16", "heads=2", "ffn_width=24"))]  # fmt: skip


def model_of(*words: str, kind=Transformer, spec: Spec | None = None):
    torch.manual_seed(0)
    given = [*SMALL, *(READER if kind is Transformer else []), *words]
    built = compose.build(kind.Config, compose.by_key([compose.Override(*word.split("=")) for word in given]))
    built.fill()
    return kind(built.config, spec or (text_spec(V) if kind is Transformer else target_spec(V))).eval()


def cut(ids: list[int], *begin: int) -> list[list[int]]:
    """The words of a text, one symbol after the other."""
    words: list[list[int]] = []
    for symbol in ids:
        if not words or symbol in begin or len(words[-1]) == LONGEST:
            words.append([])
        words[-1].append(symbol)
    return words


def vector(encoder: nn.Module, symbols: torch.Tensor) -> torch.Tensor:
    """The vector of a word of symbols [L, d]: [D]."""
    x = torch.cat([encoder.marker[None], symbols])[None]
    for layer in encoder.layers:
        x = layer(x, None)
    return encoder.output(encoder.norm(x[0, 0]))


def loop(model, memory: torch.Tensor | None, ids: list[int]) -> torch.Tensor:
    """Logits [T, V] of one sentence, word by word; memory: [S, D]."""
    decoder, before, logits = model.decoder, [], []

    def embedded(word: list[int]) -> torch.Tensor:
        return decoder.narrow(decoder.embedding.tokens(torch.tensor(word, dtype=torch.int64)) * decoder.embedding.scale)

    last: list[int] = []
    for word in cut(ids, SPACE):
        before.append(vector(decoder.words, embedded(last)))
        x = decoder.embedding.positions(torch.stack(before)[None])
        for layer in decoder.layers:
            seen = [] if memory is None else [memory[None], torch.ones(1, 1, 1, len(memory), dtype=torch.bool)]
            x = layer(x, None, *seen)
        y = embedded(word)[None]
        y[0, 0] += decoder.context(decoder.norm(x[0, -1]))
        for layer in decoder.speller:
            y = layer(y, None)
        scale = 16**-0.5 if getattr(model.config, "scale_output", False) else 1
        logits.append(model.output(scale * decoder.wide(decoder.speller_norm(y[0]))))
        last = word
    return torch.cat(logits)


def texts(rows: int, length: int, seed: int) -> torch.Tensor:
    """Random symbols after BOS, among which there are many spaces: [rows, length]."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, V, (rows, length), generator=random)
    ids[torch.rand(rows, length, generator=random) < 0.25] = SPACE
    ids[:, 0] = BOS
    return ids


def test_where_words_begin():
    """The example of hat-splitter, of the paper's authors: split("Hello, world!"), and with a limit of 4 bytes."""

    def words(text: bytes, longest: int) -> list[bytes]:
        ids = torch.tensor([list(text)])
        first = torch.zeros_like(ids, dtype=torch.bool)
        first[:, 0] = True
        cut = Words(ids == 32, longest, first, torch.ones_like(first))
        return [bytes(word.tolist()) for word in ids[0].split(cut.lengths.tolist())]

    assert words(b"Hello, world!", 99) == [b"Hello,", b" world!"]
    assert words(b"Hello, world!", 4) == [b"Hell", b"o,", b" wor", b"ld!"]
    assert words(b"  a ", 4) == [b" ", b" a", b" "]


@pytest.mark.parametrize("words", [[], ["frontend.layers=2", "norm=post", "positions=rotary"]])
def test_the_front_end_is_a_loop_over_words(words):
    model = model_of(*words)
    rows = [[5, 6, SPACE, 7, EOS], [SPACE, SPACE, 5, 6, 7, 8, 9, 10, 11, EOS], [EOS]]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([row + [9] * (10 - len(row)) for row in rows])
    with torch.no_grad():
        states = model.frontend(Source(ids, lengths))
        assert states.lengths.tolist() == [3, 4, 1]
        for row, values in zip(rows, states.values, strict=True):
            vectors = torch.stack([vector(model.frontend.words, model.frontend.embed(torch.tensor(word)))
                                   for word in cut(row, SPACE, EOS)])  # fmt: skip
            torch.testing.assert_close(values[: len(vectors)], model.frontend.positions(vectors[None])[0])


OPTIONS = [[], ["norm=post", "positions=rotary"], ["positions=learned", "max_positions=20", "decoder.kv_heads=1"],
           ["log_length_scale=true", "decoder.word_layers=2", "decoder.speller_layers=2"],
           ["norm_type=rms", "bias=false", "scale_attention=false", "scale_embeddings=false", "scale_output=true",
            "decoder.head_width=6"]]  # fmt: skip


@pytest.mark.parametrize("words", OPTIONS)
def test_teacher_forcing_is_a_loop_over_words(words):
    model, ids = model_of(*words), texts(3, 20, seed=1)
    source = Source(texts(3, 9, seed=2), torch.tensor([9, 4, 6]))
    with torch.no_grad():
        memory = model.encode((source,))
        logits = model.decode(memory, ids).logits()
        for row, sentence in enumerate(ids.tolist()):
            expected = loop(model, memory.top[row, : memory.lengths[row]], sentence)
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-5)


def test_a_language_model_of_words():
    model, ids = model_of(kind=LanguageModel), texts(3, 20, seed=1)
    with torch.no_grad():
        memory = model.encode((Source(torch.zeros(3, 1, 1), torch.ones(3, dtype=torch.int64)),))
        logits = model.decode(memory, ids).logits()
        for row, sentence in enumerate(ids.tolist()):
            torch.testing.assert_close(logits[row], loop(model, None, sentence), rtol=1e-4, atol=1e-5)
        state = model.start(memory, 1)
        for t in range(20):
            torch.testing.assert_close(model.step(ids[:, t].contiguous(), state), logits[:, t], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("words", OPTIONS)
def test_steps_of_a_search_say_what_teacher_forcing_says(words):
    """Rows change places, a sentence takes the place of another, and places are given up."""
    model, K, random = model_of(*words), 3, torch.Generator().manual_seed(3)
    source = Source(texts(5, 9, seed=2), torch.tensor([9, 4, 6, 2, 8]))
    with torch.no_grad():
        memory = model.encode((source,))
        fresh = model.start(memory, K)
        state = fresh.empty(3)
        state.admit(torch.tensor([2, 0]), fresh, torch.tensor([0, 1]))
        sentences, histories = [1, 4, 0], [[] for _ in range(3 * K)]  # the place of sentence 4 is free at first
        for t in range(18):
            if t == 4:
                state.admit(torch.tensor([1]), model.start(memory, K), torch.tensor([4]))
                histories[K : 2 * K] = [[] for _ in range(K)]
            if t == 9:  # sentence 0 ends, and another is put in its place
                state.free(torch.tensor([2]))
                state.admit(torch.tensor([2]), fresh, torch.tensor([3]))
                sentences[2], histories[2 * K :] = 3, [[] for _ in range(K)]
            if t == 14:
                state.release(torch.tensor([1, 2]), 2)
                sentences, histories = sentences[1:], histories[K:]
            tokens = texts(len(histories), 2, seed=100 + t)[:, 1]
            tokens = torch.where(torch.tensor([not history for history in histories]), BOS, tokens)
            logits = model.step(tokens, state)
            for row, (history, token) in enumerate(zip(histories, tokens.tolist(), strict=True)):
                history.append(token)
                if t >= 4 or row // K != 1:
                    b = sentences[row // K]
                    expected = loop(model, memory.top[b, : memory.lengths[b]], history)[-1]
                    torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-5)
            rows = len(histories) // K
            parents = (torch.randint(0, K, (rows, K), generator=random) + torch.arange(rows)[:, None] * K).flatten()
            state.reorder(parents)
            histories = [list(histories[parent]) for parent in parents.tolist()]
        # One position for each word and one more, and symbols of the current word only.
        assert state.words.lengths.tolist() == [len(cut(history, SPACE)) for history in histories]
        assert state.symbols.lengths.tolist() == [len(cut(history, SPACE)[-1]) for history in histories]


def test_words_of_a_packed_row_begin_with_their_example():
    model, ids = model_of(), texts(2, 6, seed=4)
    packing = Packing(torch.tensor([[0] * 6 + [1] * 6 + [1]]), torch.tensor([[*range(6), *range(6), 0]]))
    values = torch.cat([ids.flatten(), ids.new_zeros(1)])[None]
    with torch.no_grad():
        packed = model.encode((Source(values, torch.tensor([12]), packing),))
        together = model.decode(packed, values, packing).logits()[0, :12]
        apart = model.decode(model.encode((Source(ids, torch.tensor([6, 6])),)), ids).logits().flatten(0, 1)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_attention_of_words_is_that_of_their_symbols():
    model, ids = model_of(), texts(1, 12, seed=5)
    source = Source(texts(1, 9, seed=2), torch.tensor([9]))
    with torch.no_grad():
        memory = model.encode((source,))
        weights = model.cross_attention(memory, ids, 1)[0]  # [H, T, S]
    numbers = [number for number, word in enumerate(cut(ids[0].tolist(), SPACE)) for _ in word]
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 12))
    for t in range(1, 12):
        assert torch.equal(weights[:, t], weights[:, t - 1]) == (numbers[t] == numbers[t - 1])


@pytest.mark.parametrize(("name", "spec"), [
    ("frontend=word_pool", Spec((TokenSource(V),), V, target_starts=(4,))),
    ("decoder=word_byte", Spec((TokenSource(V, (4,)),), V, target_starts=(4, 5))),
])  # fmt: skip
def test_a_vocabulary_without_a_space_is_refused(name, spec):
    with pytest.raises(UserError, match=f"model.{name}: one symbol must stand between words"):
        model_of(spec=spec)


@pytest.mark.parametrize("threshold", [0.75, -1.0])
def test_words_leave_the_decoder_where_a_layer_changes_little(threshold):
    config, tally = DecodeConfig(backend="eager", decoder_exit_similarity=threshold), Counter()
    model, ids = leaving(model_of("decoder.layers=3"), config, tally), texts(3, 20, seed=1)
    with torch.no_grad():
        memory = model.encode((Source(texts(3, 9, seed=2), torch.tensor([9, 4, 6])),))
        expected, state = model.decode(memory, ids).logits(), model.start(memory, 1)
        for t in range(20):
            torch.testing.assert_close(model.step(ids[:, t].contiguous(), state), expected[:, t], rtol=1e-4, atol=1e-5)
    assert 0 < tally["decoder run"] < tally["decoder"]


def test_split_keys_are_refused():
    with pytest.raises(UserError, match="is for a Transformer's decoder"):
        splitting(model_of(), 4)


@pytest.mark.parametrize(("words", "message"), [
    (["frontend.heads=3"], "model.frontend.width=8: must be a multiple of twice model.frontend.heads=3"),
    (["decoder.symbol_heads=8"], "symbol_width=8: must be a multiple of twice model.decoder.symbol_heads=8"),
    (["positions=relative_bias"], "model.decoder=word_byte does not have it"),
    (["auxiliary_heads=[1]"], "the layers of model.decoder=word_byte are of words"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        model_of(*words)
