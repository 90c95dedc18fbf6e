"""A Generator for models of a task: what its options name is read here."""

from torch import nn

from s2s.decoding.config import DecodeConfig
from s2s.decoding.fusion import load_language_model
from s2s.decoding.generator import Generator
from s2s.decoding.inputs import read_phrases
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
        options: The Generator's own; `language_model` and `shortlist` where the caller has loaded them.

    Raises:
        UserError: as Generator; files that the config names and that are not as they should be; a task whose models
            write nothing.
    """
    if not task.writes:
        raise UserError("a language model writes nothing by itself; it goes with another checkpoint, as "
                        "decode.language_model")  # fmt: skip
    if config.speculative == "input" and not task.shared_vocabulary:
        raise UserError("decode.speculative=input copies from the source: both sides need one vocabulary")
    forbidden = read_phrases("decode.forbidden", config.forbidden, task.encode_phrases)
    # A phrase with a symbol that the vocabulary lacks is in no hypothesis.
    forbidden = [phrase for phrase in forbidden if UNK not in phrase]
    allowed = read_phrases("decode.allowed", config.allowed, task.encode_target, needed=True)
    if config.language_model is not None and "language_model" not in options:
        device = next(models[0].parameters()).device
        options["language_model"] = load_language_model(config.language_model, task, device)
    if config.shortlist is not None:
        if "source" not in task.vocabularies:
            raise UserError("decode.shortlist: has likely translations of a source's symbols; recordings have none")
        if "shortlist" not in options:
            options["shortlist"] = Shortlist.load(config.shortlist, task)
    options = {"forbidden": forbidden, "allowed": allowed, "detokenize": task.detokenize, "seconds": task.frame_seconds,
               "closing": task.target_transform.closing, "max_source": task.max_source, **options}  # fmt: skip
    return Generator(models, config, task.collate_sources, seed, **options)
