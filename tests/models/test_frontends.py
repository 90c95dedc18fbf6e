"""Front-ends of text, each against its formula in loops, and what all of them have to do."""

import json

import pytest
import torch
from torch.nn import functional

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.data.batch import Inputs, Source
from s2s.errors import UserError
from s2s.models.speech import SpeechModel
from s2s.models.transformer import Transformer
from s2s.tasks.text import packing_of
from s2s.text.vocabulary import BOS
from tests.specs import text_spec

V = 24
OPTIONS = {
    "one_hot": [],
    "gbst": ["block=3", "kernel=3"],
    "context": ["kind=gru"],
    "conv_pool": ["embedding=8", "kernels=[1,4]", "filters=[6,5]", "stride=3"],
    "byte_conv": ["kernel=5", "stride=2"],
}
SIZES = ("layers=1", "width=24", "heads=2", "ffn_width=24")
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder") for key in SIZES]


def model_of(name: str, *words: str, kind=Transformer):
    torch.manual_seed(0)
    own = [f"frontend.{word}" for word in OPTIONS.get(name, ())]
    words = [f"frontend={name}", *own, *SIZE, "dropout=0", *words]
    pairs = compose.by_key([compose.Override(*word.split("=")) for word in words])
    built = compose.build(kind.Config, pairs)
    built.fill()
    return kind(built.config, text_spec(V)).double().eval()


