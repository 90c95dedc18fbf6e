"""The language model: its step with and without kernels is held to teacher forcing."""

import pytest
import torch

from s2s.backends.prepare import is_native, prepare
from s2s.config.compose import preset
from s2s.data.batch import Packing, Source
from s2s.errors import UserError
from s2s.models.decoders.groups import GroupsDecoder
from s2s.models.language_model import LanguageModel, LanguageModelConfig
from s2s.models.parts import counts
from s2s.text.vocabulary import BOS
from tests.specs import target_spec

V = 12


def language_model(seed=0, **options):
    torch.manual_seed(seed)
    config = LanguageModelConfig(**options)
    config.decoder.layers, config.decoder.width, config.decoder.heads, config.decoder.ffn_width = 2, 16, 2, 32
    model = LanguageModel(config, target_spec(V)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def whatever(sentences):
    """A source, of which only the number of sentences counts."""
    return (Source(torch.randn(sentences, 3, 5), torch.tensor([3] * sentences)),)


def teacher_forced(model, ids):
    return model.decode(model.encode(whatever(len(ids))), ids).logits()


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("options", [{}, {"positions": "rotary"}, {"activation": "swiglu", "tie_embeddings": False}])
def test_steps_say_what_teacher_forcing_says(backend, options):
    model = language_model(**options)
    light = prepare(model, "fp32", backend)
    assert is_native(light) == (backend == "native")
    ids = torch.randint(4, V, (6, 9), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = BOS
    with torch.inference_mode():
        expected = teacher_forced(model, ids)
        fresh = light.start(light.encode(whatever(4)), 2)
        state = fresh.empty(3)
        state.admit(torch.arange(3), fresh, torch.tensor([2, 0, 1]))
        for t in range(9):
            logits = light.step(ids[:, t].contiguous(), state)
            torch.testing.assert_close(logits, expected[:, t], atol=1e-4, rtol=1e-4)
            state.reorder(torch.arange(len(ids)))
            if t == 4:  # the second sentence is over
                state.release(torch.tensor([0, 2]), 2)
                ids, expected = ids[[0, 1, 4, 5]], expected[[0, 1, 4, 5]]


def test_a_token_depends_on_those_before_it_only():
    model = language_model()
    ids = torch.randint(4, V, (1, 8))
    other = ids.clone()
    other[0, 5] = 4 + (ids[0, 5] - 3) % (V - 4)
    one, two = teacher_forced(model, ids), teacher_forced(model, other)
    assert torch.equal(one[:, :5], two[:, :5])
    assert not torch.allclose(one[:, 5:], two[:, 5:])


def test_examples_that_share_a_row_do_not_see_each_other():
    model = language_model()
    first, second = torch.randint(4, V, (1, 5)), torch.randint(4, V, (1, 3))
    segments, positions = torch.tensor([[0] * 5 + [1] * 3]), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
    source = Source(torch.zeros(1, 2), torch.tensor([2]), Packing(torch.tensor([[0, 1]]), torch.zeros(1, 2)))
    packed = model.decode(model.encode((source,)), torch.cat([first, second], 1), Packing(segments, positions))
    expected = torch.cat([teacher_forced(model, first), teacher_forced(model, second)], 1)
    torch.testing.assert_close(packed.logits(), expected, atol=1e-5, rtol=1e-5)


def test_parts_are_all_parameters():
    model = language_model()
    assert sum(counts(model).values()) == sum(p.numel() for p in model.parameters())


def test_its_parts_are_components():
    """Chosen and configured as those of a Transformer are; each is its own."""
    grouped = language_model(decoder=preset("decoder", "groups"), tie_embeddings=False)
    assert type(grouped.decoder) is GroupsDecoder
    ids = torch.tensor([[BOS, 5, 6, 7]])
    taught, state = teacher_forced(grouped, ids), grouped.start(grouped.encode(whatever(1)), 1)
    for t in range(4):
        torch.testing.assert_close(grouped.step(ids[:, t], state), taught[:, t], rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"model\.decoder=lstm: needs a memory, and a language model has none"):
        LanguageModel(LanguageModelConfig(decoder=preset("decoder", "lstm")), target_spec(V))
    with pytest.raises(UserError, match=r"model\.tie_embeddings=true: model\.embedding=one_hot has no matrix"):
        LanguageModel(LanguageModelConfig(embedding=preset("embedding", "one_hot")), target_spec(V))
