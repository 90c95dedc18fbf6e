"""Rows that are packed, padded or without padding give the same losses and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2s import registry
from s2s.criterions.terms.cross_entropy import CrossEntropyConfig
from s2s.data.batch import Batch, Counts, Packing, Source
from s2s.errors import UserError
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from tests.specs import criterion_of, text_spec

LENGTH = st.integers(1, 7)
ROWS = st.lists(st.lists(st.tuples(LENGTH, LENGTH), min_size=1, max_size=4), min_size=1, max_size=4)


def model_of(positions: str = "sinusoidal", norm: str = "pre", kv_heads: int | None = None,
             unpad: bool | None = False, attention: bool = False, **changes) -> Transformer:  # fmt: skip
    torch.manual_seed(0)
    stack = EncoderConfig(2, 32, 4, kv_heads, 48, unpad=unpad, unpad_attention=attention)
    # GELU is smooth. Where a value is within rounding of the kink of ReLU, rounding decides the gradient.
    return Transformer(TransformerConfig(encoder=stack, decoder=stack, positions=positions, norm=norm, dropout=0.0,
                                         activation="gelu", **changes), text_spec(20, 23))  # fmt: skip


def right_padded(rows: list[Tensor], last: bool = False) -> Tensor:
    """[B, T]; padding is 9, a real token's number, or `last`: each row's last value."""
    size = max(map(len, rows))
    return torch.stack([torch.cat([row, (row[-1:] if last else row.new_tensor([9])).expand(size - len(row))])
                        for row in rows])  # fmt: skip


def batches(rows: list[list[tuple[int, int]]], seed: int = 0) -> tuple[Batch, Batch]:
    """The same random examples, of the (source, target) lengths in `rows`: packed so, and in rows of their own."""
    generator = torch.Generator().manual_seed(seed)
    examples = [[[torch.randint(4, 20, (length,), generator=generator) for length in (source, target, target)]
                 for source, target in row] for row in rows]  # fmt: skip

    def side(rows: list[list[list[Tensor]]], part: int) -> tuple[Tensor, Tensor, Packing]:
        segments = [torch.cat([torch.full_like(e[part], k) for k, e in enumerate(row)]) for row in rows]
        positions = [torch.cat([torch.arange(len(e[part])) for e in row]) for row in rows]
        ids = [torch.cat([e[part] for e in row]) for row in rows]
        packing = Packing(right_padded(segments, last=True), right_padded(positions, last=True))
        return right_padded(ids), torch.tensor([len(row) for row in ids]), packing

    def batch(rows: list[list[list[Tensor]]], packed: bool) -> Batch:
        (source, lengths, packing), (inputs, target_lengths, target_packing), (target, *_) = (
            side(rows, part) for part in range(3)
        )
        count = int(target_lengths.sum())
        return Batch(torch.arange(sum(map(len, rows))), (Source(source, lengths, packing if packed else None),),
                     inputs, target, target_lengths, Counts(0, 0, count, 0, 0), None,
                     target_packing if packed else None)  # fmt: skip

    return batch(examples, True), batch([[example] for row in examples for example in row], False)


def results(model: Transformer, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Loss of every target token, in the order of examples, and the gradients of their mean by the criterion."""
    model.zero_grad()
    output = model.decode(model.encode(batch.sources), batch.decoder_input, batch.target_packing)
    assert output.states.isfinite().all()
    losses = torch.nn.functional.cross_entropy(output.logits().transpose(1, 2), batch.target, reduction="none")
    real = torch.arange(batch.target.size(1)) < batch.target_lengths[:, None]
    loss = criterion_of(CrossEntropyConfig(label_smoothing=0.0))(model, batch)
    torch.testing.assert_close(loss.sum, losses[real].sum(), rtol=1e-5, atol=1e-5)
    (loss.sum / loss.count).backward()
    return losses[real].detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kv_heads", [None, 2])
