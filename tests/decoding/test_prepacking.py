"""decode.pack_source: sources that are encoded several to a row have the memory that each has alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2s.data.batch import Inputs, Source
from s2s.decoding.prepacking import first_fit, prepacking
from s2s.errors import UserError
from tests.models.test_parts import model_of, sources_of


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_rows_hold_each_example_once_and_are_no_longer_than_the_longest(lengths):
    rows = first_fit(lengths)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert all(sum(lengths[example] for example in row) <= max(lengths) for row in rows)
    # No row's examples would fit into an earlier row, so that at most one row is half empty.
    assert sum(2 * sum(lengths[example] for example in row) <= max(lengths) for row in rows) <= 1


@pytest.mark.parametrize("words", [(), ("positions=rotary",), ("frontend=gbst",), ("encoder.unpad=true",),
                                   ("bridge=linear",)])  # fmt: skip
def test_memory_is_that_of_each_source_alone(words):
    model = model_of(*words)
    lengths = [17, 40, 5, 29, 9, 1]
    sources = sources_of(model, lengths)
    with torch.no_grad():
        memory = prepacking(model).encode(*Inputs(sources))
        for row, length in enumerate(lengths):
            alone = model.encode((Source(sources[0].values[row : row + 1, :length], torch.tensor([length])),))
            states = memory.lengths[row]
            assert states == alone.lengths[0]
            assert memory.mask[row].sum() == states
            for packed, single in zip(memory.states, alone.states, strict=True):
                torch.testing.assert_close(packed[row, :states], single[0, :states], rtol=1e-5, atol=1e-5)


def test_what_sees_its_neighbours_is_refused():
    model = prepacking(model_of("encoder.layer=conformer"))
    with pytest.raises(UserError, match=r"encoder.layer=conformer: examples of a packed row would see each other"):
        model.encode(*Inputs(sources_of(model, [7, 3, 4])))


def test_hypotheses_are_the_same(store, tmp_path, s2s):
    run = tmp_path / "run"
    assert s2s("train", f"store={store}", f"run={run}", "model=transformer_tiny", "model.encoder.width=16",
               "model.decoder.width=16", "train.max_updates=3", "train.valid_updates=3") == 0  # fmt: skip
    outputs = []
    for number, words in enumerate(([], ["decode.pack_source=true"])):
        outputs.append(tmp_path / f"output{number}")
        assert (
            s2s("generate", f"checkpoint={run}", f"store={store}", "split=test", f"output={outputs[-1]}", *words) == 0
        )
    assert outputs[0].read_text() == outputs[1].read_text()
