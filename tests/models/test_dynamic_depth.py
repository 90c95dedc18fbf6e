"""I3D's gates: what is computed is what they say, against a loop over rows; training and decoding agree."""

import pytest
import torch

from s2s.config import compose
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.criterions.terms.depth import DepthConfig
from s2s.data.batch import Batch, Counts, Source
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS, EOS
from tests.specs import criterion_of, text_spec

V, D, N, LENGTHS = 13, 16, 3, [9, 4, 1, 6]
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in (f"layers={N}", f"width={D}", "heads=2", "ffn_width=24")]  # fmt: skip
WRITTEN = torch.tensor([[BOS, 5, 6, 7]] * 4)


def model_of(*words: str, sharpness: float = 8.0) -> Transformer:
    torch.manual_seed(0)
    pairs = [compose.Override(*word.split("=")) for word in [*SIZE, "dropout=0", "encoder=dynamic_depth", *words]]
    built = compose.build(Transformer.Config, compose.by_key(pairs))
    built.fill()
    model = Transformer(built.config, text_spec(V)).eval()
    with torch.no_grad():
        for gates in model.encoder.gates:
            gates.outer.weight.mul_(sharpness)
            gates.bias.zero_()
    return model


def sources_of() -> tuple[Source, ...]:
    values = torch.randint(4, V, (4, 9), generator=torch.Generator().manual_seed(1))
    return (Source(values, torch.tensor(LENGTHS)),)


def gates_by_hand(gates, x):
    """x: [S, D] of one row."""
    inner = (gates.inner.weight @ x.mean(0) + gates.inner.bias).clamp(min=0)
    logits = (gates.outer.weight @ inner).view(-1, 2) + gates.bias
    return [bool(logit[0] >= logit[1]) for logit in logits]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["local", "global"])
def test_only_the_blocks_of_open_gates_are_computed(kind):
    model, (source,) = model_of(f"encoder.gates={kind}"), sources_of()
    encoder, rows = model.encoder, []
    for layer in encoder.layers:
        for block in (layer.attention, layer.feedforward):
            block.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    memory = model.encode((source,))
    computed, ran = memory.auxiliary["computed"], sum(rows)
    for row, length in enumerate(LENGTHS):
        x = model.frontend.embedding(source.values[row : row + 1, :length])
        mask = torch.ones(1, 1, 1, length, dtype=torch.bool)
        every = gates_by_hand(encoder.gates[0], x[0])
        for n, layer in enumerate(encoder.layers):
            attends, feeds = gates_by_hand(encoder.gates[n], x[0]) if kind == "local" else every[2 * n : 2 * n + 2]
            assert computed[row, n].tolist() == [attends, feeds]
            x = x + layer.attention(layer.attention_norm(x), mask) if attends else x
            x = x + layer.feedforward(layer.feedforward_norm(x)) if feeds else x
        torch.testing.assert_close(memory.top[row, :length], encoder.norm(x)[0], rtol=1e-4, atol=1e-5)
    assert ran == int(computed.sum())
    assert 0 < ran < 4 * N * 2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["local", "global"])
def test_training_and_decoding_agree_where_gates_are_sure(kind):
    model, sources = model_of(f"encoder.gates={kind}", sharpness=1e6), sources_of()
    hard = model.encode(sources)
    soft = model.train().encode(sources)
    torch.testing.assert_close(soft.auxiliary["computed"], hard.auxiliary["computed"])
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(soft.top[row, :length], hard.top[row, :length], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_row_depends_on_the_others():
    model, (source,) = model_of(), sources_of()
    together = model.decode(model.encode((source,)), WRITTEN).logits()
    for row, length in enumerate(LENGTHS):
        alone = (Source(source.values[row : row + 1, :length], torch.tensor([length])),)
        logits = model.decode(model.encode(alone), WRITTEN[:1]).logits()
        torch.testing.assert_close(logits[0], together[row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_threshold_of_0_computes_everything_and_one_of_1_next_to_nothing():
    for threshold, computed in (("0", 1.0), ("1", 0.0)):
        model = model_of(f"encoder.threshold={threshold}", sharpness=1.0)
        assert bool((model.encode(sources_of()).auxiliary["computed"] == computed).all())


def test_the_term_is_the_mean_gate():
    model = model_of(sharpness=1.0).train()
    criterion = criterion_of(CrossEntropyConfig(), DepthConfig(weight=0.5))
    criterion.check(model)
    target, counts = torch.tensor([[5, 6, EOS]] * 4), Counts(4, sum(LENGTHS), 12, 36 - sum(LENGTHS), 0)
    batch = Batch(torch.arange(4), sources_of(), WRITTEN[:, :3], target, torch.tensor([3] * 4), counts)
    torch.manual_seed(3)
    loss = criterion(model, batch)
    torch.manual_seed(3)
    computed = model.encode(sources_of()).auxiliary["computed"].detach()
    assert float(loss.metrics["depth"]) == pytest.approx(sum(float(row.mean()) for row in computed), rel=1e-5)
    loss.sum.backward()
    assert all(gates.bias.grad.abs().sum() > 0 for gates in model.encoder.gates)
    computed = model.eval().encode(sources_of()).auxiliary["computed"]
    assert float(criterion(model, batch).metrics["depth"]) == pytest.approx(4 * float(computed.mean()), rel=1e-5)


def test_what_it_does_not_go_with():
    with pytest.raises(UserError, match=r"model\.norm=post: model\.encoder=dynamic_depth has pre only"):
        model_of("norm=post")
    with pytest.raises(UserError, match=r"criterion\.terms: depth needs model\.encoder=dynamic_depth"):
        criterion_of(CrossEntropyConfig(), DepthConfig()).check(Transformer(Transformer.Config(), text_spec(V)))
