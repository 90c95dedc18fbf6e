"""A decoder with an attention for each source: as its layers applied one by one to the sources of one sentence."""

import itertools

import pytest
import torch

from s2s.backends.prepare import prepare
from s2s.config import compose
from s2s.data.batch import Inputs
from s2s.data.spec import Spec, TokenSource
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from tests.models.test_several_sources import FIRST, SECOND, WRITTEN, V, packed, padded

WAYS = ("serial", "parallel", "hierarchical")
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=2", "width=16", "heads=2", "ffn_width=24")]  # fmt: skip


def model_of(*words: str, sources: int = 2) -> Transformer:
    torch.manual_seed(0)
    own = ["bridge=sources", "decoder=multi_source"]
    pairs = compose.by_key([compose.Override(*word.split("=", 1)) for word in [*SIZE, "dropout=0", *own, *words]])
    built = compose.build(Transformer.Config, pairs)
    built.fill()
    return Transformer(built.config, Spec((TokenSource(V),) * sources, V, shared=True, alike=True)).eval()


def by_hand(model: Transformer, sentence: tuple[list[int], ...]) -> torch.Tensor:
    """Logits of a sentence; every step of a layer written out."""
    readers = zip([model.frontend, *model.more_frontends], [model.encoder, *model.more_encoders], strict=True)
    memories = [encoder(frontend(padded([ids]))).top
                for (frontend, encoder), ids in zip(readers, sentence, strict=True)]  # fmt: skip
    x = model.decoder.embedding(WRITTEN[:1])
    for layer in model.decoder.layers:
        x = x + layer.attention(layer.attention_norm(x))
        masks = [torch.ones(1, 1, 1, memory.size(1), dtype=torch.bool) for memory in memories]
        keys = [cross.project(memory) for cross, memory in zip(layer.crosses, memories, strict=True)]
        if layer.combination == "serial":
            for i, cross in enumerate(layer.crosses):
                x = x + cross(layer.cross_norms[i](x), keys[i], masks[i])
        else:
            y = layer.cross_norms[0](x)
            contexts = [cross(y, keys[i], masks[i]) for i, cross in enumerate(layer.crosses)]
            if layer.combination == "parallel":
                x = x + sum(contexts)
            else:
                places = []
                for t in range(y.size(1)):
                    of_place = torch.stack([context[:, t] for context in contexts], 1)
                    mask = torch.ones(1, 1, 1, len(contexts), dtype=torch.bool)
                    places.append(layer.over(y[:, t : t + 1], layer.over.project(of_place), mask))
                x = x + torch.cat(places, 1)
        x = x + layer.feedforward(layer.feedforward_norm(x))
    return model.output(model.decoder.norm(x))[0]


@pytest.mark.parametrize(("way", "sources"), [*itertools.product(WAYS, [2]), ("hierarchical", 3)])
def test_each_source_has_an_attention_of_its_own(way, sources):
    model, rows = model_of(f"decoder.combination={way}", sources=sources), [FIRST, SECOND, FIRST[::-1]][:sources]
    inputs = Inputs(tuple(padded(source) for source in rows))
    with torch.no_grad():
        taught = model.decode(model.encode(*inputs), WRITTEN).logits()
        for row, sentence in enumerate(zip(*rows, strict=True)):
            torch.testing.assert_close(taught[row], by_hand(model, sentence), rtol=1e-4, atol=1e-5)
        stepping = prepare(model, "fp32", "eager")
        state = stepping.start(stepping.encode(*inputs), 1)
        for t in range(4):
            step = stepping.step(WRITTEN[:, t].contiguous(), state)
            torch.testing.assert_close(step, taught[:, t], rtol=1e-4, atol=1e-4)
        weights = model.cross_attention(model.encode(*inputs), WRITTEN, 1)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    model.train()
    model.decode(model.encode(*inputs), WRITTEN).logits().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_packed_rows_see_the_sources_of_their_own_example(way):
    model = model_of(f"decoder.combination={way}")

    written = packed([row.tolist() for row in WRITTEN])
    with torch.no_grad():
        logits = model.decode(model.encode(*Inputs((padded(FIRST), padded(SECOND)))), WRITTEN).logits()
        memory = model.encode((packed(FIRST), packed(SECOND)))
        found = model.decode(memory, written.values, written.packing).logits()
    torch.testing.assert_close(torch.stack([found[0, :4], found[0, 4:], found[1, :4]]), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [WAYS[0], *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[1:])])
def test_it_trains_resumes_and_decodes(way, s2s, capsys, tmp_path):
    lines = {"one": ["a", "b", ""], "two": ["c d", "", "d"], "out": ["a c", "b", "d"]}  # sources may be missing
    for ending, texts in lines.items():
        (tmp_path / f"train.{ending}").write_text("".join(f"{text}\n" for text in texts * 5))
    words = ["task=multi_source", "source=one", "more_sources=[two]", "target=out", "tokenizer=words", "workers=1",
             "filter.min_length=0",
             f"train={tmp_path}/train", f"test={tmp_path}/train", f"store={tmp_path}/store"]  # fmt: skip
    assert s2s("preprocess", *words) == 0
    words = [f"store={tmp_path}/store", "task=multi_source", "model=transformer_tiny", "model.bridge=sources",
             "model.decoder=multi_source", f"model.decoder.combination={way}", "device=cpu",
             "data.batch_tokens=40", *(f"model.{size}" for size in SIZE)]  # fmt: skip
    assert s2s("train", *words, f"run={tmp_path}/whole", "train.max_updates=4") == 0
    for updates in (2, 4):
        assert s2s("train", *words, f"run={tmp_path}/parts", f"train.max_updates={updates}") == 0
    from s2s.checkpoint.loading import load_model

    whole, parts = (load_model(str(tmp_path / run / "last"))[0].state_dict() for run in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    written = []
    for search in (["decode.slots=1"], ["decode.slots=8"]):
        capsys.readouterr()
        assert s2s("generate", f"checkpoint={tmp_path}/whole", f"store={tmp_path}/store", "format=tsv", *search) == 0
        written.append([line.split("\t") for line in capsys.readouterr().out.splitlines()])
    refused = {
        "decode.cross_attention_k=2": "no decoder with a Transformer's",
        "decode.split_keys=4": "decode.split_keys",
    }
    for search, message in refused.items() if way == "serial" else ():
        words = [f"checkpoint={tmp_path}/whole", f"store={tmp_path}/store", "decode.backend=eager"]
        assert s2s("generate", *words, search) == 2
        assert message in capsys.readouterr().err
    for alone, beside in zip(*written, strict=True):
        assert alone[2] == beside[2]
        assert float(alone[1]) == pytest.approx(float(beside[1]), abs=1e-4)


@pytest.mark.parametrize(
    ("words", "sources", "message"),
    [
        (["bridge=flat"], 2, "model.bridge=sources and model.decoder=multi_source: require each other"),
        (["decoder=transformer"], 2, "model.bridge=sources and model.decoder=multi_source: require each other"),
        (["bridge=top"], 1, "model.decoder=multi_source: requires several sources"),
    ],
)
def test_what_is_refused(words, sources, message):
    with pytest.raises(UserError, match=message):
        model_of(*words, sources=sources)
