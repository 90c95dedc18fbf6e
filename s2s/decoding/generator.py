"""From sentences in any order of length to hypotheses in the order of the input."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from s2s.backends.prepare import prepare
from s2s.decoding.budget import plan
from s2s.decoding.component import Chosen, check, chosen
from s2s.decoding.config import DecodeConfig
from s2s.decoding.finishing import Finishing, forced
from s2s.decoding.fitting import fitting
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.intake import Intake
from s2s.decoding.lens import lens
from s2s.decoding.limits import normalised
from s2s.decoding.mbr import most_like_all
from s2s.decoding.models import ctc_weight, exiting, mixed, rating
from s2s.decoding.rules.closed import Closed
from s2s.decoding.scorers.ctc_prefix import CtcScorer, CtcScorerConfig
from s2s.decoding.scorers.scorer import FinalScorer
from s2s.decoding.scorers.summed import Summed
from s2s.decoding.search.constrained import lacking
from s2s.decoding.sentence import Sentence
from s2s.decoding.setting import Setting, Sides
from s2s.decoding.times import Chunks
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.tasks.tags import plain

Ids = list[int]


class Generator:
    """Decodes sentences with one model or an ensemble.

    The hypotheses of a sentence do not depend on which others are decoded with it, beyond the rounding of sums.

    Args:
        models: One, or several whose opinions are averaged; in evaluation mode, on one device.
        config: Decode options.
        sides: What their task says.
        seed: Of sampling.
        loaded: What scorers and rules have read (`Component.load`), by their names, and `shortlist` and `draft`.
        alignment: Whether hypotheses are given their alignments.
        timestamps: Whether hypotheses are given the times of their tokens.
        pack: As `prepare`, which makes the models fit for decoding; for many Generators, one that remembers.
        tick: Called between two steps of `generate`; what it raises ends decoding.

    Raises:
        UserError: options that contradict each other, a decode.dtype that is not for the models' device, or models of
            different target vocabularies.
    """

    def __init__(self, models: list[EncoderDecoder], config: DecodeConfig, sides: Sides, seed: int = 1, *,
                 loaded: Mapping[str, Any] | None = None, alignment: bool = False, timestamps: bool = False,
                 pack: Callable[[nn.Module, str, str], nn.Module] = prepare,
                 tick: Callable[[], None] | None = None):  # fmt: skip
        loaded = dict(loaded or {})
        self.config, self.sides, self.alignment, self.timestamps = config, sides, alignment, timestamps
        config.check()
        if loaded.get("shortlist") and any(type(model.output) is not nn.Linear for model in models):
            raise UserError("decode.shortlist: takes rows of an output matrix, and this model's output is none")
        whole = [model.output for model in models] if loaded.get("shortlist") else None
        models = [exiting(pack(model, config.dtype, config.backend), config) for model in models]
        if config.encoder_layer is not None:
            models = [lens(model, config.encoder_layer) for model in models]
        self.ctc_weight = ctc_weight(config, models)
        self.searcher = config.searcher(self.ctc_weight)
        self.given = {"alignment": "alignment=true"} if alignment else {}
        if len(models) > 1:
            self.given["several_models"] = "checkpoint= of several models"
        if loaded.get("shortlist"):
            self.given["shortlist"] = f"decode.shortlist={config.shortlist}" if config.shortlist else "decode.shortlist"
        self.chosen = [one for one in chosen(config, loaded) if loaded.get(one.name, one) not in (None, [])]
        if 0 < self.ctc_weight < 1:
            said = CtcScorerConfig(weight=self.ctc_weight)
            self.chosen.insert(0, Chosen("scorer", "ctc", f"decode.ctc_weight={said.weight:g}", CtcScorer, said))
        self._check({})
        if config.auxiliary_weights:
            models = [mixed(model, config.auxiliary_weights) for model in models]
        self.setting = Setting(models, sides, lambda model: pack(model, config.dtype, config.backend), loaded, seed,
                               tick, whole)  # fmt: skip
        self.model = models[0]
        self.chunks = None if config.chunk_seconds is None else Chunks(config, self._by_ctc("decode.chunk_seconds"))
        if timestamps:
            self._by_ctc("timestamps=true")
        self._search()

    def _search(self) -> None:
        """Put the search together."""
        config, setting = self.config, self.setting
        made = [one.found(one.config, setting.loaded.get(one.name), setting) for one in self.chosen]
        final = [one for one in made if isinstance(one, FinalScorer)]
        pairs = zip(self.chosen, made, strict=True)
        setting.rules = [one for chosen, one in pairs if chosen.kind == "rule"]
        setting.scorers = [one for one in made if one.feature == "scorers"]
        if self.sides.closing is not None:
            setting.closed = Closed(self.sides.closing, setting.device)
        if all(model.has_decoder for model in setting.models):
            setting.scorer = rating(setting.models, config, setting.whole)
            if setting.scorers:
                setting.scorer = Summed(setting.scorer, setting.scorers)
        search = replace(config, n_best=config.rows) if final else config  # which rank all that a search has found
        if longest := [rule.longest for rule in setting.rules if rule.longest is not None]:
            search = self._as_long_as(min(longest), search)
        self.engine = self.searcher(search, setting)
        self.intake = Intake(config, setting, self.engine.max_length, self.ctc_weight > 0)
        self.finishing = Finishing(config, setting, self.alignment, final)

    def _as_long_as(self, longest: int, config: DecodeConfig) -> DecodeConfig:
        """Options with which a rule says how long hypotheses are."""
        most = self.setting.scorer.max_length
        if most is not None and longest >= most:
            raise UserError(f"decode.allowed: an output has {longest} tokens; with EOS, model.max_positions={most} is "
                            "the most")  # fmt: skip
        return replace(config, min_length_a=0.0, min_length_b=0, max_length_a=0.0, max_length_b=longest + 1)

    def _check(self, given: dict[str, str]) -> None:
        """As `component.check`, of what is given in a call, too."""
        known = {one.name for one in chosen(self.config)}
        check(self.config, self.searcher, self.given | given, [one for one in self.chosen if one.name not in known])

    def _by_ctc(self, said: str) -> float:
        """Seconds of a frame, for what needs CTC's times. Raises UserError where there are none."""
        if self.sides.seconds is None:
            raise UserError(f"{said} requires recordings, and the sources are text")
        if not self.ctc_weight:
            raise UserError(f"{said}: needs CTC, with decode.ctc_weight above 0, for the times of tokens")
        return self.sides.seconds

    def generate(
        self,
        sources: list[Ids],
        prefixes: list[Ids] | None = None,
        progress: Callable[[int], None] | None = None,
        first: int = 0,
        constraints: list[list[Ids]] | None = None,
    ) -> Iterator[list[Hypothesis]]:
        """Decode. An empty source has one empty hypothesis of score 0, which no model has seen.

        A sentence fails alone, with one hypothesis that says why (`Hypothesis.error`): it cannot be had, its source or
        prefix is not for the model, it does not fit into memory by itself, the model's output is not finite.

        Args:
            sources: Source ids of each sentence, without EOS; or the UserError or Failure with which it has failed
                before.
            prefixes: Tokens that each hypothesis must start with, perhaps none; they count in score and length.
            progress: Called with the number of sentences decoded since the last call.
            first: Number of the first sentence in the whole input, which the samples depend on.
            constraints: Phrases that the hypotheses of each sentence must hold, each at least one token. A sentence
                that cannot hold them all within its greatest length has the hypotheses that lack the fewest.

        Yields:
            Up to n_best hypotheses of each sentence, with decode.mbr one of them, in the order of `sources`.

        Raises:
            UserError: constraints or a prefix beside options that they cannot be with.
        """
        given = {"constraints": "constraints="} if constraints else {}
        if any(map(len, prefixes or [])):
            given["prefix"] = "prefix="
            if self.sides.closing is not None:
                given["rules"] = "prefix= of whole words (data.target_transform)"
        self._check(given)
        if self.chunks:
            yield from self._generate_long(sources, progress, first)
        else:
            yield from self._generate(sources, prefixes, progress, first, constraints, self.timestamps)

    def _generate_long(self, sources: list, progress: Callable[[int], None] | None, first: int):
        """As `generate`, in chunks."""
        spans = [self.chunks.of(0 if isinstance(source, Exception) else len(source)) for source in sources]
        pieces = [source if isinstance(source, Exception) else source[a:b]
                  for source, mine in zip(sources, spans, strict=True) for a, b in mine]  # fmt: skip
        found = self._generate(pieces, None, None, first, None, True)
        for mine in spans:
            parts = [next(found)[0] for _ in mine]
            if progress:
                progress(1)
            if failed := [part for part in parts if part.error]:
                yield failed[:1]
                continue
            if len(parts) > 1:
                ids, each, times = self.chunks.merged(mine, parts)
                truncated = any(part.truncated for part in parts)
                parts = [replace(self._rated(ids, each), times=times, truncated=truncated)]
            yield [parts[0] if self.timestamps else replace(parts[0], times=None)]

    def _generate(
        self,
        sources: list,
        prefixes: list[Ids] | None,
        progress: Callable[[int], None] | None,
        first: int,
        constraints: list[list[Ids]] | None,
        timed: bool,
    ) -> Iterator[list[Hypothesis]]:
        """As `generate`; `timed`: with times."""
        prefixes = prefixes or [[] for _ in sources]
        phrases = constraints or [[] for _ in sources]
        sources, cut, ready = self.intake.checked(sources, prefixes, "prefix")
        ready |= {i: [self._empty()] for i, source in enumerate(sources) if i not in ready and not len(source)}
        everything = enumerate(zip(sources, prefixes, phrases, strict=True))
        sentences = [Sentence(i, *parts) for i, parts in everything if i not in ready]
        sentences.sort(key=lambda sentence: -len(sentence.source))
        found = fitting(lambda some: self.engine.run(some, first), {one.number: one for one in sentences})
        results = self.finishing.of(found, sources, timed)
        try:
            in_order = self._in_order(len(sources), results, ready, progress)
            for number, (source, some, n_best) in enumerate(zip(sources, phrases, in_order, strict=True)):
                for one in n_best if number in cut else ():
                    one.source_truncated = True
                if n_best[0].error:
                    yield n_best
                    continue
                if some:
                    n_best = [replace(one, unmet=lacking(one.ids, some)) for one in n_best]
                if self.config.mbr != "none":
                    texts = [self.sides.text(one.ids, plain(source)) for one in n_best]
                    n_best = [n_best[most_like_all(texts, self.config.mbr)]]
                yield n_best
        finally:
            results.close()

    def cut(self, source: Ids) -> Ids:
        """A source as far as decode.max_source and the models take it."""
        return self.intake.cut(source)

    def score(
        self, sources: list[Ids], targets: list[Ids], progress: Callable[[int], None] | None = None
    ) -> Iterator[Hypothesis]:
        """Score given targets by teacher forcing.

        Args:
            sources: Source ids of each sentence, without EOS.
            targets: Target ids of each, without EOS.
            progress: As in `generate`.

        Yields:
            The target of each sentence as a hypothesis, in order. An empty target of an empty source scores 0. A
            sentence fails alone, as in `generate`.
        """

        def rate(batch: list[int]) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
            found = self._score([sources[i] for i in batch], [targets[i] for i in batch])
            yield [(i, [one]) for i, one in zip(batch, found, strict=True)]

        sources, cut, ready = self.intake.checked(sources, targets, "target")
        pairs = list(zip(sources, targets, strict=True))
        ready |= {i: [self._empty()] for i, pair in enumerate(pairs) if i not in ready and not any(map(len, pair))}
        todo = [i for i in range(len(pairs)) if i not in ready]
        lengths = [max(self.setting.positions(pairs[i][0]), len(pairs[i][1]) + 1) for i in todo]
        batches = plan(lengths, self.config.rows, self.config.batch_tokens)
        results = (found for batch in batches for found in fitting(rate, {todo[j]: todo[j] for j in batch}))
        results = self.finishing.of(results, sources, self.timestamps)
        for number, (hypothesis,) in enumerate(self._in_order(len(pairs), results, ready, progress)):
            hypothesis.source_truncated = number in cut
            yield hypothesis

    @torch.inference_mode()
    def _score(self, sources: list[Ids], targets: list[Ids]) -> list[Hypothesis]:
        """One batch of `score`."""
        decoder_input, target = forced(targets, self.setting.device)
        values = self.engine.score(self.setting.collate(sources), decoder_input, target).tolist()
        hypotheses = []
        for ids, row in zip(targets, values, strict=True):
            hypotheses.append(self._rated(list(map(int, ids)), row[: len(ids) + 1]))
        return hypotheses

    def _rated(self, ids: Ids, each: list[float]) -> Hypothesis:
        """A hypothesis of tokens with log-probabilities, EOS's too."""
        total = sum(each)
        if math.isnan(total):
            return Hypothesis.not_finite()
        if not self.searcher.normalised:
            return Hypothesis(ids, total + self.config.word_reward * len(ids), total, each)
        return Hypothesis(ids, normalised(self.config, total, len(each)), total, each)

    def _empty(self) -> Hypothesis:
        """Of an empty source."""
        return replace(
            Hypothesis.empty(), alignment=[] if self.alignment else None, times=[] if self.timestamps else None
        )

    def _in_order(self, total: int, results: Iterator, ready: dict, progress: Callable[[int], None] | None) -> Iterator:
        """Results that come as lists of (index, result), and those that are ready, in the order of their indices."""
        if progress and ready:
            progress(len(ready))
        for index in range(total):
            while index not in ready:
                some = next(results)
                ready.update(some)
                if progress:
                    progress(len(some))
            yield ready.pop(index)
