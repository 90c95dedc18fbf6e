"""Pointer networks: the output is a position of the source.

Paper: Vinyals et al., "Pointer Networks", NIPS 2015, https://arxiv.org/abs/1506.03134.

A state [B, T, D] is compared with the memory [B, S, D], by default with additive scores, v . tanh(W q + U m + b). The
scores are the logits of the S positions; those of padding are minus infinity. The score of the source's EOS is the
logit of EOS. Target symbols 4, 5 ... are positions 1, 2 ..., so that the output has 4 + S symbols, where S is the
longest source of a batch. The next input of the decoder is the source token at the predicted position, embedded by the
embedding of source tokens. So nothing depends on the lengths of the training sources.

Use: model=pointer_tiny, or model.output=pointer model.tie_embeddings=none, of a store with target_tokenizer=positions;
decode.no_repeat_ngram=1 where no position may be chosen twice

Left out: a decoder without attention; the decoders here attend to the memory too. The first state of the decoder is not
the last state of the encoder. Positions count tokens, and numbers are tokens.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.spec import Spec
from s2s.errors import UserError
from s2s.models.contract import Memory
from s2s.nn.scores import SCORES, Scores
from s2s.text.vocabulary import EOS, SPECIALS

FIRST = len(SPECIALS)
NEVER = float("-inf")


@dataclasses.dataclass
class PointerConfig:
    """Options of the output."""

    type: str = option("pointer", "component")
    attention: str = option("additive", "how a state is compared with the memory", SCORES)


class Pointer(nn.Module):
    """Logits of source positions.

    Args:
        config: The options.
        width: D.
        size: V; not used, because the number of logits depends on the source.
    """

    Config = PointerConfig

    def __init__(self, config: PointerConfig, width: int, size: int):
        super().__init__()
        self.width, self.scores = width, Scores(config.attention, width, width)

    def see(self, spec: Spec) -> None:
        """Raise UserError where the targets are not positions."""
        if not spec.positions:
            raise UserError("model.output=pointer: targets must be positions of the source; make the store with "
                            "target_tokenizer=positions")  # fmt: skip

    def keep(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """The tensors of a source: keys [B, S, D] and tokens [B, S]. Raises UserError."""
        if memory.segments is not None:
            raise UserError("model.output=pointer: several sources of a row would share positions; "
                            "data.batching=token_budget")  # fmt: skip
        return self.scores.key(memory.top), source_tokens(memory, self.width, "model.output=pointer")

    def shown(self, ids: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
        """The source tokens at predicted positions; special symbols do not change. ids: [B, T]; returns [B, T]."""
        places = (ids - FIRST).clamp(0, tokens.size(1) - 1)
        return torch.where(ids < FIRST, ids, tokens.gather(1, places))

    def context(self, states: Tensor, keys: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor]:
        """The logits, [B, T, 4 + S]; states: [B, T, D]; mask: bool [B, 1, 1, S]."""
        scores = self.scores(states, keys).masked_fill(~mask[:, 0], NEVER)
        end = (mask[:, 0].sum(2, keepdim=True) - 1).expand(-1, scores.size(1), -1)  # where the source has its EOS
        special = [scores.new_full(end.shape, NEVER)] * FIRST
        special[EOS] = scores.gather(2, end)
        return (torch.cat([*special, scores.scatter(2, end, NEVER)], dim=2),)

    def forward(self, states: Tensor, scores: Tensor) -> Tensor:
        """The logits, which `context` has computed already."""
        return scores


def source_tokens(memory: Memory, width: int, said: str) -> Tensor:
    """The source token at each position of a memory, [B, S].

    Args:
        memory: The memory.
        width: Width that the memory must have.
        said: The option that needs the tokens, for errors.

    Raises:
        UserError: the positions of the memory are not tokens, or its width differs.
    """
    tokens = memory.auxiliary.get("tokens")
    if tokens is None or tokens.shape != memory.top.shape[:2] or memory.top.size(2) != width:
        raise UserError(f"{said}: needs one source of tokens, a front-end and an encoder that keep its length, and "
                        "encoder and decoder of one width")  # fmt: skip
    return tokens
