"""Converts the names of parameters in checkpoints of s2s 0.1, before models had five parts."""

import re

FORMER = [
    (r"encoder_embedding\.", "frontend.embedding."),
    (r"decoder_embedding\.", "decoder.embedding."),
    (r"subsampling\.", "frontend.subsampling."),
    (r"(encoder|decoder)\.(?=\d)", r"\1.layers."),
    (r"(encoder|decoder)_norm\.", r"\1.norm."),
    (r"head_norms\.", "decoder.head_norms."),
    (r"(ctc|conditioning)\.", r"encoder.\1."),
]


def current(name: str, kind: bool = False) -> str:
    """The present name of a parameter; kind: whether the name of a state precedes it, as in `exp_avg.NAME`."""
    prefix, name = name.split(".", 1) if kind else ("", name)
    for pattern, replacement in FORMER:
        if match := re.match(pattern, name):
            name = match.expand(replacement) + name[match.end() :]
            break
    return f"{prefix}.{name}" if kind else name
