"""Alignments and coverage: weights by hand, the ranks that follow from them, and that neither depends on the batch."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.decoding.alignment import Attention
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.scorers.coverage import coverage
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS
from tests.decoding.slow_search import collate, sides, tiny_model
from tests.decoding.test_translator import lines, run, trained  # noqa: F401 (fixtures)
from tests.specs import text_spec

V = 9


def three_layers(seed, norm="pre", kv_heads=None, heads=2):
    """A random decoder of three layers in float64."""
    torch.manual_seed(seed)
    config = Transformer.Config(norm=norm)
    for stack in (config.encoder, config.decoder):
        stack.layers, stack.width, stack.heads, stack.kv_heads, stack.ffn_width = 3, 16, heads, kv_heads, 32
    model = Transformer(config, text_spec(V)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.6)
    return model


def weights_by_hand(model, source, target, layer):
    """[H][T][S] of a pair alone: what the model's own cross-attention is given, and softmax in loops."""
    given_ = {}

    def remember(module, inputs, output):
        given_.update(x=inputs[0], key_value=inputs[1], output=output)

    hook = model.decoder.layers[layer].cross.register_forward_hook(remember)
    with torch.no_grad():
        model.decode(model.encode(*collate([source])), torch.tensor([[BOS, *target]]))
        hook.remove()
        cross = model.decoder.layers[layer].cross
        query, keys, values = cross.query(given_["x"])[0], given_["key_value"][0][0], given_["key_value"][1][0]
        d, group = keys.size(-1), cross.heads // cross.kv_heads
        heads, attended = [], []
        for h in range(cross.heads):
            rows = []
            for t in range(len(query)):
                q = query[t, h * d : (h + 1) * d].tolist()
                scores = [sum(a * b for a, b in zip(q, k, strict=True)) / d**0.5 for k in keys[h // group].tolist()]
                total = sum(math.exp(score) for score in scores)
                rows.append([math.exp(score) / total for score in scores])
            heads.append(rows)
            attended.append(torch.tensor(rows, dtype=torch.float64) @ values[h // group])
        # These weights are indeed what the layer has used.
        torch.testing.assert_close(cross.output(torch.cat(attended, dim=1)), given_["output"][0])
    return heads


@pytest.mark.parametrize(("norm", "kv_heads"), [("pre", None), ("post", 1), ("pre", 2)])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_weights_are_those_of_the_model(norm, kv_heads, layer):
    model = three_layers(3, norm, kv_heads, heads=4)
    pairs = [([4, 5, 6, 7, 8], [5, 4]), ([5], [8, 8, 7, 6]), ([6, 4], [])]
    memory = model.encode(*collate([source for source, _ in pairs]))
    decoder_input = torch.tensor([[BOS, *target] + [0] * (4 - len(target)) for _, target in pairs])
    with torch.no_grad():
        weights = model.cross_attention(memory, decoder_input, layer)
    assert weights.shape == (3, 4, 5, 6)
    for row, (source, target) in zip(weights, pairs, strict=True):
        mine = row[:, : len(target) + 1]
        assert torch.allclose(mine.sum(dim=2), torch.ones(()))
        assert not mine[:, :, len(source) + 1 :].any()
        expected = torch.tensor(weights_by_hand(model, source, target, layer), dtype=torch.float64)
        torch.testing.assert_close(mine[:, :, : len(source) + 1].double(), expected, atol=1e-6, rtol=0)


def mean_by_hand(models, source, target, layer=1, head=None):
    """[T, S], of the last layer but one of three, and of all heads."""
    total = 0
    for model in models:
        weights = torch.tensor(weights_by_hand(model, source, target, layer), dtype=torch.float64)
        total = total + (weights.mean(dim=0) if head is None else weights[head])
    return total / len(models)


sources_of = st.lists(st.lists(st.integers(4, V - 1), min_size=0, max_size=6), min_size=1, max_size=5)


@settings(max_examples=15)
@given(st.integers(0, 99), sources_of, st.sampled_from(["beam", "sample"]), st.booleans())
def test_alignments_are_of_each_hypothesis_alone(seed, sources, search, ensemble):
    models = [three_layers(seed), three_layers(seed + 1)][: 1 + ensemble]
    config = DecodeConfig(search=search, n_best=2, max_length_b=4, batch_tokens=40)
    generator = Generator(models, config, sides, alignment=True)
    for source, n_best in zip(sources, generator.generate(sources), strict=True):
        for one in n_best:
            assert len(one.alignment) == len(one.token_log_probabilities)
            if source:
                weights = mean_by_hand(models, source, one.ids)
                chosen = weights.gather(1, torch.tensor(one.alignment)[:, None])[:, 0]
                torch.testing.assert_close(chosen, weights.amax(dim=1), atol=1e-6, rtol=0)


def test_without_being_asked_for_there_is_none():
    generator = Generator([three_layers(0)], DecodeConfig(), sides)
    assert generator.finishing.attention is None
    assert all(one.alignment is None for (one,) in generator.generate([[4, 5], []]))


def test_a_layer_and_a_head_may_be_chosen():
    model = three_layers(5)
    for layer, head in ((1, 2), (3, None), (None, 1)):
        config = DecodeConfig(alignment_layer=layer, alignment_head=head)
        decoder_input = torch.tensor([[BOS, 5, 6]])
        found = Attention([model], config)(collate([[4, 5, 6]]), decoder_input)[0]
        expected = mean_by_hand([model], [4, 5, 6], [5, 6], 1 if layer is None else layer - 1, head and head - 1)
        torch.testing.assert_close(torch.tensor(found).double(), expected, atol=1e-6, rtol=0)
    assert Attention([tiny_model(0)], DecodeConfig()).layers == [0]  # the last but one of two
    with pytest.raises(UserError, match="alignment_layer=4: the decoder has only 3 layers"):
        Attention([model], DecodeConfig(alignment_layer=4))
    with pytest.raises(UserError, match="alignment_head=3: the decoder has only 2 heads"):
        Attention([model], DecodeConfig(alignment_head=3))


def coverage_by_hand(weights):
    """Of [T][S] without EOS of the source."""
    return sum(math.log(min(sum(row[i] for row in weights), 1)) for i in range(len(weights[0])))


def test_coverage_of_a_made_up_attention():
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.0]])
    assert coverage(weights.numpy()) == pytest.approx(math.log(0.75) + math.log(0.5))
    assert coverage(torch.zeros(2, 1).numpy()) > -100  # what is not seen at all is not minus infinity
    assert coverage(torch.zeros(2, 0).numpy()) == 0


@settings(max_examples=15)
@given(st.integers(0, 99), sources_of, st.sampled_from([0.1, 1.0, 20.0]), st.sampled_from([1, 2, 4]))
def test_coverage_ranks_the_finished_hypotheses(seed, sources, beta, n_best):
    models = [three_layers(seed)]
    config = DecodeConfig(beam_size=4, n_best=4, max_length_b=3, batch_tokens=60)
    plain = Generator(models, config, sides).generate(sources)
    covered = replace(config, coverage_penalty=beta, n_best=n_best)
    found = Generator(models, covered, sides).generate(sources)
    for source, before, after in zip(sources, plain, found, strict=True):
        scores = {}
        for one in before:
            weights = mean_by_hand(models, source, one.ids)[:, : len(source)].tolist() if source else [[]]
            scores[tuple(one.ids)] = one.score + beta * coverage_by_hand(weights)
        expected = sorted(scores.values(), reverse=True)[:n_best]
        assert [one.score for one in after] == pytest.approx(expected, abs=1e-4)
        assert [scores[tuple(one.ids)] for one in after] == pytest.approx(expected, abs=1e-4)


def test_given_targets_have_the_scores_and_alignments_of_the_search():
    generator = Generator([three_layers(7)], DecodeConfig(coverage_penalty=0.5), sides, alignment=True)
    sources = [[4, 5, 6], [7], [], [8, 8, 4, 5]]
    found = [one for (one,) in generator.generate(sources)]
    scored = list(generator.score(sources, [one.ids for one in found]))
    assert [one.score for one in scored] == pytest.approx([one.score for one in found])
    assert [one.alignment for one in scored] == [one.alignment for one in found]


def test_samples_have_no_ranks_for_coverage():
    with pytest.raises(UserError, match=r"decode.coverage_penalty=0.2: does not go with decode.search=sample"):
        DecodeConfig(search="sample", coverage_penalty=0.2).check()


def test_alignments_of_the_command(s2s, capsys, run, lines, tmp_path):  # noqa: F811
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in [*lines[:6], ""]))
    words = f"checkpoint={run}", f"input={tmp_path / 'text'}", "device=cpu", "alignment=true"
    capsys.readouterr()
    assert s2s("generate", *words, "format=json") == 0
    objects = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    for line, one in zip([*lines[:6], ""], objects, strict=True):
        assert one["source_tokens"] == [*line.split(), "</s>"]
        assert len(one["alignment"]) == len(one["tokens"])
        assert all(0 <= i <= len(line.split()) for i in one["alignment"])
    assert s2s("generate", *words, "format=tsv") == 0
    rows = [row.split("\t") for row in capsys.readouterr().out.splitlines()]
    assert [row[3] for row in rows] == [" ".join(f"{i}-{j}" for j, i in enumerate(o["alignment"])) for o in objects]
    assert s2s("generate", *words) == 2
    assert "alignment=true requires format=json or format=tsv" in capsys.readouterr().err
