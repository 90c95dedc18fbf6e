"""Text to text: one source, one target, a vocabulary for each or one for both."""

import dataclasses
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from s2s import registry
from s2s.config.schema import option
from s2s.data.batch import Batch, Counts, Packing, Source
from s2s.data.iterator import Draw
from s2s.data.store import Split, Store, Stores
from s2s.data.transforms import TargetTransform, masked, noisy, seeds
from s2s.errors import UserError
from s2s.text.tokenizer import Tokenizer, load_tokenizer
from s2s.text.vocabulary import BOS, EOS, PAD, UNK


@dataclasses.dataclass
class TranslationConfig:
    """Options of the task."""

    type: str = option("translation", "component")


class TranslationTask:
    """Text to text: owns the tokenizers, says what an example is, builds what the commands need.

    Args:
        source_tokenizer: Of the source side.
        target_tokenizer: Of the target side; the same object where both sides share it.
        target_transform: The order in which the model writes a target, of TARGET_TRANSFORMS.
    """

    Config = TranslationConfig

    def __init__(self, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer, target_transform: str = "none"):
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.target_transform = TargetTransform(target_transform, target_tokenizer)

    @classmethod
    def setup(cls, store: Store | Stores, target_transform: str = "none") -> "TranslationTask":
        """The task of a store."""
        return cls(*store.tokenizers(), target_transform)

    @classmethod
    def load(cls, folder: Path, target_transform: str = "none") -> "TranslationTask":
        """The task saved in a checkpoint's folder."""
        source, target = load_tokenizer(folder, "source"), load_tokenizer(folder, "target")
        same = source.vocabulary.digest == target.vocabulary.digest
        return cls(source, source if same else target, target_transform)

    def save(self, folder: Path) -> None:
        """Write the tokenizers into a checkpoint's folder."""
        self.source_tokenizer.save(folder, "source")
        self.target_tokenizer.save(folder, "target")

    @property
    def shared_vocabulary(self) -> bool:
        return self.source_tokenizer.vocabulary.digest == self.target_tokenizer.vocabulary.digest

    def fits(self, store: Store) -> str | None:
        """What of a store's vocabularies differs from this task's, or None."""
        for side, mine, other in zip(
            ("source", "target"), (self.source_tokenizer, self.target_tokenizer), store.tokenizers(), strict=True
        ):
            if mine.vocabulary.digest != other.vocabulary.digest:
                return f"{side} vocabulary of {len(mine.vocabulary)} symbols against {len(other.vocabulary)}"
        return None

    def dataset(self, split: Split) -> "PairDataset":
        return PairDataset(split, self)

    def model(self, config) -> torch.nn.Module:
        """A model with fresh weights for this task's vocabularies; `config` is a model component's config."""
        sizes = len(self.source_tokenizer.vocabulary), len(self.target_tokenizer.vocabulary)
        return registry.find("model", config.type)(config, *sizes, self.shared_vocabulary)

    def criterion(self, config):
        return registry.find("criterion", config.type)(config)

    def generator(self, models: list[torch.nn.Module], config, seed: int = 1, **options):
        """A Generator for one model or an ensemble; `config` is a DecodeConfig, `options` are the Generator's own.

        Raises:
            UserError: as Generator; files that the config names and that are not as they should be.
        """
        from s2s.decoding.generator import Generator  # a task is below decoding; only its composition is here
        from s2s.decoding.inputs import read_phrases
        from s2s.decoding.shortlist import Shortlist

        if config.speculative == "input" and not self.shared_vocabulary:
            raise UserError("decode.speculative=input copies from the source: both sides need one vocabulary")
        forbidden = read_phrases("decode.forbidden", config.forbidden, self.encode_target)
        # A phrase with a symbol that the vocabulary lacks is in no hypothesis.
        forbidden = [phrase for phrase in forbidden if UNK not in phrase]
        allowed = read_phrases("decode.allowed", config.allowed, self.encode_target, needed=True)
        if config.shortlist is not None and "shortlist" not in options:
            options["shortlist"] = Shortlist.load(config.shortlist, self)
        options = {"forbidden": forbidden, "allowed": allowed,
                   "detokenize": self.detokenize, **options}  # fmt: skip
        return Generator(models, config, self.collate_sources, seed, **options)

    def encode(self, lines: list[str]) -> list[list[int]]:
        """Source ids of raw lines, no EOS."""
        return [ids.tolist() for ids in self.source_tokenizer.encode_lines(lines)]

    def encode_target(self, lines: list[str]) -> list[list[int]]:
        """Target ids of raw lines in the order in which the model writes them, no BOS, no EOS."""
        return [self.target_transform.apply(ids).tolist() for ids in self.target_tokenizer.encode_lines(lines)]

    def detokenize(self, ids: list[int]) -> str:
        """Target ids, as the model writes them, as text."""
        return self.target_tokenizer.decode(self.target_transform.undo(np.asarray(ids, np.int64)))

    def collate_sources(self, sources: list[list[int]], device: torch.device | str = "cpu") -> tuple[Source, ...]:
        """Source ids of several sentences (no EOS) as the model's input."""
        lengths = np.fromiter(map(len, sources), np.int64, len(sources))
        flat = np.fromiter(chain.from_iterable(sources), np.int64, lengths.sum())
        flat, lengths = _with(EOS, flat, lengths, after=True)
        return (Source(_padded(flat, lengths), torch.from_numpy(lengths)).to(device),)


