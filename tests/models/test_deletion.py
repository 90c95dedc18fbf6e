"""MrT5's deletion gate: soft and hard deletion agree, against a loop over rows; the rate is steered, and resumes."""

import pytest
import torch
from torch.nn.functional import layer_norm

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.criterions.criterion import Criterion
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.deletion import Deletion, DeletionConfig
from s2s.data.batch import Batch, Counts, Inputs, Source
from s2s.errors import UserError
from s2s.models.encoders.transformer import TransformerEncoder
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS, EOS
from tests.specs import criterion_of, text_spec

V, D, LENGTHS = 13, 16, [9, 4, 1, 6]
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=3", f"width={D}", "heads=2", "ffn_width=24")]  # fmt: skip
WRITTEN = torch.tensor([[BOS, 5, 6, 7]] * 4)


def model_of(*words: str) -> Transformer:
    torch.manual_seed(0)
    chosen = [*SIZE, "dropout=0", "encoder=deletion", "encoder.gate_layer=2", *words]
    pairs = [compose.Override(*word.split("=")) for word in chosen]
    built = compose.build(Transformer.Config, compose.by_key(pairs))
    built.fill()
    model = Transformer(built.config, text_spec(V)).eval()
    with torch.no_grad():
        for parameter in model.encoder.layers.parameters():
            parameter.mul_(1.5)
        model.encoder.gate_weight.normal_()
        model.encoder.gate_bias.zero_()
        memory = model.encode(sources_of())
        gates = memory.auxiliary["gates"]
        opened = (-30 / gates[memory.auxiliary["gated"] & (gates < 0)] - 1).log()
        model.encoder.gate_bias.sub_(opened.median() + 0.01)
        model.encoder.gate_weight.mul_(40)  # gates are open or closed, half of them
        model.encoder.gate_bias.mul_(40)
    return model


def sources_of() -> tuple[Source, ...]:
    values = torch.randint(4, V, (4, 9), generator=torch.Generator().manual_seed(1))
    return (Source(values, torch.tensor(LENGTHS)),)


