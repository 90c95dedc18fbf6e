"""Log-length scaling: attention stays as sharp in long sequences as in short ones.

Paper: Chiang and Cholak, "Overcoming a Theoretical Limitation of Self-Attention", ACL 2022,
https://aclanthology.org/2022.acl-long.527.

Attention is softmax(log(n) / sqrt(d) * q k), where n is the number of keys that a query sees: real source positions in
the encoder and in the attention to the source, and in the decoder the positions up to the query's own. Padding counts
nothing, and a step of decoding has the n of its position. Queries [B, H, T, d] are multiplied by log(n), so that all
else of attention is as it is; the compiled step does the same.

Use: `model.log_length_scale=true`

Left out: the constructed weights that recognise PARITY. Uncertain: in which of its attentions the paper's translation
model is scaled; here it is all of them.
"""

import torch
from torch import Tensor


def log_length(queries: Tensor, seen: Tensor) -> Tensor:
    """Multiply each query by the logarithm of the number of keys that it sees.

    Args:
        queries: [B, H, T, d].
        seen: One of three: a bool mask [B, 1, 1 or T, S], true at the keys of each query; a float mask of that shape,
            which is added to the logits; or the number of keys, int64 [B or 1, 1, 1 or T, 1].
    """
    if seen.dtype == torch.bool:
        seen = seen.sum(-1, keepdim=True)
    elif seen.is_floating_point():
        seen = seen.exp().sum(-1, keepdim=True)
    return queries * seen.clamp(min=1).log().to(queries.dtype)
