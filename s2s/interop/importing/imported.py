"""What a reader of another toolkit's model returns, and what it reads with: nothing that it reads is executed.

How a format is added: one module in this folder with `recognises(path)` and `read(path)`, which returns an `Imported`,
and one line in `FORMATS` of formats.py. How a family of Hugging Face is added: one module in this folder with
`read(folder)`, and one line in `FAMILIES` of huggingface.py. A family is mostly a table (s2s/interop/places.py): the
place of each of our weights in their files. Weights that are missing or left over are all listed by one error.
"""

import dataclasses
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from s2s.config.documents import read_json
from s2s.config.shapes import Limits, integer, real
from s2s.errors import UserError
from s2s.interop.places import IMPOSSIBLE, Table, read_table
from s2s.text.vocabulary import BOS, SPECIALS

MOST_LAYERS, MOST_UNNAMED = 1000, 1 << 16  # layers of a stack; rows without a symbol
LARGE = Limits(size=1 << 28, values=1 << 24)  # of vocabularies


@dataclasses.dataclass
class Imported:
    """A model of another toolkit.

    Attributes:
        family: What it is, in words.
        options: Our options of the model by key, such as `encoder.layers`; `output.bias` must be among them
            where there is an output.
        task: A task with its tokenizers.
        table: The place of each of our weights.
        tensors: Its weights by name.
        where: Its folder or file.
        ignored: Patterns of names of weights that carry nothing.
        same: Name of a copy -> name of the weight that it has to be equal to.
        decode: Our options of decoding for the same lines as its own toolkit's.
        notes: What could not be taken over, in words.
        changed: Weights that are not in a file, or not as they are there, by our name.
        model: Our component of the model.
        has_output: Whether the model writes; an encoder alone does not.
        preset: Our preset of decoding, with which `decode` gives the same lines; empty: the model does not decode.
    """

    family: str
    options: dict[str, Any]
    task: Any
    table: Table
    tensors: dict[str, Tensor]
    where: Path
    ignored: tuple[str, ...] = ()
    same: Mapping[str, str] = dataclasses.field(default_factory=dict)
    decode: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    changed: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    model: str = "transformer"
    preset: str = "huggingface"
    has_output: bool = True

    def weights(self) -> dict[str, Tensor]:
        """Our weights by name. Raises UserError as `read_table`."""
        weights = read_table(self.table, self.tensors, self.where, self.ignored, self.same) | self.changed
        if not self.has_output:
            return weights
        bias = weights.get("output.bias")
        if bias is None:
            bias = torch.zeros(len(self.task.target_tokenizer.vocabulary))
        # The row that the decoder begins with is a copy of another symbol's: only that one may be written.
        bias = weights["output.bias"] = bias.clone()
        bias[BOS] = IMPOSSIBLE
        return weights


class Folder:
    """A folder in the format of Hugging Face.

    Args:
        path: The folder, or its config.json.

    Attributes:
        config: The content of config.json.
        generation: That of generation_config.json; empty: there is none.
    """

    def __init__(self, path: Path):
        self.path = path if path.is_dir() else path.parent
        self.config = self.json("config.json")
        self.generation = self.json("generation_config.json") if self.has("generation_config.json") else {}

    def has(self, name: str) -> bool:
        """Whether there is a file."""
        return (self.path / name).is_file()

    def file(self, *names: str) -> Path:
        """The path of the first of these files that is there. Raises UserError: none is."""
        for name in names:
            if self.has(name):
                return self.path / name
        raise UserError(f"{self.path}: has no {' or '.join(names)}; the folder is incomplete")

    def json(self, name: str) -> dict[str, Any]:
        """The object in a file. Raises UserError: it is missing or damaged."""
        return read_json(self.file(name), {...: object}, limits=LARGE, number=_number)

    def get(self, name: str, default: Any) -> Any:
        """An option of the config.

        Args:
            name: Its name there.
            default: The value of the family where the config has none; the option is of its type.

        Raises:
            UserError: a value of another type.
        """
        value = self.config.get(name, default)
        if default is None or (value is None and not isinstance(default, (int, str))):
            return value
        return checked(name, value, default, self.path / "config.json")

    def generate(self, name: str, default: Any) -> Any:
        """An option of `generate`, which older folders have in config.json."""
        value = self.generation.get(name, self.config.get(name, default))
        return default if value is None else value

    def weights(self) -> dict[str, Tensor]:
        """The weights by name, of one or several files. Raises UserError: files are missing or damaged."""
        file = self.file("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                         "pytorch_model.bin.index.json")  # fmt: skip
        if file.suffix != ".json":
            return read_tensors(file)
        tensors: dict[str, Tensor] = {}
        places = read_json(file, {"weight_map": {...: str}, ...: object}, limits=LARGE)["weight_map"]
        for name in sorted(set(places.values())):
            if Path(name).name != name:
                raise UserError(f"{file}: {name}: is not the name of a file beside it")
            tensors |= read_tensors(self.file(name))
        if missing := sorted(places.keys() - tensors.keys()):
            raise UserError(f"{file}: the files beside it lack {', '.join(missing)}")
        return tensors


def _number(digits: str) -> int | float:
    """A number of a JSON file. One of over 64 bits, as `model_max_length` where there is no limit, becomes a float."""
    try:
        return integer(digits)
    except ValueError:
        return real(digits)


def checked(name: str, value: Any, default: Any, where: Path) -> Any:
    """The value of an option, which has the type of its default. Raises UserError: it has another type, or is an
    impossible number of layers."""
    kinds = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise UserError(f"{where}: {name}={value!r}: {type(default).__name__} is needed")
    if name.endswith(("layers", "depth")) and not 0 < value <= MOST_LAYERS:
        raise UserError(f"{where}: {name}={value:,}: 1 to {MOST_LAYERS:,} are possible")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, .safetensors, .npz, or a state dict of PyTorch, by name. Nothing in the file is run.

    Raises:
        UserError: it is damaged, or holds something else than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{path}: damaged or unreadable: {error}") from error
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: torch.from_numpy(file[name]) for name in file.files if file[name].dtype.kind in "fiu"}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError, TypeError, MemoryError) as error:
            raise UserError(f"{path}: damaged, or not arrays of numbers: {error}") from error
    tensors = read_pickle(path)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: is not a state dict, of tensors by name")
    return dict(tensors)


