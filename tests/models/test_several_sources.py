"""A model of several sources, and layers that read tags."""

import dataclasses

import pytest
import torch
from torch import nn

from s2s import registry
from s2s.backends.prepare import is_native, prepare
from s2s.config.schema import option
from s2s.data.batch import Inputs, Packing, Source
from s2s.data.spec import FeatureSource, Spec, TokenSource
from s2s.errors import UserError
from s2s.models.bridges.flat import FlatConfig
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.parts import part_of
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from s2s.nn.layers import Layer
from s2s.text.vocabulary import BOS

V = 12
FIRST, SECOND = [[5, 6, 7, 8, 9], [4, 5], [6, 6, 6, 7]], [[8], [9, 9, 4], [10, 11, 5, 4, 7, 8]]
WRITTEN = torch.tensor([[BOS, 5, 6, 7]] * 3)


def model_of(spec: Spec, **options) -> Transformer:
    torch.manual_seed(0)
    stack = {"layers": 2, "width": 16, "heads": 2, "ffn_width": 24}
    encoder = EncoderConfig(**stack, **options.pop("encoder", {}))
    config = TransformerConfig(encoder=encoder, decoder=DecoderConfig(**stack), dropout=0.0, **options)
    return Transformer(config, spec).eval()


def two(**options) -> Transformer:
    """A model of two sources of text."""
    spec = Spec((TokenSource(V), TokenSource(V)), V, shared=True, alike=True)
    return model_of(spec, bridge=FlatConfig(), **options)


def padded(rows: list[list[int]]) -> Source:
    lengths = torch.tensor([len(row) for row in rows])
    return Source(nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True), lengths)


def packed(rows: list[list[int]]) -> Source:
    """Three rows as two: two examples in the first, the third alone."""
    source = padded([rows[0] + rows[1], rows[2]])
    size, (a, b, c) = source.values.size(1), map(len, rows)
    segments = [[0] * a + [1] * (size - a), [0] * size]
    positions = [[*range(a), *range(b)], [*range(c)]]
    return source._replace(packing=Packing(torch.tensor(segments), padded(positions).values[:, :size]))


@pytest.mark.parametrize(("share", "encoders", "frontends"), [("none", 2, 2), ("encoder", 1, 2), ("all", 1, 1)])
def test_the_decoder_sees_one_memory_after_the_other(share, encoders, frontends):
    """As a decoder that is given the states of both sources of one sentence, without any padding."""
    model = two(share_sources=share)
    names = [name for name, _ in model.named_parameters()]
    assert len({name.split("layers.")[0] for name in names if "encoder" in name and "layers" in name}) == encoders
    assert sum(name.endswith("tokens.weight") and "frontend" in name for name in names) == frontends
    memory = model.encode(*Inputs((padded(FIRST), padded(SECOND))))
    assert memory.lengths.tolist() == [6, 5, 10]
    logits = model.decode(memory, WRITTEN).logits()
    readers = [(model.frontend, model.encoder)]
    readers.append((model.more_frontends[0] if frontends == 2 else model.frontend,
                    model.more_encoders[0] if encoders == 2 else model.encoder))  # fmt: skip
    for row, sentence in enumerate(zip(FIRST, SECOND, strict=True)):
        states = [encoder(frontend(padded([ids]))).top
                  for (frontend, encoder), ids in zip(readers, sentence, strict=True)]  # fmt: skip
        seen = [torch.cat(states, 1)] * 2
        alone, _ = model.decoder.decode(seen, torch.ones(1, 1, 1, seen[0].size(1), dtype=torch.bool), WRITTEN[:1])
        torch.testing.assert_close(model.output(alone)[0], logits[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_it_decodes_as_it_is_taught(backend):
    model = two()
    inputs = Inputs((padded(FIRST), padded(SECOND)))
    taught = model.decode(model.encode(*inputs), WRITTEN).logits()
    stepping = prepare(model, "fp32", backend)
    assert is_native(stepping) == (backend == "native")
    state = stepping.start(stepping.encode(*inputs), 1)
    for t in range(4):
        step = stepping.step(WRITTEN[:, t].contiguous(), state)
        torch.testing.assert_close(step, taught[:, t], rtol=1e-4, atol=1e-4)


def test_packed_rows_see_the_sources_of_their_own_example():
    model = two()
    inputs = Inputs((padded(FIRST), padded(SECOND)))
    logits = model.decode(model.encode(*inputs), WRITTEN).logits()

    written = packed([row.tolist() for row in WRITTEN])
    memory = model.encode((packed(FIRST), packed(SECOND)))
    assert memory.lengths.tolist() == [11, 10]
    found = model.decode(memory, written.values, written.packing).logits()
    torch.testing.assert_close(torch.stack([found[0, :4], found[0, 4:], found[1, :4]]), logits, rtol=1e-5, atol=1e-5)


def test_every_part_is_trained_counted_and_has_its_place():
    model = two().train()
    model.decode(model.encode((padded(FIRST), padded(SECOND))), WRITTEN).logits().square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert part_of("more_encoders.0.layers.0.feedforward.inner.weight") == "encoder"
    assert part_of("more_frontends.0.embedding.tokens.weight") == "embeddings"
    assert len(model.stacks()) == 3
    one = model_of(Spec((TokenSource(V),), V, shared=True))
    length = torch.tensor([5])
    more = model.flops(length, length, length) - one.flops(length, length)
    assert more > one.encoder.flops(length)  # and the attention to twice as much


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (2, {}, "model.bridge=top sees one source, and the task has 2; try model.bridge=flat"),
        (1, {"bridge": FlatConfig()}, "model.bridge=flat joins several sources, and the task has one"),
        (1, {"share_sources": "all"}, "model.share_sources=all: requires several sources"),
        (2, {"bridge": FlatConfig(), "share_sources": "all"}, "model.share_sources=all: the sources have vocabularies"),
    ],
)
def test_what_does_not_go_with_the_number_of_sources_is_refused(sources, options, message):
    with pytest.raises(UserError, match=message):
        model_of(Spec((TokenSource(V),) * sources, V), **options)


