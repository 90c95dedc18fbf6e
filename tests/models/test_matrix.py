"""Every part of a text model goes with the common options: it trains, resumes to the same bits, and decodes; or one
error names what it cannot go with.

The parts are those of the registry, so that a new one is tried as soon as it has a name. By default each part is tried
with a few of the options, which differ from part to part; the slow test tries all.
"""

import itertools

import pytest
import torch

from s2s import registry

KINDS = {"frontend": "frontend", "encoder": "encoder", "layer": "encoder.layer", "bridge": "bridge",
         "decoder": "decoder", "embedding": "embedding", "output": "output"}  # fmt: skip
ELSEWHERE = {
    ("frontend", "subsampling"),
    ("frontend", "whisper"),
    ("bridge", "flat"),
    ("bridge", "sources"),
    ("decoder", "multi_source"),
    ("output", "pointer"),
}  # for sources of other kinds
NEEDED = {
    ("frontend", "one_hot"): ["model.encoder.width=264"],
    ("embedding", "one_hot"): ["model.decoder.width=264"],
    ("output", "one_hot"): ["model.decoder.width=264", "model.tie_embeddings=none"],
    ("output", "adaptive"): ["model.tie_embeddings=none"],
    ("output", "multilabel"): ["model.tie_embeddings=none", "model.output.rows=300"],
    ("encoder", "deletion"): ["model.encoder.gate_layer=1"],
    ("encoder", "super"): ["model.encoder.layer_counts=[1,2]"],
    ("frontend", "factors"): ["model.frontend.tags=[target_language]"],
    ("encoder", "language_layers"): ["model.encoder.source_layers=[1]", "model.encoder.target_layers=[2]"],
    ("decoder", "super"): ["model.decoder.layer_counts=[1,2]", "model.bridge=last", "model.decoder.memories=[1,2]"],
}  # options without which a part cannot be tried: {("frontend", "x"): ["model.frontend.y=1"]}
SIZE = [f"model.{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=2", "width=16", "heads=2", "ffn_width=32")]  # fmt: skip
OPTIONS = {
    "packed": ["data.batching=packed", "data.row_tokens=40"],
    "accumulated": ["train.accumulate=2"],
    "bf16": ["train.precision=bf16"],
    "unpad": ["model.encoder.unpad=true", "model.encoder.unpad_attention=true"],
    "post": ["model.norm=post"],
    "rotary": ["model.positions=rotary"],
    "learned": ["model.positions=learned", "model.max_positions=64"],
    "multi_query": ["model.encoder.kv_heads=1", "model.decoder.kv_heads=1"],
    "auxiliary": ["model.auxiliary_heads=[1]", "criterion=auxiliary"],
    "r_drop": ["criterion=r_drop"],
    "checkpointed": ["train.checkpoint_activations=true"],
    "ema": ["train.ema=0.9"],
    "untied": ["model.tie_embeddings=none"],
}
DECODING = {
    "greedy": ["decode.beam_size=1"],
    "beam": ["decode.beam_size=3"],
    "int8": ["decode.dtype=int8"],
    "eager": ["decode.backend=eager"],
    "coverage": ["decode.coverage_penalty=0.2"],
    "sample": ["decode.search=sample"],
    "repeats": ["decode.no_repeat_ngram=2"],
}
# What does not go together, and what the error says. Whatever is not here must work.
REFUSED = {}
for layer in ("fconv", "light_convolution", "dynamic_convolution"):
    REFUSED |= {("layer", layer, "rotary"): "convolutions have nothing to turn"}
REFUSED |= {("decoder", "convolutional", "rotary"): "convolutions have nothing to turn"}
REFUSED |= {
    ("encoder", "none", "unpad"): "unknown key 'model.encoder.unpad'",
    ("encoder", "none", "multi_query"): "unknown key 'model.encoder.kv_heads'",
    ("decoder", "prefix", "packed"): "examples of a packed row would see each other",
    ("decoder", "prefix", "rotary"): "model.decoder=prefix needs sinusoidal",
    ("decoder", "prefix", "learned"): "model.decoder=prefix needs sinusoidal",
}
for recurrent in ("lstm", "gru"):
    REFUSED |= {
        ("encoder", recurrent, "unpad"): "unknown key 'model.encoder.unpad'",
        ("encoder", recurrent, "post"): "has no norms",
        ("encoder", recurrent, "multi_query"): "unknown key 'model.encoder.kv_heads'",
        ("decoder", recurrent, "post"): "has no norms",
        ("decoder", recurrent, "multi_query"): "unknown key 'model.decoder.kv_heads'",
        ("decoder", recurrent, "auxiliary"): "model.auxiliary_heads: model.decoder",
    }
