"""The first weights of blocks. A block that has `first_weights` draws its own, after those of what is in it."""

from torch import nn

from s2s.nn.attention import CrossAttention, SelfAttention


def initialise(module: nn.Module) -> None:
    """Xavier-uniform projections with zero biases (fused ones as their parts), embeddings of deviation 1/sqrt(D)."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, SelfAttention):
        for part in module.qkv.weight.split(module.sizes):
            nn.init.xavier_uniform_(part, gain=2**-0.5)
    elif isinstance(module, CrossAttention):
        for part in module.key_value.weight.chunk(2):
            nn.init.xavier_uniform_(part, gain=2**-0.5)
    elif hasattr(module, "first_weights"):
        module.first_weights()
