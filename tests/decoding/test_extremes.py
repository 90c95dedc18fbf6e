"""No value of a number among the options of decoding, however extreme, ends in anything but an error of one line."""

import dataclasses
import math
import typing

import pytest
from slow_ctc import tiny_joint
from slow_search import sides, tiny_model

from s2s.config import schema
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError

EXTREMES = [math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 2**63 - 1, -(2**63), 10**40]
NUMBERS = {name: kind for name, kind in typing.get_type_hints(DecodeConfig).items()
           if {int, float} & {kind, *typing.get_args(kind)}}  # fmt: skip
# What an option needs to do anything.
BESIDE = {
    "alignment_head": {"coverage_penalty": 0.1},
    "alignment_layer": {"coverage_penalty": 0.1},
    "beam_size": {"n_best": 1},
    "chunk_overlap": {"chunk_seconds": 30, "n_best": 1},
    "chunk_seconds": {"n_best": 1},
    "diverse_strength": {"diverse_groups": 5},
    "epsilon": {"search": "sample"},
    "speculative_tokens": {"speculative": "input", "beam_size": 1, "n_best": 1},
    "top_k": {"search": "sample"},
    "top_p": {"search": "sample"},
}


def bounds(name):
    """The least and the greatest value that the schema lets through, if it says so."""
    (field,) = (field for field in dataclasses.fields(DecodeConfig) if field.name == name)
    return [value for key in ("at_least", "at_most") if (value := field.metadata[key]) is not None]


def generator(options, model):
    """With these options; or the error that they are."""
    try:
        config = schema.load(DecodeConfig, options, "decode")
        schema.check(config, "decode.")
        return Generator([model], config, sides)
    except UserError as error:
        return error


def test_there_are_numbers():
    assert len(NUMBERS) > 25


@pytest.mark.parametrize("name", NUMBERS)
def test_extreme_values_of_numbers(name):
    whole = int in {NUMBERS[name], *typing.get_args(NUMBERS[name])}
    is_list = typing.get_origin(NUMBERS[name]) is list
    model = tiny_joint(1) if name == "ctc_weight" else tiny_model(1)
    for value in [*EXTREMES, *bounds(name)]:
        value = int(value) if whole and math.isfinite(value) else value
        options = {"n_best": 5} | BESIDE.get(name, {}) | {name: [value] if is_list else value}
        found = generator(options, model)
        if isinstance(found, UserError):
            assert "\n" not in str(found)
            continue
        assert math.isfinite(value)
        if name in ("beam_size", "n_best") and value > 1:
            continue  # a matter of time
        for n_best in found.generate([[4, 5, 6], [7, 8]]):
            assert n_best[0].error is None
            assert all(math.isfinite(one.score) for one in n_best)
