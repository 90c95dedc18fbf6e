"""Removal of the padding of right-padded rows, for blocks that treat each token separately."""

from torch import Tensor


class RealTokens:
    """Gathers the real tokens of padded rows, and scatters them back.

    Linear maps, norms, dropout and feed-forward blocks then compute on real tokens only (ByteTransformer, Zhai et al.
    2023). Attention needs rows, so queries, keys and values are padded again in every layer.

    On a CPU this was faster than PyTorch's jagged tensors and, with two threads, than one call for each sentence
    (tests/benchmarks/unpad.py). Flex attention cannot be trained on a CPU (PyTorch 2.13). The code runs on any device,
    but no GPU was measured; `torch.nn.attention.varlen` (PyTorch 2.10) would avoid padding in attention there.

    Args:
        real: Bool [B, S], true at real tokens. Counting them synchronises with the device.
    """

    def __init__(self, real: Tensor):
        self.shape = real.shape
        self.places = real.flatten().nonzero().squeeze(1)

    def unpad(self, x: Tensor) -> Tensor:
        """[B, S, ...] -> [P, ...], the real tokens, row after row"""
        return x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Tensor) -> Tensor:
        """[P, ...] -> [B, S, ...], zero at padding"""
        rows = x.new_zeros(self.shape.numel(), *x.shape[1:])
        return rows.index_copy_(0, self.places, x).unflatten(0, self.shape)
