"""Tensors with one place for each sentence in decoding; new sentences replace those that are finished."""

from torch import Tensor


def kept(tensor: Tensor, keep: Tensor, slots: int, dim: int = 0) -> Tensor:
    """A tensor with `slots` places in dimension `dim`: first the places `keep` of `tensor`, then zeros."""
    if slots == len(keep):
        return tensor.index_select(dim, keep)
    shape = list(tensor.shape)
    shape[dim] = slots
    new = tensor.new_zeros(shape)
    new.narrow(dim, 0, len(keep)).copy_(tensor.index_select(dim, keep))
    return new
