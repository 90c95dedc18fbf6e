"""Every part that can be chosen by name goes with the others: it trains, sees no padding, and decodes as taught."""

import itertools

import pytest
import torch

from s2s import registry
from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.data.batch import Inputs, Source
from s2s.decoding.prepacking import cut, first_fit, packed_source
from s2s.errors import UserError
from s2s.models.speech import SpeechModel
from s2s.models.transformer import Transformer
from s2s.nn.packed_rows import Examples
from s2s.text.vocabulary import BOS
from tests.plugin.example_plugin.bridge import MixtureBridge
from tests.plugin.example_plugin.frontend import HalvingFrontend
from tests.plugin.example_plugin.layer import AverageLayer
from tests.specs import speech_spec, text_spec

SIZES = ("layers=2", "width=16", "heads=2", "ffn_width=24")
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder") for key in SIZES]
V, F = 13, 20
OUTSIDE = {
    "frontend": {"halving": HalvingFrontend}, "layer": {"average": AverageLayer}, "bridge": {"mixture": MixtureBridge}
}  # fmt: skip

UNSEGMENTED = {("layer", "conformer"), ("layer", "e_branchformer"), ("frontend", "halving"), ("encoder", "deletion"),
               ("encoder", "dynamic_depth")}  # not for packed rows  # fmt: skip


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    """Parts from outside of the toolkit beside its own."""
    for kind, parts in OUTSIDE.items():
        for name, part in parts.items():
            monkeypatch.setitem(registry.COMPONENTS[kind], name, f"{part.__module__}:{part.__name__}")
    registry.find.cache_clear()
    yield
    registry.find.cache_clear()


def model_of(*words: str, size: list[str] = SIZE) -> Transformer:
    torch.manual_seed(0)
    pairs = compose.by_key([compose.Override(*word.split("=")) for word in [*size, "dropout=0", *words]])
    built = compose.build(Transformer.Config, pairs)
    built.fill()
    reads_frames = built.config.frontend.type == "subsampling"
    return Transformer(built.config, speech_spec(F, V) if reads_frames else text_spec(V)).eval()


def sources_of(model: Transformer, lengths: list[int]) -> tuple[Source, ...]:
    random = torch.Generator().manual_seed(1)
    shape = (len(lengths), max(lengths))
    if model.config.frontend.type == "subsampling":
        values = torch.randn(*shape, F, generator=random)
    else:
        values = torch.randint(4, V, shape, generator=random)
    return (Source(values, torch.tensor(lengths)),)


def test_a_layer_from_outside_in_a_model_of_speech():
    pairs = compose.by_key([compose.Override("encoder.layer", "average"), compose.Override("encoder.width", "16"),
                            compose.Override("encoder.heads", "2")])  # fmt: skip
    built = compose.build(SpeechModel.Config, pairs)
    built.fill()
    model = SpeechModel(built.config, speech_spec(F, V)).eval()
    source = Source(torch.randn(2, 40, F), torch.tensor([40, 21]))
    assert torch.isfinite(model.ctc_log_probabilities(model.encode((source,)))[0]).all()


NAMES = [
    ("tokens", "halving", "subsampling", "gbst"),
    ("transformer", "conformer", "e_branchformer", "average"),
    ("top", "mixture", "linear", "groups"),
]
OTHERS = ("one_hot", "lobef_ncf", "lobef_wsf", "define", "manta", "trigram_hash", "context", "conv_pool", "byte_conv",
          "word_pool")  # fmt: skip
SOME = [(name, layer, bridge) for name in OTHERS for layer, bridge in (("transformer", "top"), ("conformer", "linear"))]
SOME.append(("gbst", "transformer", "last"))


@pytest.mark.parametrize(
    ("frontend", "layer", "bridge"), [*itertools.product(*NAMES), *SOME, ("gbst", "transformer", "last")]
)
def test_parts_go_together(frontend, layer, bridge):
    check(model_of(f"frontend={frontend}", f"encoder.layer={layer}", f"bridge={bridge}"))