def test_sources_of_another_kind_are_refused():
    with pytest.raises(UserError, match=r"model\.frontend=tokens reads TokenSource, TokenSource, and the task has 2"):
        model_of(Spec((TokenSource(V), FeatureSource(8)), V), bridge=FlatConfig())


# --- tags ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class ShiftConfig:
    type: str = option("shift", "component")


class ShiftLayer(Layer):
    """The Transformer's layer, and a vector of the target's language on every position."""

    Config = ShiftConfig
    norms = ("pre",)
    tags = ("target_language",)

    def __init__(self, *args, tag_sizes, **options):
        super().__init__(*args, pre_norm=True, **options)
        self.languages = nn.Embedding(tag_sizes["target_language"], self.attention_norm.normalized_shape[0])

    def forward(self, x, mask, real, tags):
        return super().forward(x, mask, real) + self.languages(tags["target_language"])


@pytest.fixture
def shift(monkeypatch):
    monkeypatch.setitem(registry.COMPONENTS["layer"], "shift", f"{__name__}:ShiftLayer")
    registry.find.cache_clear()
    yield {"layer": ShiftConfig()}
    registry.find.cache_clear()


def test_a_layer_has_the_tags_that_it_asks_for(shift):
    """In plain rows, without padding and packed; each row as it would be with the vector of its own language."""
    spec = Spec((TokenSource(V),), V, shared=True, tags={"target_language": ["de", "fr"], "corpus": ["a"]})
    model, tag = model_of(spec, encoder=shift), torch.tensor([1, 0, 1])
    assert model.tags == ("target_language",)
    tags, source = {"target_language": tag, "corpus": torch.zeros(3)}, padded(FIRST)
    found = model.encode((source,), tags)
    for row, number in enumerate(tag.tolist()):
        x = model.frontend(padded([FIRST[row]])).values
        for layer in model.encoder.layers:
            mask = torch.ones(1, 1, 1, x.size(1), dtype=torch.bool)
            x = Layer.encode(layer, x, mask) + layer.languages.weight[number]
        length = len(FIRST[row])
        torch.testing.assert_close(found.top[row, :length], model.encoder.norm(x)[0], rtol=1e-5, atol=1e-5)
    for unpad in (False, True):
        model.encoder.config.unpad = unpad
        again = model.encode((source,), tags)
        for row, length in enumerate(source.lengths.tolist()):
            torch.testing.assert_close(again.top[row, :length], found.top[row, :length], rtol=1e-5, atol=1e-5)
    ids = torch.tensor([FIRST[0] + FIRST[1], FIRST[2] + [0] * 3])
    segments = torch.tensor([[0] * 5 + [1] * 2, [0] * 7])
    positions = torch.tensor([[*range(5), *range(2)], [*range(7)]])
    packed = model.encode((Source(ids, torch.tensor([7, 4]), Packing(segments, positions)),), tags).top
    for states, row in ((packed[0, :5], 0), (packed[0, 5:7], 1), (packed[1, :4], 2)):
        torch.testing.assert_close(states, found.top[row, : len(states)], rtol=1e-5, atol=1e-5)


def test_a_layer_of_a_tag_that_the_examples_lack_is_refused(shift):
    with pytest.raises(UserError, match="reads the tag target_language of the examples; they have corpus"):
        model_of(Spec((TokenSource(V),), V, tags={"corpus": ["a"]}), encoder=shift)


def test_gates_of_one_encoder_are_not_taken_for_those_of_all():
    from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
    from s2s.criterions.terms.depth import DepthConfig
    from s2s.models.encoders.dynamic_depth import DynamicDepthConfig
    from tests.specs import criterion_of

    encoder = DynamicDepthConfig(layers=2, width=16, heads=2, ffn_width=24)
    decoder = DecoderConfig(layers=2, width=16, heads=2, ffn_width=24)
    config = TransformerConfig(encoder=encoder, decoder=decoder, bridge=FlatConfig())
    model = Transformer(config, Spec((TokenSource(V), TokenSource(V)), V, shared=True, alike=True))
    assert model.encode(*Inputs((padded(FIRST), padded(SECOND)))).auxiliary == {}
    with pytest.raises(UserError, match="depth counts the gates of one encoder, and the task has several sources"):
        criterion_of(CrossEntropyConfig(), DepthConfig()).check(model)
