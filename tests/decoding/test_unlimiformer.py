"""Sources in chunks, of which each head reads its best k positions: against slow references."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow_search import beam_search, sides, tiny_model
from test_beam_search import assert_same

from s2s.backends.prepare import _report, prepare
from s2s.data.batch import Inputs, Source
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.intake import longest_source
from s2s.decoding.unlimiformer import chunked, cut, top_k, top_k_attend
from s2s.errors import UserError
from s2s.models.contract import Memory
from s2s.nn.attention import attend, length_mask
from tests.models.test_parts import SIZES, model_of, sources_of

V = 9
SOURCES = [[5, 8, 4, 6, 7, 4, 8, 5, 6, 7, 4], [6, 4], [4, 5, 6, 7, 8, 8, 7, 6], [7, 7, 5, 4], [8]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(2, 12), st.integers(0, 11))
def test_each_position_is_kept_from_a_chunk_in_whose_middle_it_is(lengths, size, overlap):
    chunks, kept = cut(lengths, size, overlap := min(overlap, size - 1))
    for row, length in enumerate(lengths):
        mine = [(number, first, last) for number, (each, first, last) in enumerate(chunks) if each == row]
        assert (mine[0][1], mine[-1][2]) == (0, length)
        assert all(last - first == min(size, length) for _, first, last in mine)
        assert all(left[2] - right[1] >= overlap for left, right in pairwise(mine))
        spans = {number: (first, last) for number, first, last in mine}
        for position, place in enumerate(kept[row]):
            assert spans[place // size][0] + place % size == position
            near = {number: min(position - a if a else 99, b - 1 - position if b < length else 99)
                    for number, (a, b) in spans.items() if a <= position < b}  # fmt: skip
            assert near[place // size] >= max(near.values()) - 1  # the middle of an odd overlap is a choice
        assert len(kept[row]) == length


def slow_memory(model, ids, size, overlap):
    """The states of a source, [S, D]: of each position those in the chunk that keeps it."""
    chunks, (kept,) = cut([len(ids)], size, overlap)
    states = [model.encode((Source(ids[None, a:b], torch.tensor([b - a])),)).top[0] for _, a, b in chunks]
    return torch.stack([states[place // size][place % size] for place in kept])


@pytest.mark.parametrize("words", [(), ("positions=learned", "max_positions=8"), ("positions=rotary",),
                                   ("encoder.unpad_attention=true",), ("encoder.layer=conformer",), ("output=copy",),
                                   ("encoder=dynamic_depth",)])  # fmt: skip
@torch.no_grad()
def test_memory_is_that_of_the_chunks(words):
    model = model_of(*words, *(["tie_embeddings=none"] if "output=copy" in words else []))
    lengths = [23, 5, 9, 1, 14]
    (source,) = sources_of(model, lengths)
    memory = chunked(model, 8, 4).encode((source,))
    assert memory.lengths.tolist() == lengths
    assert torch.equal(memory.mask, length_mask(source.lengths, 23))
    for row, length in enumerate(lengths):
        expected = slow_memory(model, source.values[row, :length], 8, 4)
        torch.testing.assert_close(memory.top[row, :length], expected, rtol=1e-5, atol=1e-5)
    if "output=copy" in words:
        real = memory.mask[:, 0, 0]
        assert torch.equal(memory.auxiliary["tokens"][real], source.values[real])
    short = Source(source.values[:, :8], source.lengths.clamp(max=8))
    torch.testing.assert_close(chunked(model, 8, 4).encode((short,)).top, model.encode((short,)).top)


def slow_top_k(q, k, v, mask, count):
    """[H, T, d] of one sentence, head by head and query by query."""
    group = q.size(0) // k.size(0)
    result = torch.zeros_like(q)
    for h in range(q.size(0)):
        for t in range(q.size(1)):
            logits = (k[h // group] @ q[h, t] / q.size(2) ** 0.5).tolist()
            seen = [s for s in range(k.size(1)) if mask[min(t, len(mask) - 1), s]]
            best = sorted(seen, key=lambda s: -logits[s])[:count]
            weights = torch.tensor([logits[s] for s in best], dtype=q.dtype).softmax(0)
            result[h, t] = sum(w * v[h // group, s] for w, s in zip(weights, best, strict=True))
    return result


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("each", [False, True])
def test_top_k_attention(kv_heads, each):
    torch.manual_seed(0)
    B, H, T, S, d = 3, 4, 5, 9, 3
    q, k, v = torch.randn(B, H, T, d), torch.randn(B, kv_heads, S, d), torch.randn(B, kv_heads, S, d)
    mask = torch.rand(B, 1, T if each else 1, S) < 0.6
    mask[..., 2] = True
    for count in (1, 3, 8):
        expected = torch.stack([slow_top_k(q[b], k[b], v[b], mask[b, 0], count) for b in range(B)])
        torch.testing.assert_close(top_k_attend(q, k, v, mask, count), expected)
    torch.testing.assert_close(top_k_attend(q, k, v, mask, S), attend(q, k, v, mask.expand(-1, -1, T, -1)))


def slowly(model, count, size, overlap):
    """The model with slow cross-attention and a slow encoder, for sources of one length."""
    plain = model.encode

    def encode(sources, tags=()):
        (source,) = sources
        model.encode = plain
        states = torch.stack([slow_memory(model, ids, size, overlap) for ids in source.values])
        model.encode = encode
        return Memory([states], source.lengths, length_mask(source.lengths, states.size(1)))

    model.encode = encode
    for layer in model.decoder.layers:

        def forward(x, key_value, mask, cross=layer.cross):
            q = cross.query(x) * (cross.scale or 1)
            if cross.log_length:
                q = q * torch.tensor(float(min(count, key_value[0].size(2)))).log()
            q = q.unflatten(2, (cross.heads, -1)).transpose(1, 2)
            rows = [slow_top_k(q[b], key_value[0][b], key_value[1][b], mask[b, 0], count) for b in range(len(x))]
            return cross.output(torch.stack(rows).transpose(1, 2).flatten(2))

        layer.cross.forward = forward
    return model


@pytest.mark.parametrize("options", [{}, {"kv_heads": 1, "positions": "learned", "max_positions": 10},
                                     {"log_length_scale": True, "norm": "post"},
                                     {"scale_attention": False}])  # fmt: skip
def test_a_search_is_that_of_a_slow_model(options):
    """In few slots, so that they are refilled, and a state becomes shorter and longer."""
    config = DecodeConfig(beam_size=3, n_best=2, max_length_a=0, max_length_b=4, batch_tokens=80, encoder_chunk=6,
                          encoder_chunk_overlap=3, cross_attention_k=2)  # fmt: skip
    found = list(Generator([tiny_model(1, V, **options)], config, sides).generate(SOURCES))
    plain = DecodeConfig(beam_size=3, n_best=2, max_length_a=0, max_length_b=4)
    with torch.no_grad():
        for n_best, source in zip(found, SOURCES, strict=True):
            assert_same(n_best, beam_search([slowly(tiny_model(1, V, **options), 2, 6, 3)], source, plain))


@pytest.mark.parametrize("search", [{"speculative": "input"}, {"split_keys": 2, "backend": "eager"}])
def test_other_ways_to_search_find_the_same(search):
    model = tiny_model(3, V)
    options = {"beam_size": 1, "max_length_a": 0, "max_length_b": 6, "encoder_chunk": 6, "cross_attention_k": 2}
    found, expected = ([(best.ids, pytest.approx(best.log_probability)) for best, *_ in
                        Generator([model], DecodeConfig(**options, **more), sides).generate(SOURCES)]
                       for more in (search, {}))  # fmt: skip
    assert found == expected
    scored = Generator([model], DecodeConfig(**options), sides).score(SOURCES, [ids for ids, _ in expected])
    assert [(each.ids, each.log_probability) for each in scored] == expected


@torch.no_grad()
def test_all_positions_and_one_chunk_are_the_model_itself():
    model = tiny_model(1, V).float()

    def found(**options):
        config = DecodeConfig(beam_size=2, max_length_a=0, max_length_b=5, **options)
        return [(best.ids, best.score) for best, *_ in Generator([model], config, sides).generate(SOURCES)]

    plain = found(backend="eager")
    assert found(backend="eager", cross_attention_k=12, encoder_chunk=12) == plain
    for (ids, score), (expected, other) in zip(found(encoder_chunk=12), plain, strict=True):  # by the kernels
        assert (ids, score) == (expected, pytest.approx(other, abs=1e-4))


@torch.no_grad()
def test_alignments_see_what_the_heads_take():
    model = prepare(model_of("decoder.kv_heads=1"), "fp32", "eager")
    (source,) = sources_of(model, [9, 4])
    few, all_of_them = top_k(model, 3), top_k(model, 9)
    memory, written = model.encode((source,)), torch.tensor([[1, 5, 6]] * 2)
    weights, plain = few.cross_attention(memory, written, 0), model.cross_attention(memory, written, 0)
    assert (weights > 0).sum(-1).unique().tolist() == [3]
    best = plain.topk(3).indices
    expected = plain.gather(-1, best) / plain.gather(-1, best).sum(-1, keepdim=True)
    torch.testing.assert_close(weights.gather(-1, best), expected)
    torch.testing.assert_close(
        all_of_them.cross_attention(memory, written, 1), model.cross_attention(memory, written, 1)
    )
    assert not hasattr(model.decoder.layers[0].cross, "count")  # the model itself is as before


def test_sources_are_longer_than_the_positions_of_the_model():
    model = tiny_model(1, V, positions="learned", max_positions=8)
    options = {"beam_size": 1, "max_length_a": 0, "max_length_b": 4}
    (plain,), *_ = Generator([model], DecodeConfig(**options), sides).generate(SOURCES)
    (whole,), *_ = Generator([model], DecodeConfig(**options, encoder_chunk=8), sides).generate(SOURCES)
    (refused,), *_ = Generator([model], DecodeConfig(**options, encoder_chunk=8, max_source=10, long_source="refuse"),
                               sides).generate(SOURCES)  # fmt: skip
    assert plain.source_truncated
    assert not whole.source_truncated
    assert "source of 11 tokens; at most 10" in str(refused.error)
    assert longest_source(DecodeConfig(encoder_chunk=8), 4096, 7) is None
    assert longest_source(DecodeConfig(), 4096, 7) == 7


def sized(words):
    """A small model with parts that do not have all options of size."""
    sizes = {"lstm": ("layers=2", "width=16"), "none": ("width=16",)}
    size = [f"{side}.{key}" for side in ("encoder", "decoder") for key in
            next((keys for name, keys in sizes.items() if f"{side}={name}" in words), SIZES)]  # fmt: skip
    return model_of(*words, size=size)


@pytest.mark.parametrize(("words", "options", "message"), [
    ((), {"encoder_chunk": 8, "encoder_chunk_overlap": 8}, "encoder_chunk_overlap=8: must be below"),
    ((), {"encoder_chunk": 8, "pack_source": True}, "encoder_chunk=8: does not go with decode.pack_source"),
    ((), {"backend": "native", "cross_attention_k": 2}, "kernels do not have decode.cross_attention_k=2"),
    (("positions=learned", "max_positions=7"), {"encoder_chunk": 8}, "must be at most model.max_positions=7"),
    (("encoder=deletion", "encoder.gate_layer=1"), {"encoder_chunk": 8}, "no encoder of layers that keeps all"),
    (("encoder=none", "decoder=prefix"), {"encoder_chunk": 8}, "no encoder of layers that keeps all"),
    (("decoder=super", "decoder.ffn_widths=[16,24]"), {"cross_attention_k": 2}, "no decoder with a Transformer's"),
    (("decoder=lstm",), {"cross_attention_k": 2}, "no decoder with a Transformer's cross-attention"),
    (("encoder=none", "decoder=prefix"), {"cross_attention_k": 2}, "no decoder with a Transformer's cross-attention"),
])  # fmt: skip
def test_what_does_not_go_with_it_is_an_error(words, options, message):
    with pytest.raises(UserError, match=message):
        Generator([sized(words)], DecodeConfig(**options), sides)


@pytest.mark.parametrize("words", [("frontend=gbst",), ("frontend=subsampling",)])
def test_a_frontend_that_changes_the_number_of_positions_is_an_error(words):
    model = model_of(*words)
    with pytest.raises(UserError, match=r"decode\.encoder_chunk=8: requires a"):
        chunked(model, 8, None).encode(*Inputs(sources_of(model, [20, 9])))


def test_a_line_says_that_kernels_are_not_used(capsys):
    _report.cache_clear()
    Generator([tiny_model(1, V).float()], DecodeConfig(cross_attention_k=5), sides)
    assert "without compiled kernels: they do not have decode.cross_attention_k=5" in capsys.readouterr().err
