"""A Generator for models of a task: what its options name is read here."""

from typing import Any

from torch import nn

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.inputs import read_phrases
from s2s.decoding.scorers.language_model import load_language_model
from s2s.decoding.shortlist import Shortlist
from s2s.errors import UserError
from s2s.text.vocabulary import UNK


def generator_of(task, models: list[nn.Module], config: DecodeConfig, seed: int = 1, **options) -> Generator:
    """A Generator for one model or an ensemble.

    Args:
        task: Of the models.
        models: In evaluation mode.
        config: Decode options.
        seed: Of sampling.
        options: The Generator's own; `language_model` and what `read_files` has where the caller has read them.

    Raises:
        UserError: as Generator; files that the config names and that are not as they should be; a task whose models
            write nothing.
    """
    if not task.writes:
        raise UserError("a language model writes nothing by itself; it goes with another checkpoint, as "
                        "decode.language_model")  # fmt: skip
    if config.speculative == "input" and not task.shared_vocabulary:
        raise UserError("decode.speculative=input copies from the source: both sides need one vocabulary")
    if config.language_model is not None and "language_model" not in options:
        device = next(models[0].parameters()).device
        options["language_model"] = load_language_model(config.language_model, task, device)
    if "forbidden" not in options:
        options |= read_files(task, config)
    options = {"text": task.text, "seconds": task.frame_seconds,
               "closing": task.target_transform.closing, "max_source": task.max_source, **options}  # fmt: skip
    return Generator(models, config, task.collate_sources, seed, **options)


def read_files(task, config: DecodeConfig) -> dict[str, Any]:
    """Options of a Generator: what the files of decode.forbidden, decode.allowed and decode.shortlist hold. Each is
    read once, and so may be a stream. Raises UserError."""
    forbidden = read_phrases("decode.forbidden", config.forbidden, task.encode_phrases)
    # A phrase with a symbol that the vocabulary lacks is in no hypothesis.
    forbidden = [phrase for phrase in forbidden if UNK not in phrase]
    allowed = read_phrases("decode.allowed", config.allowed, task.encode_target, needed=True)
    if config.shortlist is not None and "source" not in task.vocabularies:
        raise UserError("decode.shortlist: has likely translations of a source's symbols; recordings have none")
    shortlist = None if config.shortlist is None else Shortlist.load(config.shortlist, task)
    return {"forbidden": forbidden, "allowed": allowed, "shortlist": shortlist}
