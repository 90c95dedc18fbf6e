"""Initial weights from checkpoints, for the whole model or its parts; and the teachers of distillation."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from s2s import registry
from s2s.checkpoint import loading, runs
from s2s.config import schema
from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.adapting import own_names
from s2s.models.parts import part_of
from s2s.text.vocabulary import UNK, Vocabulary

# Parameters with a row for each symbol, and the side of these symbols.
ROWS = {
    "frontend.embedding.tokens.weight": "source",
    "frontend.tokens.weight": "source",
    "decoder.embedding.tokens.weight": "target",
    "decoder.embedding.tokens.tokens.weight": "target",
    "output.weight": "target",
    "output.bias": "target",
    "encoder.ctc.weight": "target",
    "encoder.ctc.bias": "target",
    "encoder.conditioning.weight": "target",
}
OWN = ("embeddings", "encoder", "decoder")  # parts that may come from different checkpoints
# Model options that change the meaning of weights, though not their shapes.
MEANING = ("type", "norm", "positions", "activation", "heads")
SPACE = {" ": "\u2581", "\u2581": " "}  # the space in character and in sentencepiece vocabularies

BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a symbol for a byte, which is no text


@dataclasses.dataclass
class InitConfig:
    """Options of initial weights that come from checkpoints."""

    checkpoint: str | None = option(
        None, "checkpoint or run with the initial weights; rows of embeddings are matched by symbol"
    )
    encoder: str | None = option(None, "another checkpoint for the encoder")
    decoder: str | None = option(None, "another checkpoint for the decoder")
    embeddings: str | None = option(None, "another checkpoint for the embeddings and the output matrix")
    new_rows: str = option(
        "mean",
        "rows of symbols that the checkpoint does not have: mean of all its rows; pieces: mean of the rows of the "
        "tokens into which its tokenizer cuts the symbol, if it can; fresh: drawn at random",
        ("mean", "pieces", "fresh"),
        needs=("checkpoint", "encoder", "decoder", "embeddings"),
    )
    copy_rows: list[str] = option(
        [], "new symbols that get the rows of others, such as [<gsw>=<de>]",
        needs=("checkpoint", "encoder", "decoder", "embeddings"),
    )  # fmt: skip


def sources(config: InitConfig) -> dict[str, list[str | None]]:
    """Checkpoint -> the parts that are copied from it. None stands for the parts without an option of their own."""
    taken: dict[str, list[str | None]] = {}
    for part in (*OWN, None):
        path = (getattr(config, part) if part else None) or config.checkpoint
        if path:
            taken.setdefault(path, []).append(part)
    return taken


def initialise(model: nn.Module, task, config) -> list[str]:
    """Copy weights into a new model, as `train.init` says.

    Args:
        model: The model.
        task: Its task, which has the vocabularies.
        config: The whole train config.

    Returns:
        Lines about what was copied.

    Raises:
        UserError: a checkpoint is damaged, or its weights do not fit.
    """
    report: list[str] = []
    kind_of_rows, adapters = config.train.init.new_rows, own_names(model)
    copies = _copies(config.train.init.copy_rows, task.vocabularies)
    written: dict[
        int, tuple[str, Tensor]
    ] = {}  # id of a parameter, which may have several names -> one of its names, and the value copied
    for path, parts in sources(config.train.init).items():
        other, before, settings = loading.load_model(path)
        if kind := next((type(module).__name__ for module in model.modules() if getattr(module, "by_id", False)), None):
            for side, vocabulary in task.vocabularies.items():
                if side in before.vocabularies and vocabulary.digest != before.vocabularies[side].digest:
                    raise UserError(
                        f"train.init: {path} has another {side} vocabulary, and the {kind} of the model means "
                        "symbols by their numbers; make the store with the vocabulary of the checkpoint"
                    )
        theirs, ours = ({name: p for name, p in m.named_parameters(remove_duplicate=False) if _owner(name) in parts}
                        for m in (other, model))  # fmt: skip
        if not other.has_decoder and not other.has_ctc:
            theirs, ours = _lent(theirs, ours)
            settings["model"].pop("type")
        ours = {name: p for name, p in ours.items() if name not in adapters or name in theirs}
        sides = {name: _side(model, name) for name in ours}
        _check(path, parts, theirs, ours, settings["model"], schema.values(config.model), sides)
        report.append(f"init: {', '.join(part or 'the rest' for part in parts)} from {runs.resolve(path)}")
        remapped: dict[str, str] = {}
        for name, p in ours.items():
            first, value = written.setdefault(id(p), (name, theirs[name]))
            if value is not theirs[name]:
                raise UserError(
                    f"train.init: {first} and {name} are one matrix in this model and two in {path}; "
                    "choose another model.tie_embeddings"
                )
            with torch.no_grad():
                side_of = sides[name]
                if side_of is None:
                    p.copy_(value)
                    continue
                old, new = (t.vocabularies[side_of] for t in (before, task))
                rows = _rows(old, new)
                known = rows >= 0
                # The model may be on a GPU; rows are assembled on the checkpoint's device.
                matrix = value.new_empty(p.shape)
                matrix[known] = value[rows[known]]
                matrix[~known] = p.cpu()[~known] if kind_of_rows == "fresh" else value.mean(0, keepdim=True)
                for row, pieces in _pieces(before, side_of, new, ~known) if kind_of_rows == "pieces" else ():
                    matrix[row] = value[pieces].mean(0)
                for row, original in _copied(copies, old, new, known):
                    matrix[row] = value[original]
                p.copy_(matrix)
                if old.digest != new.digest:
                    side = "" if task.shared_vocabulary else f"{side_of} "
                    remapped[side] = (
                        f"init: {int(known.sum()):,} of {len(new):,} {side}symbols have their rows from {len(old):,}; "
                        f"{int((~known).sum()):,} are new ({kind_of_rows})"
                    )
        report += remapped.values()
    return report


def _lent(theirs: dict, ours: dict) -> tuple[dict, dict]:
    """Parameters by name, where an encoder alone lends its embedding to the decoder and the output of a model. A bias
    of the output stays as it is."""
    lent = {f"decoder.{name.removeprefix('frontend.')}": p for name, p in theirs.items()
            if name.startswith("frontend.embedding.")}  # fmt: skip
    if (tokens := theirs.get("frontend.embedding.tokens.weight")) is not None:
        lent["output.weight"] = tokens
        ours = {name: p for name, p in ours.items() if name != "output.bias"}
    return theirs | {name: p for name, p in lent.items() if name in ours}, ours


def _owner(name: str) -> str | None:
    """The part of OWN that a parameter belongs to; None: none of them."""
    part = part_of(name)
    return part if part in OWN else None


def _rows(old: Vocabulary, new: Vocabulary) -> Tensor:
    """The id in `old` of each symbol of `new`, or -1; int64 [V]."""
    index = {symbol: i for i, symbol in enumerate(old.symbols) if symbol not in old.reserved}
    rows = [
        old.reserved.get(symbol, -1) if symbol in new.reserved else index.get(symbol, index.get(SPACE.get(symbol), -1))
        for symbol in new.symbols
    ]
    return torch.tensor(rows)


def _pieces(task, side: str, new: Vocabulary, wanted: Tensor) -> Iterator[tuple[int, list[int]]]:
    """The new symbols that a tokenizer cuts into tokens which it knows.

    Args:
        task: The task of the checkpoint.
        side: The side of the symbols.
        new: The vocabulary of the model.
        wanted: Bool [V], the symbols to cut.

    Yields:
        Id of a symbol in `new`, and the ids of its tokens in the vocabulary of the checkpoint.
    """
    tokenizer = task.target_tokenizer if side == "target" else task.source_tokenizers[side]
    alone = tokenizer.vocabulary.index(SPACE[" "])  # what may come before a symbol that begins no word
    for place in wanted.nonzero()[:, 0].tolist():
        symbol = new.symbols[place]
        if symbol in new.reserved or BYTE.fullmatch(symbol):
            continue
        pieces = tokenizer.encode(symbol.replace(SPACE[" "], " "))
        if not symbol.startswith(SPACE[" "]) and pieces[:1] == [alone]:
            del pieces[0]
        if pieces := [piece for piece in pieces if piece != UNK]:
            yield place, pieces


def _copies(words: list[str], vocabularies: Mapping[str, Vocabulary]) -> dict[str, str]:
    """New symbol -> the symbol whose row it gets. Raises UserError: a word is not NEW=OLD, or no vocabulary has NEW."""
    copies = {}
    for word in words:
        new, equals, old = word.partition("=")
        if not equals or not any(_place(vocabulary, new) >= 0 for vocabulary in vocabularies.values()):
            raise UserError(f"train.init.copy_rows: {word}: NEW=OLD is needed, where NEW is a symbol of the store")
        copies[new] = old
    return copies


def _copied(copies: dict[str, str], old: Vocabulary, new: Vocabulary, known: Tensor) -> Iterator[tuple[int, int]]:
    """Ids in `new` and `old` of symbols that get the rows of others; known: bool [V], those of `new` in `old`. Raises
    UserError if a symbol is not new, or the other one is not in `old`."""
    for symbol, other in copies.items():
        place, original = _place(new, symbol), _place(old, other)
        if place >= 0 and (known[place] or original < 0):
            wrong = f"{symbol} is in the checkpoint" if known[place] else f"{other} is not in the checkpoint"
            raise UserError(f"train.init.copy_rows: {wrong}")
        if place >= 0:
            yield place, original


def _place(vocabulary: Vocabulary, symbol: str) -> int:
    """The id of a symbol, perhaps a reserved one; -1: there is none."""
    place = vocabulary.reserved.get(symbol, vocabulary.index(symbol))
    return -1 if place == UNK else place


def _side(model: nn.Module, name: str) -> str | None:
    """The side whose symbols a parameter has a row for each of; None: it has no such rows."""
    part, _, rest = name.partition(".")
    if part == "more_frontends":  # of the second source, the third ...
        number, _, rest = rest.partition(".")
        return f"source{int(number) + 2}" if f"frontend.{rest}" in ROWS else None
    if part == "decoder" and name in ROWS and hasattr(model.output, "shown"):
        return "source"  # the decoder reads tokens of the source
    return ROWS.get(name)


def _check(path: str, parts: list, theirs: dict, ours: dict, their_config: dict, our_config: dict,
           sides: dict) -> None:  # fmt: skip
    """Check that the weights of some parts of a checkpoint fit a model; sides: as of `_side`. Raises UserError that
    lists what does not."""
    wrong = [f"{name} is not in it" for name in ours.keys() - theirs.keys()]
    wrong += [f"{name} is not in this model" for name in theirs.keys() - ours.keys()]
    for name in ours.keys() & theirs.keys():
        skip = sides[name] is not None  # the rows may belong to other symbols
        if theirs[name].shape[skip:] != ours[name].shape[skip:]:
            wrong.append(f"{name} is {list(theirs[name].shape)} in it, not {list(ours[name].shape)}")
    them, us = _settings(their_config), _settings(our_config)
    if encoder := us.get("encoder.type"):  # some types of encoder have the weights of another one
        them["encoder.type"], us["encoder.type"] = map(_weights_of, (them.get("encoder.type", encoder), encoder))
    for key in us.keys() & them.keys():
        *section, last = key.split(".")
        if last in MEANING and (not section or section[0] in parts) and us[key] != them[key]:
            wrong.append(f"model.{key} is {them[key]} in it, not {us[key]}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(f"train.init: {path} does not fit the model: {'; '.join(sorted(wrong)[:5])}{more}")


def _weights_of(encoder: str) -> str:
    """The type of encoder whose weights have the same names and meaning as those of a type."""
    known = encoder in registry.names("encoder")  # encoders of speech have no name there
    return getattr(registry.find("encoder", encoder), "weights_of", encoder) if known else encoder


def _settings(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        flat |= _settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


# --- teachers --------------------------------------------------------------------------------------------------------


def make_criterion(config, task, device: torch.device):
    """Make the criterion of a train config, and load the teachers of its terms. Raises UserError if a teacher has other
    vocabularies than the task."""
    criterion, teachers = task.criterion(config.criterion), {}
    for term in criterion.terms:
        for path in term.checkpoints:
            if path not in teachers:
                teachers[path] = _teacher(path, task, device, f"criterion.{term.name}")
        term.teachers = [teachers[path] for path in term.checkpoints]
    return criterion


def _teacher(path: str, task, device: torch.device, where: str) -> nn.Module:
    """Load a teacher, frozen and in evaluation mode. Raises UserError if its vocabularies differ from the task's."""
    model, other, _ = loading.load_model(path, device)
    if difference := task.difference(other):
        raise UserError(f"{where}: {path} has {difference}")
    return model.requires_grad_(False)


def parents(paths: Iterable[str]) -> dict[str, str]:
    """Folder of each checkpoint -> SHA-256 of its weights. Raises UserError if there is no such checkpoint."""
    return dict(runs.read(path, lambda folder: (str(folder), runs.weights_hash(folder))) for path in paths)
