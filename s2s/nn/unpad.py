"""Right-padded rows without their padding, for blocks that treat each token by itself."""

from torch import Tensor


class RealTokens:
    """Takes the real tokens out of padded rows, and puts them back.

    Linear maps, norms, dropout and feed-forward blocks then compute on real tokens only (ByteTransformer, Zhai et al.
    2023); attention runs over the rows again, for which queries, keys and values are padded in every layer. On a CPU
    that was faster than PyTorch's jagged tensors and, with two threads, than a call for each sentence
    (tests/benchmarks/unpad.py); flex attention cannot be trained there (PyTorch 2.13). Nothing here is particular to a
    device, but no GPU has been measured: there, `torch.nn.attention.varlen` (PyTorch 2.10) would spare the attention
    its padding too.

    Args:
        real: Bool [B, S], true at real tokens. Counting them waits for the device.
    """

    def __init__(self, real: Tensor):
        self.shape = real.shape
        self.places = real.flatten().nonzero().squeeze(1)

    def unpad(self, x: Tensor) -> Tensor:
        """[B, S, ...] -> [P, ...], the real tokens of one row after the other"""
        return x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Tensor) -> Tensor:
        """[P, ...] -> [B, S, ...], zero at padding"""
        rows = x.new_zeros(self.shape.numel(), *x.shape[1:])
        return rows.index_copy_(0, self.places, x).unflatten(0, self.shape)
