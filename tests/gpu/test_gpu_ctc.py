"""Prefix beam search by CTC on the stand-in for a GPU: the host waits for no frame, and with a language model once a
frame, to learn which prefixes are new."""

import pytest

# With a language model or without -> the most operators and waits of a frame.
MOST = {False: (75, 0), True: (120, 1)}
AROUND = 20, 6  # operators and waits before the first frame and after the last one


@pytest.mark.parametrize("language_model", [False, True])
def test_a_frame_waits_for_nothing_or_once(child, language_model):
    expected, found, counts, frames = child("ctc_beam", language_model)
    assert found == expected
    assert any(ids for beam in found for ids, _, _ in beam)
    operators, waits = MOST[language_model]
    assert counts.started <= AROUND[0] + operators * frames
    assert counts.synchronizations <= AROUND[1] + waits * frames, counts.waits
    assert sum(n for kind, n in counts.copies.items() if kind.startswith("blocking decoding")) <= 2, counts.copies
