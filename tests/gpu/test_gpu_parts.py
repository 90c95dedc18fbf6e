"""Every part of a model computes on the stand-in for a GPU what it computes on the CPU. Parts are those of the
registry, so a new one is tried as soon as it has a name."""

import pytest

from s2s import registry
from tests.models.test_matrix import KINDS, NEEDED
from tests.models.test_parts import DECODERS, ENCODERS, WRITING

# For several sources, for recordings, for sources as targets, for spellings of symbols, and for tags.
ELSEWHERE = {
    ("bridge", "flat"),
    ("bridge", "sources"),
    ("decoder", "multi_source"),
    ("output", "pointer"),
    ("output", "multilabel"),
    ("encoder", "converter"),
    ("encoder", "language_layers"),
    ("frontend", "factors"),
    ("frontend", "whisper"),
}
PARTS = [(kind, name) for kind in KINDS for name in registry.COMPONENTS[kind] if (kind, name) not in ELSEWHERE]
SIZE = {"encoder": ENCODERS["transformer"], "decoder": DECODERS["transformer"]}


def words_of(kind: str, name: str) -> list[str]:
    """The options of a small model with a part."""
    needed = [word.removeprefix("model.") for word in NEEDED.get((kind, name), [])]
    if kind == "encoder":
        return [*ENCODERS.get(name, [*SIZE["encoder"], f"encoder={name}"]), *SIZE["decoder"], *needed]
    if kind in ("decoder", "output") and f"{kind}={name}" in WRITING:
        return [*SIZE["encoder"], *WRITING[f"{kind}={name}"], *needed]
    chosen = f"{KINDS[kind]}={name}"
    return [*SIZE["encoder"], *SIZE["decoder"], chosen, *needed]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_part_computes_what_it_does_on_the_cpu(child, kind, name):
    words = [word.replace("ffn_width=24", "ffn_width=32") for word in words_of(kind, name)]  # as NEEDED expects
    differences = child("part", (), words)
    assert len(differences) > 10
    assert max(differences.values()) < 1e-4, differences
