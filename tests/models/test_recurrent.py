"""Recurrent encoders and decoders against PyTorch's modules, a loop over single examples, and their own steps."""

import pytest
import torch
from torch import nn

from s2s.backends.prepare import prepare
from s2s.config import compose
from s2s.data.batch import Packing, Source
from s2s.decoding.splitting import splitting
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.nn.recurrent import Bidirectional, Recurrence
from s2s.text.vocabulary import BOS
from tests.specs import text_spec

V, D = 17, 12
KINDS = {  # name -> options of the decoder
    "luong": "layers=2 attention=dot attention_layer=top input_feeding=true residual=2",
    "bahdanau": "layers=1 attention=additive attention_layer=top input_feeding=true",
    "gnmt": "layers=3 attention=additive attention_layer=bottom input_feeding=false residual=3",
    "fed": "layers=2 attention=dot attention_layer=bottom input_feeding=true",
    "late": "layers=2 attention=dot attention_layer=top input_feeding=false",
    "sutskever": "layers=3 attention=none input_feeding=false start=encoder",
    "fed, alone": "layers=3 attention=none input_feeding=true start=encoder residual=2",
    "fairseq": "layers=3 attention=dot input_feeding=true start=encoder input_width=10 output_width=14",
    "started": "layers=3 attention=additive attention_layer=bottom input_feeding=false start=encoder",
}
WIDER = "layers=3 width=16 input_width=8 bidirectional=all"  # an encoder of another width than the decoder


def model_of(cell="lstm", decoder="luong", encoder="layers=3 bidirectional=first residual=3", **changes) -> Transformer:
    torch.manual_seed(0)
    if decoder in ("fairseq", "started"):
        encoder = WIDER
    sides = {"encoder": f"width={D} {encoder}", "decoder": f"width={D} {KINDS.get(decoder, decoder)}"}
    words = {"model": "transformer", "positions": "none", "dropout": "0", **changes}
    for side, options in sides.items():
        words[side] = cell
        words |= {f"{side}.{key}": value for key, value in (word.split("=") for word in options.split())}
    words.pop("model")
    built = compose.build(Transformer.Config, compose.by_key([compose.Override(*pair) for pair in words.items()]))
    built.fill()
    return Transformer(built.config, text_spec(V)).eval()


