"""Front-ends of text, each against its formula in loops, and what all of them have to do."""

import json
import math

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s2s.backends.prepare import is_native, prepare
from s2s.config import compose
from s2s.data.batch import Inputs, Source
from s2s.data.spec import Spec, TokenSource
from s2s.errors import UserError
from s2s.models.speech import SpeechModel
from s2s.models.transformer import Transformer
from s2s.tasks.text import packing_of
from s2s.tasks.translation import TranslationTask
from s2s.text.bytes import ByteConfig, ByteTokenizer
from s2s.text.characters import CharacterConfig, CharacterTokenizer
from s2s.text.vocabulary import BOS, EOS, SPECIALS, Vocabulary
from s2s.text.words import WordConfig, WordTokenizer
from tests.specs import text_spec

V = 24
OPTIONS = {
    "one_hot": [],
    "gbst": ["block=3", "kernel=3"],
    "lobef_ncf": ["layers=1", "ngrams=[2,3]"],
    "lobef_wsf": ["layers=2"],
    "manta": ["window=2", "blocks=0.6"],
    "define": ["narrow=8", "wide=20", "layers=3"],
    "trigram_hash": ["rows=50", "hashes=3"],
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


def test_an_encoder_of_speech_refuses_packed_rows():
    model = model_of("gbst", kind=SpeechModel)
    packing = packing_of(torch.tensor([2, 1]).numpy(), torch.tensor([2]).numpy())
    with pytest.raises(UserError, match=r"model=speech model.encoder.layer=conformer: examples of a packed row would"):
        model.encode((Source(torch.tensor([[5, 6, 7]]), torch.tensor([3]), packing),))


@pytest.mark.parametrize("name", ["one_hot", "gbst", "lobef_ncf", "lobef_wsf", "define", "context", "conv_pool",
                                  "byte_conv"])  # fmt: skip
def test_operations_are_counted(name):
    module, source = model_of(name).frontend, text(40)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        module(source)
    assert module.flops(source.lengths) == pytest.approx(counter.get_total_flops(), rel=0.05)


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


def test_lobef_adds_n_grams_of_the_states_of_its_layers():
    module, embedded = frontend_of("lobef_ncf")
    with torch.no_grad():
        module.weights.copy_(torch.tensor([0.5, 0.3, -0.4]))

    def reference(ids):
        x, n = embedded(ids)[None], len(ids)
        for layer in module.layers:
            x = layer(x, torch.ones(1, 1, 1, n, dtype=torch.bool))
        states = 0.5 * x[0]
        for weight, size, y in zip((0.3, -0.4), (2, 3), module.ngrams, strict=True):
            padded = functional.pad(x[0], (0, 0, 0, 2))
            spans = {i: sum(y.weight[:, :, k] @ padded[i + k] for k in range(size)) for i in range(0, n, size)}
            states = states + weight * torch.stack([spans[i // size * size] for i in range(n)])
        return states

    assert_states(module, text(11, 7, 1, 12), reference)


def test_lobef_layers_see_one_word_alone():
    """Each word, and EOS, by itself through the same layers."""
    module, embedded = frontend_of("lobef_wsf")
    ids = torch.tensor([[5, 6, 4, 7, 7, 8, 4, 4, 9, EOS], [6, 4, EOS, 4, 4, 4, 4, 4, 4, 4]])
    words = [[2, 4, 1, 2, 1], [1, 1, 1]]

    def reference(row):
        states = []
        for word in embedded(row).split(words[len(row) < 5]):
            x = word[None]
            for layer in module.layers:
                x = layer(x, torch.ones(1, 1, 1, len(word), dtype=torch.bool))
            states.append(x[0])
        return torch.cat(states)

    assert_states(module, Source(ids, torch.tensor([10, 3])), reference)
    with torch.no_grad():
        assert torch.isfinite(module(Source(ids, torch.tensor([10, 3]))).values).all()
    spec = Spec((TokenSource(V),), V, shared=True)
    with pytest.raises(UserError, match="lobef_wsf: no symbol of the source begins a word; tokenizer=bytes"):
        Transformer(model_of("lobef_wsf").config, spec)


@pytest.mark.parametrize("bias", [0.0, -3.0])
def test_manta_is_its_formula_in_loops(bias):
    """At first all frontiers are as likely as not, and `blocks` bounds their number; when there are few, they do."""
    module, embedded = frontend_of("manta")
    with torch.no_grad():
        module.frontier.bias.fill_(bias)
    found = []

    def reference(ids):
        x, n = embedded(ids), len(ids)
        states, near = x[None], torch.tensor([[abs(i - j) <= 2 for j in range(n)] for i in range(n)])
        for layer in module.layers:
            states = layer(states, near[None, None])
        begins = [0.0, *module.frontier(states)[0, 1:, 0].sigmoid().tolist()]
        means, variances = ([sum(row[: i + 1]) for i in range(n)] for row in (begins, [f * (1 - f) for f in begins]))
        deviations = [math.sqrt(v + 0.01) for v in variances]
        count = min(int(means[-1] + 3 * deviations[-1]) + 1, math.ceil(0.6 * n))
        found.append(count / n)
        shares = []
        for mean, deviation in zip(means, deviations, strict=True):
            row = [math.exp(-((mean - b) ** 2) / (2 * deviation)) for b in range(count)]
            shares.append([value / sum(row) for value in row])
        blocks = []
        for b in range(count):
            parts = [shares[i][b] * x[i] for i in range(n)]
            zero = torch.zeros(24, dtype=torch.float64)
            spans = [(parts[i - 1] if i else zero, parts[i], parts[i + 1] if i + 1 < n else zero) for i in range(n)]
            values = [sum(w * y for w, y in zip(module.weight, span, strict=True)) for span in spans]
            blocks.append(module.projection(torch.stack(values).amax(0)))
        return torch.stack(blocks)

    source = text(21, 7, 1, 40)
    assert_states(module, source, reference)
    assert (found[-1] == 0.6) == (bias == 0)


def test_define_is_its_formula_group_by_group():
    module, _ = frontend_of("define")
    embedding = module.embedding
    assert [(len(layer.weight), layer.weight.numel()) for layer in embedding.layers] == [(4, 24), (2, 160), (1, 480)]

    def reference(ids):
        rows = []
        for token in ids:
            first = embedding.tokens.weight[token] * 8**0.5
            x = first[:0]
            for layer in embedding.layers:
                n, parts = len(layer.weight), []
                for g, (own, before) in enumerate(zip(first.chunk(n), x.chunk(n) if len(x) else [x] * n, strict=True)):
                    parts.append(torch.cat([own, before]) @ layer.weight[g])
                x = functional.gelu(torch.cat(parts) + layer.bias)
            rows.append(embedding.reduction.weight @ x + embedding.reduction.bias)
        return torch.stack(rows)

    assert_states(module, text(5, 3), reference)
    own = ["embedding.narrow=8", "embedding.wide=20", "embedding.layers=3"]
    model = model_of("define", "embedding=define", *own, "positions=rotary")
    model.decoder.embedding.tokens.load_state_dict(embedding.state_dict())
    ids = torch.tensor([5, 6, 7])
    with torch.no_grad():
        torch.testing.assert_close(model.decoder.embedding(ids[None])[0], reference(ids))  # not scaled again
    with pytest.raises(UserError, match=r"model.embedding.narrow=6 is not a multiple of model.embedding.groups=4"):
        model_of("define", "embedding=define", "embedding.narrow=6")


def test_an_adaptive_softmax_is_its_clusters_in_loops():
    model = model_of("tokens", "output=adaptive", "output.cutoffs=[6,15]", "output.factor=2", "tie_embeddings=none")
    output, states = model.output.softmax, torch.randn(2, 3, 24, dtype=torch.float64)

    def by_hand(x):
        head = (output.head.weight @ x).log_softmax(0)
        values = head[:6].tolist()
        for cluster, tail in enumerate(output.tail):
            inner = (tail[1].weight @ (tail[0].weight @ x)).log_softmax(0)
            values += [float(head[6 + cluster] + value) for value in inner]
        return values

    with torch.no_grad():
        found = model.output(states)
        expected = [[by_hand(x) for x in row] for row in states]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert [len(tail[0].weight) for tail in output.tail] == [12, 6]
    default = model_of("tokens", "output=adaptive", "output.factor=2", "tie_embeddings=none").output
    assert default.softmax.cutoffs == [4, 12, 24]
    for words, message in (
        (["output.cutoffs=[9,5]"], "must ascend, below 23"),
        (["output.cutoffs=[23]"], "must ascend, below 23"),
        (["output.factor=30"], "the last of 2 clusters has no component left of model.decoder.width=24"),
    ):
        with pytest.raises(UserError, match=message):
            model_of("tokens", "output=adaptive", "tie_embeddings=none", *words)


def test_blocks_are_counted_in_single_precision():
    """Sums of probabilities below 0.5 % stay where they are in bf16 once they are above 1."""
    module = model_of("manta").frontend.float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        module.frontier.weight.zero_()
        module.frontier.bias.fill_(-6.0)
        mean, _ = module.numbers(module.embed(text(600).values), torch.ones(1, 600, 1, dtype=torch.bool))
    assert mean.dtype == torch.float32
    assert float(mean[0, -1]) == pytest.approx(599 / (1 + math.exp(6)), rel=0.01)


def test_words_are_sums_of_the_rows_of_their_trigrams():
    """Spelled alike, alike wherever they stand; and rows are those of hashes, by hand."""
    module, _ = frontend_of("trigram_hash")
    space = 4
    spelled = [7, 8, space, 9, space, space, 7, 8, 9, 5, space, 7, 8, EOS]
    words = [[7, 8], [9], [], [7, 8, 9, 5], [7, 8], [EOS]]

    def wrapped(number):  # int64
        return (number + 2**63) % 2**64 - 2**63

    def row(a, b, c, number):
        first, second, third = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35
        trigram = a * first + b * second + c * third
        code = wrapped((trigram + number * 0x27D4EB2F) * (first, second, third)[number % 3])
        return (wrapped((code ^ (code >> 29)) * first) >> 13) % 50

    def reference(ids):
        states = []
        for word in words if len(ids) == len(spelled) else [[EOS]]:
            padded, total = [0, *word, 0], torch.zeros(24, dtype=torch.float64)
            for a, b, c in zip(padded, padded[1:], padded[2:], strict=False):
                total = total + sum(module.rows.weight[row(a, b, c, number)] for number in (1, 2, 3))
            states.append(total * (24 / 3) ** 0.5)
        return torch.stack(states)

    source = Source(torch.tensor([spelled, [EOS, *[space] * 13]]), torch.tensor([14, 1]))
    assert_states(module, source, reference)
    with torch.no_grad():
        states = module(source).values[0]
    torch.testing.assert_close(states[0], states[4])
    assert not torch.allclose(states[0], states[3])
    assert not states[2].any()
    with pytest.raises(UserError, match="trigram_hash: one symbol must stand between words"):
        Transformer(model_of("trigram_hash").config, Spec((TokenSource(V, (4, 5)),), V, shared=True))


def test_tokenizers_say_which_symbols_begin_words():
    space = ByteTokenizer.learn(ByteConfig())
    assert space.word_starts() == (4 + 32,)
    assert TranslationTask(space, space).spec.sources[0].word_starts == (36,)
    characters = CharacterTokenizer(CharacterConfig(), Vocabulary([*SPECIALS, "a", " "]))
    assert characters.word_starts() == (5,)
    assert CharacterTokenizer(CharacterConfig(), Vocabulary([*SPECIALS, "a"])).word_starts() == ()
    assert WordTokenizer(WordConfig(), Vocabulary([*SPECIALS, "a"])).word_starts() == (0, 1, 2, 3, 4)


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
    assert "decoding is slower" not in printed.err  # the kernels have computed it
    assert "encoding is slower, without compiled kernels: frontend is a GBSTFrontend" in printed.err
    first, second = map(json.loads, printed.out.splitlines())
    assert first["source_tokens"] == ["ab", "cd", "ef", "</s>"]
    assert second["source_tokens"] == ["b</s>"]
    assert set(first["alignment"]) <= {0, 1, 2, 3}
    assert set(second["alignment"]) == {0}


def test_presets_of_methods_make_their_models():
    """Without weights: the presets' sizes fit together, with the vocabulary of bytes."""
    tokenizer = ByteTokenizer.learn(ByteConfig())
    spec = TranslationTask(tokenizer, tokenizer).spec
    sizes = {"byt5_small": (12, 4, 1472), "byt5_tiny": (6, 2, 128), "embeddingless_tiny": (2, 2, 288),
             "embeddingless_base": (6, 6, 512), "lobef_ncf": (2, 6, 512), "lobef_wsf": (4, 6, 512)}  # fmt: skip
    for name, (encoder, decoder, width) in sizes.items():
        with torch.device("meta"):
            model = Transformer(compose.preset("model", name), spec)
        assert (len(model.encoder.layers), len(model.decoder.layers), model.encoder.width) == (encoder, decoder, width)