def check(model: Transformer, kernels: bool = True) -> None:
    """That a model sees no padding, decodes as taught, and has a gradient for each parameter."""
    lengths = [40, 17, 29]
    sources = sources_of(model, lengths)
    decoder_input = torch.tensor([[BOS, 5, 6, 7]] * 3)
    with torch.no_grad():
        memory = model.encode(*Inputs(sources))
        taught = model.decode(memory, decoder_input).logits()
        for row, length in enumerate(lengths):
            source = Source(sources[0].values[row : row + 1, :length], torch.tensor([length]))
            alone = model.encode(*Inputs((source,)))
            assert alone.lengths[0] == memory.lengths[row] <= model.memory_length(length)
            torch.testing.assert_close(model.decode(alone, decoder_input[:1]).logits()[0], taught[row],
                                       rtol=1e-4, atol=1e-4)  # fmt: skip
        for backend in ("eager", "native") if kernels else ("eager", "auto"):
            stepping = prepare(model, "fp32", backend)
            assert is_native(stepping) == (backend == "native")
            state = stepping.start(stepping.encode(*Inputs(sources)), 1)
            for t in range(4):
                logits = stepping.step(decoder_input[:, t].contiguous(), state)
                torch.testing.assert_close(logits, taught[:, t], rtol=1e-4, atol=1e-4, msg=f"{backend}, step {t}")
    model.train()
    model.decode(model.encode(*Inputs(sources)), decoder_input).logits().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


# Families of models: words of their encoder and of their decoder, each with the Transformer's at the other side too.
ENCODERS = {"transformer": [f"encoder.{key}" for key in SIZES]}
DECODERS = {"transformer": [f"decoder.{key}" for key in SIZES]}
for cell in ("lstm", "gru"):
    ENCODERS[cell] = [f"encoder={cell}", "encoder.layers=2", "encoder.width=16"]
    DECODERS[cell] = [f"decoder={cell}", "decoder.layers=2", "decoder.width=16"]
DECODERS["gnmt"] = [*DECODERS["lstm"], "decoder.attention_layer=bottom", "decoder.input_feeding=false",
                    "decoder.attention=additive", "decoder.residual=2"]  # fmt: skip
for layer in ("fconv", "light_convolution", "dynamic_convolution"):
    ENCODERS[layer] = [*ENCODERS["transformer"], f"encoder.layer={layer}", "encoder.layer.kernel=5"]
    DECODERS[layer] = ["decoder=convolutional", *DECODERS["transformer"], f"decoder.layer={layer}",
                       "decoder.layer.kernel=3"]  # fmt: skip
ENCODERS["none"] = ["encoder=none", "encoder.width=16"]
DECODERS["prefix"] = ["decoder=prefix", *DECODERS["transformer"], "decoder.target_positions=separate"]
DECODERS["palm"] = [*DECODERS["prefix"], "decoder.partial_attention=true", "decoder.segments=true",
                    "decoder.kv_heads=1"]  # fmt: skip
DECODERS["word_byte"] = ["decoder=word_byte", *DECODERS["transformer"], "decoder.symbol_width=8",
                         "decoder.symbol_heads=2", "decoder.longest_word=3"]  # fmt: skip
DECODERS["causal"] = [*DECODERS["prefix"], "decoder.mask=causal"]
PAIRS = [("none", "prefix"), ("none", "palm"), ("none", "causal"), ("lstm", "fconv"),
         ("dynamic_convolution", "gru"), ("fconv", "dynamic_convolution"),
         *((name, "transformer") for name in ENCODERS if name != "transformer"),
         *(("transformer", name) for name in DECODERS if name != "transformer")]  # fmt: skip
BESIDE = [("tokens", "none", "top"), ("subsampling", "sinusoidal", "mixture"), ("halving", "learned", "mixture")]


