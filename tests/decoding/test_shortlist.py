"""Shortlists: the lexicon is held to a slow IBM model 1, decoding to a slow search in which all others are masked."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_search import beam_search, sides, tiny_model
from torch import nn

from s2s.backends import native, prepacked
from s2s.data.store import Store
from s2s.decoding import engine, lexicon
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.shortlist import Shortlist
from s2s.errors import UserError
from s2s.inspection import inspect
from s2s.models.contract import DecoderOutput
from s2s.text.vocabulary import BOS, EOS, PAD, UNK

V = 24
DIGESTS = ("source", "target")
FEW = DecodeConfig(n_best=3, max_length_a=1, max_length_b=3)
ALL = Shortlist(np.full((V, 1), EOS), np.arange(V), DIGESTS, V)


class Pairs:
    """Sentence pairs as a split has them."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def gather(self, column, numbers):
        side = column.removesuffix(".tokens")
        rows = [self.pairs[i][side == "target"] for i in numbers]
        return np.array([symbol for row in rows for symbol in row], np.int64), np.array([len(row) for row in rows])


def slow_model_1(pairs, iterations):
    """{(source, target): probability}, each source with a NULL."""
    pairs = [([*source, lexicon.NULL], target) for source, target in pairs]
    t = {(s, e): 1.0 for source, target in pairs for s in source for e in target}
    for _ in range(iterations):
        counts = Counter()
        for source, target in pairs:
            for e in target:
                total = sum(t[s, e] for s in source)
                for s in source:
                    counts[s, e] += t[s, e] / total
        totals = Counter()
        for (s, _), count in counts.items():
            totals[s] += count
        t = {(s, e): count / totals[s] for (s, e), count in counts.items()}
    return t


symbols = st.integers(4, 9)
texts = st.lists(symbols, max_size=4)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 30))
@settings(max_examples=100)
def test_the_lexicon_is_ibm_model_1(pairs, iterations, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexicon, "CHUNK_LINKS", chunk)
        patch.setattr(lexicon, "BLOCK", 5)
        keys, probabilities = lexicon.translation_probabilities(Pairs(pairs), 10, iterations, 100)
    expected = slow_model_1(pairs, iterations)
    assert [divmod(key, 10) for key in keys.tolist()] == sorted(expected)
    assert probabilities.tolist() == pytest.approx([expected[pair] for pair in sorted(expected)])


def test_pairs_over_the_bound_are_left_out_the_rarest_first(monkeypatch):
    often, once = [([4], [5])] * 5, [([6], [symbol]) for symbol in range(4, 9)]
    monkeypatch.setattr(lexicon, "CHUNK_LINKS", 1)
    assert lexicon.met_together(lexicon.chunks(Pairs(once + often), 10, 100), most=4).tolist() == [25, 45]
    keys, _ = lexicon.translation_probabilities(Pairs(once + often), 10, 2, pairs=2)  # the first and the middle one
    assert keys.tolist() == [24, 25, 45, 64]


def test_the_most_probable_translations_of_each_symbol():
    keys, probabilities = np.array([45, 46, 47, 62]), np.array([0.2, 0.5, 0.3, 1.0])
    table = lexicon.most_probable(keys, probabilities, 7, 10, 2, EOS)
    assert table.tolist() == [[EOS, EOS]] * 4 + [[6, 7], [EOS, EOS], [2, EOS]]


class Masked:
    """A model whose logits are those of a set of symbols."""

    def __init__(self, model, allowed):
        self.model, self.mask = model, torch.where(torch.from_numpy(allowed), 0.0, -torch.inf)
        self.encode = model.encode

    def decode(self, memory, decoder_input):
        logits = self.model.decode(memory, decoder_input).logits()
        return DecoderOutput(logits + self.mask, nn.Identity())


@st.composite
def shortlists(draw):
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    n, m = draw(st.integers(1, 4)), draw(st.integers(0, 4))
    return Shortlist(random.integers(4, V, (V, n)), random.permutation(np.arange(4, V))[:m], DIGESTS, V)


tokens = st.integers(4, V - 1)
pairs = st.tuples(st.lists(tokens, min_size=1, max_size=6), st.lists(tokens | st.just(UNK), max_size=2))


def generate(models, config, sources, prefixes=None, shortlist=None, **options):
    return list(
        Generator(models, config, sides, loaded={"shortlist": shortlist}, **options).generate(sources, prefixes)
    )


def assert_same(found, expected, tolerance=1e-9):
    assert [hypothesis.ids for hypothesis in found] == [ids for ids, _, _ in expected]
    for hypothesis, (_, score, values) in zip(found, expected, strict=True):
        assert hypothesis.score == pytest.approx(score, abs=tolerance)
        assert hypothesis.token_log_probabilities == pytest.approx(values, abs=tolerance)


@given(shortlists(), st.lists(pairs, min_size=1, max_size=5), st.integers(0, 20), st.integers(1, 5), st.integers(1, 3),
       st.sampled_from(["first_finished", "exhaustive"]), st.booleans())  # fmt: skip
