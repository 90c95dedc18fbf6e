"""The door for addresses: whatever is not as kernels.cpp declares it is refused before any of it is read."""

import copy
import pickle
import re

import pytest
import torch

from s2s.native.arguments import SOURCE, Array, Number, Part, Pointer, Structure, declared
from s2s.native.library import call, kernel

B, K, V, S, L, D, C = 3, 2, 9, 5, 4, 8, 3  # d = D, one head, one layer
W = 16  # places of cross-attention, for S positions
R = B * K
KERNELS = re.findall(r"^int64_t (\w+)\(", SOURCE.read_text(), re.MULTILINE)


OPTIONS = {"N": 1, "pre_norm": True, "activation": 0, "log_length": False, "scaled": True}


def numbers(*shape, below=1):
    return torch.arange(torch.Size(shape).numel()).remainder(below).view(shape)


def linear(outputs, inputs):
    panels = -(-outputs // 32)
    return Structure("Map", weights=torch.zeros(panels, inputs, 32), O=outputs, I=inputs)


def normed(width):
    return Structure("Norm", weight=torch.ones(width), bias=torch.zeros(width), epsilon=torch.tensor([1e-5]))


def decoder(**other):
    norm = normed(D)
    sizes = {"D": D, "H": 1, "G": 1, "d": D}
    parts = {"embedding": torch.zeros(V, D), "logits": linear(V, D), "norm": norm, "layer": [layer(norm)]}
    return Structure("Decoder", **{**sizes, **OPTIONS, **parts, **other})


def layer(norm):
    return Structure("Layer", D=D, H=1, G=1, d=D, E=16, F=16, attention_norm=norm, feedforward_norm=norm,
                     qkv=linear(3 * D, D), output=linear(D, D), inner=linear(16, D), outer=linear(D, 16))  # fmt: skip


def encoder(**other):
    norm = normed(D)
    parts = {"embedding": torch.zeros(V, D), "norm": norm, "layer": [layer(norm)]}
    return Structure("Encoder", **{"D": D, "H": 1, "G": 1, "d": D, "V": V, **OPTIONS, **parts, **other})


def sides(outputs=2 * D, inputs=D):
    return Structure("Sides", M=1, key_value=[linear(outputs, inputs)])


def state(**other):
    arrays = {
        "cache": torch.zeros(1, 2, B, 1, L, K, D),
        "history": torch.zeros(B, K, L, dtype=torch.int32),
        "keys": torch.zeros(1, B, 1, D, W),
        "values": torch.zeros(1, B, 1, W, D),
        "lengths": torch.ones(B, dtype=torch.int64),
        "positions": torch.ones(B, 1, dtype=torch.int64),
        "added": torch.zeros(L, D),
    }
    return Structure("State", **{"decoder": decoder(), "R": R, **arrays, **other})


def arguments(name):
    """What a kernel takes, all of it right."""
    tables, rows = torch.zeros(B, 2, S + 1, K), numbers(B, K, below=K)
    ctc = [torch.zeros(B, V, S), torch.full((B,), S), tables, rows.clone()]
    return {
        "linear_map": lambda: [linear(V, D), torch.ones(R, D), torch.zeros(R, V), False],
        "decoder_step": lambda: [state(), numbers(R, below=V), torch.zeros(B, K), torch.zeros(R, V), None],
        "encode": lambda: [encoder(), sides(), numbers(B, S, below=V), torch.tensor([1, S, 2]), torch.zeros(S, D), None,
                           torch.zeros(1, B, 1, D, W), torch.zeros(1, B, 1, W, D)],
        "admit": lambda: [torch.zeros(1, 2, 1, D, 2 * W), torch.zeros(1, 2, 1, 2 * W, D), torch.tensor([S, W]),
                          torch.tensor([1, 0]), torch.tensor([2, 1]), torch.zeros(1, B, 1, D, W),
                          torch.zeros(1, B, 1, W, D), torch.ones(B, dtype=torch.int64)],
        "reorder": lambda: [state(), numbers(R, below=R)],
        "beam": lambda: [torch.zeros(B, K), torch.zeros(R, V), torch.tensor([[0], [0], [9], [1]]).repeat(1, B),
                         numbers(B, 2, below=V), torch.zeros(2, B, K, dtype=torch.int64), torch.zeros(4, B, K),
                         False, 1.0],
        "ctc_score": lambda: [*ctc, torch.zeros(B, K), numbers(B, K, C, below=V), torch.zeros(B, K, C),
                              torch.zeros(B, K)],
        "ctc_advance": lambda: [*ctc, rows.clone(), numbers(B, K, below=V), torch.zeros_like(tables),
                                torch.zeros_like(rows), torch.zeros(B, K)],
    }[name]()  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_as_declared_is_taken(name):
    assert call(name, *arguments(name)) in (0, 1)


def wrong(array):
    """The same array as C++ would misread it; by what is wrong with it."""
    half = {torch.float32: torch.float64, torch.int64: torch.int32, torch.int32: torch.int64}[array.dtype]
    longer = torch.cat([array, array], dim=-1)
    columns = array.mT.contiguous().mT if array.dim() > 1 else array
    return ({} if columns.is_contiguous() else {"Fortran's order": columns}) | {
        "type": array.to(half),
        "every other": longer[..., ::2],
        "too short": array[..., :-1].contiguous(),
        "too long": longer,
        "a dimension less": array.flatten() if array.dim() > 1 else array[0],
        "nothing there": array.to("meta"),
        "no array": array.tolist(),
    }


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_an_array_that_is_otherwise_than_declared_is_refused(name, again):
    fields = kernel(name).arguments
    for place, field in enumerate(fields):
        values = arguments(name)
        if isinstance(field, Number) or values[place] is None:
            continue
        if isinstance(field, Pointer):
            bad = {"another structure": normed(D), "none": None}
        else:
            bad = wrong(values[place]) | ({} if field.optional else {"none": None})
        for what, value in bad.items():
            # A size that no other array tells is read from it, so it can be neither short nor long.
            others = " ".join(f.text for f in fields if f is not field and isinstance(f, Array))
            free = isinstance(field, Array) and field.dims[-1] not in re.findall(r"\w+", others)
            if free and what in ("too short", "too long"):
                continue
            values[place] = value
            # Of two sizes that contradict each other, the second is named.
            named = r"\w+" if what in ("too short", "too long") else field.name
            kernel(name).checked = [], []
            if again:  # the shapes of a right call are remembered
                call(name, *arguments(name))
            with pytest.raises(ValueError, match=rf"{named} must be .*; it is"):
                call(name, *values)
    with pytest.raises(ValueError, match="argument"):
        call(name, *arguments(name)[:-1])


def test_each_call_has_the_sizes_of_its_own_arrays():
    for rows in (R, 2 * R, R):
        y = torch.full((2 * R, V), 7.0)
        call("linear_map", linear(V, D), torch.ones(rows, D), y[:rows], False)
        assert not y[:rows].any()
        assert (y[rows:] == 7).all()


@pytest.mark.parametrize("field", [f.name for f in declared("State") if isinstance(f, Array) and f.name != "turned"])
def test_an_array_of_a_structure_that_is_otherwise_than_declared_is_refused(field):
    right = state().values[field]
    for what, value in wrong(right).items():
        # It alone tells how many positions a table has.
        if field != "added" or what not in ("too short", "too long"):
            named = "(keys|values)" if field == "keys" else field  # the second of two sizes that differ is named
            with pytest.raises(ValueError, match=f"{named} must be"):
                state(**{field: value})


def test_structures_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="logits must be"):
        decoder(logits=linear(V + 1, D))
    with pytest.raises(ValueError, match="layer must be"):
        decoder(N=2)
    with pytest.raises(ValueError, match="norm must be"):
        decoder(norm=normed(D + 1))
    with pytest.raises(ValueError, match="embedding must be"):
        decoder(embedding=None)
    with pytest.raises(ValueError, match="Decoder has no weights"):
        decoder(weights=torch.zeros(D))
    with pytest.raises(ValueError, match="decoder must be"):
        state(decoder=state())


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("encode", 2, [[0] * S, [V] * S, [0] * S]), ("encode", 2, [[-1] * S, [0] * S, [0] * S]),
     ("encode", 3, [1, S + 1, 2]), ("encode", 3, [1, 0, 2]), ("admit", 2, [S, W + 1]), ("admit", 2, [S, -1]),
     ("admit", 3, [2, 0]), ("admit", 3, [-1, 0]), ("admit", 4, [B, 1]), ("admit", 4, [0, -1]),
     ("reorder", 1, [0, 1, 2, 3, 4, 6]), ("reorder", 1, [2, 1, 2, 3, 4, 5]), ("reorder", 1, [0, -1, 2, 3, 4, 5]),
     ("decoder_step", 1, [0, 1, 2, 3, 4, V]), ("decoder_step", 1, [-1, 1, 2, 3, 4, 5]),
     ("beam", 3, [[0, 0], [V, 0], [0, 0]]), ("beam", 3, [[-1, 0], [0, 0], [0, 0]]),
     ("beam", 2, [[0] * B, [0] * B, [9] * B, [0, 3, 0]]), ("beam", 2, [[-1, 0, 0], [0] * B, [9] * B, [1] * B]),
     ("ctc_score", 1, [S, S, S + 1]), ("ctc_score", 1, [-1, S, S]), ("ctc_score", 5, [[[0, 1, V]] * K] * B),
     ("ctc_advance", 1, [S + 1, S, S]), ("ctc_advance", 4, [[0, K]] * B), ("ctc_advance", 5, [[0, -1]] * B)],
)  # fmt: skip
def test_a_number_that_leads_out_of_an_array_is_refused(name, place, value):
    values = arguments(name)
    values[place] = torch.tensor(value)
    with pytest.raises(IndexError, match=f"{name}: .* out of range"):
        call(name, *values)


