"""LoRA: a matrix of low rank is trained beside each matrix of a trained model.

Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://arxiv.org/abs/2106.09685.

A linear map y = W x + b with W [N, K] becomes y = W x + b + (alpha / rank) U (V x) with U [N, rank] and V [rank, K].
Only U and V are trained. U is 0 initially, so that training begins with the model as it is; V is drawn as PyTorch draws
linear maps. By default every linear map of the layers has an adapter. Queries, keys and values of self-attention are
one map here, with one U and one V, and so are keys and values of cross-attention. A checkpoint holds the whole model.
Commands that read it add (alpha / rank) U V to W: decoding has the speed and the kernels of a plain model, and so has
an exported one. `s2s-average checkpoint=RUN output=FOLDER` writes the sum as a plain checkpoint.

Use: model.adapter=lora model.adapter.rank=8 train.init.checkpoint=RUN

Left out: adapters of embeddings and of matrices that several parts share; several adapters at once.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.config.schema import option
from s2s.models.adapting import AdapterConfig
from s2s.nn.adapted import AdaptedLinear
from s2s.nn.dropout import dropout


@dataclasses.dataclass
class LoRAConfig(AdapterConfig):
    """Options of LoRA."""

    type: str = option("lora", "component")
    rank: int = option(8, "rank of the added matrices", at_least=1, at_most=65_536)
    alpha: float = option(16.0, "the added matrices are multiplied by alpha / rank", at_least=0)
    dropout: float = option(0.0, "dropout of the inputs of the added matrices", at_least=0, below=1)


class LoRALinear(AdaptedLinear):
    """A linear map with LoRA.

    Args:
        config: The options.
        linear: The map.
    """

    Config = LoRAConfig
    merges = True

    def __init__(self, config: LoRAConfig, linear: nn.Linear):
        super().__init__(linear)
        self.scale, self.dropout = config.alpha / config.rank, config.dropout
        down, up = torch.empty(config.rank, self.in_features), torch.zeros(self.out_features, config.rank)
        nn.init.kaiming_uniform_(down, a=5**0.5)
        self.adapter = nn.ParameterDict({"down": down, "up": up})

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]"""
        low = functional.linear(dropout(x, self.dropout, self.training), self.adapter["down"])
        return functional.linear(x, self.weight, self.bias) + self.scale * functional.linear(low, self.adapter["up"])

    def plain(self) -> nn.Linear:
        """As of AdaptedLinear: the map with the sum of both matrices."""
        linear = self.base()
        with torch.no_grad():
            added = self.scale * self.adapter["up"] @ self.adapter["down"]
            linear.weight = nn.Parameter(self.weight + added, requires_grad=False)
        return linear