@settings(max_examples=80)
def test_decoding_agrees_with_a_slow_search_that_masks(shortlist, pairs, seed, beam_size, slots, stopping, ensemble):
    config = DecodeConfig(beam_size=beam_size, n_best=beam_size, slots=slots, stopping=stopping, max_length_a=1,
                          max_length_b=2)  # fmt: skip
    models = [tiny_model(seed, V), tiny_model(seed + 1, V)][: 1 + ensemble]
    sources, prefixes = [source for source, _ in pairs], [prefix for _, prefix in pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "AHEAD", 1)
        found = generate(models, config, sources, prefixes, shortlist)
    for n_best, source, prefix in zip(found, sources, prefixes, strict=True):
        masked = [Masked(model, shortlist.of(source, prefix)) for model in models]
        assert_same(n_best, beam_search(masked, source, config, prefix))
        assert all(shortlist.of(source, prefix)[hypothesis.ids].all() for hypothesis in n_best)


def ragged(count, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=numbers).tolist()
    return [torch.randint(4, V, (length,), generator=numbers).tolist() for length in lengths]


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_with_all_symbols_as_candidates_nothing_changes(beam_size, dtype, backend):
    config = replace(FEW, beam_size=beam_size, n_best=1, dtype=dtype, backend=backend, slots=5)
    models, sources = [tiny_model(3, V).float()], ragged(30)
    prefixes = [source[:1] for source in ragged(30, seed=1)]
    found = generate(models, config, sources, prefixes, ALL)
    for n_best, plain in zip(found, generate(models, config, sources, prefixes), strict=True):
        assert_same(n_best, [(h.ids, h.score, h.token_log_probabilities) for h in plain], 1e-4)


@pytest.mark.parametrize("options", [{}, {"backend": "eager"}, {"search": "sample", "top_p": 0.9}, {"beam_size": 1,
                                     "n_best": 1}, {"diverse_groups": 5}])  # fmt: skip
def test_a_sentence_has_the_same_result_alone_and_in_any_batch_with_refill(options, monkeypatch):
    random = np.random.default_rng(1)
    shortlist = Shortlist(random.integers(4, V, (V, 2)), np.array([5, 6]), DIGESTS, V)
    config = DecodeConfig(**{"n_best": 3, "max_length_a": 1, "max_length_b": 3} | options)
    model, sources = tiny_model(2, V), ragged(25)
    if config.backend == "auto":
        model = model.float()
    prefixes = [source[:2] if i % 3 == 0 else [] for i, source in enumerate(ragged(25, seed=4))]
    config.slots = 1
    alone = generate([model], config, sources, prefixes, shortlist)
    for slots, ahead in ((3, 1), (3, 64), (8, 64), (25, 64)):
        monkeypatch.setattr(engine, "AHEAD", ahead)
        config.slots = slots
        together = generate([model], config, sources, prefixes, shortlist)
        for mine, expected in zip(together, alone, strict=True):
            assert_same(mine, [(h.ids, h.score, h.token_log_probabilities) for h in expected], 1e-4)


def test_rows_are_prepacked_again_only_when_a_candidate_is_missing(monkeypatch):
    packings = []
    rows_of = prepacked.rows_of
    monkeypatch.setattr(
        "s2s.decoding.scorers.model.rows_of", lambda *args: packings.append(len(args[2])) or rows_of(*args)
    )
    sources = ragged(40)
    generate([tiny_model(2, V)], replace(FEW, slots=4), sources, shortlist=ALL)
    assert packings == [V]
    shortlist = Shortlist(np.arange(V)[:, None], np.array([], int), DIGESTS, V)
    generate([tiny_model(2, V)], replace(FEW, slots=4), sources, shortlist=shortlist)
    assert packings == [V, len(set().union(*sources)) + 4]
    monkeypatch.setattr(engine, "AHEAD", 1)
    generate([tiny_model(2, V)], replace(FEW, slots=1), sources, shortlist=shortlist)
    assert len(packings) > 10


@pytest.mark.parametrize("kind", ["plain", "fp32", "int8", "native fp32", "native int8"])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_a_prepacked_linear_map_are_those_of_the_whole(kind, bias):
    torch.manual_seed(0)
    whole = nn.Linear(32, 50, bias).requires_grad_(False)
    linear = whole if kind == "plain" else prepacked.LINEAR[kind.split()[-1]](whole)
    if kind.startswith("native"):
        linear = native.NativeLinear(whole, int8=kind.endswith("int8"))
    outputs = torch.tensor([0, 1, 2, 3, 17, 40, 49])
    for rows in (1, 5, 100):
        x = torch.randn(rows, 3, 32)
        assert torch.allclose(prepacked.rows_of(linear, whole, outputs)(x), linear(x)[..., outputs], atol=1e-5)


def test_what_does_not_go_together_is_said():
    model = tiny_model(0, V)
    with pytest.raises(UserError, match=r"decode\.shortlist.*: does not go with decode.no_repeat_ngram=2"):
        Generator([model], DecodeConfig(no_repeat_ngram=2), sides, loaded={"shortlist": ALL})
    with pytest.raises(UserError, match=r"decode\.shortlist=file: does nothing with decode\.search=stochastic_beam"):
        Generator([model], DecodeConfig(search="stochastic_beam", shortlist="file"), sides, loaded={"shortlist": ALL})


