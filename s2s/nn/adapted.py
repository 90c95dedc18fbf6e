"""Linear maps with an adapter: a few weights of their own beside a matrix that training leaves as it is."""

import copy
from itertools import chain
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class AdaptedLinear(nn.Linear):
    """A linear map with an adapter. It takes the place of a linear map and has its parameters, by the same names.

    Args:
        linear: The map.

    Attributes:
        adapter: The adapter's own parameters.
        merges: Whether a plain linear map can compute the same (`plain`).
    """

    adapter: nn.Module
    merges = False

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def base(self) -> nn.Linear:
        """The map without the adapter; the parameters are shared."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear

    def plain(self) -> nn.Module:
        """What computes the same in decoding, of plain linear maps, for which there are fast kernels."""
        raise NotImplementedError


def plain(model: Module, all_kinds: bool = True) -> Module:
    """A copy of a model with plain maps in place of adapted ones; the model itself if there are none. Other parameters
    are shared. all_kinds: also those that one linear map cannot replace."""
    adapted = [m for m in model.modules() if isinstance(m, AdaptedLinear) and (all_kinds or m.merges)]
    if not adapted:
        return model
    memo: dict = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    for module in adapted:
        memo[id(module)] = module.plain()
    return copy.deepcopy(model, memo)