def text(*lengths: int) -> Source:
    """Right-padded ids; what stands at the padding must not matter."""
    ids = torch.randint(4, V, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    return Source(ids, torch.tensor(lengths))


def alone(source: Source, row: int) -> Source:
    n = int(source.lengths[row])
    return Source(source.values[row : row + 1, :n], source.lengths[row : row + 1])


def frontend_of(name: str, *words: str):
    """A front-end without positions, and its embedded tokens [L, D] of ids [L]."""
    module = model_of(name, *(f"frontend.{word}" for word in words), "positions=rotary", "encoder.heads=1",
                      "decoder.heads=1").frontend  # fmt: skip
    return module, lambda ids: module.tokens.weight[ids] * module.tokens.embedding_dim**0.5


def assert_states(module, source: Source, reference) -> None:
    """Each row's states are those of the reference, of its ids alone."""
    with torch.no_grad():
        states = module(source)
        for row, n in enumerate(source.lengths.tolist()):
            expected = reference(source.values[row, :n])
            assert states.lengths[row] == len(expected) <= module.most(n)
            torch.testing.assert_close(states.values[row, : len(expected)], expected)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("unpad", ["true", "false"])
def test_packed_rows_are_their_examples_alone(name, unpad):
    model, source = model_of(name, f"encoder.unpad={unpad}"), text(9, 4, 1, 7, 5)
    rows = [[0, 1], [2], [3, 4]]
    counts, flat = torch.tensor([2, 1, 2]), [source.values[i, : source.lengths[i]] for i in range(5)]
    ids = torch.nn.utils.rnn.pad_sequence([torch.cat([flat[i] for i in row]) for row in rows], batch_first=True)
    totals = torch.tensor([sum(int(source.lengths[i]) for i in row) for row in rows])
    packing = packing_of(source.lengths.numpy(), counts.numpy())
    target = torch.tensor([[BOS, 5, 6, BOS, 7, 8], [BOS, 9, 4, 0, 0, 0], [BOS, 6, 6, BOS, 5, 9]])
    target_packing = packing_of(torch.tensor([3] * 5).numpy(), counts.numpy())
    with torch.no_grad():
        memory = model.encode((Source(ids, totals, packing),))
        logits = model.decode(memory, target, target_packing).logits()
        for row, examples in enumerate(rows):
            length = 0
            for place, example in enumerate(examples):
                mine = model.encode((alone(source, example),))
                here = memory.segments[row, : memory.lengths[row]] == place
                torch.testing.assert_close(memory.top[row, : memory.lengths[row]][here], mine.top[0])
                words = slice(3 * place, 3 * place + 3)
                expected = model.decode(mine, target[row : row + 1, words]).logits()[0]
                torch.testing.assert_close(logits[row, words], expected)
                length += int(mine.lengths)
            assert memory.lengths[row] == length


@pytest.mark.parametrize("name", OPTIONS)
def test_ctc_writes_on_its_states(name):
    model = model_of(name, "decoder.layers=0", "encoder.layer=transformer", kind=SpeechModel)
    source = text(9, 4)
    with torch.no_grad():
        memory = model.encode(*Inputs((source,)))
        together = model.ctc_log_probabilities(memory)
        for row in range(2):
            mine = model.ctc_log_probabilities(model.encode((alone(source, row),)))[0]
            assert len(mine) == memory.lengths[row]
            torch.testing.assert_close(together[row, : len(mine)], mine)


def test_embeddingless_is_its_formula():
    """Both sides, the output, and what dropout of the decoder's input is."""
    words = "embedding=one_hot", "output=one_hot", "positions=rotary", "embedding_dropout=0.5"
    model, ids = model_of("one_hot", *words), torch.tensor([[5, 9, 4]])
    with torch.no_grad():
        for part, value in ((model.frontend.vectors, 2.0), (model.decoder.embedding.tokens, 3.0), (model.output, 5.0)):
            assert part.scale == pytest.approx(24**0.5)
            part.scale.fill_(value)
        states = model.train().frontend(Source(ids, torch.tensor([3]))).values[0]
        assert states.tolist() == [[2.0 if i == symbol else 0.0 for i in range(24)] for symbol in (5, 9, 4)]
        shown = model.decoder.embedding(ids.expand(200, -1))
        assert set(shown.unique().tolist()) == {0.0, 6.0}  # whole tokens are dropped, the others scaled by 1 / 0.5
        assert 0.4 < float((shown.sum(2) > 0).double().mean()) < 0.6
        output = model.eval().decode(model.encode((Source(ids, torch.tensor([3])),)), ids)
        torch.testing.assert_close(output.logits(), 5 * output.states[..., :V])
    assert not any(isinstance(module, torch.nn.Embedding) for module in model.modules())
    assert model_of("tokens", "embedding.dropout=0.25").decoder.embedding.dropout == 0.25
    with pytest.raises(UserError, match=r"24 symbols do not fit into model.decoder.width=16"):
        model_of("tokens", "embedding=one_hot", "decoder.width=16", "tie_embeddings=none")
    with pytest.raises(UserError, match=r"model.tie_embeddings=all is not possible with model.embedding=one_hot"):
        model_of("one_hot", "embedding=one_hot", "output=one_hot", "tie_embeddings=all")


def test_a_model_of_one_hots_decodes_as_taught():
    model = model_of("one_hot", "embedding=one_hot", "output=one_hot").float()
    source, target = text(9, 4), torch.tensor([[BOS, 5, 6]] * 2)
    with torch.no_grad():
        memory = model.encode((source,))
        taught = model.decode(memory, target).logits()
        for dtype in ("fp32", "int8"):
            stepping = prepare(model, dtype, "auto")
            assert not is_native(stepping)
            state = stepping.start(memory, 1)
            for t in range(3):
                found = stepping.step(target[:, t].contiguous(), state)
                torch.testing.assert_close(found, taught[:, t], rtol=1e-4, atol=1e-4 if dtype == "fp32" else 0.5)


def mean(rows) -> torch.Tensor:
    return torch.stack(list(rows)).mean(0)


@pytest.mark.parametrize("consensus", ["true", "false"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_gbst_is_its_formula_in_loops(stride, consensus):
    module, embedded = frontend_of("gbst", f"stride={stride}", f"consensus={consensus}")

    def reference(ids):
        x = functional.conv1d(embedded(ids).T[None], module.convolution.weight, module.convolution.bias, padding=1,
                              groups=24)[0].T  # fmt: skip
        x, n = x @ module.mixing.weight.T + module.mixing.bias, len(ids)
        candidates = [[mean(x[i // b * b : min(n, i // b * b + b)]) for b in (1, 2, 3)] for i in range(n)]
        scores = [torch.stack([y @ module.score.weight[0] + module.score.bias[0] for y in row]) for row in candidates]
        weights = torch.stack(scores).softmax(1)
        if consensus == "true":
            weights = (weights @ weights.T).softmax(1) @ weights
        states = [sum(w * y for w, y in zip(weights[i], candidates[i], strict=True)) for i in range(n)]
        return torch.stack([mean(states[i : i + stride]) for i in range(0, n, stride)])

    assert_states(module, text(11, 7, 1, 12), reference)


def test_context_is_a_convolution_or_a_recurrence_of_each_row():
    module, embedded = frontend_of("context", "kind=conv", "kernel=3")
    source = text(11, 7, 1, 12)

    def convolved(ids):
        x, y = embedded(ids), module.convolution
        return x + functional.conv1d(x.T[None], y.weight, y.bias, padding=1, groups=24)[0].T

    assert_states(module, source, convolved)
    module, embedded = frontend_of("context")
    assert_states(module, source, lambda ids: module.recurrence(embedded(ids)[None])[0][0])


def test_conv_pool_is_its_formula_in_loops():
    module, embedded = frontend_of("conv_pool")

    def reference(ids):
        x, n = embedded(ids), len(ids)
        columns = []
        for convolution, kernel in zip(module.convolutions, (1, 4), strict=True):
            before = (kernel - 1) // 2
            x_padded = functional.pad(x, (0, 0, before, kernel - 1 - before))
            columns.append(
                [sum(convolution.weight[:, :, k] @ x_padded[i + k] for k in range(kernel)) for i in range(n)]
            )
        y = [module.projection(torch.cat(pair).relu()) for pair in zip(*columns, strict=True)]
        pooled = [torch.stack(y[i : i + 3]).amax(0) for i in range(0, n, 3)]
        for layer in module.highway:
            gates = [(layer.gate.weight @ z - 2).sigmoid() for z in pooled]
            pooled = [g * (layer.change.weight @ z).relu() + (1 - g) * z for g, z in zip(gates, pooled, strict=True)]
        return torch.stack([module.norm(z) for z in pooled])

    assert len(module.highway) == 2
    assert_states(module, text(11, 7, 1, 12), reference)


def test_byte_conv_is_a_strided_convolution():
    module, embedded = frontend_of("byte_conv")

    def reference(ids):
        x, y = (
            functional.pad(embedded(ids), (0, 0, 1, 5)),
            module.convolution,
        )  # 3 bytes around 2: one before, two after
        spans = [sum(y.weight[:, :, k] @ x[i + k] for k in range(5)) for i in range(0, len(ids), 2)]
        return torch.stack([module.norm(span) for span in spans])

    assert_states(module, text(11, 7, 1, 12), reference)


def test_options_that_do_not_fit_are_refused():
    for words, message in (
        (["gbst", "frontend.kernel=4"], "model.frontend.kernel=4 must be odd"),
        (["conv_pool", "frontend.filters=[4]"], "each kernel needs a number of filters"),
        (["byte_conv", "frontend.kernel=2", "frontend.stride=3"], "must be at least model.frontend.stride=3"),
    ):
        with pytest.raises(UserError, match=message):
            model_of(*words)


def test_a_run_resumes_to_the_same_bits_and_decodes(s2s, store, tmp_path, capsys):
    words = ["model=transformer_tiny", "model.frontend=gbst", *(f"model.{word}" for word in SIZE),
             "model.decoder.kv_heads=1", "device=cpu", "train.samples=0", "data.batching=packed",
             "data.batch_tokens=400"]  # fmt: skip
    for run, updates in (("whole", 6), ("parts", 3), ("parts", 6)):
        assert s2s("train", f"store={store}", f"run={tmp_path / run}", f"train.max_updates={updates}", *words) == 0
    whole, parts = (sorted(tmp_path.glob(f"{run}/**/step_00000006/*.safetensors")) for run in ("whole", "parts"))
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in parts] != []
    (tmp_path / "text").write_text("a b c d e f\nb\n")
    decode = ["generate", f"checkpoint={tmp_path / 'whole'}", f"input={tmp_path / 'text'}", "device=cpu",
              "format=json", "alignment=true", "decode.coverage_penalty=0.1", "decode.dtype=int8",
              "decode.max_length_b=4"]  # fmt: skip
    capsys.readouterr()
    assert s2s(*decode) == 0
    printed = capsys.readouterr()
    assert "slower" not in printed.err  # the kernels have computed it
    first, second = map(json.loads, printed.out.splitlines())
    assert first["source_tokens"] == ["ab", "cd", "ef", "</s>"]
    assert second["source_tokens"] == ["b</s>"]
    assert set(first["alignment"]) <= {0, 1, 2, 3}
    assert set(second["alignment"]) == {0}
