"""Convolutions against PyTorch's own over rows without padding, and against modules of transformers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from s2s.nn.convolution import ConvolutionalGating, ConvolutionModule, DepthwiseConvolution, Merge, Subsampling


def rows(lengths, width):
    """Right-padded random rows with noise at the padding, and where they are real."""
    x = torch.randn(len(lengths), max(lengths), width, dtype=torch.float64)
    return x, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, :, None]


@given(st.sampled_from([2, 4, 8]), st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(3, 20))
@settings(max_examples=30)
def test_subsampling_is_the_plain_convolutions_of_each_row(factor, lengths, features):
    torch.manual_seed(0)
    module = Subsampling(features, 6, factor, 5).double()
    x, _ = rows(lengths, features)
    states, remaining = module(x, torch.tensor(lengths))
    assert states.shape[:2] == (len(lengths), max(remaining))
    for row, length, n, got in zip(x, lengths, remaining.tolist(), states, strict=True):
        y = row[None, None, :length]
        for convolution in module.convolutions:
            y = functional.conv2d(y, convolution.weight, convolution.bias, stride=2, padding=1).relu()
        assert n == y.size(2) == -(-length // factor) == module.lengths(length)
        torch.testing.assert_close(got[:n], module.output(y[0].permute(1, 2, 0).flatten(1)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", [1, 5, 31])
def test_depthwise_convolution_is_pytorch_s(kernel, causal):
    torch.manual_seed(0)
    module = DepthwiseConvolution(6, kernel, causal).double()
    plain = nn.Conv1d(6, 6, kernel, groups=6).double()
    plain.weight, plain.bias = module.weight, module.bias
    lengths = [9, 1, 40, 17]
    x, real = rows(lengths, 6)
    y = module(x, real)
    for row, length, got in zip(x, lengths, y, strict=True):
        sides = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
        torch.testing.assert_close(got[:length], plain(functional.pad(row[:length].t(), sides)).t())


def test_convolution_module_is_that_of_wav2vec2_bert():
    transformers = pytest.importorskip("transformers")
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertConvolutionModule

    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(hidden_size=8, conv_depthwise_kernel_size=5, hidden_act="swish")
    theirs, ours = Wav2Vec2BertConvolutionModule(config).eval(), ConvolutionModule(8, 5, causal=True)
    with torch.no_grad():
        for linear, convolution in ((ours.inner, theirs.pointwise_conv1), (ours.outer, theirs.pointwise_conv2)):
            linear.weight.copy_(convolution.weight[:, :, 0])
            linear.bias.zero_()
        ours.depthwise.weight.copy_(theirs.depthwise_conv.weight)
        ours.norm.weight.copy_(theirs.depthwise_layer_norm.weight)
    x, real = rows([7, 12, 3], 8)
    x = x.float()
    got, expected = ours(theirs.layer_norm(x), real), theirs(x, real[:, :, 0])
    torch.testing.assert_close(got[real[:, :, 0]], expected[real[:, :, 0]])


def test_gating_and_merge_are_their_formulas():
    torch.manual_seed(0)
    gating, merge = ConvolutionalGating(6, 10, 3, False, 0.0).double(), Merge(6, 3, False).double()
    for p in [*gating.parameters(), *merge.parameters()]:
        nn.init.normal_(p)
    x, _ = rows([8], 6)

    def convolved(module, x):
        return functional.conv1d(x.transpose(1, 2), module.weight, module.bias, padding=1, groups=x.size(2)).mT

    value, gate = functional.gelu(gating.inner(x)).split(5, dim=-1)
    near = gating.outer(value * convolved(gating.depthwise, gating.norm(gate)))
    whole = torch.ones(1, 8, 1, dtype=torch.bool)
    torch.testing.assert_close(gating(x, whole), near)
    both = torch.cat([x, near], dim=-1)
    torch.testing.assert_close(merge(x, near, whole), merge.output(both + convolved(merge.depthwise, both)))
