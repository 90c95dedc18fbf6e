"""`decode.split_keys`: decoding steps with split attention."""

import copy
import functools

from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.nn.split_attention import split_attend
from s2s.nn.state import TransformerState


def splitting(model: EncoderDecoder, size: int) -> EncoderDecoder:
    """A copy of a model whose steps attend to `size` positions at a time. The weights are shared. Raises UserError: the
    model has compiled steps, or a decoder state of another kind."""
    if not model.has_decoder or getattr(model.decoder, "State", None) is not TransformerState:
        raise UserError(f"decode.split_keys={size}: is for a Transformer's decoder with decode.backend=eager")
    decoder = copy.copy(model.decoder)
    attention = staticmethod(functools.partial(split_attend, size=size))
    decoder.State = type("SplitState", (TransformerState,), {"attention": attention})
    return model.light(decoder=decoder)