@pytest.mark.parametrize("other", [
    {"positions": torch.tensor([[1], [L], [1]])}, {"positions": torch.tensor([[1], [-1], [1]])},
    {"lengths": torch.tensor([1, W + 1, 1])}, {"added": torch.zeros(1, D)}, {"R": R + 1},
    {"keys": torch.zeros(1, B, 1, D, W - 1), "values": torch.zeros(1, B, 1, W - 1, D)},
])  # fmt: skip
def test_a_state_that_leads_out_of_an_array_is_refused(other):
    rows = other.get("R", R)
    values = [state(**other), numbers(rows, below=V), torch.zeros(B, K), torch.zeros(rows, V), None]
    with pytest.raises(IndexError, match="decoder_step"):
        call("decoder_step", *values)


@pytest.mark.parametrize(
    ("place", "other"),
    [(1, sides(outputs=2 * D + 1)), (1, sides(inputs=D + 1)), (4, torch.zeros(S - 1, D))],
)
def test_an_encoder_whose_parts_do_not_fit_is_refused(place, other):
    values = arguments("encode")
    values[place] = other
    with pytest.raises(IndexError, match="encode"):
        call("encode", *values)


def test_dead_rows_and_free_places_may_hold_anything():
    scores = torch.full((B, K), float("-inf"))
    call("decoder_step", state(added=torch.zeros(1, D)), torch.full((R,), -7), scores, torch.zeros(R, V), None)


def test_a_structure_keeps_what_it_points_to():
    weight = torch.nn.Parameter(torch.ones(1, D, 32))
    one = Structure("Map", weights=weight, O=32, I=D)
    weight.data = torch.zeros(1, D, 32)  # as `model.half()` does
    y = torch.empty(1, 32)
    call("linear_map", copy.deepcopy(one), torch.ones(1, D), y, False)
    assert torch.equal(y, torch.full((1, 32), float(D)))
    with pytest.raises(TypeError, match="another process"):
        pickle.dumps(one)


def test_every_array_and_structure_of_kernels_is_declared():
    for name in ("Map", "Norm", "Layer", "Decoder", "Encoder", "Sides", "State", *KERNELS):
        fields = declared(name)
        assert fields
        for field in fields:
            if isinstance(field, Part | Pointer):
                assert declared(field.kind)
    words = SOURCE.read_text().split('extern "C" {')[1]
    assert not re.findall(r"^(?!int64_t)\w+ \w+\(", words, re.MULTILINE)  # functions of another kind would be unchecked
