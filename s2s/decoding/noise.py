"""Random numbers as a pure function of their key: no generator state, the same on every device."""

from torch import Tensor


def uniform(bits: Tensor) -> Tensor:
    """float64 numbers in (0, 1), from the upper 32 bits of int64 numbers."""
    return (((bits >> 32) & 0xFFFFFFFF).double() + 0.5) * 2.0**-32


def mix(state: Tensor, value: Tensor | int) -> Tensor:
    """Mix a value into a state, elementwise: one step of splitmix64 (Steele et al. 2014). int64, wrapping around."""
    increment = (value + 1) * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
    if isinstance(increment, int):
        increment = (increment + (1 << 63)) % (1 << 64) - (1 << 63)
    x = state + increment
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
