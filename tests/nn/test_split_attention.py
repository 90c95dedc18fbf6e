"""Split attention is attention over all keys at once, and a search with it is the search without."""

import pytest
import torch

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.transformer import Transformer
from s2s.nn.attention import attend
from s2s.nn.split_attention import split_attend
from s2s.text.vocabulary import EOS, PAD
from tests.specs import text_spec

V = 13


@pytest.mark.parametrize("size", [1, 3, 7, 20])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_parts_make_the_whole(size, scale):
    torch.manual_seed(0)
    q, k, v = scale * torch.randn(2, 4, 3, 8), torch.randn(2, 2, 17, 8), torch.randn(2, 2, 17, 8)
    for mask in (None, torch.arange(17) < torch.tensor([[[[17]]], [[[2]]]]), torch.rand(2, 1, 3, 17) < 0.4):
        if mask is not None:
            mask[..., 0] = True
        torch.testing.assert_close(split_attend(q, k, v, mask, size=size), attend(q, k, v, mask), rtol=1e-4, atol=1e-5)


def test_leading_parts_of_which_nothing_is_seen_count_nothing():
    q, k, v = (torch.randn(1, 1, 2, 4) for _ in range(3))
    k, v = (torch.cat([torch.full_like(x, 9), x], 2) for x in (k, v))
    mask = torch.tensor([False, False, True, True])[None, None, None]
    torch.testing.assert_close(split_attend(q, k, v, mask, size=1), attend(q, k[:, :, 2:], v[:, :, 2:], None))


def collate(sources, device="cpu"):
    from s2s.data.batch import Inputs, Source

    rows = [[*source, EOS] for source in sources]
    size = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (size - len(row)) for row in rows])
    return Inputs((Source(ids, torch.tensor(list(map(len, rows)))),))


def test_a_search_with_it_is_the_search_without():
    torch.manual_seed(0)
    stack = EncoderConfig(2, 16, 4, 2, 24)
    model = Transformer(Transformer.Config(encoder=stack, decoder=stack, dropout=0.0), text_spec(V)).eval()
    sources = [[5, 9, 7, 4], [11, 6], [8, 8, 12, 5, 10, 4], [6]]

    def found(**options):
        config = DecodeConfig(beam_size=3, max_length_a=0, max_length_b=9, backend="eager", **options)
        return [(best.ids, best.score) for best, *_ in Generator([model], config, Sides(collate)).generate(sources)]

    for (ids, score), (expected, other) in zip(found(split_keys=2), found(), strict=True):
        assert ids == expected
        assert score == pytest.approx(other, abs=1e-4)
    with pytest.raises(UserError, match=r"decode\.split_keys=2: is for a Transformer's decoder"):
        Generator([model], DecodeConfig(backend="native", split_keys=2), Sides(collate))
    with pytest.raises(UserError, match=r"decode\.split_keys=2: does nothing with decode\.speculative=input"):
        DecodeConfig(beam_size=1, speculative="input", split_keys=2).check()