@pytest.mark.parametrize(("pair", "beside"), list(zip(PAIRS, itertools.cycle(BESIDE))))
def test_families_go_together(pair, beside):
    (encoder, decoder), (frontend, positions, bridge) = pair, beside
    words = [*ENCODERS[encoder], *DECODERS[decoder]]
    model = model_of(f"frontend={frontend}", f"positions={positions}", f"bridge={bridge}", size=words)
    check(model, kernels=decoder == "transformer")


ALL = [
    (kind, name)
    for kind in (*OUTSIDE, "encoder")
    for name in (*OUTSIDE.get(kind, ()), *registry.COMPONENTS[kind])
    if name not in ("subsampling", "whisper", "flat", "sources")  # for frames; for several sources
    if name not in ("converter", "language_layers", "factors")  # they read tags, and have tests of their own
]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_examples_of_a_packed_row_do_not_see_each_other(kind, name):
    words = {"encoder": ENCODERS.get(name), "layer": [f"encoder.layer={name}"]}.get(kind) or [f"{kind}={name}"]
    model = model_of(*words, **({"size": [*words, *DECODERS["transformer"]]} if kind == "encoder" else {}))
    lengths = [17, 40, 5, 29, 9, 1]
    (source,) = sources_of(model, lengths)
    rows = first_fit(lengths)
    order = [example for row in rows for example in row]
    with torch.no_grad():
        apart = model.encode((source,))
        if (kind, name) in UNSEGMENTED:
            with pytest.raises(UserError, match=f"{name}: examples of a packed row would see each other"):
                model.encode((packed_source(source, rows),))
            return
        memory = model.encode((packed_source(source, rows),))
        together = cut(memory, torch.tensor(order).argsort(), {})
    for row, states in enumerate(apart.lengths.tolist()):
        torch.testing.assert_close(together.top[row, :states], apart.top[row, :states], rtol=1e-4, atol=1e-4)


WRITING = {**{f"decoder={name}": words for name, words in DECODERS.items()},
           **{f"decoder={name}": [*DECODERS["transformer"], f"decoder={name}"]
              for name in ("groups", "some_cross", "convolutional", "prefix", "nested", "super")},
           **{f"output={name}": [*DECODERS["transformer"], f"output={name}", "tie_embeddings=none"]
              for name in ("copy", "surface_fusion", "adaptive")}}  # fmt: skip


@pytest.mark.parametrize("name", WRITING)
def test_targets_of_a_packed_row_do_not_see_each_other(name):
    model = model_of(size=[*ENCODERS["transformer"], *WRITING[name]])
    (source,) = sources_of(model, [7, 12, 5, 9, 3])
    target = Source(torch.randint(4, V, (5, 8), generator=torch.Generator().manual_seed(2)),
                    torch.tensor([4, 8, 1, 5, 3]))  # fmt: skip
    rows = [[1, 4], [3, 2, 0]]
    packed = packed_source(target, rows)
    with torch.no_grad():
        memory = model.encode((packed_source(source, rows),))
        if "decoder=prefix" in WRITING[name]:
            with pytest.raises(UserError, match="decoder=prefix: examples of a packed row would see each other"):
                model.decode(memory, packed.values, packed.packing)
            return
        together = Examples(*packed.packing).rows(model.decode(memory, packed.values, packed.packing).logits())
        apart = model.decode(model.encode((source,)), target.values).logits()
    for place, example in enumerate(itertools.chain(*rows)):
        length = target.lengths[example]
        torch.testing.assert_close(together[place, :length], apart[example, :length], rtol=1e-4, atol=1e-4)


def test_every_decoder_is_tried_with_packed_rows():
    elsewhere = {"multi_source"}  # needs several sources: test_multi_source_decoder.py
    assert set(registry.COMPONENTS["decoder"]) - elsewhere <= {name.partition("=")[2] for name in WRITING}
