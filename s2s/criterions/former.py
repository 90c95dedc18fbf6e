"""Converts the criterions of s2s 0.1, which were separate components, to terms and weights."""

from typing import Any

MOVED = {  # old option of `criterion` -> what replaces it
    "label_smoothing": "cross_entropy.label_smoothing",
    "auxiliary": "auxiliary.weight, beside criterion.cross_entropy.weight, of criterion=auxiliary",
    "r_drop": "r_drop.weight, half as large, of criterion=r_drop",
    "ctc": "ctc.weight, beside criterion.cross_entropy.weight, of criterion=ctc_attention",
    "intermediate": "intermediate_ctc.weight, beside criterion.ctc.weight, of criterion.terms",
    "teachers": "distillation.teachers, of criterion=distillation",
    "temperature": "distillation.temperature, of criterion=distillation",
    "weight": "distillation.weight, beside criterion.cross_entropy.weight, of criterion=distillation",
}
NAMES = ("cross_entropy", "distillation", "ctc_attention")


def current(config: dict[str, Any]) -> dict[str, Any]:
    """The section `criterion` of a config in its present form.

    Args:
        config: Config of a run, as plain values; perhaps of version 0.1.
    """
    section, model = config["criterion"], config["model"]
    if section["type"] not in NAMES or "terms" in section:
        return section
    decoder = model.get("decoder", {}).get("layers") != 0
    smoothing, terms = section.get("label_smoothing", 0.1), {}
    share = section.get("ctc", 0.0)  # of CTC
    share = (0.3 if decoder else 1.0) if share is None else share
    if section["type"] == "ctc_attention":
        inner = section.get("intermediate", 0.5) if model.get("encoder", {}).get("ctc_layers") else 0.0
        terms["ctc"] = {"weight": share * (1 - inner)}
        terms |= {"intermediate_ctc": {"weight": share * inner}} if inner else {}
    if decoder:
        rest, taught = 1 - share, section.get("weight", 0.0) if section["type"] == "distillation" else 0.0
        heads = section.get("auxiliary", 0.3) if model.get("auxiliary_heads") else 0.0
        terms["cross_entropy"] = {"weight": rest * (1 - heads) * (1 - taught), "label_smoothing": smoothing}
        if section["type"] == "distillation":
            terms["distillation"] = {"weight": rest * (1 - heads) * taught, "teachers": section.get("teachers", []),
                                     "temperature": section.get("temperature", 1.0)}  # fmt: skip
        if section.get("r_drop"):
            terms["r_drop"] = {"weight": rest * (1 - heads) * section["r_drop"] / 2}
        if heads:
            terms["auxiliary"] = {"weight": rest * heads, "label_smoothing": smoothing}
    named = {name: {"type": name, **options, "weight": round(options["weight"], 12)} for name, options in terms.items()}
    return {"type": "terms", "terms": list(terms), **named}
