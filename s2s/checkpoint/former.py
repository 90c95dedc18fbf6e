"""Options of models of s2s 0.1 that are elsewhere now."""

from typing import Any


def current(section: dict[str, Any]) -> dict[str, Any]:
    """The section `model` of a config that may be of 0.1, as it is written now.

    Args:
        section: As plain values.
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
