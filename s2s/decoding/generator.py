"""The Generator: takes sentences of any lengths in any order, and returns hypotheses in the order of the input."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from s2s.backends.prepare import eager, encoded_plainly, prepare
from s2s.decoding.budget import BATCH_TOKENS, plan
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
from s2s.decoding.prepacking import prepacking
from s2s.decoding.rules.closed import Closed
from s2s.decoding.rules.suppressed import Suppressed
from s2s.decoding.scorers.ctc_prefix import CtcScorer, CtcScorerConfig
from s2s.decoding.scorers.scorer import FinalScorer
from s2s.decoding.scorers.summed import Summed
from s2s.decoding.search.constrained import lacking
from s2s.decoding.sentence import Sentence
from s2s.decoding.setting import Setting, Sides
from s2s.decoding.similarity import leaving
from s2s.decoding.splitting import splitting
from s2s.decoding.times import Chunks
from s2s.decoding.unlimiformer import chunked, top_k
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.subnets import smallest
from s2s.tasks.tags import plain

Ids = list[int]
LIMITS = ("min_length_a", "min_length_b", "max_length_a", "max_length_b")


class Generator:
    """Decodes sentences with one model or an ensemble.

    The hypotheses of a sentence do not depend on the sentences that are decoded with it, up to the rounding of sums.

    Args:
        models: One model or an ensemble, in evaluation mode, on one device.
        config: Decode options.
        sides: Facts about source and target, from the task.
        seed: Seed of sampling.
        loaded: What scorers and rules have loaded (`Component.load`), by name; also `shortlist` and `draft`.
        alignment: Whether hypotheses get alignments; decode.replace_unknown gives them in any case.
        attention: Whether they get the weights of alignments, too.
        timestamps: Whether hypotheses get the times of their tokens.
        pack: Prepares models for decoding, as `prepare`; pass a caching function if many Generators share models.
        tick: Called between two steps of `generate`; an exception that it raises ends decoding.
        tally: Gets counts of layers (s2s/decoding/similarity.py); None: nobody reads them.

    Raises:
        UserError: options contradict each other, decode.dtype is not available on the device, or the models have
            different target vocabularies.
    """

    def __init__(self, models: list[EncoderDecoder], config: DecodeConfig, sides: Sides, seed: int = 1, *,
                 loaded: Mapping[str, Any] | None = None, alignment: bool = False, attention: bool = False,
                 timestamps: bool = False,
                 pack: Callable[[nn.Module, str, str, str | None], nn.Module] = prepare,
                 tick: Callable[[], None] | None = None, tally: Counter | None = None):  # fmt: skip
        loaded = dict(loaded or {})
        if config.batch_tokens is None:
            config = replace(config, batch_tokens=BATCH_TOKENS[next(models[0].parameters()).device.type])
        self.config, self.sides, self.timestamps = config, sides, timestamps
        self.alignment, self.attention = alignment or config.replace_unknown, attention
        self.given = {"alignment": "alignment=true" if alignment else "decode.replace_unknown=true"}
        if not self.alignment:
            self.given = {}
        if loaded.get("draft"):
            self.given["draft"] = "draft=CHECKPOINT"
        config.check(self.given)
        if loaded.get("shortlist") and any(type(model.output) is not nn.Linear for model in models):
            raise UserError("decode.shortlist: requires an output layer that is a matrix; this model's is not")
        raw_outputs = [model.output for model in models] if loaded.get("shortlist") else None
        if config.speculative == "self":
            part = config.draft_subnet or smallest(models[0])
            loaded["slice"] = self._chunked(pack(models[0], config.dtype, config.backend, part))
        backend = config.backend
        if config.cross_attention_k is not None:
            backend = eager(backend, models[0], f"decode.cross_attention_k={config.cross_attention_k}")
        models = [exiting(pack(model, config.dtype, backend, config.subnet), config) for model in models]
        if config.cross_attention_k is not None:
            models = [top_k(model, config.cross_attention_k) for model in models]
        if config.split_keys is not None:
            models = [splitting(model, config.split_keys) for model in models]
        if config.encoder_layer is not None:
            models = [lens(model, config.encoder_layer) for model in models]
        if config.pack_source:
            models = [prepacking(model) for model in models]
        tally = Counter() if tally is None else tally
        models = [self._chunked(leaving(model, config, tally)) for model in models]
        self.ctc_weight = ctc_weight(config, models)
        self.searcher = config.searcher(self.ctc_weight)
        if config.uncounted > sides.beginning:
            raise UserError(f"decode.uncounted={config.uncounted}: task.target_tag and task.target_prefix force "
                            f"{sides.beginning} tokens")  # fmt: skip
        if any(sides.suppressed):
            self.given["rules"] = "task.suppressed"
        if len(models) > 1:
            self.given["several_models"] = "checkpoint= of several models"
        if loaded.get("shortlist"):
            self.given["shortlist"] = f"decode.shortlist={config.shortlist}" if config.shortlist else "decode.shortlist"
        self.chosen = [item for item in chosen(config, loaded) if loaded.get(item.name, item) not in (None, [])]
        if 0 < self.ctc_weight < 1:
            ctc = CtcScorerConfig(weight=self.ctc_weight)
            self.chosen.insert(0, Chosen("scorer", "ctc", f"decode.ctc_weight={ctc.weight:g}", CtcScorer, ctc))
        self._check({})
        if config.auxiliary_weights:
            models = [mixed(model, config.auxiliary_weights) for model in models]
        self.setting = Setting(models, sides, lambda model: self._chunked(pack(model, config.dtype, config.backend,
                               None)), loaded, seed, tick, raw_outputs)  # fmt: skip
        self.model = models[0]
        self.chunks = None if config.chunk_seconds is None else Chunks(config, self._by_ctc("decode.chunk_seconds"))
        if timestamps:
            self._by_ctc("timestamps=true")
        self._search()

    def _chunked(self, model: EncoderDecoder) -> EncoderDecoder:
        """The model with `decode.encoder_chunk`."""
        size, overlap = self.config.encoder_chunk, self.config.encoder_chunk_overlap
        return model if size is None else chunked(model, size, overlap)

    def _search(self) -> None:
        """Build the search from its components."""
        config, setting = self.config, self.setting
        components = [item.component(item.config, setting.loaded.get(item.name), setting) for item in self.chosen]
        final = [component for component in components if isinstance(component, FinalScorer)]
        pairs = zip(self.chosen, components, strict=True)
        setting.rules = [component for item, component in pairs if item.kind == "rule"]
        setting.scorers = [component for component in components if component.feature == "scorers"]
        if any(self.sides.suppressed):
            setting.rules.append(Suppressed(*self.sides.suppressed, setting.device))
        if self.sides.closing is not None:
            setting.closed = Closed(self.sides.closing, setting.device)
        if all(model.has_decoder for model in setting.models):
            setting.scorer = rating(setting.models, config, setting.raw_outputs)
            if setting.scorers:
                setting.scorer = Summed(setting.scorer, setting.scorers)
            encoded_plainly(setting.models, config, bool(setting.scorers))
        search = replace(config, n_best=config.rows) if final else config  # final scorers rank all hypotheses
        if lengths := [rule.lengths for rule in setting.rules if rule.lengths is not None]:
            search = self._as_long_as(*lengths[0], search)
        self.engine = self.searcher(search, setting)
        self.intake = Intake(config, setting, self.engine.max_length, self.ctc_weight > 0)
        self.finishing = Finishing(config, setting, self.alignment, final, self.attention)

    def _as_long_as(self, shortest: int, longest: int, config: DecodeConfig) -> DecodeConfig:
        """The options, with the maximum length of hypotheses that a rule dictates, in tokens.

        Raises:
            UserError: an output is too long for the model, or beyond limits of length that the options set.
        """
        most = self.setting.scorer.max_length
        if most is not None and longest >= most:
            raise UserError(f"decode.allowed: an output has {longest} tokens; model.max_positions={most} allows at "
                            f"most {most - 1} and EOS")  # fmt: skip
        limits, defaults = (tuple(getattr(one, key) for key in LIMITS) for one in (config, DecodeConfig()))
        min_a, min_b, _, max_b = limits
        if limits != defaults and (min_a or min_b > max(shortest, 1) or max_b < longest):
            raise UserError(f"decode.allowed: the outputs have {shortest} to {longest} tokens, and the limits "
                            "decode.min_length_* and decode.max_length_* exclude some of them; leave the limits or "
                            "these outputs out")  # fmt: skip
        return replace(config, min_length_a=0.0, min_length_b=0, max_length_a=0.0, max_length_b=longest + 1)

    def _check(self, given: dict[str, str]) -> None:
        """Check the options with the arguments of a call, as `component.check`. Raises UserError."""
        known = {item.name for item in chosen(self.config)}
        check(self.config, self.searcher, self.given | given, [item for item in self.chosen if item.name not in known])

    def _by_ctc(self, setting: str) -> float:
        """Seconds per frame, for a setting that needs times of tokens. Raises UserError if CTC gives none."""
        if self.sides.seconds is None:
            raise UserError(f"{setting} requires recordings, and the sources are text")
        if not self.ctc_weight:
            raise UserError(f"{setting}: requires CTC for the times of tokens, with decode.ctc_weight above 0")
        return self.sides.seconds

    def generate(
        self,
        sources: list[Ids],
        prefixes: list[Ids] | None = None,
        progress: Callable[[int], None] | None = None,
        first: int = 0,
        constraints: list[list[Ids]] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[list[Hypothesis]]:
        """Decode sentences. An empty source has one empty hypothesis of score 0; no model is run for it.

        If a sentence fails, the others are not affected. Its only hypothesis then carries the reason
        (`Hypothesis.error`): it could not be read, its source or prefix is invalid, it does not fit into memory by
        itself, or the model's output is not finite.

        Args:
            sources: Source ids of each sentence, without EOS; or the UserError or Failure of a sentence that has
                failed already.
            prefixes: Tokens with which the hypotheses of each sentence must start, perhaps none. They count in score
                and length.
            progress: Called with the number of sentences decoded since the last call.
            first: Number of the first sentence in the whole input; samples depend on it.
            constraints: Phrases that the hypotheses of each sentence must contain, each of at least one token. If no
                hypothesis within the maximum length contains them all, those that lack the fewest are returned.
            numbers: Different numbers of the sentences, in place of 0, 1 ...; they do not go with chunks of recordings.

        Yields:
            Up to n_best hypotheses of each sentence (one with decode.mbr), in the order of `sources`.

        Raises:
            UserError: constraints or prefixes do not go with the options.
        """
        given = {"constraints": "constraints="} if constraints else {}
        named = "prefix=" if any(map(len, prefixes or [])) else "task.target_tag"
        prefixes = self._begun(sources, prefixes)
        if any(map(len, prefixes or [])):
            given["prefix"] = named
            if self.sides.closing is not None:
                given["rules"] = "prefix= of whole words (data.target_transform)"
        if given:
            self._check(given)
        if self.chunks:
            yield from self._generate_long(sources, progress, first)
        else:
            yield from self._generate(sources, prefixes, progress, first, constraints, self.timestamps, numbers)

    def _begun(self, sources: list, targets: list[Ids] | None) -> list[Ids] | None:
        """Prefixes or targets after what the targets of these sources begin with."""
        if self.sides.beginnings is None:
            return targets
        beginnings = self.sides.beginnings(sources)
        return beginnings if targets is None else [[*first, *ids] for first, ids in
                                                   zip(beginnings, targets, strict=True)]  # fmt: skip

    def _generate_long(self, sources: list, progress: Callable[[int], None] | None, first: int):
        """As `generate`, for recordings that are cut into chunks."""
        all_spans = [self.chunks.of(0 if isinstance(source, Exception) else len(source)) for source in sources]
        pieces = [source if isinstance(source, Exception) else source[a:b]
                  for source, spans in zip(sources, all_spans, strict=True) for a, b in spans]  # fmt: skip
        results = self._generate(pieces, None, None, first, None, True)
        for spans in all_spans:
            chunks = [next(results)[0] for _ in spans]
            if progress:
                progress(1)
            if failed := [chunk for chunk in chunks if chunk.error]:
                yield failed[:1]
                continue
            if len(chunks) > 1:
                ids, each, times = self.chunks.merged(spans, chunks)
                truncated = any(chunk.truncated for chunk in chunks)
                chunks = [replace(self._rated(ids, each), times=times, truncated=truncated)]
            yield [chunks[0] if self.timestamps else replace(chunks[0], times=None)]

    def _generate(
        self,
        sources: list,
        prefixes: list[Ids] | None,
        progress: Callable[[int], None] | None,
        first: int,
        constraints: list[list[Ids]] | None,
        timed: bool,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[list[Hypothesis]]:
        """As `generate`; `timed`: whether to add the times of tokens."""
        numbers = range(len(sources)) if numbers is None else numbers
        prefixes = prefixes or [[] for _ in sources]
        phrases = constraints or [[] for _ in sources]
        sources, cut, ready = self.intake.checked(sources, prefixes, "prefix")
        ready |= {i: [self._empty()] for i, source in enumerate(sources) if i not in ready and not len(source)}
        everything = enumerate(zip(sources, prefixes, phrases, strict=True))
        sentences = [Sentence(numbers[i], *fields) for i, fields in everything if i not in ready]
        sentences.sort(key=lambda sentence: -len(sentence.source))
        places = {number: i for i, number in enumerate(numbers)}

        def run(batch: list[Sentence]) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
            for finished in self.engine.run(batch, first):
                yield [(places[number], n_best) for number, n_best in finished]

        hypotheses = fitting(run, {places[sentence.number]: sentence for sentence in sentences})
        results = self.finishing.of(hypotheses, sources, timed)
        try:
            in_order = self._in_order(len(sources), results, ready, progress)
            for number, (source, required, n_best) in enumerate(zip(sources, phrases, in_order, strict=True)):
                for hypothesis in n_best if number in cut else ():
                    hypothesis.source_truncated = True
                if n_best[0].error:
                    yield n_best
                    continue
                if required:
                    n_best = [replace(hypothesis, unmet=lacking(hypothesis.ids, required)) for hypothesis in n_best]
                if self.config.mbr != "none":
                    texts = [self.sides.text(hypothesis.ids, plain(source)) for hypothesis in n_best]
                    n_best = [n_best[most_like_all(texts, self.config.mbr)]]
                yield n_best
        finally:
            results.close()

    def cut(self, source: Ids) -> Ids:
        """A source, cut to decode.max_source and to the maximum length of the models."""
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
            The target of each sentence as a hypothesis, in order. An empty target of an empty source scores 0. Failures
            are handled as in `generate`.
        """

        def rate(batch: list[int]) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
            scored = self._score([sources[i] for i in batch], [targets[i] for i in batch])
            yield [(i, [hypothesis]) for i, hypothesis in zip(batch, scored, strict=True)]

        empty = [not len(target) for target in targets]
        targets = self._begun(sources, targets)
        sources, cut, ready = self.intake.checked(sources, targets, "target")
        pairs = list(zip(sources, targets, strict=True))
        ready |= {i: [self._empty()] for i, (source, _) in enumerate(pairs)
                  if i not in ready and empty[i] and not len(source)}  # fmt: skip
        todo = [i for i in range(len(pairs)) if i not in ready]
        lengths = [max(self.setting.positions(pairs[i][0]), len(pairs[i][1]) + 1) for i in todo]
        batches = plan(lengths, self.config.rows, self.config.batch_tokens)
        results = (scored for batch in batches for scored in fitting(rate, {todo[j]: todo[j] for j in batch}))
        results = self.finishing.of(results, sources, self.timestamps)
        for number, (hypothesis,) in enumerate(self._in_order(len(pairs), results, ready, progress)):
            hypothesis.source_truncated = number in cut
            yield hypothesis

    @torch.inference_mode()
    def _score(self, sources: list[Ids], targets: list[Ids]) -> list[Hypothesis]:
        """One batch of `score`."""
        decoder_input, target = forced(targets, self.setting.device, self.setting.first(sources))
        values = self.engine.score(self.setting.collate(sources), decoder_input, target).tolist()
        hypotheses, free = [], int(self.config.free_beginning and self.sides.beginnings is not None)
        free = max(free, self.config.uncounted)
        for ids, row in zip(targets, values, strict=True):
            row[:free] = [0.0] * free
            hypotheses.append(self._rated(list(map(int, ids)), row[: len(ids) + 1]))
        return hypotheses

    def _rated(self, ids: Ids, each: list[float]) -> Hypothesis:
        """A hypothesis from its token ids and their log-probabilities, that of EOS last."""
        total = sum(each)
        if math.isnan(total):
            return Hypothesis.not_finite()
        if not self.searcher.normalised:
            return Hypothesis(ids, total + self.config.word_reward * len(ids), total, each)
        return Hypothesis(ids, normalised(self.config, total, len(each)), total, each)

    def _empty(self) -> Hypothesis:
        """The hypothesis of an empty source."""
        return replace(
            Hypothesis.empty(), alignment=[] if self.alignment else None, times=[] if self.timestamps else None
        )

    def _in_order(self, total: int, results: Iterator, ready: dict, progress: Callable[[int], None] | None) -> Iterator:
        """Results in the order of their indices.

        Args:
            total: How many there are.
            results: Lists of (index, result), in any order.
            ready: Index -> result, of those that are known already.
            progress: Called with the number of results since the last call.
        """
        if progress and ready:
            progress(len(ready))
        for index in range(total):
            while index not in ready:
                batch = next(results)
                ready.update(batch)
                if progress:
                    progress(len(batch))
            yield ready.pop(index)
