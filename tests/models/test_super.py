"""Super-transformers (HAT): a sub-network is the model with the first layers, inner states and heads only."""

import copy

import pytest
import torch
from torch import nn

from s2s.backends.prepare import prepare
from s2s.config import compose
from s2s.data.batch import Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError
from s2s.models.language_model import LanguageModel
from s2s.models.subnets import chosen, stacks, subnet
from s2s.models.transformer import Transformer
from s2s.nn.elastic import choose_parts, elastic_modules
from s2s.text.vocabulary import BOS
from tests.decoding.slow_search import sides
from tests.specs import target_spec, text_spec

V, D, F, H, N = 11, 16, 12, 4, 3
SUPER = ["bridge=last", "bridge.layers=2"]
SUPER += [f"{side}{word}" for side in ("encoder", "decoder") for word in (
    "=super", f".layers={N}", f".width={D}", f".heads={H}", f".ffn_width={F}", ".layer_counts=[2,3]",
    ".ffn_widths=[4,8,12]", ".head_counts=[2,4]")]  # fmt: skip
SUPER += ["decoder.cross_head_counts=[2,4]", "decoder.memories=[1,2]"]
CHOICE = {
    "encoder": {"layers": 2, "ffn_widths": [8, 4], "head_counts": [4, 2]},
    "decoder": {"layers": 2, "ffn_widths": [12, 4], "head_counts": [2, 4], "cross_head_counts": [4, 2],
                "memories": [1, 2]},
}  # fmt: skip


