"""`decode.split_keys`: steps whose attention is split."""

import copy
import functools

from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.nn.split_attention import split_attend
from s2s.nn.state import TransformerState


def splitting(model: EncoderDecoder, size: int) -> EncoderDecoder:
    """A model whose steps attend to so many positions at a time; weights are shared. Raises UserError: it has compiled
    steps, or a state of its own."""
    if not model.has_decoder or getattr(model.decoder, "State", None) is not TransformerState:
        raise UserError(f"decode.split_keys={size}: is for a Transformer's decoder with decode.backend=eager")
    decoder = copy.copy(model.decoder)
    attention = staticmethod(functools.partial(split_attend, size=size))
    decoder.State = type("SplitState", (TransformerState,), {"attention": attention})
    return model.light(decoder=decoder)