def sources(lengths=(6, 2, 4)):
    values = torch.randint(4, V, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    return Source(values, torch.tensor(lengths))


TARGET = torch.tensor([[BOS, 5, 6, 7, 9], [BOS, 8, 8, 4, 5], [BOS, 11, 6, 10, 7]])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrence_is_pytorchs_whole_and_by_steps(kind):
    torch.manual_seed(0)
    ours, theirs = Recurrence(kind, 5, D), getattr(nn, kind.upper())(5, D, batch_first=True)
    theirs.weight_ih_l0, theirs.bias_ih_l0 = ours.input.weight, ours.input.bias
    theirs.weight_hh_l0, theirs.bias_hh_l0 = ours.hidden.weight, ours.hidden.bias
    x = torch.randn(3, 7, 5)
    expected = theirs(x)[0]
    torch.testing.assert_close(ours(x)[0], expected)
    state, outputs = None, []
    for t in range(7):
        y, state = ours(x[:, t : t + 1], state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), expected)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_both_directions_are_pytorchs_over_packed_sequences(kind):
    torch.manual_seed(0)
    ours, theirs = Bidirectional(kind, 5, D), getattr(nn, kind.upper())(5, D // 2, batch_first=True, bidirectional=True)
    for part, end in ((ours.ahead, "l0"), (ours.back, "l0_reverse")):
        for name, linear in (("ih", part.input), ("hh", part.hidden)):
            setattr(theirs, f"weight_{name}_{end}", linear.weight)
            setattr(theirs, f"bias_{name}_{end}", linear.bias)
    x, lengths = torch.randn(3, 7, 5), torch.tensor([7, 2, 5])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    actual, _ = ours(x, lengths)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(actual[row, :length], expected[row, :length])


def slow_luong(model, memory, tokens):
    """The decoder `luong` for one sentence, by PyTorch's cells, one token and one source position at a time."""
    decoder, cells = model.decoder, []
    for layer in decoder.layers:
        cell = nn.LSTMCell(layer.input.in_features, D)
        cell.weight_ih, cell.bias_ih = layer.input.weight, layer.input.bias
        cell.weight_hh, cell.bias_hh = layer.hidden.weight, layer.hidden.bias
        cells.append(cell)
    states, fed, logits = [(torch.zeros(D), torch.zeros(D))] * 2, torch.zeros(D), []
    for token in tokens:
        states[0] = cells[0](torch.cat([D**0.5 * decoder.embedding.tokens.weight[token], fed]), states[0])
        states[1] = cells[1](states[0][0], states[1])
        state = states[0][0] + states[1][0]  # the second layer is residual
        scores = torch.stack([state @ (decoder.scores.key.weight @ place) for place in memory])
        context = sum(weight * place for weight, place in zip(scores.softmax(0), memory, strict=True))
        fed = torch.tanh(decoder.joined.weight @ torch.cat([state, context]))
        logits.append(model.output.weight @ fed)
    return torch.stack(logits)


def test_luongs_decoder_against_a_loop_over_one_sentence():
    model, source = model_of(), sources()
    with torch.no_grad():
        memory = model.encode((source,))
        actual = model.decode(memory, TARGET).logits()
        for row, length in enumerate(source.lengths):
            expected = slow_luong(model, memory.top[row, :length], TARGET[row])
            torch.testing.assert_close(actual[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_first_state_is_the_encoders_last_one(kind):
    """For sentences of their own, by PyTorch's modules: nothing that a row holds after its end counts."""
    model, source = model_of(kind, "started"), sources()
    layers = [layer.recurrence for layer in model.encoder.layers]
    with torch.no_grad():
        last = model.encode((source,)).last
        for row, length in enumerate(source.lengths):
            x, expected = model.frontend(Source(source.values[row : row + 1, :length], length[None])).values, []
            for layer in layers:
                theirs = getattr(nn, kind.upper())(x.size(2), 8, batch_first=True, bidirectional=True)
                for part, end in ((layer.ahead, "l0"), (layer.back, "l0_reverse")):
                    for name, linear in (("ih", part.input), ("hh", part.hidden)):
                        setattr(theirs, f"weight_{name}_{end}", linear.weight)
                        setattr(theirs, f"bias_{name}_{end}", linear.bias)
                x, state = theirs(x)
                expected += [part.flatten() for part in (state if kind == "lstm" else (state,))]
            torch.testing.assert_close(last[row], torch.stack(expected))
        first = model.decoder._begin([torch.zeros(3, 6, 16), last], 3)
        maps = model.decoder.first
        assert len(maps) == (2 if kind == "lstm" else 1)
        for n, state in enumerate(first[:-1]):
            linear = maps[n % len(maps)]
            torch.testing.assert_close(state, last[:, n] @ linear.weight.T + linear.bias)


def test_additive_scores_against_a_loop():
    model, source = model_of(decoder="gnmt"), sources()
    with torch.no_grad():
        memory = model.encode((source,))
        scores, query = model.decoder.scores, torch.randn(3, 4, D)
        actual = scores.weights(query, scores.key(memory.top), memory.mask.squeeze(1))
        for row, length in enumerate(source.lengths):
            for t in range(4):
                each = [scores.sum.weight[0] @ torch.tanh(scores.query.weight @ query[row, t] + scores.key(place))
                        for place in memory.top[row, :length]]  # fmt: skip
                torch.testing.assert_close(actual[row, t, :length], torch.stack(each).softmax(0))
        assert (actual[1, :, 2:] == 0).all()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("decoder", KINDS)
def test_alone_packed_and_by_steps_it_is_the_same(cell, decoder):
    model, source = model_of(cell, decoder), sources()
    with torch.no_grad():
        taught = model.decode(model.encode((source,)), TARGET).logits()
        for row, length in enumerate(source.lengths):  # no padding
            alone = model.encode((Source(source.values[row : row + 1, :length], source.lengths[row : row + 1]),))
            torch.testing.assert_close(model.decode(alone, TARGET[row : row + 1]).logits()[0], taught[row],
                                       rtol=1e-4, atol=1e-5)  # fmt: skip
        # The first and the last example in a row, the second alone in another one.
        values = torch.zeros(2, 10, dtype=torch.int64)
        values[0], values[1, :2] = torch.cat([source.values[0], source.values[2, :4]]), source.values[1, :2]
        packing = Packing(torch.tensor([[0] * 6 + [1] * 4, [0] * 10]),
                          torch.tensor([[*range(6), *range(4)], [0, 1] + [0] * 8]))  # fmt: skip
        shown = torch.stack([torch.cat([TARGET[0], TARGET[2]]), torch.cat([TARGET[1], torch.zeros_like(TARGET[1])])])
        target_packing = Packing(torch.tensor([[0] * 5 + [1] * 5, [0] * 10]),
                                 torch.tensor([[*range(5), *range(5)], [*range(5), *[0] * 5]]))  # fmt: skip
        memory = model.encode((Source(values, torch.tensor([10, 2]), packing),))
        packed = model.decode(memory, shown, target_packing).logits()
        for part, row in ((packed[0, :5], 0), (packed[0, 5:], 2), (packed[1, :5], 1)):
            torch.testing.assert_close(part, taught[row], rtol=1e-4, atol=1e-5)
        for dtype in ("fp32", "int8"):
            stepping = prepare(model, dtype, "eager")
            state = stepping.start(stepping.encode((source,)), 1)
            for t in range(5):
                logits = stepping.step(TARGET[:, t].contiguous(), state)
                near = {"rtol": 1e-4, "atol": 1e-5} if dtype == "fp32" else {"rtol": 0.1, "atol": 0.1}
                torch.testing.assert_close(logits, taught[:, t], **near, msg=f"{dtype}, step {t}")
    if model.decoder.config.attention == "none":
        with pytest.raises(UserError, match="no weights of attention"):
            model.cross_attention(model.encode((source,)), TARGET, 0)
        return
    weights = model.cross_attention(model.encode((source,)), TARGET, 0)
    assert weights.shape == (3, 1, 5, 6)
    torch.testing.assert_close(weights.sum(3), torch.ones(3, 1, 5))


@pytest.mark.parametrize(("words", "message"), [
    ({"encoder": "residual=1"}, r"model.encoder.residual=1"),
    ({"encoder": "layers=2 residual=3"}, "model.encoder.residual=3"),
    ({"decoder": "layers=1 attention_layer=bottom"}, "needs a layer above"),
    ({"norm": "post"}, "has no norms"),
    ({"auxiliary_heads": "[1]"}, "auxiliary_heads"),
    ({"decoder": "attention=none"}, "attention=none requires model.decoder.start=encoder"),
    ({"decoder": "layers=2 start=encoder"}, "encoder.layers=3 and model.decoder.layers=2 must be equal"),
    ({"decoder": "output_width=14", "tie_embeddings": "decoder"}, "reads a width of 12 and the output 14"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        model_of(**words)


def test_split_keys_are_for_another_decoder():
    with pytest.raises(UserError, match=r"decode\.split_keys=4: is for a Transformer's decoder"):
        splitting(model_of(), 4)