REFUSED |= {
    ("encoder", "fusion_in_encoder", "unpad"): "unknown key 'model.encoder.unpad'",
    ("layer", "disentangled", "rotary"): "model.encoder.layer=disentangled has vectors of distances",
    ("encoder", "deletion", "packed"): "examples of a packed row would see each other",
    ("encoder", "deletion", "unpad"): "unknown key 'model.encoder.unpad'",
    ("encoder", "deletion", "rotary"): "states that are put together would lose their places",
    ("encoder", "dynamic_depth", "packed"): "examples of a packed row would see each other",
    ("encoder", "dynamic_depth", "unpad"): "unknown key 'model.encoder.unpad'",
    ("encoder", "dynamic_depth", "post"): "model.encoder=dynamic_depth has pre only",
    ("encoder", "language_layers", "packed"): "examples of a packed row would see each other",
    ("encoder", "language_layers", "unpad"): "takes whole rows with their padding",
    ("decoder", "groups", "auxiliary"): "model.decoder=groups fuses its layers",
    ("decoder", "super", "auxiliary"): "model.decoder=super samples its depth",
    ("decoder", "word_byte", "auxiliary"): "model.decoder=word_byte are of words",
    ("layer", "conformer", "packed"): "examples of a packed row would see each other",
    ("layer", "e_branchformer", "packed"): "examples of a packed row would see each other",
    ("layer", "conformer", "post"): "model.encoder.layer=conformer has pre only",
    ("layer", "e_branchformer", "post"): "model.encoder.layer=e_branchformer has pre only",
}
REFUSED |= {
    ("layer", layer, "unpad"): f"model.encoder.layer={layer} sees its neighbours"
    for layer in ("conformer", "e_branchformer", "fconv", "light_convolution", "dynamic_convolution")
}
PARTS = [
    (kind, name) for kind in KINDS for name in registry.COMPONENTS[kind] if (kind, name) not in ELSEWHERE
]  # fmt: skip


def pairs(count: int):
    """Some options for each part, others for the next one: (kind, name, option, decoding)."""
    options, decodings = itertools.cycle(OPTIONS), itertools.cycle(DECODING)
    return [(kind, name, next(options), next(decodings)) for kind, name in PARTS for _ in range(count)]


@pytest.fixture(scope="module")
def words_store(tmp_path_factory):
    from tests.conftest import _call, write_corpus

    folder = tmp_path_factory.mktemp("matrix")
    write_corpus(folder, {"train": 60, "valid": 8, "test": 5})
    with pytest.MonkeyPatch.context() as patch:
        code = _call(patch, "s2s_cli.preprocess", "tokenizer=bytes", "source=src", "target=tgt", "workers=1",
                     *(f"{split}={folder / split}" for split in ("train", "valid", "test")),
                     f"store={folder / 'store'}")  # fmt: skip
    assert code == 0
    return folder / "store"


def size_of(kind: str, name: str) -> list[str]:
    """SIZE without what a part does not have."""
    config = getattr(registry.find(kind, name), "Config", None)
    lacks = {f"model.{KINDS[kind]}.{key}" for key in ("layers", "heads", "ffn_width")
             if key not in getattr(config, "__dataclass_fields__", {})}  # fmt: skip
    return [word for word in SIZE if kind not in ("encoder", "decoder") or word.split("=")[0] not in lacks]


def try_out(s2s, capsys, store, folder, kind, name, option, decoding):
    """Two updates at once and one after the other, and a decoding."""
    words = [f"store={store}", "model=transformer_tiny", *size_of(kind, name), f"model.{KINDS[kind]}={name}",
             *NEEDED.get((kind, name), []), *OPTIONS[option], "data.batch_tokens=200", "train.valid_updates=2",
             "train.valid_metrics=[loss]", "train.loggers=[]", "workers=1"]  # fmt: skip
    code = s2s("train", *words, f"run={folder / 'whole'}", "train.max_updates=2")
    message = capsys.readouterr().err
    if (kind, name, option) in REFUSED:
        assert code == 2
        assert REFUSED[kind, name, option] in message
        return
    assert code == 0, message[-2000:]
    for updates in (1, 2):
        assert s2s("train", *words, f"run={folder / 'resumed'}", f"train.max_updates={updates}") == 0
    capsys.readouterr()
    whole, resumed = (weights(folder / run) for run in ("whole", "resumed"))
    for key, tensor in whole.items():
        assert torch.equal(tensor, resumed[key]), f"{key} is another one after a resume"
    output = folder / "output"
    code = s2s("generate", f"checkpoint={folder / 'whole'}", f"store={store}", "split=test", f"output={output}",
               *DECODING[decoding])  # fmt: skip
    message = capsys.readouterr().err
    if (kind, name, decoding) in REFUSED:
        assert code == 2
        assert REFUSED[kind, name, decoding] in message
        return
    assert code == 0, message[-2000:]
    assert output.read_text("utf-8").count("\n") == 5


def weights(run):
    from s2s.checkpoint.loading import load_model

    return load_model(str(run / "last"))[0].state_dict()


@pytest.mark.parametrize(("kind", "name", "option", "decoding"), pairs(1))
def test_a_part_goes_with_options(s2s, capsys, words_store, tmp_path, kind, name, option, decoding):
    try_out(s2s, capsys, words_store, tmp_path, kind, name, option, decoding)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_part_goes_with_all_options(s2s, capsys, words_store, tmp_path, kind, name):
    decodings = itertools.cycle(DECODING)
    for option in OPTIONS:
        try_out(s2s, capsys, words_store, tmp_path / option, kind, name, option, next(decodings))


def test_what_is_refused_is_there():
    assert {key[:2] for key in REFUSED} <= set(PARTS)
    assert {key[2] for key in REFUSED} <= {*OPTIONS, *DECODING}
