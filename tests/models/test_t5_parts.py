"""T5's blocks with every other part: the model sees no padding, decodes as taught and learns, or one error says why
not."""

import pytest

from s2s import registry
from s2s.errors import UserError
from tests.models.test_matrix import KINDS
from tests.models.test_parts import DECODERS, ENCODERS, SIZE, check, model_of

BLOCKS = ["norm_type=rms", "positions=relative_bias", "relative_buckets=8", "relative_distance=20", "activation=geglu",
          "bias=false", "scale_attention=false", "scale_embeddings=false"]  # fmt: skip
# For other sources, for recordings, together only, with spellings of symbols, or with tags.
ELSEWHERE = {("bridge", "flat"), ("bridge", "sources"), ("decoder", "multi_source"), ("output", "pointer"),
             ("encoder", "none"), ("decoder", "prefix"), ("output", "multilabel"), ("encoder", "converter"),
             ("encoder", "language_layers"), ("frontend", "factors"), ("frontend", "whisper")}  # fmt: skip
NEEDED = {
    ("frontend", "one_hot"): ["encoder.width=16"], ("embedding", "one_hot"): ["decoder.width=16"],
    ("output", "one_hot"): ["tie_embeddings=none"], ("output", "adaptive"): ["tie_embeddings=none"],
    ("encoder", "deletion"): ["encoder.gate_layer=1"], ("bridge", "last"): ["bridge.layers=1"],
}  # fmt: skip
REFUSED = {
    **{("encoder", name): "model.positions=relative_bias" for name in ("deletion", "lstm", "gru", "super")},
    **{("decoder", name): "model.positions=relative_bias" for name in ("convolutional", "lstm", "gru", "super",
                                                                      "word_byte")},
    **{("layer", name): "model.(norm_type=rms|bias=false|positions=relative_bias|scale_attention=false): "
       f"model.encoder.layer={name} does" for name in ("conformer", "e_branchformer", "fconv", "light_convolution",
                                                       "dynamic_convolution", "disentangled")},
    **{("frontend", name): "model.positions=relative_bias" for name in ("lobef_ncf", "lobef_wsf")},
}  # fmt: skip
PARTS = [(kind, name) for kind in KINDS for name in registry.COMPONENTS[kind] if (kind, name) not in ELSEWHERE]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_part_has_them_or_says_that_it_does_not(kind, name):
    size = SIZE
    if kind == "encoder":
        size = [*ENCODERS.get(name, ENCODERS["transformer"]), *DECODERS["transformer"]]
    if kind == "decoder":
        size = [*DECODERS.get(name, DECODERS["transformer"]), *ENCODERS["transformer"]]
    words = [f"{KINDS[kind]}={name}", *BLOCKS, *NEEDED.get((kind, name), [])]
    if (kind, name) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[kind, name]):
            model_of(*words, size=size)
    else:
        check(model_of(*words, size=size), kernels=False)


def test_a_decoder_of_both_sides_has_all_but_the_bias():
    words = [word for word in BLOCKS if "relative" not in word]
    check(model_of(*ENCODERS["none"], *DECODERS["palm"], *words, size=[]), kernels=False)
    with pytest.raises(UserError, match=r"relative_bias: model\.decoder=prefix does not have it"):
        model_of(*ENCODERS["none"], *DECODERS["prefix"], *BLOCKS, size=[])
