"""A Generator for models of a task: what its options name is read here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from s2s.decoding.component import chosen
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.decoding.shortlist import Shortlist
from s2s.errors import UserError

Once = Callable[[Any, Callable[[], Any]], Any]  # a key, and what makes its value; gives the value, made once


def generator_of(task, models: list[nn.Module], config: DecodeConfig, seed: int = 1,
                 loaded: dict[str, Any] | None = None, **options) -> Generator:  # fmt: skip
    """A Generator for one model or an ensemble.

    Args:
        task: Of the models.
        models: In evaluation mode.
        config: Decode options.
        seed: Of sampling.
        loaded: As `load` has it, and perhaps `draft`; None: is loaded here.
        options: The Generator's own.

    Raises:
        UserError: as Generator; files that the config names and that are not as they should be; a task whose models
            write nothing.
    """
    if not task.writes:
        raise UserError("a language model writes nothing by itself; it goes with another checkpoint, as "
                        "decode.language_model")  # fmt: skip
    if config.speculative == "input" and not (task.shared_vocabulary and len(task.spec.sources) == 1):
        raise UserError("decode.speculative=input copies from the source: both sides need one vocabulary, and a "
                        "sentence one source")  # fmt: skip
    if loaded is None:
        loaded = load(task, config, next(models[0].parameters()).device)
    return Generator(models, config, Sides.of(task), seed, loaded=loaded, **options)


def load(task, config: DecodeConfig, device: torch.device, once: Once = lambda key, make: make()) -> dict[str, Any]:
    """What the scorers and rules of decode options read, and the shortlist, by their names. Each is read once, and so
    may be a stream.

    Args:
        task: Of the models.
        config: Decode options.
        device: Where models are.
        once: Makes each, unless it is there already from other options that say the same.

    Raises:
        UserError: a file that is not as it should be.
    """
    loaded = {}
    for one in chosen(config):
        key = one.kind, one.found, repr(one.config)
        if (found := once(key, lambda one=one: one.found.load(one.config, task, device))) is not None:
            loaded[one.name] = found
    if config.shortlist is not None:
        if task.vocabularies.keys() != {"source", "target"}:
            raise UserError("decode.shortlist: has likely translations of the symbols of one source of text, which the "
                            f"models of task={task.Config.type} do not have")  # fmt: skip
        loaded["shortlist"] = once(("shortlist", config.shortlist), lambda: Shortlist.load(config.shortlist, task))
    return loaded
