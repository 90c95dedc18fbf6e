"""The top of one encoder, for every decoder layer."""

from torch import Tensor, nn

from s2s.models.contract import Memory


class TopBridge(nn.Module):
    """What the decoder of Vaswani et al. (2017) sees."""

    def join(self, memories: list[Memory]) -> Memory:
        """The memory of a sentence, of those of its sources; kept while the sentence is decoded."""
        (memory,) = memories
        return memory

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """What each of so many decoder layers attends to, [B, S, D]."""
        return [memory.top] * layers
