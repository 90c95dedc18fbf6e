"""A store made in parts on several machines: `shard=K/N` and `shard=join` of s2s-preprocess.

A part is a file of the results of the workers for a share of the data, in their order. To join the parts is to make
the store as on one machine, but with these results in place of the workers. So the store is the same, byte for byte.

Results are pickled. Reading them creates objects of known classes alone, so a part from elsewhere cannot run code.
"""

import dataclasses
import io
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from s2s import __version__
from s2s.config.cores import cores
from s2s.config.schema import values
from s2s.config.streams import is_stream
from s2s.data.corpus import Chunk
from s2s.data.processes import pool, progress
from s2s.data.store_writer import StoreWriter
from s2s.errors import UserError
from s2s.files import claim, file_hash, naming, whole_folder
from s2s.parts import LEARN, Parts, Shard, contents

NEUTRAL = ("store", "overwrite", "workers", "format", "shard")  # options that do not change a part
NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
SIZE = 8  # bytes of the length of a result


def learn(recipe: Any, parts: Parts) -> str:
    """Learn the tokenizers of all parts, as for the whole store."""
    config = recipe.config
    recipe.find()
    with tempfile.TemporaryDirectory() as temporary, StoreWriter(f"{temporary}/store", False) as writer:
        recipe.before(writer)
        with pool(config.workers or cores()) as submit:
            recipe.splits(submit, writer)
    with claim(parts.folder / LEARN, "store"), whole_folder(parts.folder / LEARN) as folder:
        for name, tokenizer in recipe.tokenizers.items():
            tokenizer.save(folder, name)
    return f"{parts.folder / LEARN}: the tokenizers of all parts"


def encode(recipe: Any, parts: Parts, shard: Shard) -> str:
    """Encode the share of a shard."""
    config, place = recipe.config, parts.place(shard)
    recipe.shard = shard
    recipe.find()
    how = task(recipe)
    if not parts.begin(shard, how, config.overwrite):
        return f"{place}: is there already"
    examples = 0
    with (
        claim(place, "store"), naming(place), open(place, "wb") as file,
        tempfile.TemporaryDirectory() as temporary, StoreWriter(f"{temporary}/store", False) as writer,
    ):  # fmt: skip
        recipe.before(writer)
        recipe.take(shard)
        with pool(config.workers or cores()) as submit:
            recorded = Recorded(submit, file)
            splits = recipe.splits(recorded, writer)
            for name in sorted(splits, key="train".__eq__):
                with progress(name, recipe.total(splits[name]), recipe.measure) as bar:
                    for corpus in splits[name]:
                        for encoded in recorded(recipe.work(name, writer.folder), corpus.chunks()):
                            examples += encoded.kept
                            bar(encoded.done)
        facts = {"tokenizers": hashes(writer.folder), "sections": recorded.sections}
    parts.finish(shard, how, facts)
    return f"{place}: {examples:,} {recipe.unit}"


def task(recipe: Any) -> dict[str, Any]:
    """What is divided into parts, and how it is encoded, for comparison."""
    paths = list(recipe.data())
    if any(str(path) == "-" or is_stream(path) for path in paths):
        raise UserError(f"shard={recipe.config.shard}: requires files; a stream can be read only once")
    options = {key: value for key, value in values(recipe.config).items() if key not in NEUTRAL}
    return {"s2s": __version__, "options": options, "input": contents(paths)}


def hashes(folder: Path) -> dict[str, str]:
    """The tokenizers in a folder, for comparison."""
    return {path.name: file_hash(path) for path in sorted(folder.iterdir())}


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of a corpus that a shard encodes: chunks by their place in the first file."""

    corpus: Any
    shard: Shard

    def __getattr__(self, name: str) -> Any:
        return getattr(self.corpus, name)

    @property
    def size(self) -> int:
        """Bytes of the share."""
        return self.corpus.size // self.shard.of

    def chunks(self) -> Iterator[Chunk]:
        """As in Corpus. The last shard reads to the end, so the whole corpus is checked."""
        place, size = 0, max(self.corpus.size, 1)
        for chunk in self.corpus.chunks():
            number = 1 + min(place * self.shard.of // size, self.shard.of - 1)
            if number > self.shard.number:
                return
            if number == self.shard.number:
                yield chunk
            place += chunk.read


def not_learned(shard: Shard) -> Iterator[list[str]]:
    """In place of the texts that a tokenizer learns from. Raises UserError if they are read."""
    raise UserError(f"shard={shard}: all parts need the same tokenizers; learn them first, by the same command with "
                    "shard=learn")  # fmt: skip
    yield


class Recorded:
    """Writes the results of a function like `map` into a file, and returns them.

    Attributes:
        sections: Where the results of each call begin, in bytes.
    """

    def __init__(self, submit: Callable, file: BinaryIO):
        self.submit, self.file, self.sections = submit, file, list[int]()

    def __call__(self, function: Callable, items: Iterable) -> Iterator:
        self.sections.append(self.file.tell())
        for result in self.submit(function, items):
            content = pickle.dumps(result, protocol=5)
            self.file.write(len(content).to_bytes(SIZE, "little") + content)
            yield result


class Replayed:
    """A function like `map` that returns what was recorded in all parts, for the same calls.

    Args:
        parts: Path of each part, and where the results of each call begin.
        module: Module of the recipe, whose package may have further classes of results.

    Raises:
        UserError: the parts have different numbers of calls.
    """

    def __init__(self, parts: list[tuple[Path, list[int]]], module: str):
        self.parts, self.calls, self.packages = parts, 0, ("s2s", module.partition(".")[0])
        if len({len(sections) for _, sections in parts}) > 1:
            raise UserError(f"{parts[0][0].parent}: the parts were made of different data")

    def __call__(self, function: Callable, items: Iterable) -> Iterator:
        call, self.calls = self.calls, self.calls + 1
        return self._results(call)

    def _results(self, call: int) -> Iterator:
        for path, sections in self.parts:
            with naming(path), open(path, "rb") as file:
                end = sections[call + 1] if call + 1 < len(sections) else path.stat().st_size
                file.seek(sections[call])
                while file.tell() < end:
                    size = int.from_bytes(file.read(SIZE), "little")
                    yield _Unpickler(file.read(size), self.packages).load()


class _Unpickler(pickle.Unpickler):
    """Reads arrays, and dataclasses and named tuples that modules of some packages define, and not what they import."""

    def __init__(self, content: bytes, packages: tuple[str, ...]):
        super().__init__(io.BytesIO(content))
        self.packages = packages

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in NUMPY:
            return super().find_class(module, name)
        if module.partition(".")[0] in self.packages and "." not in name:
            known = super().find_class(module, name)
            if (
                isinstance(known, type)
                and known.__module__ == module
                and (dataclasses.is_dataclass(known) or issubclass(known, tuple))
            ):
                return known
        if (module, name) in (("collections", "Counter"), ("fractions", "Fraction")):
            return super().find_class(module, name)
        raise UserError(f"a part of a store has an object of {module}.{name}, which is not read")
