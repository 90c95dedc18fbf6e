"""A sentence that fails does so alone, whatever the search, and says why; the others are decoded as without it."""

import pytest
import torch
from slow_ctc import tiny_joint
from slow_search import collate, sides, tiny_model
from test_beam_search import ragged
from test_fusion import language_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.fitting import fitting
from s2s.decoding.generator import Generator
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.setting import Sides
from s2s.errors import Failure, UserError

V, POISON = 9, 8
SHORT = {"max_length_a": 1.0, "max_length_b": 4}
KINDS = {
    "greedy": {"beam_size": 1},
    "beam": {"n_best": 3},
    "native": {"n_best": 3, "backend": "native"},
    "native int8": {"n_best": 3, "backend": "native", "dtype": "int8"},
    "eager int8": {"n_best": 3, "backend": "eager", "dtype": "int8"},
    "best possible": {"stopping": "best_possible"},
    "exhaustive": {"stopping": "exhaustive"},
    "sampling": {"search": "sample", "n_best": 3},
    "top p": {"search": "sample", "n_best": 3, "top_p": 0.8, "top_k": 5, "epsilon": 0.01},
    "stochastic": {"search": "stochastic_beam", "n_best": 3},
    "diverse": {"diverse_groups": 5, "n_best": 3},
    "rules": {"no_repeat_ngram": 2},
    "constraints": {},
    "speculative": {"beam_size": 1, "speculative": "input"},
    "draft": {"beam_size": 1, "speculative": "draft"},
    "ensemble": {},
    "language model": {},
    "alignment": {},
    "coverage": {"coverage_penalty": 0.2},
    "risk": {"search": "sample", "n_best": 4, "mbr": "chrf"},
    "joint": {"ctc_weight": 0.3, "n_best": 3},
    "joint native": {"ctc_weight": 0.3, "n_best": 3, "backend": "native"},
    "best path": {"ctc_weight": 1.0, "beam_size": 1},
    "prefixes": {"ctc_weight": 1.0, "n_best": 3},
    "prefixes with a language model": {"ctc_weight": 1.0, "n_best": 3},
}


def poisoned(kind):
    """A model whose output is not a number for a source with POISON."""
    make = tiny_joint if kind.startswith(("joint", "best path", "prefixes")) else tiny_model
    model = make(1, V, tie_embeddings="decoder")
    if "native" in kind or "int8" in kind:
        model = model.float()
    with torch.no_grad():
        model.frontend.embedding.tokens.weight[POISON] = float("nan")
    return model


def decoded(kind, sources, slots):
    config = DecodeConfig(slots=slots, **{**SHORT, **KINDS[kind]})
    models = [poisoned(kind), tiny_model(2, V)] if kind == "ensemble" else [poisoned(kind)]
    texts = Sides(collate, lambda ids, source: " ".join(map(str, ids)))
    loaded = {"draft": tiny_model(2, V)} if kind == "draft" else {}
    if "language model" in kind:
        loaded["language_model"] = language_model()
    phrases = [[[source[0]]] for source in sources] if kind == "constraints" else None
    generator = Generator(models, config, texts, loaded=loaded, alignment=kind == "alignment")
    found = generator.generate(sources, constraints=phrases)
    return [[(one.ids, one.score, one.token_log_probabilities, one.alignment, one.error) for one in n] for n in found]


