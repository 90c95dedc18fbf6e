"""Text to text with several sources: the same sentence in several languages, a sentence and a draft of its
translation."""

import dataclasses
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from s2s.config.schema import option
from s2s.data.batch import Source
from s2s.data.spec import Spec, TokenSource
from s2s.data.split import Split
from s2s.data.store import Store, Stores
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.symbols import FirstTagConfig
from s2s.tasks.translation import TranslationTask, closed
from s2s.text.tokenizer import Tokenizer, load_tokenizer
from s2s.text.vocabulary import EOS


class Several:
    """The ids of all sources of a sentence, no EOS. Its length is that of the longest, and a part of it has a part of
    each."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[list[int]]):
        self.parts = parts

    def __len__(self) -> int:
        return max(map(len, self.parts))

    def __getitem__(self, place: slice) -> "Several":
        return Several([part[place] for part in self.parts])


@dataclasses.dataclass
class MultiSourceConfig(FirstTagConfig):
    """Options of the task."""

    type: str = option("multi_source", "component")


class MultiSourceTask(TranslationTask):
    """As TranslationTask, with columns `source2.tokens` and so on. A line of input has a tab between two sources.

    Args:
        source_tokenizers: Of each source, by what its columns begin with.
        target_tokenizer: Of the target side; the same object where sides share it.
        order, config: As of TextTask.
    """

    Config = MultiSourceConfig

    def __init__(self, source_tokenizers: dict[str, Tokenizer], target_tokenizer: Tokenizer, order: Any = "none",
                 config: Any = None):  # fmt: skip
        super().__init__(source_tokenizers["source"], target_tokenizer, order, config)
        self._sources = source_tokenizers

    @classmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "MultiSourceTask":
        """The task of a store."""
        found = store.tokenizers()
        if "source2" not in found:
            raise UserError(f"task=multi_source: the store has one source; task={store.task}")
        task = cls({name: found[name] for name in found if name != "target"}, found["target"], order, config)
        task.tag_values = tags.of_store(store)
        return task

    @classmethod
    def load(cls, folder: Path, order: Any = "none", config: Any = None) -> "MultiSourceTask":
        """The task saved in a checkpoint's folder."""
        names = ["source"]
        for number in count(2):
            if not (folder / f"source{number}.tokenizer.json").is_file():
                break
            names.append(f"source{number}")
        task = cls({n: load_tokenizer(folder, n) for n in names}, load_tokenizer(folder, "target"), order, config)
        task.tags = task.tag_values = tags.load(folder)
        return task

    def save(self, folder: Path) -> None:
        """Write the tokenizers into a checkpoint's folder."""
        super().save(folder)
        for name, tokenizer in self._sources.items():
            tokenizer.save(folder, name)

    @property
    def source_tokenizers(self) -> dict[str, Tokenizer]:
        """As TranslationTask.source_tokenizers."""
        return self._sources

    @property
    def shared_vocabulary(self) -> bool:
        """Whether one vocabulary has the symbols of all sides."""
        return len({vocabulary.digest for vocabulary in self.vocabularies.values()}) == 1

    @property
    def spec(self) -> Spec:
        """As TextTask.spec."""
        *sources, target = self.vocabularies.values()
        starts = [tokenizer.word_starts() for tokenizer in self._sources.values()]
        return Spec(
            tuple(TokenSource(len(source), ids) for source, ids in zip(sources, starts, strict=True)),
            len(target), sources[0].digest == target.digest, self.tag_values,
            alike=len({source.digest for source in sources}) == 1, target_starts=self.target_tokenizer.word_starts(),
            target_symbols=tuple(target.symbols),
        )  # fmt: skip

    def describe(self) -> str:
        """As TextTask.describe."""
        sizes = {name: f"{len(vocabulary):,}" for name, vocabulary in self.vocabularies.items()}
        if self.shared_vocabulary:
            return f"{len(self._sources)} sources; vocabulary: shared {sizes['target']} symbols"
        return "vocabularies: " + ", ".join(f"{size} {name}" for name, size in sizes.items()) + " symbols"

    def encode(self, items: list[str]) -> list[Several]:
        """As TextTask.encode. Raises UserError for a line with another number of sources."""
        found = self.encode_each(items)
        for one in found:
            if isinstance(one, UserError):
                raise one
        return found

    def encode_each(self, items: list[str]) -> list[Several | UserError]:
        """As TextTask.encode_each."""
        rows, wanted = [item.split("\t") for item in items], len(self._sources)
        whole = [row for row in rows if len(row) == wanted]
        columns = zip(*whole, strict=True) if whole else [()] * wanted
        encoded = [[ids.tolist() for ids in tokenizer.encode_lines(list(column))]
                   for tokenizer, column in zip(self._sources.values(), columns, strict=True)]  # fmt: skip
        sources = iter(map(Several, zip(*encoded, strict=True)))
        return [next(sources) if len(row) == wanted else
                UserError(f"a line needs {wanted} sources with a tab between two of them; it has {len(row)}")
                for row in rows]  # fmt: skip

    def inputs(self, split: Split, examples: np.ndarray) -> list[Several]:
        """As TextTask.inputs."""
        columns = []
        for name in self._sources:
            flat, lengths = split.gather(f"{name}.tokens", examples)
            columns.append([row.tolist() for row in np.split(flat, np.cumsum(lengths[:-1]))])
        return list(map(Several, zip(*columns, strict=True)))

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """The raw lines of all sources."""
        return list(map(" | ".join, zip(*(split.lines(f"{name}.text", examples) for name in self._sources),
                                        strict=True)))  # fmt: skip

    def source_lengths(self, source: Several) -> list[int]:
        """As in TextTask."""
        return [len(part) for part in source.parts]

    def source_symbols(self, source: Several, size: int) -> list[str]:
        """Symbols of one source after the other, EOS among them."""
        pairs = zip(self._sources.values(), source.parts, strict=True)
        return [tokenizer.vocabulary.symbols[i] for tokenizer, ids in pairs for i in [*ids, EOS]]

    def source_of(self, parts: list) -> Several:
        """As in TextTask."""
        return Several(parts)

    def padded_sources(self, sources: list[Several]) -> tuple[Source, ...]:
        """As TextTask.padded_sources."""
        columns = zip(*(source.parts for source in sources), strict=True)
        return tuple(closed(list(column)) for column in columns)
