"""What a sentence costs: source and target, and the pairs that cross-attention has of them."""


def attention(source, target):
    """Lengths in tokens, arrays or numbers."""
    return source + target + source * target // 64
