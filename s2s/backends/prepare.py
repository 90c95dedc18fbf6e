"""What computes a decoder step: `decode.backend` and `decode.dtype` of a model."""

import functools
import sys

import torch

from s2s.backends.native import NativeState, native
from s2s.backends.prepacked import check, prepacked
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.native.library import Unavailable, library


def prepare(model: EncoderDecoder, dtype: str, backend: str) -> EncoderDecoder:
    """A light copy of a model for decoding, which any number of threads may use at once.

    Args:
        model: In evaluation mode; it is untouched and can be trained on.
        dtype: `decode.dtype`.
        backend: `decode.backend`.

    Raises:
        UserError: the device does not compute in this type, or there is no such backend for this model here.
    """
    device = next(model.parameters()).device.type
    check(dtype, device)
    if backend == "native" or (backend == "auto" and device == "cpu"):
        try:
            return native(model, dtype)
        except Unavailable as reason:
            if backend == "native":
                raise UserError(f"decode.backend=native: {reason}") from reason
            _report(str(reason))
    return prepacked(model, dtype)


def is_native(model: EncoderDecoder) -> bool:
    """Whether a prepared model decodes with the compiled kernels."""
    return getattr(getattr(model, "decoder", None), "State", None) is NativeState


def has_kernels(model: EncoderDecoder, backend: str) -> bool:
    """Whether what is decoded beside a prepared model's decoder, or without one, may use the compiled kernels."""
    parameter = next(model.parameters())
    if backend == "eager" or parameter.device.type != "cpu" or parameter.dtype == torch.float64:
        return False
    try:
        library()
    except Unavailable:  # `prepare` has said so
        return False
    return True


@functools.lru_cache(maxsize=8)
def _report(reason: str) -> None:
    """Once for each reason."""
    print(f"decode.backend=auto: decoding is slower, without compiled kernels: {reason}", file=sys.stderr)
