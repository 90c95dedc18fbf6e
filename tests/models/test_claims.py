"""A fast path is taken where it is claimed, and only there: what declares nothing is computed as it is written."""

import pytest
import torch
from torch import nn

from s2s.backends import prepare as backend
from s2s.backends.prepacked import prepacked
from s2s.backends.prepare import is_native, prepare
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError
from s2s.interop import ctranslate2
from s2s.models.claims import departure, encoder_departure, lacks_blocks, step_departure
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.encoder_decoder import NO_TAGS
from s2s.models.encoders.transformer import EncoderConfig, TransformerEncoder
from s2s.models.transformer import Transformer, TransformerConfig
from s2s.native.library import Unavailable, library
from s2s.nn.attention import SelfAttention
from s2s.nn.feedforward import FeedForward
from s2s.nn.layers import Layer
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import BOS, EOS, SPECIALS, Vocabulary
from s2s.text.words import WordTokenizer
from tests.specs import text_spec

V = 20
SOURCES = [[5, 9, 7, 4], [11, 6], [8, 8, 14, 5, 19, 4]]


class Doubling(Transformer):
    """A step of its own."""

    def step(self, tokens, state, output=None):
        return 2 * super().step(tokens, state, output)


class Adapted(Layer):
    """A module more."""

    def __init__(self, layer: Layer):
        nn.Module.__init__(self)
        self.__dict__.update({key: value for key, value in vars(layer).items() if not key.startswith("_")})
        self._modules.update(layer._modules)
        self.adapter = nn.Linear(layer.attention.output.out_features, layer.attention.output.out_features)

    def decode(self, x, *args):
        x = super().decode(x, *args)
        return x + self.adapter(x)

    def step(self, x, *args):
        x = super().step(x, *args)
        return x + self.adapter(x)


class Sharper(SelfAttention):
    """Other attention."""

    def split(self, qkv, positions=None):
        q, k, v = super().split(qkv, positions)
        return 3 * q, k, v


class Named(Transformer):
    """Says that it computes what its parent does, and adds a name."""

    stands_for = Transformer

    def step(self, tokens, state, output=None):
        return super().step(tokens, state, output)


class Backwards(TransformerDecoder):
    """A step of its own, and the block step of its parent."""

    def step(self, tokens, state):
        return -super().step(tokens, state)


def plain(kind=Transformer) -> Transformer:
    torch.manual_seed(0)
    stack = EncoderConfig(2, 16, 2, None, 24)
    model = kind(TransformerConfig(encoder=stack, decoder=stack, dropout=0.0), text_spec(V)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def adapted() -> Transformer:
    model = plain()
    model.decoder.layers[1] = Adapted(model.decoder.layers[1])
    return model


def sharper() -> Transformer:
    model = plain()
    model.decoder.layers[0].attention.__class__ = Sharper
    return model


def hooked() -> Transformer:
    model = plain()
    model.decoder.layers[0].register_forward_hook(lambda *_: None)
    return model


DEPARTING = {
    "Doubling has a `step` of its own": lambda: plain(Doubling),
    "decoder.layers.1 is a Adapted": adapted,
    "decoder.layers.0.attention is a Sharper": sharper,
    "decoder.layers.0 has a hook": hooked,
}


@pytest.fixture(autouse=True)
def fresh():
    backend._report.cache_clear()


def decoded(model, kind="auto", **options):
    task = task_of()
    config = DecodeConfig(backend=kind, max_length_a=0.0, max_length_b=9, **options)
    return [best for best, *_ in Generator([model], config, Sides.of(task)).generate(SOURCES)]


def task_of() -> TranslationTask:
    tokenizer = WordTokenizer(WordTokenizer.Config(), Vocabulary([*SPECIALS, *map(str, range(V - len(SPECIALS)))]))
    return TranslationTask(tokenizer, tokenizer)


def by_decode(model, hypothesis, source) -> float:
    """The log-probability of a hypothesis by teacher forcing."""
    memory = model.encode(*task_of().collate_sources([source]))
    written = torch.tensor([[BOS, *hypothesis.ids]])
    log = model.decode(memory, written).logits().log_softmax(-1)[0]
    return float(log.detach().gather(1, torch.tensor([[*hypothesis.ids, EOS]]).T).sum())


@pytest.mark.parametrize("reason", DEPARTING)
def test_what_departs_gets_the_plain_path_and_one_line(reason, capsys):
    try:
        library()
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))
    model = DEPARTING[reason]()
    assert reason in step_departure(model)
    found, again = decoded(model), decoded(model)
    said = capsys.readouterr().err
    assert said.count(reason) == 1
    assert said.count("\n") == 1
    eager = decoded(model, "eager")
    for each in (found, again):
        assert [best.ids for best in each] == [best.ids for best in eager]
        assert [best.score for best in each] == pytest.approx([best.score for best in eager], abs=1e-5)
    with pytest.raises(UserError, match=r"decode\.backend=native: "):
        decoded(model, "native")


def test_an_added_module_counts_in_decoding():
    model = adapted()
    for best, source in zip(decoded(model), SOURCES, strict=True):
        assert best.log_probability == pytest.approx(by_decode(model, best, source), abs=1e-3)
    assert [best.ids for best in decoded(model)] != [best.ids for best in decoded(plain())]


def test_what_departs_from_the_toolkits_maps_keeps_its_own():
    """A map that another class holds may be read otherwise than by a call."""
    light = prepacked(adapted(), "int8")
    assert type(light.decoder.layers[1].adapter) is nn.Linear
    assert type(light.decoder.layers[0].attention.output) is not nn.Linear