@pytest.fixture(scope="module")
def learned(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("shortlist") / "shortlist"
    Shortlist.learn(Store(store), "train", 2, 3, 5, 1000).save(str(path))
    return path


def test_a_learned_shortlist_has_the_likely_and_the_frequent(store, learned):
    data = Store(store)
    task = Task(data)
    shortlist = Shortlist.load(str(learned), task)
    source, target = (tokenizer.vocabulary for tokenizer in data.tokenizers().values())
    for letter in "abcdefghij":  # each is its own translation in this corpus
        assert shortlist.translations[source.index(letter), 0] == target.index(letter)
    counts = defaultdict(int)
    split = data.split("train")
    for i in range(len(split)):
        for symbol in split.row("target.tokens", i).tolist():
            counts[symbol] += 1
    assert sorted(counts.values())[-3:][::-1] == [counts[symbol] for symbol in shortlist.frequent.tolist()]
    candidates = shortlist.of([source.index("a")], [])
    assert candidates[[PAD, UNK, BOS, EOS, target.index("a"), *shortlist.frequent]].all()
    assert 4 + 3 <= candidates.sum() <= 4 + 3 + 2


class Task:
    def __init__(self, store):
        self.source_tokenizer, self.target_tokenizer = store.tokenizers().values()
        self.vocabularies = {side: tokenizer.vocabulary for side, tokenizer in store.tokenizers().items()}


def test_a_shortlist_comes_and_goes_through_pipes(store, learned, pipe, tmp_path, s2s, capfdbinary):
    task, expected = Task(Store(store)), learned.read_bytes()
    words = f"store={store}", "candidates=2", "frequent=3"
    assert s2s("shortlist", *words, f"output={tmp_path}/file", "pairs=1000") == 0
    assert capfdbinary.readouterr().out == f"{tmp_path}/file\n".encode()
    assert s2s("shortlist", *words, "output=-", "pairs=1000") == 0
    written = capfdbinary.readouterr().out
    for content in (expected, written):
        found = Shortlist.load(str(pipe(content)), task)
        np.testing.assert_array_equal(found.translations, Shortlist.load(str(learned), task).translations)


def test_a_shortlist_that_is_not_one_is_refused(store, learned, tmp_path, s2s, capsys):
    task = Task(Store(store))
    with pytest.raises(UserError, match=r"decode\.shortlist=nowhere: no such file; s2s-shortlist makes one"):
        Shortlist.load("nowhere", task)
    (tmp_path / "damaged").write_bytes(learned.read_bytes()[:-5])
    (tmp_path / "text").write_text("no shortlist")
    flipped = bytearray(learned.read_bytes())
    flipped[-1] ^= 1  # in an id
    (tmp_path / "flipped").write_bytes(flipped)
    assert inspect(tmp_path / "flipped")["damaged"] == [
        f"{tmp_path}/flipped: its content differs from what was written"
    ]
    for name in ("damaged", "text", "flipped"):
        with pytest.raises(UserError, match=rf"{name}: (not a shortlist, or )?damaged"):
            Shortlist.load(str(tmp_path / name), task)
    corpus = store.parent / "train"
    assert s2s("preprocess", "source=src", "target=tgt", f"train={corpus}", f"store={tmp_path / 'store'}",
               "tokenizer=characters", "workers=1") == 0  # fmt: skip
    with pytest.raises(UserError, match="was learned with another source vocabulary"):
        Shortlist.load(str(learned), Task(Store(tmp_path / "store")))


def test_the_commands(store, s2s, tmp_path, capsys):
    words = (f"store={store}", f"run={tmp_path / 'run'}", "model=transformer_tiny", "model.encoder.layers=1",
             "model.decoder.layers=1", "device=cpu", "train.samples=0", "train.max_updates=10",
             "data.batch_tokens=400")  # fmt: skip
    assert s2s("train", *words) == 0
    assert s2s("shortlist", f"store={store}", f"output={tmp_path / 'shortlist'}", "candidates=1", "frequent=0") == 0
    printed = capsys.readouterr()
    assert printed.out.endswith(f"{tmp_path / 'shortlist'}\n")
    assert "learned from 400 pairs" in printed.err
    (tmp_path / "lines").write_text("a b\n\nb b b c\n")
    words = (f"checkpoint={tmp_path / 'run'}", f"input={tmp_path / 'lines'}", f"output={tmp_path / 'output'}",
             "device=cpu", "decode.min_length_b=3")  # fmt: skip
    assert s2s("generate", *words, f"decode.shortlist={tmp_path / 'shortlist'}") == 0
    hypotheses = (tmp_path / "output").read_text().split("\n")
    assert set(hypotheses[0].split()) <= {"a", "b"}
    assert set(hypotheses[2].split()) <= {"b", "c"}
    assert s2s("generate", *words, f"decode.shortlist={tmp_path / 'lines'}") == 2
    assert "not a shortlist" in capsys.readouterr().err
    assert s2s("shortlist", f"store={store}") == 2
    assert "output=FILE" in capsys.readouterr().err
