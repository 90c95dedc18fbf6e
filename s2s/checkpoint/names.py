"""Names that parameters had in checkpoints of s2s 0.1, before models had five parts."""

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
    """What a parameter is called today; `kind`: its name stands behind that of a state, as `exp_avg.NAME`."""
    before, name = name.split(".", 1) if kind else ("", name)
    for pattern, replacement in FORMER:
        if found := re.match(pattern, name):
            name = found.expand(replacement) + name[found.end() :]
            break
    return f"{before}.{name}" if kind else name
