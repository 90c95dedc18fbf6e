"""Criterions of s2s 0.1 as terms: what a run that goes on is compared with."""

import pytest

from s2s.criterions.former import current

JOINT = {"decoder": {"layers": 6}, "encoder": {"ctc_layers": []}, "auxiliary_heads": []}
CTC = {"decoder": {"layers": 0}, "encoder": {"ctc_layers": [4]}, "auxiliary_heads": []}
HEADS = {"decoder": {"layers": 6}, "encoder": {}, "auxiliary_heads": [2]}
TEXT = {"decoder": {"layers": 6}, "encoder": {}, "auxiliary_heads": []}
SMOOTH = {"label_smoothing": 0.2, "auxiliary": 0.3}


@pytest.mark.parametrize(
    ("model", "section", "weights"),
    [
        (TEXT, {"type": "cross_entropy", "r_drop": 0.0}, {"cross_entropy": 1.0}),
        (TEXT, {"type": "cross_entropy", "r_drop": 5.0}, {"cross_entropy": 1.0, "r_drop": 2.5}),
        (HEADS, {"type": "cross_entropy", "r_drop": 0.0}, {"cross_entropy": 0.7, "auxiliary": 0.3}),
        (JOINT, {"type": "ctc_attention", "ctc": None, "intermediate": 0.5}, {"ctc": 0.3, "cross_entropy": 0.7}),
        (JOINT, {"type": "ctc_attention", "ctc": 0.4, "intermediate": 0.5}, {"ctc": 0.4, "cross_entropy": 0.6}),
        (CTC, {"type": "ctc_attention", "ctc": None, "intermediate": 0.2}, {"ctc": 0.8, "intermediate_ctc": 0.2}),
        (TEXT, {"type": "distillation", "weight": 0.6, "teachers": ["a"], "temperature": 2.0, "r_drop": 0.0},
         {"cross_entropy": 0.4, "distillation": 0.6}),
    ],
)  # fmt: skip
def test_a_criterion_as_terms(model, section, weights):
    found = current({"model": model, "criterion": {**section, **SMOOTH}})
    assert found["type"] == "terms"
    assert {name: found[name]["weight"] for name in found["terms"]} == weights
    for name in ("cross_entropy", "auxiliary"):
        assert name not in weights or found[name]["label_smoothing"] == 0.2
    if "distillation" in weights:
        assert (found["distillation"]["teachers"], found["distillation"]["temperature"]) == (["a"], 2.0)
    assert current({"model": model, "criterion": found}) == found
