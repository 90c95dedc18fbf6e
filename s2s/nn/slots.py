"""Tensors with a place for each sentence, where sentences come and go."""

from torch import Tensor


def kept(tensor: Tensor, keep: Tensor, slots: int, dim: int = 0) -> Tensor:
    """A tensor with `slots` places in a dimension, of which the first are those of `keep`; the others hold zeros."""
    if slots == len(keep):
        return tensor.index_select(dim, keep)
    shape = list(tensor.shape)
    shape[dim] = slots
    new = tensor.new_zeros(shape)
    new.narrow(dim, 0, len(keep)).copy_(tensor.index_select(dim, keep))
    return new