@torch.no_grad()
def test_what_is_left_is_the_encoding_of_the_positions_that_are_left():
    model, sources = model_of(), sources_of()
    encoder, memory = model.encoder, model.encode(sources)
    for row, length in enumerate(LENGTHS):
        x = model.frontend.embedding(sources[0].values[row : row + 1, :length])
        everything = torch.ones(1, 1, 1, length, dtype=torch.bool)
        for layer in encoder.layers[:2]:
            x = layer(x, everything)
        logits = layer_norm(x[0], (D,)) @ encoder.gate_weight + encoder.gate_bias
        gates = -30 / (1 + logits.exp())
        gates[-1] = 0
        left = [place for place in range(length) if gates[place] >= -15]
        x = encoder.layers[2](x[:, left], everything[..., : len(left)])
        assert memory.lengths[row] == len(left)
        torch.testing.assert_close(memory.top[row, : len(left)], encoder.norm(x)[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(memory.auxiliary["gates"][row, :length], gates, rtol=1e-3, atol=1e-3)
    assert 0 < int(memory.lengths.sum()) < sum(LENGTHS)
    assert memory.top.size(1) == int(memory.lengths.max())


@torch.no_grad()
def test_training_and_decoding_agree_where_gates_are_open_or_closed():
    model, sources = model_of("bridge=groups"), sources_of()  # a bridge that reads a layer below the gate, too
    model.encoder.gate_weight.mul_(50)
    hard = model.decode(model.encode(sources), WRITTEN).logits()
    model.train()
    soft = model.decode(model.encode(sources), WRITTEN).logits()
    torch.testing.assert_close(soft[[0, 1, 3]], hard[[0, 1, 3]], rtol=1e-4, atol=1e-5)
    model.eval()
    for backend in ("eager", "native"):
        stepping = prepare(model, "fp32", backend)
        assert is_native(stepping) == (backend == "native")
        state = stepping.start(stepping.encode(*Inputs(sources)), 1)
        for t in range(4):
            logits = stepping.step(WRITTEN[:, t].contiguous(), state)
            torch.testing.assert_close(logits, hard[:, t], rtol=1e-4, atol=1e-5)


def slow_softmax1(attention, x, added):
    """Attention of one sentence, [S, D], by the definition; added: [S], to the logits of each key."""
    q, k, v = (part.view(len(x), -1, D // 2) for part in attention.qkv(x).split(attention.sizes, 1))
    heads = []
    for h in range(2):
        keys, values = k[:, h % k.size(1)], v[:, h % k.size(1)]
        weights = (q[:, h] @ keys.T / (D // 2) ** 0.5 + added).exp()
        heads.append(weights / (1 + weights.sum(1, keepdim=True)) @ values)
    return attention.output(torch.cat(heads, 1))


@pytest.mark.parametrize("words", [(), ("encoder.kv_heads=1",)])
@torch.no_grad()
def test_softmax1_is_its_definition(words):
    model = model_of("encoder.softmax1=true", *words)
    attention, lengths = model.encoder.layers[0].attention, torch.tensor(LENGTHS)
    x, real = torch.randn(4, 9, D), torch.arange(9) < lengths[:, None]
    gates = torch.randn(4, 9).masked_fill(~real, float("-inf"))
    for added, mask in ((gates, gates[:, None, None]), (torch.zeros(4, 9), real[:, None, None])):
        found = attention(x, mask)
        for row, n in enumerate(LENGTHS):
            torch.testing.assert_close(found[row, :n], slow_softmax1(attention, x[row, :n], added[row, :n]))
    nothing = torch.full((4, 1, 1, 9), -1e9)  # a query that may attend to nothing does
    torch.testing.assert_close(attention(x, nothing), attention.output.bias.expand(4, 9, D))


@torch.no_grad()
def test_softmax1_in_training_and_decoding():
    model, sources = model_of("encoder.softmax1=true", "log_length_scale=true"), sources_of()
    model.encoder.gate_weight.mul_(50)
    hard = model.decode(model.encode(sources), WRITTEN).logits()
    plain = model_of("log_length_scale=true")
    plain.load_state_dict(model.state_dict())
    assert not torch.allclose(plain.decode(plain.encode(sources), WRITTEN).logits(), hard, atol=1e-2)
    model.train()
    soft = model.decode(model.encode(sources), WRITTEN).logits()
    torch.testing.assert_close(soft[[0, 1, 3]], hard[[0, 1, 3]], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_where_every_gate_is_closed_training_sees_what_decoding_sees():
    model, sources = model_of(), sources_of()
    model.encoder.gate_weight.zero_()
    model.encoder.gate_bias.fill_(-100)
    memory = model.encode(sources)
    assert memory.lengths.tolist() == [1, 1, 1, 1]
    hard = model.decode(memory, WRITTEN).logits()
    model.train()
    torch.testing.assert_close(model.decode(model.encode(sources), WRITTEN).logits(), hard, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_open_gate_is_none():
    model, sources = model_of(), sources_of()
    model.encoder.gate_weight.zero_()
    model.encoder.gate_bias.fill_(100)
    plain = TransformerEncoder(compose.preset("encoder", "transformer"), _shared(model))
    plain.layers, plain.norm = model.encoder.layers, model.encoder.norm
    deleting = model.encode(sources)
    model.encoder = plain
    torch.testing.assert_close(model.encode(sources).top[0], deleting.top[0])
    assert deleting.lengths.tolist() == LENGTHS


def _shared(model):
    from s2s.models.contract import Shared

    return Shared()


@torch.no_grad()
def test_no_row_depends_on_the_others():
    model, (source,) = model_of(), sources_of()
    together = model.decode(model.encode((source,)), WRITTEN).logits()
    for row, length in enumerate(LENGTHS):
        alone = (Source(source.values[row : row + 1, :length], torch.tensor([length])),)
        logits = model.decode(model.encode(alone), WRITTEN[:1]).logits()
        torch.testing.assert_close(logits[0], together[row], rtol=1e-4, atol=1e-5)


def batch() -> Batch:
    target = torch.tensor([[5, 6, EOS]] * 4)
    shown = torch.tensor([[BOS, 5, 6]] * 4)
    counts = Counts(4, sum(LENGTHS), 12, 36 - sum(LENGTHS), 0)
    return Batch(torch.arange(4), sources_of(), shown, target, torch.tensor([3] * 4), counts)


def test_the_term_is_the_mean_distance_of_gates_from_deletion():
    model = model_of()
    model.train()
    criterion = criterion_of(CrossEntropyConfig(), DeletionConfig(target=None, weight=2.0))
    criterion.check(model)
    loss = criterion(model, batch())
    gates = model.encode(sources_of()).auxiliary["gates"]
    real = [gates[row, :length] for row, length in enumerate(LENGTHS)]
    expected = sum(float((part + 30).detach().sum()) for part in real)
    assert float(loss.metrics["deletion"]) == pytest.approx(expected, rel=1e-5)
    assert float(loss.metrics["deleted"]) == sum(int((part < -15).sum()) for part in real)
    loss.sum.backward()
    assert model.encoder.gate_bias.grad.abs() > 0
    model.eval()
    assert float(criterion(model, batch()).metrics["deleted"]) == sum(int((part < -15).sum()) for part in real)


def test_the_weight_follows_the_share_and_resumes():
    term = Deletion(DeletionConfig(target=0.6))
    assert term.weight == 0
    average = total = 0.0
    for update, share in enumerate((0.1, 0.3, 0.9, 0.5), 1):
        term.updated(update, {"deleted": share, "deletion": 1.0})
        average, total = 0.9 * average + 0.1 * (0.6 - share), total + 0.6 - share
        assert term.weight == pytest.approx(max(0.0, 0.5 * average + 1e-5 * total))
    again = Deletion(DeletionConfig(target=0.6))
    again.load_state_dict(term.state_dict())
    assert (again.average, again.sum, again.weight) == (term.average, term.sum, term.weight)
    for _ in range(200):
        term.updated(1, {"deleted": 1.0})
    assert term.weight == 0


def test_positions_are_deleted_until_the_target_is_reached():
    model, criterion = model_of(), criterion_of(CrossEntropyConfig(), DeletionConfig(target=0.5))
    with torch.no_grad():
        model.encoder.gate_weight.normal_()
        model.encoder.gate_bias.fill_(6.0)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    model.train()
    shares, weights = [], []
    for update in range(60):
        loss = criterion(model, batch())
        optimiser.zero_grad()
        (loss.sum / loss.count).backward()
        optimiser.step()
        sums = {**{name: float(value) for name, value in loss.metrics.items()}, **criterion.counts(batch())}
        criterion.updated(model, update, sums)
        shares.append(sums["deleted"] / sum(LENGTHS))
        weights.append(criterion.terms[1].weight)
    reached = next(update for update, share in enumerate(shares) if share >= 0.5)
    assert shares[0] < 0.5
    assert weights[:reached] == sorted(weights[:reached])
    assert weights[-1] < max(weights)


@pytest.mark.parametrize(("words", "message"), [
    (("encoder.gate_layer=3",), r"model\.encoder\.gate_layer=3: must be below model\.encoder\.layers=3"),
    (("positions=rotary",), "states that are put together would lose their places"),
])  # fmt: skip
def test_what_it_does_not_go_with(words, message):
    with pytest.raises(UserError, match=message):
        model_of(*words)


def test_the_term_needs_the_gate():
    criterion: Criterion = criterion_of(CrossEntropyConfig(), DeletionConfig())
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"criterion\.terms: deletion needs model\.encoder=deletion"):
        criterion.check(Transformer(Transformer.Config(), text_spec(V)))


RECURRENT = ["decoder=lstm", "decoder.layers=2", f"decoder.width={D}"]


def recurrent(feeding: str) -> Transformer:
    torch.manual_seed(0)
    words = [*SIZE[:4], "dropout=0", "encoder=deletion", "encoder.gate_layer=2", *RECURRENT,
             f"decoder.input_feeding={feeding}"]  # fmt: skip
    built = compose.build(Transformer.Config, compose.by_key([compose.Override(*word.split("=")) for word in words]))
    built.fill()
    return Transformer(built.config, text_spec(V))


@pytest.mark.parametrize("feeding", ["true", "false"])
def test_a_recurrent_decoder_sees_less_of_what_the_gates_close(feeding):
    model, (source,) = recurrent(feeding), sources_of()
    with torch.no_grad():
        model.encoder.gate_weight.normal_()
        model.encoder.gate_bias.fill_(3.0)
        memory = model.encode((source,))
        logits = model.decode(memory, WRITTEN).logits()
        # A gate g is as if a position were there exp(g) times: attention by hand.
        seen = []
        weights = model.decoder.scores.weights

        def by_hand(query, keys, mask):
            seen.append(mask)
            rated = model.decoder.scores(query, keys).exp() * mask.exp()
            return rated / rated.sum(2, keepdim=True)

        model.decoder.scores.weights = by_hand
        torch.testing.assert_close(model.decode(memory, WRITTEN).logits(), logits, rtol=1e-4, atol=1e-5)
        model.decoder.scores.weights = weights
        assert seen[0][0, 0].min() < -0.01
        for row, length in enumerate(LENGTHS):
            alone = (Source(source.values[row : row + 1, :length], torch.tensor([length])),)
            torch.testing.assert_close(model.decode(model.encode(alone), WRITTEN[:1]).logits()[0], logits[row],
                                       rtol=1e-4, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("words", [
    ["decoder=prefix", "decoder.target_positions=separate"], ["decoder=prefix"], ["output=copy"],
    ["output=surface_fusion"],
])  # fmt: skip
def test_parts_that_need_the_positions_of_the_source_are_refused(words):
    with pytest.raises(UserError, match=f"model.encoder=deletion deletes .* model.{words[0]} needs"):
        model_of(*words)
