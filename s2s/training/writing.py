"""Texts that models write before an update, for the terms of the loss that learn from them.

The trained model writes with its present weights, in evaluation mode, and no gradient is kept. Samples depend only on
the seed, the number of the update and the number of the example. So a resumed run is bit-identical, and the samples are
the same for any number of processes. Validation has nothing of this.
"""

import dataclasses

import numpy as np
import torch
from torch import nn

from s2s.config import schema
from s2s.criterions.term import Term, Writing
from s2s.data.batch import Batch
from s2s.decoding.compose import generator_of
from s2s.decoding.compose import load as load_components
from s2s.decoding.config import DecodeConfig
from s2s.errors import UserError
from s2s.tasks.tags import plain

# Options of `decode` that hold for what a term wants, too.
KEPT = ("min_length_a", "min_length_b", "max_length_a", "max_length_b", "max_source", "batch_tokens", "slots", "dtype",
        "backend")  # fmt: skip


class Writer:
    """Lets models write what the terms of a criterion want.

    Args:
        config: The whole train config.
        task: The task.
        criterion: The terms, with their teachers.

    Raises:
        UserError: another option does not go with such a term, or its options of decoding are invalid.
    """

    def __init__(self, config, task, criterion):
        self.task, self.seed = task, config.seed
        self.wanted: list[tuple[Term, Writing, DecodeConfig]] = []
        for term in criterion.terms:
            if term.writings():
                term.prepare(task)
            for writing in term.writings():
                self._check(config, f"criterion.terms: {term.name}")
                self.wanted.append((term, writing, self._options(config, term, writing)))
        self.loaded = [None] * len(self.wanted)  # what scorers and rules have loaded

    def _check(self, config, what: str) -> None:
        """Raise UserError for options that do not go with texts that are written before an update."""
        apart = {
            "data.batching=packed": config.data.batching == "packed",
            "train.calibrate=true": config.train.calibrate,
            "distributed.strategy=fsdp": config.distributed.strategy == "fsdp",
        }
        for key in (key for key, chosen in apart.items() if chosen):
            raise UserError(f"{what} needs texts that a model writes before each update, which does not go with {key}")
        if not self.task.writes:
            raise UserError(f"{what} needs texts that a model writes, and models of task={config.task.type} write none")

    def _options(self, config, term: Term, writing: Writing) -> DecodeConfig:
        """The options of decoding of something wanted."""
        options = writing.decode
        if isinstance(options, dict):
            kept = {name: getattr(config.decode, name) for name in KEPT}
            options = schema.load(DecodeConfig, {"ctc_weight": 0.0, **kept, **options}, f"criterion.{term.name}")
        options.check({})
        return options

    def __call__(self, model: nn.Module, batches: list[Batch | None], update: int) -> list[Batch | None]:
        """The batches of an update, with what the terms made of the texts (`Term.written`) in their columns.

        Args:
            model: The trained model.
            batches: On the host.
            update: Number of the update.

        Raises:
            UserError, Failure: a text cannot be written.
        """
        here = [batch for batch in batches if batch is not None]
        if not self.wanted or not here:
            return batches
        training = model.training
        model.eval()
        try:
            texts = [self._written(model, here, place, update) for place in range(len(self.wanted))]
        finally:
            model.train(training)
        return [batch and self._with_columns(batch, texts) for batch in batches]

    def _written(self, model: nn.Module, batches: list[Batch], place: int, update: int) -> dict[int, list[list[int]]]:
        """Number of each example -> the ids of its hypotheses, for one of `wanted`."""
        term, writing, options = self.wanted[place]
        writers = list(writing.teachers) or [model]
        if self.loaded[place] is None:
            self.loaded[place] = load_components(self.task, options, next(writers[0].parameters()).device)
        seed = np.random.SeedSequence([self.seed, update, place]).generate_state(1, np.uint64)
        generator = generator_of(self.task, writers, options, int(seed[0] >> 1), self.loaded[place])
        sources, written = {}, {}
        for batch in batches:
            rows = writing.sources(batch) if writing.sources else dict(enumerate(self.task.unbatched(batch)))
            sources |= {int(batch.ids[row]): source for row, source in rows.items()}
        results = generator.generate(list(sources.values()), numbers=list(sources))
        for number, n_best in zip(sources, results, strict=True):
            n_best[0].check(f"criterion.{term.name}: update {update}, example {number}")
            written[number] = [hypothesis.ids for hypothesis in n_best]
        return written

    def _with_columns(self, batch: Batch, texts: list[dict[int, list[list[int]]]]) -> Batch:
        """A batch with the columns that the terms make of all that was written."""
        sources = list(map(plain, self.task.unbatched(batch)))
        columns = dict(batch.columns)
        for term in dict.fromkeys(term for term, *_ in self.wanted):
            own = [[written.get(number, []) for number in batch.ids.tolist()]
                   for (wanting, *_), written in zip(self.wanted, texts, strict=True) if wanting is term]  # fmt: skip
            with torch.no_grad():
                columns |= term.written(batch, own, lambda row, ids: self.task.text(ids, sources[row]))
        return dataclasses.replace(batch, columns=columns)