def test_what_says_that_it_stands_for_its_parent_gets_its_kernels():
    try:
        library()
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert step_departure(plain(Named)) is None
    assert is_native(prepare(plain(Named), "fp32", "auto"))
    assert is_native(prepare(plain(), "fp32", "auto"))
    assert [best.ids for best in decoded(plain(Named))] == [best.ids for best in decoded(plain())]

    class Silent(Named):
        """A subclass of what declares declares nothing itself."""

        def step(self, tokens, state, output=None):
            return -super().step(tokens, state, output)

    assert step_departure(plain(Silent)) == "Silent has a `step` of its own"


@pytest.mark.parametrize("reason", [reason for reason in DEPARTING if "hook" not in reason])
def test_an_export_refuses_by_name_what_it_would_leave_out(reason):
    pytest.importorskip("ctranslate2")
    with pytest.raises(UserError, match=reason.replace("`", ".")):
        ctranslate2.specification(DEPARTING[reason](), task_of())
    ctranslate2.specification(plain(), task_of())


def test_an_export_refuses_another_encoder():
    model = plain()
    model.encoder.layers[0].feedforward.__class__ = type("Gated", (type(model.encoder.layers[0].feedforward),), {})
    assert departure(model) == "encoder.layers.0.feedforward is a Gated"
    assert step_departure(model) is None  # the step has no part in it
    assert encoder_departure(model) == "encoder.layers.0.feedforward is a Gated"


class OwnMemory(TransformerDecoder):
    """The step of its parent, and a memory of its own."""

    steps_for = TransformerDecoder

    def _start(self, seen, seen_mask):
        key_values, mask = super()._start(seen, seen_mask)
        return 2 * key_values, mask


class Bent(Transformer):
    """Another memory, and the step of its parent."""

    def encode(self, sources, tags=NO_TAGS):
        memory = super().encode(sources, tags)
        memory.states = [-state for state in memory.states]
        return memory


def with_own_memory() -> Transformer:
    model = plain()
    model.decoder.__class__ = OwnMemory
    return model


def with_hook() -> Transformer:
    model = plain()
    model.encoder.layers[0].register_forward_hook(lambda *args: -args[-1])
    return model


def unequal() -> Transformer:
    model = plain()
    model.encoder.layers[0].feedforward = FeedForward(16, 40, "relu", 0.0)
    return model


ENCODING_APART = {
    "OwnMemory has keys and values of its own": with_own_memory,
    "Bent has a `encode` of its own": lambda: plain(Bent),
    "encoder.layers.0 has a hook": with_hook,
    "the feed-forward blocks of the encoder differ": unequal,
}


@pytest.mark.parametrize("backend_name", ["auto", "native"])
@pytest.mark.parametrize("reason", ENCODING_APART)
def test_what_the_compiled_encoder_is_not_for_is_said_in_one_line(reason, backend_name, capsys):
    try:
        library()
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))
    model = ENCODING_APART[reason]()
    results = [decoded(model, backend_name) for _ in range(2)]
    line = f"decode.backend={backend_name}: encoding is slower, without compiled kernels: {reason}\n"
    assert capsys.readouterr().err == line
    assert prepare(model, "fp32", "auto").reader is None
    eager = decoded(model, "eager")
    for each in results:
        assert [best.ids for best in each] == [best.ids for best in eager]
        assert [best.score for best in each] == pytest.approx([best.score for best in eager], abs=1e-5)


@pytest.mark.parametrize(("options", "name"), [
    ({"encoder_layer": 1}, "decode.encoder_layer"), ({"pack_source": True}, "decode.pack_source"),
    ({"encoder_chunk": 2}, "decode.encoder_chunk"),
    ({"encoder_exit_similarity": 0.5}, "decode.encoder_exit_similarity"),
])  # fmt: skip
def test_an_option_that_the_compiled_encoder_does_not_have_is_named(options, name, capsys):
    try:
        library()
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))
    results = [decoded(plain(), kind, **options) for kind in ("auto", "eager")]
    assert [best.ids for best in results[0]] == [best.ids for best in results[1]]
    said = f"decode.backend=auto: encoding is slower, without compiled kernels: they do not have {name}\n"
    assert capsys.readouterr().err == said


def test_one_model_and_ensembles_are_encoded_by_kernels(capsys, monkeypatch):
    try:
        library()
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))
    monkeypatch.setattr(TransformerEncoder, "forward", None)
    single = decoded(plain())
    config = DecodeConfig(max_length_a=0.0, max_length_b=9)
    both = [best for best, *_ in Generator([plain(), plain()], config, Sides.of(task_of())).generate(SOURCES)]
    assert [best.ids for best in both] == [best.ids for best in single]
    assert capsys.readouterr().err == ""


def test_several_positions_at_once_are_for_what_has_them():
    model = plain()
    assert lacks_blocks(model) is None
    model.decoder.__class__ = Backwards
    assert lacks_blocks(model) == "Backwards has a step of its own and no step_block"
    with pytest.raises(UserError, match="Backwards has a step of its own"):
        decoded(model, "eager", speculative="input", beam_size=1)


def test_a_shortlist_needs_an_output_that_is_a_matrix():
    model = plain()
    model.output = nn.Sequential(model.output)
    with pytest.raises(UserError, match=r"decode.shortlist: requires an output layer that is a matrix"):
        Generator([model], DecodeConfig(), Sides.of(task_of()), loaded={"shortlist": object()})


def test_an_output_that_is_no_matrix_decodes_on_the_plain_path():
    model = plain()
    expected = decoded(model, "eager")
    model.output = nn.Sequential(model.output, nn.LogSoftmax(-1))
    found = decoded(model)
    assert [best.ids for best in found] == [best.ids for best in expected]
    assert [best.score for best in found] == pytest.approx([best.score for best in expected], abs=1e-4)
