"""Trainings and decodings give what is recorded: bit for bit on a machine like the one that recorded it, else nearly.

A change that is meant to change results records them anew, says so in its message, and gives the reason:
python -m tests.golden.record tests/golden/recorded.json. Whether a change keeps all bits on any machine says
python -m tests.golden.compare REVISION REVISION.
"""

import json
from pathlib import Path

import pytest

from tests.golden.cases import DECODINGS, TRAININGS, Golden, fingerprint

pytest.importorskip("soundfile")

RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text())
ELSEWHERE = 2e-3  # relative difference that another processor or version may make in so few updates
AGREEING = 0.8  # share of hypotheses that it leaves as they are


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    return Golden(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def here():
    """Whether this machine computes as the one that recorded."""
    return fingerprint() == RECORDED["fingerprint"]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_gives_the_recorded_weights(name, golden, here):
    values, recorded = golden.training(name), RECORDED["trainings"][name]
    if here:
        assert values == recorded
        return
    losses, recorded_losses = values["losses"], recorded["losses"]
    assert [update for update, _ in losses] == [update for update, _ in recorded_losses]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in recorded_losses], rel=ELSEWHERE)
    assert values["norms"] == pytest.approx(recorded["norms"], rel=0.05, abs=5e-3)


@pytest.mark.parametrize("name", DECODINGS)
def test_a_decoding_gives_the_recorded_hypotheses(name, golden, here):
    values, recorded = golden.decoding(name), RECORDED["decodings"][name]
    if here:
        assert values == recorded
        return
    assert {index for index, _, _ in values["hypotheses"]} == {index for index, _, _ in recorded["hypotheses"]}
    texts, recorded_texts = ([(index, text) for index, text, _ in each["hypotheses"]] for each in (values, recorded))
    assert len(set(texts) & set(recorded_texts)) >= AGREEING * len(set(recorded_texts))
    scores = {(index, text): score for index, text, score in values["hypotheses"]}
    for index, text, score in recorded["hypotheses"]:
        if (index, text) in scores:
            assert scores[index, text] == pytest.approx(score, rel=20 * ELSEWHERE, abs=0.02)