def test_packed_rows_give_the_losses_and_gradients_of_rows_of_their_own(positions, norm, kv_heads):
    model = model_of(positions, norm, kv_heads)

    @settings(max_examples=15, deadline=None)
    @given(rows=ROWS, seed=st.integers(0, 99))
    def check(rows, seed):
        packed, alone = (results(model, batch) for batch in batches(rows, seed))
        torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)

    check()


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kv_heads", [None, 2])
def test_an_encoder_without_padding_gives_the_losses_and_gradients_of_one_with_it(positions, norm, kv_heads):
    options = {"log_length_scale": norm == "post"}
    padded = model_of(positions, norm, kv_heads, **options)
    unpadded = [model_of(positions, norm, kv_heads, True, attention, **options) for attention in (False, True)]

    @settings(max_examples=15, deadline=None)
    @given(rows=ROWS, seed=st.integers(0, 99))
    def check(rows, seed):
        for batch in batches(rows, seed):
            expected = results(padded, batch)
            for model in unpadded:
                torch.testing.assert_close(results(model, batch), expected, rtol=1e-5, atol=1e-5)

    check()


@pytest.mark.parametrize(("unpad", "rows", "unpads"), [
    (True, [(9, 3), (5, 3), (1, 3)], True),
    (False, [(9, 3), (5, 3), (1, 3)], False),
    (None, [(9, 3), (5, 3), (1, 3)], True),
    (None, [(9, 3), (9, 3), (9, 3)], False),
    (None, [(40, 3), (39, 3), (40, 3)], False),  # padding so little that it costs less than to be rid of it
])  # fmt: skip
def test_which_tokens_the_encoder_layers_compute(unpad, rows, unpads):
    model = model_of(unpad=unpad)
    (source,) = batches([[row] for row in rows])[1].sources
    shapes = set()
    for module in [*model.encoder.modules(), model.encoder.norm]:
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
            module.register_forward_hook(lambda module, inputs, output: shapes.add(output.shape[:-1]))
    memory = model.encode((source,))
    assert shapes == {(int(source.lengths.sum()),) if unpads else source.values.shape}
    assert memory.top.shape == (*source.values.shape, 32)


def test_attention_without_padding_is_computed_once_for_each_length():
    model = model_of(unpad=None, attention=True)  # even where no row has padding
    shapes = []
    for layer in model.encoder.layers:
        attend = layer.attention.attend
        layer.attention.attend = lambda qkv, mask, attend=attend: shapes.append(qkv.shape[:2]) or attend(qkv, mask)
    packed, alone = batches([[(5, 1), (3, 1), (5, 1)], [(1, 1), (5, 1)]])
    for batch in (packed, alone):
        shapes.clear()
        model.encode(batch.sources)
        assert shapes == [(1, 1), (1, 3), (3, 5)] * 2


@pytest.mark.parametrize(("unpad", "layer", "message"), [
    (False, "transformer", "unpad_attention=true: includes unpad"), (None, "fconv", "sees its neighbours"),
])  # fmt: skip
def test_attention_without_padding_is_refused_where_it_cannot_be(unpad, layer, message):
    layer = registry.find("layer", layer).Config()
    encoder = EncoderConfig(2, 32, 4, None, 48, unpad=unpad, layer=layer, unpad_attention=True)
    with pytest.raises(UserError, match=message):
        Transformer(TransformerConfig(encoder=encoder, decoder=DecoderConfig(2, 32, 4)), text_spec(20, 23))


def test_learned_positions_count_within_an_example():
    model = model_of("learned", max_positions=7)
    packed, alone = batches([[(7, 7), (7, 7)]])
    torch.testing.assert_close(results(model, packed), results(model, alone), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"8 tokens is over model.max_positions=7"):
        model.encode(batches([[(3, 3), (8, 3)]])[0].sources)


def test_rows_must_be_packed_on_both_sides():
    model = model_of()
    packed, alone = batches([[(3, 3)]])
    for sources, packing in ((packed.sources, None), (alone.sources, packed.target_packing)):
        with pytest.raises(ValueError, match="both be packed"):
            model.decode(model.encode(sources), packed.decoder_input, packing)
    with pytest.raises(ValueError, match="both be packed"):
        model.start(model.encode(packed.sources), 1)