def model_of(*words):
    torch.manual_seed(5)
    words = [compose.Override(*word.split("=")) for word in ("dropout=0", *words)]
    built = compose.build(Transformer.Config, compose.by_key(words))
    built.fill()
    model = Transformer(built.config, text_spec(V)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases, too
    return model


def inputs():
    source = Source(torch.tensor([[5, 6, 7, 8, 9], [4, 5, 4, 0, 0]]), torch.tensor([5, 3]))
    return source, torch.tensor([[BOS, 6, 5, 9], [BOS, 4, 4, 10]])


def logits(model):
    source, target = inputs()
    return model.decode(model.encode((source,)), target).logits()


def slow_logits(model, choice, group=1):
    """Sentence by sentence, head by head, and encoder layers one after the other along time."""
    source, targets = inputs()
    d, rows = D // H, []

    def attention(queries, memory, q, k, v, output, heads, causal=False):
        found = output.bias.clone()
        for head in range(heads):
            mine, shared = slice(head * d, head * d + d), slice(head // group * d, head // group * d + d)
            query, key, value = (nn.functional.linear(x, weight[place], bias[place]) for x, (weight, bias), place in (
                (queries, q, mine), (memory, k, shared), (memory, v, shared)))  # fmt: skip
            scores = query @ key.T / d**0.5
            if causal:
                scores = scores + torch.full_like(scores, float("-inf")).triu(1)
            found = found + scores.softmax(-1) @ value @ output.weight[:, mine].T
        return found

    def own(x, layer, heads, causal):
        weight, bias = layer.attention.qkv.weight, layer.attention.qkv.bias
        ends = [D, D + D // group, D + 2 * (D // group)]
        q, k, v = ((weight[a:b], bias[a:b]) for a, b in zip([0, *ends], ends, strict=False))
        normed = layer.attention_norm(x)
        return x + attention(normed, normed, q, k, v, layer.attention.output, heads, causal)

    def feed(x, layer, m):
        block = layer.feedforward
        inner = nn.functional.linear(layer.feedforward_norm(x), block.inner.weight[:m], block.inner.bias[:m]).relu()
        return x + nn.functional.linear(inner, block.outer.weight[:, :m], block.outer.bias)

    for ids, length, target in zip(source.values, source.lengths, targets, strict=True):
        x, states = model.frontend(Source(ids[None, :length], length[None])).values[0], []
        for n in range(choice["encoder"]["layers"]):
            layer = model.encoder.layers[n]
            x = own(x, layer, choice["encoder"]["head_counts"][n], False)
            states.append(x := feed(x, layer, choice["encoder"]["ffn_widths"][n]))
        seen = [model.encoder.norm(x), *(nn.functional.layer_norm(y, (D,)) for y in states[-2::-1])]
        y, some = model.decoder.embedding(target[None])[0], choice["decoder"]
        for n in range(some["layers"]):
            layer = model.decoder.layers[n]
            y = own(y, layer, some["head_counts"][n], True)
            weight, bias = layer.cross.key_value.weight, layer.cross.key_value.bias
            k, v = zip(weight.chunk(2), bias.chunk(2), strict=True)
            memory = torch.cat(seen[: some["memories"][n]])
            query = layer.cross.query.weight, layer.cross.query.bias
            y = y + attention(layer.cross_norm(y), memory, query, k, v, layer.cross.output,
                              some["cross_head_counts"][n])  # fmt: skip
            y = feed(y, layer, some["ffn_widths"][n])
        rows.append(model.output(model.decoder.norm(y)))
    return torch.stack(rows)


@pytest.mark.parametrize("group", [1, 2])
def test_a_subnet_has_the_first_layers_inner_states_and_heads(group):
    words = [f"{side}.kv_heads={H // group}" for side in ("encoder", "decoder") if group > 1]
    model = model_of(*SUPER, *words)
    whole = {
        "encoder": {"layers": N, "ffn_widths": [F] * N, "head_counts": [H] * N},
        "decoder": {"layers": N, "ffn_widths": [F] * N, "head_counts": [H] * N, "cross_head_counts": [H] * N,
                    "memories": [2] * N},
    }  # fmt: skip
    with torch.no_grad():
        for choice in (CHOICE, whole):
            expected = slow_logits(model, choice, group)
            torch.testing.assert_close(logits(chosen(model, choice)), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)  # the model itself is whole


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_steps_are_teacher_forcing(positions):
    model = model_of(*SUPER, f"positions={positions}")
    source, target = inputs()
    with torch.no_grad():
        for some in (model, chosen(model, CHOICE)):
            stepping, taught = prepare(some, "fp32", "eager"), logits(some)
            memory = stepping.encode((source,))
            state, blocks = stepping.start(memory, 1), stepping.start_blocks(memory)
            for t in range(4):
                step = stepping.step(target[:, t].contiguous(), state)
                torch.testing.assert_close(step, taught[:, t], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(stepping.step_block(target, blocks), taught, rtol=1e-4, atol=1e-5)
            weights = some.cross_attention(memory, target, 1)
            assert weights.shape[2:] == (4, 5)  # of source positions, however many copies there are
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


def test_an_update_trains_a_subnet():
    model = model_of(*SUPER).train()
    whole = logits(copy.deepcopy(model).eval())
    for update in range(1, 100):
        choose_parts(elastic_modules(model), 1, update)
        if model.decoder.depth == model.encoder.depth == 2:
            break
    layers = {side: part.layers[:2] for side, part in stacks(model).items()}
    choice = {side: {"layers": 2, "ffn_widths": [layer.feedforward.outer.columns for layer in some],
                     "head_counts": [layer.attention.heads for layer in some]}
              for side, some in layers.items()}  # fmt: skip
    choice["decoder"] |= {"cross_head_counts": [layer.cross.heads for layer in layers["decoder"]],
                          "memories": [layer.cross.used for layer in layers["decoder"]]}  # fmt: skip
    found = logits(model)
    torch.testing.assert_close(found, slow_logits(model, choice), rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None  # of a layer that is left out, too: several processes wait for it
    assert not any(p.grad.any() for p in model.decoder.layers[2].parameters())
    torch.testing.assert_close(logits(model.eval()), whole)


def test_subnets_belong_to_the_seed_and_the_update():
    def drawn(seed):
        model, some = model_of(*SUPER), []
        for update in range(1, 60):
            choose_parts(elastic_modules(model), seed, update)
            some.append((model.encoder.depth, model.decoder.depth, model.decoder.layers[0].cross.used,
                         model.encoder.layers[0].attention.heads))  # fmt: skip
        return some

    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    assert len(set(first)) == 16  # all of them, each side on its own


def test_a_subnet_can_be_a_model_of_its_own():
    model = model_of(*SUPER)
    words = [*SUPER, "encoder.layers=2", "decoder.layers=2", "encoder.layer_counts=[]", "decoder.layer_counts=[]"]
    for side, choice in CHOICE.items():
        words.append(f"{side}.each_layer=true")
        words += [f"{side}.{name}={sizes}".replace(" ", "") for name, sizes in choice.items() if name != "layers"]
    alone, part = model_of(*words), chosen(model, CHOICE)
    shapes = {name: p.shape for name, p in part.named_parameters()}
    assert {name: p.shape for name, p in alone.named_parameters()} == shapes
    alone.load_state_dict(part.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(logits(alone), logits(part))
    alone.train()
    choose_parts(elastic_modules(alone), 1, 1)  # nothing is sampled
    torch.testing.assert_close(logits(alone), logits(part))
    assert all(p.requires_grad for p in alone.parameters())


def test_a_file_chooses_the_subnet_of_a_search(tmp_path):
    model, file = model_of(*SUPER), tmp_path / "subnet.yaml"
    file.write_text(str(CHOICE).replace("'", ""))
    torch.testing.assert_close(logits(subnet(model, str(file))), logits(chosen(model, CHOICE)))
    sources = [[4, 5, 6, 7], [8, 9], [6] * 7]
    greedy, part = {"beam_size": 1, "backend": "eager"}, chosen(model, CHOICE)
    for options, expected in (
        ({"subnet": str(file), "beam_size": 3}, (part, DecodeConfig(beam_size=3))),
        ({"subnet": str(file), "speculative": "input", **greedy}, (part, DecodeConfig(**greedy))),
        ({"draft_subnet": str(file), "speculative": "self", **greedy}, (model, DecodeConfig(**greedy))),
    ):
        pairs = (model, DecodeConfig(**options)), expected
        found, wanted = ([one.ids for (one, *_) in Generator([each], some, sides).generate(sources)]
                         for each, some in pairs)  # fmt: skip
        assert found == wanted


@pytest.mark.parametrize(("change", "message"), [
    ({"encoder": {**CHOICE["encoder"], "layers": 1}}, "was trained with 2, 3 layers"),
    ({"encoder": {**CHOICE["encoder"], "ffn_widths": [8, 5]}}, "ffn_widths must be 2 of 4, 8, 12"),
    ({"decoder": {**CHOICE["decoder"], "memories": [2]}}, "memories must be 2 of 1, 2"),
    ({"decoder": CHOICE["encoder"]}, "must have layers, ffn_widths, head_counts, cross_head_counts, memories"),
])  # fmt: skip
def test_a_subnet_that_there_is_not_is_an_error(change, message):
    with pytest.raises(UserError, match=message):
        chosen(model_of(*SUPER), change)


@pytest.mark.parametrize(("words", "message"), [
    (["encoder.ffn_widths=[4,16]"], "model.encoder.ffn_widths=.*: the whole model has 12"),
    (["decoder.layer_counts=[1,2]"], "model.decoder.layer_counts=.*: must have 3, too"),
    (["encoder.kv_heads=2", "encoder.head_counts=[1,4]"], "must be multiples of 2"),
    (["encoder.layer_counts=[1,3]"], "model.encoder.layer_counts: 1 layers, and the bridge needs more"),
    (["decoder.memories=[1,2,3]"], "sees up to 3 encoder layers; model.bridge=last model.bridge.layers=3"),
    (["decoder.each_layer=true", "decoder.layer_counts=[]"], "with each_layer=true there is a size for each of the 3"),
    (["auxiliary_heads=[1]"], "model.decoder=super samples its depth"),
    (["encoder.layer=conformer"], "model.encoder=super has layers of its own"),
    (["bridge.layers=4", "decoder.memories=[4]"], "model.bridge.layers=4: the encoder has 3"),
])  # fmt: skip
def test_options_that_do_not_go_together_are_an_error(words, message):
    with pytest.raises(UserError, match=message):
        model_of(*SUPER, *words)


def test_a_language_model_has_subnets_too():
    words = [word.removeprefix("decoder.") for word in SUPER if word.startswith("decoder")]
    size = [f"decoder.{word}" for word in words if not word.startswith(("decoder=", "cross", "memories"))]

    def language_model(*more):
        pairs = [compose.Override(*word.split("=")) for word in ("decoder=super", "dropout=0", *size, *more)]
        built = compose.build(LanguageModel.Config, compose.by_key(pairs))
        built.fill()
        return LanguageModel(built.config, target_spec(V)).eval()

    model, choice = language_model(), {**CHOICE["decoder"], "cross_head_counts": [H, H], "memories": [1, 1]}
    source, target = inputs()
    with torch.no_grad():
        part = chosen(model, {"decoder": choice})
        memory = part.encode((source,))
        state, taught = part.start(memory, 1), part.decode(memory, target).logits()
        for t in range(4):
            torch.testing.assert_close(part.step(target[:, t].contiguous(), state), taught[:, t])
    assert len(part.decoder.layers) == 2
    with pytest.raises(UserError, match="the model has no memory to attend to"):
        language_model("decoder.memories=[1,2]")


def test_a_bridge_shows_the_last_layers_to_any_decoder():
    """Kernels, too."""
    size = [f"{side}.{word}" for side in ("encoder", "decoder")
            for word in (f"layers={N}", f"width={D}", f"heads={H}", f"ffn_width={F}")]  # fmt: skip
    model = model_of(*size, "bridge=last", "bridge.layers=2")
    everything = {
        "encoder": {"layers": N, "ffn_widths": [F] * N, "head_counts": [H] * N},
        "decoder": {"layers": N, "ffn_widths": [F] * N, "head_counts": [H] * N, "cross_head_counts": [H] * N,
                    "memories": [2] * N},
    }  # fmt: skip
    source, target = inputs()
    with torch.no_grad():
        expected = slow_logits(model, everything)
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
        stepping = prepare(model, "fp32", "native")
        state = stepping.start(stepping.encode((source,)), 1)
        for t in range(4):
            step = stepping.step(target[:, t].contiguous(), state)
            torch.testing.assert_close(step, expected[:, t], rtol=1e-4, atol=1e-5)
