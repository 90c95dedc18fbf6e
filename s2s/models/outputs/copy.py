"""Copy mixtures: a target token is generated from the vocabulary or copied from the source.

Paper: See et al., "Get To The Point: Summarization with Pointer-Generator Networks", ACL 2017,
https://arxiv.org/abs/1704.04368; Gu et al., "Incorporating Copying Mechanism in Sequence-to-Sequence Learning", ACL
2016, https://arxiv.org/abs/1603.06393.

A separate attention compares a state [B, T, D] with the memory [B, S, D]. Its weights a, [B, T, S], are the copy
distribution over source positions, and the weighted mean of the memory is r, [B, T, D]. The gate p = sigmoid(w .
[state; r]) mixes both distributions: P(y) = p * softmax(y) + (1 - p) * (sum of a over the positions of token y). The
output is log P, [B, T, V]. If each side has its own vocabulary, a source token is copied as the target symbol of the
same spelling, or as <unk> if there is none.

Use: model.output=copy, best with one vocabulary for both sides

Left out: the coverage loss; p does not read the input of the decoder; the unknown words of a sentence have no symbols
of their own: one <unk> stands for all of them.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import Spec
from s2s.errors import UserError
from s2s.models.contract import Memory
from s2s.models.outputs.pointer import source_tokens
from s2s.nn.scores import SCORES, Scores

LEAST = 1e-30  # lower bound of a probability, so that its logarithm is finite


@dataclasses.dataclass
class CopyConfig:
    """Options of the output."""

    type: str = option("copy", "component")
    attention: str = option("dot", "how a state is compared with the memory", SCORES)


class Copy(nn.Module):
    """Log-probabilities of the mixture.

    Args:
        config: The options.
        width: D.
        size: V.
    """

    Config = CopyConfig

    def __init__(self, config: CopyConfig, width: int, size: int):
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(size, width))
        nn.init.xavier_uniform_(self.weight)
        self.scores, self.gate = Scores(config.attention, width, width), nn.Linear(2 * width, 1)
        self.register_buffer("same", None, persistent=False)  # target ids of source tokens; None: they are the same

    def see(self, spec: Spec) -> None:
        """Read the target id of each source token from the task. Raises UserError: the sources have no tokens."""
        if not spec.shared:
            if spec.same is None:
                raise UserError("model.output=copy: the sources have no tokens to copy")
            self.same = torch.tensor(spec.same)

    def keep(self, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors of a source: keys and values [B, S, D], and target ids [B, S]. Raises UserError."""
        tokens = source_tokens(memory, self.width, "model.output=copy")
        return self.scores.key(memory.top), memory.top, tokens if self.same is None else self.same[tokens]

    def context(self, states: Tensor, keys: Tensor, values: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The copy weights [B, T, S], the target ids [B, T, S], and r [B, T, D].

        Args:
            states: [B, T, D].
            keys, values, ids: From `keep`.
            mask: Bool [B, 1, 1 or T, S].
        """
        weights = self.scores.weights(states, keys, mask[:, 0])
        return weights, ids[:, None].expand(weights.shape), weights.to(values.dtype) @ values

    def forward(self, states: Tensor, weights: Tensor, ids: Tensor, read: Tensor) -> Tensor:
        """Log-probabilities [..., V] of states [..., D]; the other arguments are from `context`."""
        logits = nn.functional.linear(states.to(self.weight.dtype), self.weight).float()
        share = self.gate(torch.cat([states, read], -1)).float().sigmoid()
        copied = torch.zeros_like(logits).scatter_add(-1, ids, weights.float())
        return (share * logits.softmax(-1) + (1 - share) * copied).clamp_min(LEAST).log()