@pytest.mark.parametrize("slots", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sentence_whose_output_is_not_finite_fails_alone(kind, slots):
    healthy = [[token for token in source if token != POISON] or [4] for source in ragged(14, seed=4)]
    sources, places = [], []
    for number, source in enumerate(healthy):
        # Longer than the others, so that they come first and leave what they were to others, which take their slots.
        sources += [[4, 5, POISON, 6, 7, 4, 5, 6, 4, 4, 5]] * (number % 3 == 0) + [source]
        places.append(len(sources) - 1)
    found = decoded(kind, sources, slots)
    for number in set(range(len(sources))) - set(places):
        ((ids, _, values, _, error),) = found[number]
        assert (ids, values, type(error)) == ([], [], Failure)
        assert "not finite" in str(error)
    if "search" in KINDS[kind]:  # samples depend on a sentence's number
        whole = [source if number in places else [4] for number, source in enumerate(sources)]
        expected = decoded(kind, whole, slots)
        expected = [expected[number] for number in places]
    else:
        expected = decoded(kind, healthy, slots)
    for number, mine in zip(places, expected, strict=True):
        assert len(found[number]) == len(mine)
        for one, other in zip(found[number], mine, strict=True):
            assert (one[0], one[3:]) == (other[0], other[3:])
            assert one[1:2] + tuple(one[2]) == pytest.approx(other[1:2] + tuple(other[2]), abs=1e-5)


@pytest.mark.parametrize("kind", ["beam", "ensemble", "language model", "joint", "prefixes"])
def test_a_target_whose_score_is_not_a_number_fails_alone(kind):
    models = [poisoned(kind), tiny_model(2, V)] if kind == "ensemble" else [poisoned(kind)]
    loaded = {"language_model": language_model()} if "language model" in kind else {}
    generator = Generator(models, DecodeConfig(**KINDS[kind]), sides, loaded=loaded)
    sources, targets = [[4, 5, 6, 7], [4, POISON], [], [6, 6, 7]], [[5], [5], [], [7]]
    found = list(generator.score(sources, targets))
    assert [type(one.error) for one in found] == [type(None), Failure, type(None), type(None)]
    alone = list(generator.score([sources[0], sources[3]], [targets[0], targets[3]]))
    assert [found[0].score, found[3].score] == pytest.approx([one.score for one in alone])


def test_a_sample_that_is_not_finite_leaves_the_others():
    """A target symbol after which the model's output is not a number."""
    model = tiny_model(1, V, tie_embeddings="none")
    with torch.no_grad():
        model.decoder.embedding.tokens.weight[6] = float("nan")
    config = DecodeConfig(search="sample", n_best=40, temperature=2.0, **SHORT)
    (n_best,) = Generator([model], config, sides).generate([[4, 5, 7]])
    assert 0 < len(n_best) < 40
    assert not any(6 in one.ids for one in n_best)


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_a_hypothesis_that_is_not_finite_leaves_the_others(backend):
    model = tiny_model(1, V, tie_embeddings="none").float()
    config = DecodeConfig(n_best=5, backend=backend, stopping="exhaustive", **SHORT)
    whole = next(Generator([model], config, sides).generate([[4, 5, 7]]))
    used = next(token for token in range(4, V) if 0 < sum(token in one.ids for one in whole) < len(whole))
    with torch.no_grad():
        model.decoder.embedding.tokens.weight[used] = float("nan")
    n_best = next(Generator([model], config, sides).generate([[4, 5, 7]]))
    assert n_best
    assert all(one.error is None and used not in one.ids for one in n_best)


def test_a_source_may_have_failed_before():
    error = UserError("cannot be read")
    for options in ({}, {"ctc_weight": 1.0, "beam_size": 1}):
        model = tiny_joint(1) if options else tiny_model(1)
        found = list(Generator([model], DecodeConfig(**options), sides).generate([[4, 5], error, [6]]))
        assert found[1][0].error is error
        assert not found[0][0].error
        assert not found[2][0].error


class Short:
    """Memory for so many sentences, and none for some."""

    def __init__(self, most, never=()):
        self.most, self.never, self.calls = most, never, 0

    def __call__(self, items):
        self.calls += 1
        for number in items[:1]:  # what has a result is not decoded again
            if len(items) > 1 and number not in self.never:
                yield [(number, [f"{number}"])]
        if len(items) > self.most or set(self.never) & set(items):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        yield [(number, [f"{number}"]) for number in items[len(items) > 1 :]]


def test_where_memory_is_short_fewer_sentences_are_decoded_together():
    run = Short(3, never=[5])
    found = [result for results in fitting(run, {i: i for i in range(16)}) for result in results]
    assert sorted(number for number, _ in found) == list(range(16))
    for number, (one,) in found:
        if number == 5:
            assert isinstance(one, Hypothesis)
            assert "memory" in str(one.error)
        else:
            assert one == f"{number}"
    with pytest.raises(RuntimeError, match="shapes"):
        list(fitting(lambda items: (_ for _ in ()).throw(RuntimeError("shapes")), {1: 1, 2: 2}))


def test_a_sentence_that_does_not_fit_into_memory_fails_alone(monkeypatch):
    model, config = tiny_model(1), DecodeConfig(**SHORT)
    sources = ragged(12)
    expected = list(Generator([model], config, sides).generate(sources))
    generator = Generator([model], config, sides)
    encode = model.encode

    def short(inputs, tags=None):
        if int(inputs[0].lengths.max()) == 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(inputs, tags)

    monkeypatch.setattr(generator.setting.scorer.model, "encode", short)
    found = list(generator.generate(sources))
    assert [len(source) == 9 for source in sources] == [n_best[0].error is not None for n_best in found]
    assert 0 < sum(n_best[0].error is not None for n_best in found) < 10
    for mine, other in zip(found, expected, strict=True):
        assert mine[0].error or [one.ids for one in mine] == [one.ids for one in other]
    generator.finishing.scorers = []
    rated = list(generator.score(sources, sources))
    assert [one.error is not None for one in rated] == [n_best[0].error is not None for n_best in found]


def test_what_a_prefix_may_be_is_each_sentences_own():
    config = DecodeConfig(ctc_weight=0.3, **SHORT)
    found = list(Generator([tiny_joint(1)], config, sides).generate([[4, 5], [4] * 6], [[4] * 4, [4]]))
    assert "prefix of 4 tokens: CTC cannot align them with 3 frames" in str(found[0][0].error)
    assert found[1][0].ids[0] == 4
    learned = tiny_model(1, V, positions="learned", max_positions=8)
    found = list(Generator([learned], DecodeConfig(), sides).generate([[4, 5], [4]], [[4], [4] * 8]))
    assert found[0][0].ids[0] == 4
    assert "prefix of 8 tokens; model.max_positions=8 allows at most 7 and EOS" in str(found[1][0].error)