def read_pickle(path: Path) -> Any:
    """The content of a file of `torch.save`: tensors, numbers, texts and lists or dicts of them. Raises UserError: it
    is damaged, or holds objects of any other class, none of which is made."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        for line in str(error).splitlines():
            if "nsupported" in line or "GLOBAL" in line:
                reason = line.strip()
                break
        raise UserError(f"{path}: damaged, or holds objects that are not read because they could run code: "
                        f"{reason}") from error  # fmt: skip


def by_id(vocabulary: Mapping[str, Any], where: Path) -> list[str]:
    """The symbols of a vocabulary in the order of their ids. Raises UserError: the ids are not 0, 1 ..."""
    if sorted(map(int, filter(lambda value: isinstance(value, int), vocabulary.values()))) != [*range(len(vocabulary))]:
        raise UserError(f"{where}: the ids of its {len(vocabulary):,} symbols are not 0 to {len(vocabulary) - 1:,}")
    return sorted(vocabulary, key=vocabulary.__getitem__)


def arranged(
    symbols: Sequence[str], specials: Sequence[int], count: int, apart: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[str], list[str], Tensor]:
    """Our order of the symbols of another toolkit.

    Args:
        symbols: Their symbols by id.
        specials: Their ids of `<pad>`, `<unk>`, of what the decoder begins with, and of the end. The third may be that
            of another symbol, too.
        count: W; further rows than symbols belong to none.
        apart: Our name, in `<>`, of each symbol that never occurs in text, such as a language -> theirs.

    Returns:
        Our symbols, the first four the special ones, without those that never occur in text; the names of these, which
        follow; and the row of each of all of them, int64 [V].

    Raises:
        UserError: an id is that of no symbol, there are too few or too many symbols, or names clash.
    """
    pad, unk, begin, end = specials
    for name, number in zip(("<pad>", "<unk>", "decoder_start_token_id", "</s>"), specials, strict=True):
        if not 0 <= number < len(symbols):
            raise UserError(f"{name}: the symbol of id {number:,} is needed; the ids are 0 to {len(symbols) - 1:,}")
    others = {*apart.values()}
    taken = {pad, unk, end} | ({begin} if symbols[begin] == SPECIALS[BOS] else set())
    ours, rows, known = list(SPECIALS), [pad, unk, begin, end], {*symbols, *SPECIALS} - {*apart.values()}
    places = {symbol: number for number, symbol in enumerate(symbols)}
    names = {name: places[theirs] for name, theirs in apart.items()}
    for number, symbol in enumerate(symbols):
        if number in taken or symbol in others:
            continue
        symbol = symbol.replace("\n", "\u2424")
        while symbol in ours[: len(SPECIALS)]:
            symbol = f"\\{symbol}"
        ours.append(symbol)
        rows.append(number)
    if not 0 <= count - len(symbols) <= MOST_UNNAMED:
        raise UserError(f"vocab_size={count:,}: the vocabulary has {len(symbols):,} symbols")
    names |= {f"<unused_{number}>": number for number in range(len(symbols), count)}
    if clash := known & names.keys():
        raise UserError(f"symbols {', '.join(sorted(clash))} have the names of symbols that never occur in text")
    return ours, [*names], torch.tensor([*rows, *names.values()])


def described(options: Mapping[str, Any]) -> Iterable[str]:
    """Options as words of a command line."""
    for key, value in options.items():
        yield f"{key}={json.dumps(value) if isinstance(value, bool) else value}"
