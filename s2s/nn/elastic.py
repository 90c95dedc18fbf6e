"""Linear maps of which a part can be used: what models of nested sub-networks share.

All sub-networks have the weights of one model. A smaller one uses the first inner states of a feed-forward block, or
the first heads of attention. In training a part is chosen anew for each update. In evaluation all of a model is used;
`cut` makes a copy that has a part only, as plain maps, for which kernels can be used as for any other model.
"""

import copy
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.nn.attention import CrossAttention, SelfAttention
from s2s.nn.feedforward import GATED, FeedForward

Module = TypeVar("Module", bound=nn.Module)


class SlicedLinear(nn.Linear):
    """A linear map of which training uses some rows of the weight and its first columns.

    Attributes:
        rows: The rows that are used, concatenated; None: all.
        columns: Number of columns that are used; None: all.
    """

    stands_for = nn.Linear  # outside of training it is one
    rows: list[slice] | None = None
    columns: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs that are used] -> [..., outputs that are used]"""
        return functional.linear(x, *(self.part() if self.training else (self.weight, self.bias)))

    def part(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, if there is one, of what is used."""
        weight, bias = self.weight, self.bias
        if self.rows is not None:
            weight = torch.cat([weight[rows] for rows in self.rows])
            bias = None if bias is None else torch.cat([bias[rows] for rows in self.rows])
        return weight[:, : self.columns], bias


def sliceable(block: nn.Module, *names: str) -> None:
    """Replace linear maps of a block by maps of which a part can be used. The parameters are the same."""
    for name in names:
        linear = getattr(block, name)
        sliced = SlicedLinear(linear.in_features, linear.out_features, device="meta")
        sliced.weight, sliced.bias = linear.weight, linear.bias
        setattr(block, name, sliced)


def narrow(block: FeedForward, width: int) -> None:
    """Use the first `width` inner states of a feed-forward block, whose maps are sliced."""
    whole = block.outer.in_features
    starts = (0, whole) if block.activation in GATED else (0,)  # of the gates and the values
    block.inner.rows = None if width == whole else [slice(start, start + width) for start in starts]
    block.outer.columns = width


def narrow_heads(attention: SelfAttention | CrossAttention, heads: int, group: int, width: int) -> None:
    """Use the first heads of attention whose maps are sliced.

    Args:
        attention: The module.
        heads: Number of query heads that are used.
        group: Number of query heads of each key/value head.
        width: Width of a head.
    """
    attention.heads, attention.kv_heads = heads, heads // group
    queries, keys = heads * width, heads // group * width
    attention.output.columns = queries
    if isinstance(attention, SelfAttention):
        whole, rest = attention.output.in_features, attention.qkv.out_features - attention.output.in_features
        starts = (0, whole, whole + rest // 2)
        attention.sizes = [queries, keys, keys]
        attention.qkv.rows = [slice(a, a + size) for a, size in zip(starts, attention.sizes, strict=True)]
    else:
        attention.query.rows = [slice(queries)]
        attention.key_value.rows = [slice(a, a + keys) for a in (0, attention.key_value.out_features // 2)]


def elastic_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that choose a part of themselves for each update, by a method `begin_update(seed)`; without those
    that are `fixed`."""
    return [each for each in model.modules() if hasattr(each, "begin_update") and not getattr(each, "fixed", False)]


def choose_parts(modules: list[nn.Module], seed: int, update: int) -> None:
    """Let modules choose the parts that an update uses. The choice is the same on all ranks, for all batches of the
    update, and after a resume. seed: of the run."""
    if modules:
        state = np.random.SeedSequence([seed, update], spawn_key=(1,)).generate_state(1)
        for module in modules:
            module.begin_update(int(state[0]))


def light(module: Module) -> Module:
    """A copy of a module that shares its parameters."""
    return copy.deepcopy(module, _shared(module))


def cut(module: Module, trained: bool = False) -> Module:
    """A copy of a module that has only the parts that are used, as plain linear maps. Other parameters are shared.
    trained: the copy has weights of its own there, which can be trained."""
    maps = {}
    for linear in module.modules():
        if isinstance(linear, SlicedLinear):
            weight, bias = linear.part()
            plain = nn.Linear(weight.size(1), weight.size(0), device="meta")
            for name, x in (("weight", weight), ("bias", bias)):
                x = x if x is None else nn.Parameter(x.detach().clone() if trained else x.detach(), trained)
                setattr(plain, name, x)
            maps[id(linear)] = plain
    return copy.deepcopy(module, {**_shared(module), **maps})


def _shared(module: nn.Module) -> dict:
    """Tensors that deepcopy takes as already copied."""
    return {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
