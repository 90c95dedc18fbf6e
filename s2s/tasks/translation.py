"""Text to text: one source, one target, a vocabulary for each or one for both."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from s2s import registry
from s2s.config.schema import option
from s2s.data.batch import Batch, Counts, Source
from s2s.data.store import Split, Store
from s2s.text.tokenizer import Tokenizer, load_tokenizer
from s2s.text.vocabulary import BOS, EOS, PAD


@dataclasses.dataclass
class TranslationConfig:
    """Options of the task."""

    type: str = option("translation", "component")


class TranslationTask:
    """Text to text: owns the tokenizers, says what an example is, builds what the commands need.

    Args:
        source_tokenizer: Of the source side.
        target_tokenizer: Of the target side; the same object where both sides share it.
    """

    Config = TranslationConfig

    def __init__(self, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer):
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer

    @classmethod
    def setup(cls, store: Store) -> "TranslationTask":
        """The task of a store."""
        return cls(*store.tokenizers())

    @classmethod
    def load(cls, folder: Path) -> "TranslationTask":
        """The task saved in a checkpoint's folder."""
        source, target = load_tokenizer(folder, "source"), load_tokenizer(folder, "target")
        return cls(source, source if source.vocabulary.digest == target.vocabulary.digest else target)

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
        return PairDataset(split)

    def model(self, config) -> torch.nn.Module:
        """A model with fresh weights for this task's vocabularies; `config` is a model component's config."""
        sizes = len(self.source_tokenizer.vocabulary), len(self.target_tokenizer.vocabulary)
        return registry.find("model", config.type)(config, *sizes, self.shared_vocabulary)

    def criterion(self, config):
        return registry.find("criterion", config.type)(config)

    def generator(self, models: list[torch.nn.Module], config):
        """A Generator for one model or an ensemble; `config` is a DecodeConfig."""
        from s2s.decoding.generator import Generator  # a task is below decoding; only its composition is here

        return Generator(models, config, self.collate_sources)

    def encode(self, lines: list[str]) -> list[list[int]]:
        """Source ids of raw lines, no EOS."""
        return [ids.tolist() for ids in self.source_tokenizer.encode_lines(lines)]

    def encode_target(self, lines: list[str]) -> list[list[int]]:
        """Target ids of raw lines, no BOS, no EOS."""
        return [ids.tolist() for ids in self.target_tokenizer.encode_lines(lines)]

    def detokenize(self, ids: list[int]) -> str:
        """Target ids as text."""
        return self.target_tokenizer.decode(ids)

    def collate_sources(self, sources: list[list[int]], device: torch.device | str = "cpu") -> tuple[Source, ...]:
        """Source ids of several sentences (no EOS) as the model's input."""
        ids, lengths = _pad([np.append(np.asarray(ids, np.int64), EOS) for ids in sources])
        return (Source(ids, lengths).to(device),)


class PairDataset:
    """The examples of a split of a store. Lengths count the EOS that the model sees on both sides."""

    def __init__(self, split: Split):
        self.split = split
        self.source_lengths = np.asarray(split.source_lengths) + 1
        self.target_lengths = np.asarray(split.target_lengths) + 1

    def __len__(self) -> int:
        return len(self.split)

    def collate(self, examples: np.ndarray) -> Batch:
        """The examples of these numbers as a batch."""
        sources, source_lengths = _pad([np.append(self.split.source(i), EOS) for i in examples])
        targets = [self.split.target(i) for i in examples]
        target, target_lengths = _pad([np.append(ids, EOS) for ids in targets])
        decoder_input, _ = _pad([np.insert(ids, 0, BOS) for ids in targets])
        real = int(source_lengths.sum()), int(target_lengths.sum())
        return Batch(
            ids=torch.as_tensor(np.asarray(examples, np.int64)),
            sources=(Source(sources, source_lengths),),
            decoder_input=decoder_input,
            target=target,
            target_lengths=target_lengths,
            counts=Counts(len(examples), *real, sources.numel() - real[0], target.numel() - real[1]),
        )


def _pad(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad rows of ids: [B, longest] int64 and lengths [B] int64."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    padded = np.full((len(rows), lengths.max()), PAD, np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(padded), torch.from_numpy(lengths)