class PairDataset:
    """The examples of a split. Lengths count the EOS that the model sees on both sides.

    Args:
        split: Of a store or of several.
        task: It knows the tokenizers and the order of the targets.
    """

    source_seconds = None

    def __init__(self, split: Split, task: TranslationTask):
        self.split, self.task = split, task
        self.corpora = split.corpora
        self._firsts = [corpus.first for corpus in self.corpora]

    def __len__(self) -> int:
        return len(self.split)

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and target lengths of the examples first ... last - 1, int32."""
        source, target = self.split.lengths(first, last)
        return source + 1, target + 1

    def collate(self, examples: np.ndarray, rows: np.ndarray | None = None, draw: Draw | None = None) -> Batch:
        """A batch.

        Args:
            examples: Their numbers.
            rows: How many of them each row holds; None: one.
            draw: Of the transforms; without it the examples are as they are.
        """
        examples = np.asarray(examples, np.int64)
        source, source_lengths = _with(EOS, *self._source(examples, draw), after=True)
        target, target_lengths = self._target(examples, draw)
        shown = target
        if draw and draw.config.prev_output_mask:
            random = seeds(draw.seed, draw.epoch, examples, "prev_output_mask")
            shown = masked(target, target_lengths, random, draw.config.prev_output_mask)
        decoder_input, _ = _with(BOS, shown, target_lengths, after=False)
        target, target_lengths = _with(EOS, target, target_lengths, after=True)
        source_rows, target_rows, packing = source_lengths, target_lengths, (None, None)
        if rows is not None:
            firsts = np.cumsum(rows) - rows
            source_rows, target_rows = (np.add.reduceat(side, firsts) for side in (source_lengths, target_lengths))
            packing = _packing(source_lengths, rows), _packing(target_lengths, rows)
        ids, targets = _padded(source, source_rows), _padded(target, target_rows)
        real = int(source_rows.sum()), int(target_rows.sum())
        tags = np.searchsorted(self._firsts, examples, "right") - 1
        return Batch(
            ids=torch.from_numpy(examples),
            sources=(Source(ids, torch.from_numpy(source_rows), packing[0]),),
            decoder_input=_padded(decoder_input, target_rows),
            target=targets,
            target_lengths=torch.from_numpy(target_rows),
            counts=Counts(len(examples), *real, ids.numel() - real[0], targets.numel() - real[1]),
            tags=torch.from_numpy(tags) if len(self.corpora) > 1 else None,
            target_packing=packing[1],
        )

    def _source(self, examples: np.ndarray, draw: Draw | None) -> tuple[np.ndarray, np.ndarray]:
        """Source ids of examples, one after the other, and the number of each."""
        if draw is None:
            return self.split.gather("source", examples)
        noise, dropout = draw.config.character_noise, draw.config.word_dropout
        ids, lengths = self._tokens("source", self.task.source_tokenizer, examples, draw, noise)
        if dropout:
            ids = masked(ids, lengths, seeds(draw.seed, draw.epoch, examples, "word_dropout"), dropout)
        return ids, lengths

    def _target(self, examples: np.ndarray, draw: Draw | None) -> tuple[np.ndarray, np.ndarray]:
        """Target ids of examples in the model's order, one after the other, and the number of each."""
        if draw is None:
            ids, lengths = self.split.gather("target", examples)
        else:
            ids, lengths = self._tokens("target", self.task.target_tokenizer, examples, draw, 0.0)
        transform = self.task.target_transform
        if transform.kind != "none":
            ids = np.concatenate([transform.apply(row) for row in np.split(ids, np.cumsum(lengths)[:-1])])
        return ids, lengths

    def _tokens(self, side: str, tokenizer: Tokenizer, examples: np.ndarray, draw: Draw, noise: float):
        """Ids of examples and the number of each: tokenized anew where a tokenizer samples or the text is noisy."""
        if not noise and not tokenizer.sampling:
            return self.split.gather(side, examples)
        lines = self.split.texts(side, examples)
        if noise:
            random = seeds(draw.seed, draw.epoch, examples, "character_noise")
            lines = [noisy(line, seed, noise) for line, seed in zip(lines, random.tolist(), strict=True)]
        if not tokenizer.sampling:
            ids, lengths = tokenizer.encode_flat(lines)
        else:
            ids, lengths = tokenizer.sample(lines, seeds(draw.seed, draw.epoch, examples, f"sampling {side}"))
        return ids.astype(np.int64), lengths.astype(np.int64)


def _with(symbol: int, ids: np.ndarray, lengths: np.ndarray, after: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids of rows one after the other, with a symbol before or after each, and the new lengths."""
    ends = np.cumsum(lengths)
    return np.insert(ids, ends if after else ends - lengths, symbol), lengths + 1


def _padded(ids: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """Rows one after the other as [B, longest] int64, padded at the right."""
    padded = np.full((len(lengths), lengths.max()), PAD, np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = ids
    return torch.from_numpy(padded)


def _packing(lengths: np.ndarray, rows: np.ndarray) -> Packing:
    """Where examples of these lengths lie, with `rows` of them to each row."""
    ends = np.cumsum(rows)
    totals = np.add.reduceat(lengths, ends - rows)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    number = np.repeat(np.arange(len(lengths)) - np.repeat(ends - rows, rows), lengths)
    segments = np.broadcast_to(rows[:, None] - 1, (len(rows), totals.max())).copy()
    segments[np.arange(segments.shape[1]) < totals[:, None]] = number
    return Packing(torch.from_numpy(segments), _padded(place, totals))
