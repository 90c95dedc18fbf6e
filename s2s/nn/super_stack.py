"""HAT: a model that holds many smaller ones, among which a search finds the best that is fast enough on a machine.

Paper: Wang et al., "HAT: Hardware-Aware Transformers for Efficient Natural Language Processing", ACL 2020,
https://arxiv.org/abs/2005.14187.

The weights of N layers of width D, F inner states and H heads are shared by all sub-networks: one has the first n
layers, and in each layer the first f inner states and the first h heads, of self- and of cross-attention. Each decoder
layer sees the last 1, 2 or 3 encoder layers, [B, S, D] each: with `model.bridge=last` they lie beside each other along
time, [B, S*K, D], and so does their mask. The options list the sizes; each update samples a sub-network from the seed
and the number of the update. Validation uses the whole model. `examples/hardware_aware/search.py` measures the time of
each kind of layer on this machine, and searches by evolution for the sub-network of the smallest loss below a limit of
time. `decode.subnet=FILE` decodes with it, and `each_layer=true` trains it alone.

Use: `model=hat_tiny`; `python examples/hardware_aware/search.py --checkpoint RUN --store STORE --milliseconds 20`;
`decode.subnet=subnet.yaml`

Left out: several widths D of the embeddings. The authors' code divides the same queries, keys and values among fewer
heads; here fewer heads have fewer of them, so that they save time. The paper predicts the time by a small network that
is trained on 2,000 measurements; here it is the sum of the times of the layers. The compiled kernels need layers that
are alike, so sub-networks take the plain path. Uncertain: nothing of what is here.
"""

import dataclasses
from typing import Any

import numpy as np
from torch import nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.nn.elastic import cut
from s2s.nn.super_layer import SuperLayer

Choice = dict[str, Any]  # `layers`, and lists of a size for each layer by the names of the options


@dataclasses.dataclass
class SuperConfig:
    """Options of both sides."""

    layer_counts: list[int] = option([], "numbers of layers to sample from; empty: layers", at_least=1, at_most=1000)
    ffn_widths: list[int] = option(
        [], "inner widths to sample from, for each layer; empty: ffn_width", at_least=1, at_most=1_048_576
    )
    head_counts: list[int] = option(
        [], "numbers of heads of self-attention to sample from; empty: heads", at_least=1, at_most=1024
    )
    each_layer: bool = option(
        False, "nothing is sampled: the lists have the size of each layer in turn, as a search has found them"
    )


class SuperStack(nn.Module):
    """What an encoder and a decoder of SuperLayers share. They call `_begin` at the end of their constructor.

    Attributes:
        choices: The sizes to sample from, by option.
        depth: Number of layers that are used.
    """

    side: str  # `encoder` or `decoder`
    lists: tuple[str, ...]  # the options of sizes by layer, in the order of the arguments of SuperLayer.use
    layers: nn.ModuleList
    config: Any

    def _begin(self, config: Any) -> None:
        """Check the options. Raises UserError: a size that there is not."""
        largest = dict(zip(("ffn_widths", "head_counts", "cross_head_counts", "memories"), self.layers[0].whole,
                           strict=True))  # fmt: skip
        largest = {name: largest[name] for name in self.lists}
        group, depth = self.layers[0].group, len(self.layers)
        for name, most in [("layer_counts", depth), *largest.items()]:
            given = getattr(config, name)
            said = f"model.{self.side}.{name}={given}"
            if given and max(given) > most:
                raise UserError(f"{said}: the whole model has {most}")
            if given and max(given) < most and not config.each_layer:
                raise UserError(f"{said}: must have {most}, too; validation uses the whole model")
            if "head" in name and any(heads % group for heads in given):
                raise UserError(f"{said}: {group} heads share keys and values, so they must be multiples of {group}")
            if config.each_layer and len(given) not in (0, depth if name in largest else 0):
                raise UserError(f"{said}: with each_layer=true there is a size for each of the {depth} layers"
                                if name in largest else f"{said}: does nothing with each_layer=true")  # fmt: skip
        self.choices = {name: sorted(set(getattr(config, name) or [most])) for name, most in largest.items()}
        self.depths, self.fixed, self.depth = sorted(set(config.layer_counts or [depth])), config.each_layer, depth
        if self.fixed:
            self.use({"layers": depth, **{name: getattr(config, name) or [most] * depth
                                          for name, most in largest.items()}})  # fmt: skip
            self.layers = nn.ModuleList(cut(layer, trained=True) for layer in self.layers)

    def sample(self, random: np.random.Generator) -> Choice:
        """A sub-network at random."""
        depth = int(random.choice(self.depths))
        return {"layers": depth, **{name: random.choice(sizes, depth).tolist() for name, sizes in self.choices.items()}}

    def begin_update(self, seed: int) -> None:
        """Sample the sub-network of an update, to which `seed` belongs."""
        self.use(self.sample(np.random.default_rng([seed, self.side == "decoder"])))

    def use(self, choice: Choice) -> None:
        """Use a sub-network. Raises UserError: it is none of this model."""
        said = f"{self.side}: {choice}"
        if choice.keys() != {"layers", *self.lists}:
            raise UserError(f"{said}: must have layers, {', '.join(self.lists)}")
        depth, sizes = choice["layers"], [choice[name] for name in self.lists]
        if not self.fixed and depth not in self.depths:
            raise UserError(f"{said}: the model was trained with {', '.join(map(str, self.depths))} layers")
        for name, each in zip(self.lists, sizes, strict=True):
            if len(each) != depth or (not self.fixed and not set(each) <= set(self.choices[name])):
                raise UserError(f"{said}: {name} must be {depth} of {', '.join(map(str, self.choices[name]))}")
        self.depth = depth
        for number, layer in enumerate(self.layers):
            layer.skipped = number >= depth
            if not layer.skipped:
                layer.use(*(each[number] for each in sizes), *layer.whole[len(sizes) :])

    def cut(self) -> None:
        """Keep only the layers that are used. It is called of a copy, whose layers are cut already."""
        self.layers, self.fixed = self.layers[: self.depth], True
        self.config.layers = self.depth

    def train(self, mode: bool = True):
        """In evaluation the whole model is used."""
        if not mode and not self.fixed:
            self.depth = len(self.layers)
        return super().train(mode)


def super_layers(config: Any, options: dict[str, Any]) -> nn.ModuleList:
    """The whole layers; options: their arguments."""
    return nn.ModuleList(SuperLayer(**options) for _ in range(config.layers))
