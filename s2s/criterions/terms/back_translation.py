"""Back-translation during training: a model writes sources for texts, and the model learns to translate them.

Paper: Sennrich et al., "Improving Neural Machine Translation Models with Monolingual Data", ACL 2016,
https://arxiv.org/abs/1511.06709; Lample et al., "Phrase-Based & Neural Unsupervised Machine Translation", EMNLP 2018,
https://arxiv.org/abs/1804.07755 (during training, with the present weights); Caswell et al., "Tagged
Back-Translation", WMT 2019, https://arxiv.org/abs/1906.06442; TehraniJamsaz et al., "CodeRosetta: Pushing the
Boundaries of Unsupervised Code Translation for Parallel Programming", NeurIPS 2024, https://arxiv.org/abs/2410.20527.

Before each update the texts are translated by `criterion.back_translation.decode` (all options of s2s-generate) into
sources [B, S'], and the term is the label-smoothed cross-entropy of the texts given these, by tokens of the texts. With
`task=mixture` the texts are the lines without translations, with other tasks all targets. The writer is the model
itself, which needs tags for its directions; of several other languages, texts take turns by their numbers. Or it is an
ensemble of frozen `teachers`, which may know the other direction alone. `noise` of the tokens of a source become
`<unk>`, and `symbol` before it says that no person wrote it. Together with the noise of the mixture this is
unsupervised translation: denoising and back-translation in each update.

Use: task=mixture task.first_tag=target_language criterion=back_translation

Left out: CodeRosetta's entities of code and its noise, which grows; a writer that follows the model at a distance; a
start after some updates, for which `train.init.checkpoint` begins with a model that was trained without the term.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2s.config.schema import group, option
from s2s.criterions.forward import Run
from s2s.criterions.positions import Rows, losses
from s2s.criterions.sequences import column
from s2s.criterions.term import Ids, Term, TermConfig, Value, Writing, require_decoder
from s2s.data.batch import ALONE, Batch, Source
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.text.vocabulary import EOS, PAD, UNK

TEXTS = "target.tokens"  # the column of the whole texts, whatever the task makes of them
READ, WRITTEN = "source_language", "target_language"  # tags of a direction


@dataclasses.dataclass
class BackTranslationConfig(TermConfig):
    """Options of the term."""

    type: str = option("back_translation", "component")
    teachers: list[str] = option(
        [], "checkpoints or runs with the same vocabularies that write the sources; empty: the present model"
    )
    decode: Any = group("decode", "default", "how sources are written, with the options of s2s-generate")
    noise: float = option(0.0, "share of the tokens of a written source that become <unk>", at_least=0, below=1)
    symbol: str | None = option(
        None, "reserved symbol before each written source, such as <written>; none stands before others"
    )
    label_smoothing: float = option(
        0.1, "share of the target probability spread evenly over the vocabulary", at_least=0, below=1
    )


class BackTranslation(Term):
    """The cross-entropy of texts given written sources."""

    Config = BackTranslationConfig
    trains = ("decoder",)
    only_in_training = True
    columns = (TEXTS,)

    @property
    def checkpoints(self) -> list[str]:
        """As in Term."""
        return self.config.teachers

    def check(self, model: EncoderDecoder) -> None:
        """Check that there is a decoder. Raises UserError."""
        require_decoder(self.name, model)

    def prepare(self, task: Any) -> None:
        """Check that the model has both directions, and one vocabulary for both. Raises UserError."""
        self.task, where = task, f"criterion.terms: {self.name}"
        if not getattr(task, "source_tokenizers", None) or len(task.source_tokenizers) > 1:
            raise UserError(f"{where} translates texts of one source, which task={task.config.type} has not")
        if not task.shared_vocabulary or task.target_tag:
            raise UserError(f"{where}: does not go with task.target_tag" if task.target_tag else
                            f"{where} requires one vocabulary for sources and targets")  # fmt: skip
        self.languages = task.tags.get(WRITTEN, [])
        if len(self.languages) < 2 and not (self.config.teachers and not task.tags):
            raise UserError(f"{where}: the model must know the language to write, of two or more, to translate in both "
                            "directions: set task.first_tag=target_language; or name teachers of the other direction, "
                            f"in criterion.{self.name}.teachers")  # fmt: skip
        if lacking := set(self.languages) - set(task.tags.get(READ, self.languages)):
            raise UserError(f"{where}: no training data have source_language={lacking.pop()}")
        reserved = task.target_tokenizer.vocabulary.reserved
        if self.config.symbol is not None and self.config.symbol not in reserved:
            raise UserError(f"criterion.{self.name}.symbol={self.config.symbol}: the vocabulary does not reserve it; "
                            f"make the store with 'tokenizer.reserved=[{self.config.symbol}]'")  # fmt: skip
        self.before = [] if self.config.symbol is None else [reserved[self.config.symbol]]

    def count(self, batch: Batch) -> int:
        """Tokens of the texts with written sources, EOS included; 0 in validation, which has none."""
        lengths = batch.columns.get(f"{self.name}.target_lengths")
        return 0 if lengths is None else int(lengths.sum())

    def writings(self) -> list[Writing]:
        """The sources of texts."""
        return [Writing(self.config.decode, self.teachers, self._texts)]

    def written(self, batch: Batch, texts: list[list[list[Ids]]], text: Callable[[int, Ids], str]) -> dict[str, Tensor]:
        """The sources and the texts, with EOS, and their lengths: 0 for a row without them."""
        rows, (several,) = self._rows(batch), texts
        sources: list[Ids] = [[] for _ in several]
        targets: list[Ids] = [[] for _ in several]
        languages = torch.zeros(len(several), dtype=torch.int64)
        for row, ids in rows.items():
            target, read = self._directions(batch, row)
            made = self._noised(
                self.task.target_transform.undo(np.array(several[row][0], np.int64)), int(batch.ids[row])
            )
            (source,) = self.task.tagged([[*self.before, *made]], self._tags(batch, row, read, target))
            (closed,) = self.task.padded_sources([list(source)])
            sources[row] = closed.values[0].tolist()
            targets[row] = [*self.task.target_transform.apply(np.array(ids, np.int64)).tolist(), EOS]
            if READ in self.task.tags:
                languages[row] = self.task.tags[READ].index(read)
        values = {"ids": column([sources])[0], "target": column([targets])[0], READ: languages}
        values |= {
            "lengths": torch.tensor(list(map(len, sources))),
            "target_lengths": torch.tensor(list(map(len, targets))),
        }
        return {f"{self.name}.{name}": value for name, value in values.items()}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        given = run.batch
        own = {
            name: given.columns[f"{self.name}.{name}"] for name in ("ids", "lengths", "target", "target_lengths", READ)
        }
        sizes = torch.stack([own["lengths"], own["target_lengths"]]).tolist()  # the host waits for the device once
        here = [row for row, length in enumerate(sizes[0]) if length]
        if not here:
            return Value(given.target.new_zeros((), dtype=torch.float32))
        rows = (own["lengths"] == 0).int().argsort(stable=True)[: len(here)]
        own = {name: value[rows] for name, value in own.items()}
        source, longest, count = max(sizes[0]), max(sizes[1]), sum(sizes[1])
        target = own["target"][:, :longest]
        tags = {name: value[rows] for name, value in given.tags.items()}
        batch = dataclasses.replace(
            given,
            ids=given.ids[here],
            sources=(Source(own["ids"][:, :source], own["lengths"]),),
            decoder_input=torch.cat([given.decoder_input[rows, :1], target[:, :-1]], 1),
            target=target,
            target_lengths=own["target_lengths"],
            counts=given.counts._replace(sentences=len(here), target=count),
            tags=tags | ({READ: own[READ]} if READ in tags else {}),
            columns={},
        )
        other = Run(run.model, batch)
        loss, *_ = losses(Rows([other], [other.output]), other.target, self.config.label_smoothing, 1.0)
        return Value(loss)

    # --- directions --------------------------------------------------------------------------------------------------

    def _rows(self, batch: Batch) -> dict[int, Ids]:
        """Row of each text to translate -> its ids, without EOS, in the order of the text."""
        rows = batch.columns[TEXTS].tolist()
        alone = batch.columns.get(ALONE, torch.ones(len(rows))).tolist()
        return {row: [i for i in ids if i != PAD] for row, ids in enumerate(rows) if alone[row]}

    def _texts(self, batch: Batch) -> dict[int, Any]:
        """As Writing.sources: the texts, with the tags of the other direction."""
        sources = {}
        for row, ids in self._rows(batch).items():
            target, read = self._directions(batch, row)
            (sources[row],) = self.task.tagged([ids], self._tags(batch, row, target, read))
        return sources

    def _directions(self, batch: Batch, row: int) -> tuple[str | None, str | None]:
        """The language of a text, and that of its source; None if the model does not read languages."""
        if not self.languages:
            return None, None
        target = self.languages[int(batch.tags[WRITTEN][row])]
        others = [language for language in self.languages if language != target]
        return target, others[int(batch.ids[row]) % len(others)]

    def _tags(self, batch: Batch, row: int, read: str | None, written: str | None) -> Mapping[str, str]:
        """The tags of a row, from one language into another."""
        values = {name: known[int(batch.tags[name][row])] for name, known in self.task.tags.items()}
        directed = {READ: read, WRITTEN: written}
        return values | {name: value for name, value in directed.items() if name in values and value is not None}

    def _noised(self, ids: np.ndarray, number: int) -> Ids:
        """A written source with noise, which depends on the source and the number of the example alone."""
        rng = np.random.default_rng([number, *ids.tolist()])
        return np.where(rng.random(len(ids)) < self.config.noise, UNK, ids).tolist()
