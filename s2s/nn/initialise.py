"""Initial weights of blocks. A block with a method `first_weights` draws its own, after those of its submodules."""

import torch
from torch import Tensor, nn

from s2s.nn.attention import CrossAttention, SelfAttention


def initialise(module: nn.Module) -> None:
    """Draw the initial weights of one module: Xavier-uniform for linear maps, with zero biases, and normal with
    standard deviation 1/sqrt(D) for embeddings. A fused projection is drawn as its separate parts would be."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, SelfAttention):
        for projection in module.qkv.weight.split(module.sizes):
            nn.init.xavier_uniform_(projection, gain=2**-0.5)
        _balance(module, module.qkv.weight[: module.sizes[0]])
    elif isinstance(module, CrossAttention):
        for projection in module.key_value.weight.chunk(2):
            nn.init.xavier_uniform_(projection, gain=2**-0.5)
        _balance(module, module.query.weight)
    elif hasattr(module, "first_weights"):
        module.first_weights()


def _balance(attention: SelfAttention | CrossAttention, query: Tensor) -> None:
    """Divide the weights of queries by sqrt(d) where logits are not divided by it."""
    if attention.scale is not None:
        with torch.no_grad():
            query.div_(attention.scale)
