"""Converts the model options of s2s 0.1 that have moved."""

from typing import Any


def current(section: dict[str, Any]) -> dict[str, Any]:
    """The section `model` of a config in its present form.

    Args:
        section: As plain values; perhaps of version 0.1.
    """
    if section["type"] == "transformer":
        return section | {part: {"type": "transformer", **section.get(part, {})} for part in ("encoder", "decoder")}
    encoder = section.get("encoder")
    if section["type"] != "speech" or not isinstance(encoder, dict) or "subsampling" not in encoder:
        return section
    layer = {"type": encoder["type"]}
    if layer["type"] != "transformer":
        layer["kernel"] = encoder["kernel"]
    frontend = {
        "type": "subsampling", "factor": encoder["subsampling"], "channels": encoder["subsampling_channels"]
    }  # fmt: skip
    gone = ("type", "kernel", "subsampling", "subsampling_channels")
    rest = {key: value for key, value in encoder.items() if key not in gone}
    return section | {"frontend": frontend, "encoder": {**rest, "layer": layer}}
