"""Prepares a model for decoding: `decode.backend` and `decode.dtype` choose the kernels of a decoder step."""

import functools
import sys

import torch

from s2s.backends.native import NativeState, native
from s2s.backends.prepacked import check, prepacked
from s2s.device import half
from s2s.errors import UserError
from s2s.models.claims import encoder_departure
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.subnets import subnet
from s2s.native.library import Unavailable, library
from s2s.nn.adapted import plain

OF_ENCODING = ("encoder_layer", "pack_source", "encoder_chunk", "encoder_exit_similarity")  # options without kernels


def prepare(model: EncoderDecoder, dtype: str, backend: str, part: str | None = None) -> EncoderDecoder:
    """A light copy of a model for decoding, which any number of threads may use at once.

    Args:
        model: In evaluation mode. It stays unchanged and can be trained further.
        dtype: `decode.dtype`.
        backend: `decode.backend`.
        part: `decode.subnet`.

    Raises:
        UserError: the device does not support this type, or the backend does not support this model on this machine,
            or the model has no such part.
    """
    device = next(model.parameters()).device
    dtype = half(device) if dtype == "auto" else dtype
    check(dtype, device.type)
    if part is not None:
        model = subnet(model, part)
    model = plain(model)
    if backend == "native" or (backend == "auto" and device.type == "cpu"):
        try:
            light = native(model, dtype)
        except Unavailable as reason:
            if backend == "native":
                raise UserError(f"decode.backend=native: {reason}") from reason
            _report(str(reason))
        else:
            if model.encoder is not None and model.decoder is not None and (reason := encoder_departure(model)):
                _report(reason, "encoding", backend)
            return light
    return prepacked(model, dtype)


def eager(backend: str, model: EncoderDecoder, option: str) -> str:
    """The backend for an option that compiled steps do not have, in place of `backend`; `auto` reports it. Raises
    UserError for `native`."""
    if backend == "native":
        raise UserError(f"decode.backend=native: the compiled kernels do not have {option}")
    if backend == "auto" and next(model.parameters()).device.type == "cpu":
        _report(f"they do not have {option}")
    return "eager"


def encoded_plainly(models: list[EncoderDecoder], config, scored: bool) -> None:
    """Say why models that have a compiled encoder are encoded without it, if they are. config: decode options. scored:
    whether there are further scorers, which read the states of the encoder."""
    readers = [(model, model.reader) for model in models if getattr(model, "reader", None) is not None]
    if readers and scored:
        _report("further scorers read the states of the encoder", "encoding", config.backend)
    elif not all(reader.reads(model) for model, reader in readers):
        options = (f"decode.{name}" for name in OF_ENCODING if getattr(config, name) not in (None, False))
        _report(f"they do not have {', '.join(options)}", "encoding", config.backend)


def is_native(model: EncoderDecoder) -> bool:
    """Whether a prepared model decodes with the compiled kernels."""
    return getattr(getattr(model, "decoder", None), "State", None) is NativeState


def has_kernels(model: EncoderDecoder, backend: str) -> bool:
    """Whether the compiled kernels may compute what a prepared model decodes outside its decoder, such as CTC."""
    parameter = next(model.parameters())
    if backend == "eager" or parameter.device.type != "cpu" or parameter.dtype == torch.float64:
        return False
    try:
        library()
    except Unavailable:  # `prepare` has reported it
        return False
    return True


@functools.lru_cache(maxsize=8)
def _report(reason: str, what: str = "decoding", backend: str = "auto") -> None:
    """Warn that kernels are unavailable, once for each reason."""
    print(f"decode.backend={backend}: {what} is slower, without compiled kernels: {reason}", file=sys.stderr)
