"""The common parts of layers with a convolution over neighbouring positions in place of self-attention.

Shapes: B rows, T positions, k positions of a window, K rows a sentence, R = B*K, D width.
"""

import torch
from torch import Tensor, nn

from s2s.errors import UserError
from s2s.nn.layers import Layer
from s2s.nn.state import TransformerState


class Window(nn.Module):
    """Base class of convolutions that mix the positions of a window. A ConvolvingLayer has one in place of
    self-attention.

    Args:
        kernel: k; odd, if the window is centred on its position.
        causal: Whether a window ends at its position; otherwise it is centred on it.

    Raises:
        UserError: an even kernel of a centred window.
    """

    def __init__(self, kernel: int, causal: bool):
        super().__init__()
        if not causal and kernel % 2 == 0:
            raise UserError(f"model.encoder.layer.kernel={kernel}: a window around a position is odd")
        self.kernel, self.causal = kernel, causal
        self.before = kernel - 1 if causal else kernel // 2  # positions of a window before its own

    def values(self, x: Tensor) -> Tensor:
        """The values that the windows mix, [..., D] -> [..., D]."""
        raise NotImplementedError

    def mix(self, window: Tensor) -> Tensor:
        """The output at the last position of a window: [R, k, D] -> [R, D]."""
        raise NotImplementedError

    def step(self, x: Tensor, state: "WindowState", n: int) -> Tensor:
        """One position of every row: x [B, K, D]; state: the earlier values; n: number of the layer. Returns
        [B, K, D]."""
        return self.mix(state.window(n, self.values(x).flatten(0, 1))).view(x.shape)

    def places(self, length: int, device: torch.device) -> Tensor:
        """The positions of each window, [T, k] int64. They may lie outside 0 to T - 1."""
        offsets = torch.arange(self.kernel, device=device) - self.before
        return torch.arange(length, device=device)[:, None] + offsets


class ConvolvingLayer(Layer):
    """The Transformer layer with a Window in place of self-attention.

    Args:
        window: A function that returns the Window, called with `causal`.
        rotary: Must be false: there are no queries and keys to rotate.
        options: Other arguments of Layer.

    Raises:
        UserError: options that only self-attention has.
    """

    convolves = True
    biased = False
    optional = ("norm_type",)
    unpads = False

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, window, rotary: bool, causal: bool,
                 **options):  # fmt: skip
        if rotary:
            raise UserError("model.positions=rotary: convolutions have nothing to turn; choose sinusoidal or none")
        if options.get("log_length") and options.get("memory_width") is None:
            raise UserError("model.log_length_scale: convolutions have no logits to scale")
        super().__init__(width, heads, kv_heads, ffn_width, rotary=False, causal=causal, **options)
        self.attention = window(causal=causal)

    def outputs(self) -> list[nn.Linear]:
        """The linear maps at the end of each residual block."""
        return [self.attention.output, *([self.cross.output] if self.attends else []), self.feedforward.outer]


class WindowState(TransformerState):
    """A TransformerState that holds the last k - 1 values of each layer in place of all keys and values. Its cache is
    [N, 1, R, 1, k - 1, D] and does not grow.

    Attributes:
        size: k - 1 and D.
    """

    size: tuple[int, int]

    def empty(self, slots: int) -> "WindowState":
        """As TransformerState.empty."""
        state = super().empty(slots)
        state.size = self.size
        return state

    def begin(self) -> None:
        """Prepare a step. The windows of the first step hold zeros."""
        self._bound()
        self.length = int(self.steps.max()) + 1
        if not self.cache.numel():
            layers, _, sentences = self.key_values.shape[:3]
            self.cache = self.key_values.new_zeros(layers, 1, sentences * self.rows, 1, *self.size)

    def window(self, n: int, values: Tensor) -> Tensor:
        """Append values [R, D] to the window of layer n, and return the window [R, k, D]."""
        window = torch.cat([self.cache[n, 0, :, 0], values[:, None].to(self.cache.dtype)], dim=1)
        self.cache[n, 0, :, 0] = window[:, 1:]
        return window

    def reorder(self, parents: Tensor) -> None:
        """As TransformerState.reorder."""
        self.cache = self.cache.index_select(2, parents)

    def free(self, slots: Tensor) -> None:
        """As TransformerState.free."""
        super().free(slots)
        if self.cache.numel():
            self._forget(slots)

    def _needed(self, keep: Tensor) -> int:
        return self.size[0]
