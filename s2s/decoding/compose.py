"""Builds a Generator for the models of a task, and reads the files that its options name."""

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

Once = Callable[[Any, Callable[[], Any]], Any]  # (key, function): the value of the function, computed once per key


def generator_of(task, models: list[nn.Module], config: DecodeConfig, seed: int = 1,
                 loaded: dict[str, Any] | None = None, **options) -> Generator:  # fmt: skip
    """A Generator for one model or an ensemble.

    Args:
        task: The task of the models.
        models: One or an ensemble, in evaluation mode.
        config: Decode options.
        seed: Seed of sampling.
        loaded: The return value of `load`, perhaps with `draft`; None: it is loaded here.
        options: Further arguments of Generator.

    Raises:
        UserError: as Generator; a file that the options name is unusable; models of this task generate no text.
    """
    if not task.writes:
        raise UserError("a language model cannot decode by itself; use it with another checkpoint, as "
                        "decode.language_model=CHECKPOINT")  # fmt: skip
    config.searcher().check_task(config, task)
    if loaded is None:
        loaded = load(task, config, next(models[0].parameters()).device)
    return Generator(models, config, Sides.of(task), seed, loaded=loaded, **options)


def load(task, config: DecodeConfig, device: torch.device, once: Once = lambda key, make: make()) -> dict[str, Any]:
    """Load the files of the scorers, the rules and the shortlist. Each file is read once, so it may be a stream.

    Args:
        task: The task of the models.
        config: Decode options.
        device: The device of the models.
        once: Caches what is loaded: called with a key and a function that loads.

    Returns:
        Name of the component, or `shortlist` -> what it has loaded.

    Raises:
        UserError: a file is missing or unusable.
    """
    loaded = {}
    for item in chosen(config):
        key = item.kind, item.component, repr(item.config)
        if (content := once(key, lambda item=item: item.component.load(item.config, task, device))) is not None:
            loaded[item.name] = content
    if config.shortlist is not None:
        loaded["shortlist"] = once(("shortlist", config.shortlist), lambda: Shortlist.load(config.shortlist, task))
    return loaded
