"""From sentences in any order of length to hypotheses in the order of the input: batches are planned here."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from s2s.backends.native import mixing
from s2s.backends.prepare import prepare
from s2s.data.batch import Inputs
from s2s.decoding.alignment import Attention, coverage
from s2s.decoding.config import DecodeConfig
from s2s.decoding.engine import Engine, Sentence
from s2s.decoding.fitting import fitting
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.limits import normalised
from s2s.decoding.mbr import most_like_all
from s2s.decoding.rules.allowed import AllowedOutputs
from s2s.decoding.rules.closed import Closed
from s2s.decoding.rules.forbidden import Forbidden
from s2s.decoding.rules.no_repeat_ngram import NoRepeatedNgram
from s2s.decoding.rules.rule import Rule
from s2s.decoding.scorers.ensemble import EnsembleScorer
from s2s.decoding.scorers.joint import JointScorer, ctc_weight
from s2s.decoding.scorers.language_model import FusionScorer
from s2s.decoding.scorers.model import ModelScorer
from s2s.decoding.search.constrained import lacking
from s2s.decoding.search.ctc import CtcDecoder
from s2s.decoding.search.speculative import Speculative
from s2s.decoding.shortlist import Shortlist
from s2s.decoding.times import Chunks, token_times
from s2s.errors import Failure, UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.language_model import LanguageModel
from s2s.tasks.tags import plain
from s2s.text.vocabulary import BOS, EOS

Ids = list[int]
Collate = Callable[[list[Ids], torch.device], Inputs]


class Generator:
    """Decodes sentences with one model or an ensemble.

    The hypotheses of a sentence do not depend on which others are decoded with it, beyond the rounding of sums.

    Args:
        models: One, or several whose opinions are averaged; in evaluation mode, on one device.
        config: Decode options.
        collate: Makes source ids (no EOS) the models' input: a task's `collate_sources`.
        seed: Of sampling.
        forbidden: Token ids of each phrase of decode.forbidden.
        allowed: Token ids of each output of decode.allowed.
        text: Makes a hypothesis readable, of its ids and its source without tags, for decode.mbr.
        alignment: Whether hypotheses are given their alignments.
        shortlist: That of decode.shortlist.
        draft: The model of decode.speculative=draft.
        language_model: That of decode.language_model.
        timestamps: Whether hypotheses are given the times of their tokens.
        seconds: From one frame of a source to the next; None: it is text.
        max_source: decode.max_source where the config does not say it; None: any number.
        pack: As `prepare`, which makes the models fit for decoding; for many Generators, one that remembers.
        tick: Called between two steps of `generate`; what it raises ends decoding.
        closing: Bool [V]: a prefix of one word is a whole word, which no other token than these comes after; None: it
            may be the beginning of one.

    Raises:
        UserError: options that contradict each other, a decode.dtype that is not for the models' device, or models of
            different target vocabularies.
    """

    def __init__(self, models: list[EncoderDecoder], config: DecodeConfig, collate: Collate, seed: int = 1,
                 *, forbidden: Sequence[Ids] = (), allowed: Sequence[Ids] = (), alignment: bool = False,
                 text: Callable[[Ids, Ids], str] | None = None,
                 shortlist: Shortlist | None = None, draft: EncoderDecoder | None = None,
                 language_model: LanguageModel | None = None,
                 timestamps: bool = False, seconds: float | None = None, max_source: int | None = None,
                 pack: Callable[[EncoderDecoder, str, str], EncoderDecoder] = prepare,
                 tick: Callable[[], None] | None = None, closing: np.ndarray | None = None):  # fmt: skip
        config.check()
        self.closing = closing
        self.config, self.collate, self.alignment = config, collate, alignment
        self.text = text
        if shortlist and any(type(model.output) is not torch.nn.Linear for model in models):
            raise UserError("decode.shortlist: takes rows of an output matrix, and this model's output is none")
        wholes = [model.output for model in models] if shortlist else None
        models = [pack(model, config.dtype, config.backend) for model in models]
        if config.exit_layer is not None or config.exit_confidence is not None:
            models = [_exiting(model, config) for model in models]
        self.device = next(models[0].parameters()).device
        self.length = lambda source: models[0].memory_length(len(source))
        self.ctc_weight = ctc_weight(config, models)
        self.model, self.seconds, self.timestamps = models[0], seconds, timestamps
        limits = [model.max_length - 1 for model in models if model.max_length is not None]  # without EOS
        self.limit = longest_source(config, max_source, min(limits, default=None))
        self.chunks = None if config.chunk_seconds is None else Chunks(config, self._by_ctc("decode.chunk_seconds"))
        if timestamps:
            self._by_ctc("timestamps=true")
        if language_model is not None:
            if language_model.target_vocabulary_size != models[0].target_vocabulary_size:
                raise UserError(f"decode.language_model: has {language_model.target_vocabulary_size} symbols, "
                                f"the model {models[0].target_vocabulary_size}")  # fmt: skip
            language_model = pack(language_model, config.dtype, config.backend)
        if self.ctc_weight == 1:
            if alignment:
                raise UserError("alignment=true: is what a decoder attends to; decode.ctc_weight=1 has none")
            self.attention, self.allowed = None, False
            self.scorer = self.engine = CtcDecoder(models[0], config, collate, self.device, self.length,
                                                   language_model, tick)  # fmt: skip
            return
        if config.auxiliary_weights:
            models = [_mixing(model, config.auxiliary_weights) for model in models]
        self.scorer = _scorer(models, config, self.ctc_weight, wholes)
        joint = self.scorer if self.ctc_weight else None
        if language_model is not None:
            self.scorer = FusionScorer(self.scorer, language_model, config.language_model_weight, 1 - self.ctc_weight)
        self.allowed = bool(allowed)
        rules: list[Rule] = []
        if config.no_repeat_ngram:
            rules.append(NoRepeatedNgram(config.no_repeat_ngram))
        if forbidden:
            rules.append(Forbidden(forbidden, self.device))
        if allowed:
            rules.append(AllowedOutputs(allowed, self.device))
        if rules and shortlist:
            raise UserError("decode.shortlist is not for a search with decode.no_repeat_ngram, decode.forbidden or "
                            "decode.allowed")  # fmt: skip
        self.attention = Attention(models, config) if alignment or config.coverage_penalty else None
        # Coverage ranks all that a search has found.
        search = replace(config, n_best=config.beam_size) if config.coverage_penalty else config
        if allowed:  # their lengths are the limits
            most = max(map(len, allowed))
            if self.scorer.max_length is not None and most >= self.scorer.max_length:
                raise UserError(f"decode.allowed: an output has {most} tokens; with EOS, "
                                f"model.max_positions={self.scorer.max_length} is the most")  # fmt: skip
            search = replace(search, min_length_a=0.0, min_length_b=0, max_length_a=0.0, max_length_b=most + 1)
        if config.speculative == "none":
            closed = None if closing is None else Closed(closing, self.device)
            self.engine = Engine(self.scorer, search, collate, self.device, seed, rules, shortlist, joint, self.length,
                                 tick, closed)  # fmt: skip
            return
        if len(models) > 1:
            raise UserError(f"decode.speculative={config.speculative}: is for one model, not for an ensemble")
        draft = draft and pack(draft, config.dtype, config.backend)
        self.engine = Speculative(models[0], draft, config, collate, self.device, tick)

    def _by_ctc(self, said: str) -> float:
        """Seconds of a frame, for what needs CTC's times. Raises UserError where there are none."""
        if self.seconds is None:
            raise UserError(f"{said}: is for recordings, and the sources are text")
        if not self.ctc_weight:
            raise UserError(f"{said}: needs CTC, with decode.ctc_weight above 0, for the times of tokens")
        return self.seconds

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
        config = self.config
        if constraints and (self.allowed or config.search != "beam" or config.diverse_groups > 1 or config.shortlist
                            or config.speculative != "none"):  # fmt: skip
            raise UserError("constraints= need decode.search=beam, without decode.diverse_groups, decode.allowed, "
                            "decode.shortlist and decode.speculative")  # fmt: skip
        if self.ctc_weight and constraints:
            raise UserError("constraints= do not go with CTC; decode.ctc_weight=0 leaves it out")
        if self.ctc_weight == 1 and any(map(len, prefixes or [])):
            raise UserError("prefix= needs a decoder; with CTC alone there is none")
        if (config.shortlist or config.speculative != "none") and self.closing is not None and any(prefixes or []):
            raise UserError("prefix= goes neither with decode.shortlist nor decode.speculative where a model writes "
                            "the last word first (data.target_transform)")  # fmt: skip
        if self.chunks:
            if constraints or any(map(len, prefixes or [])):
                raise UserError("decode.chunk_seconds: goes neither with prefix= nor with constraints=")
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
        if self.allowed and any(map(len, prefixes or [])):
            raise UserError("prefix= and decode.allowed: each says how outputs begin; leave one out")
        prefixes = prefixes or [[] for _ in sources]
        phrases = constraints or [[] for _ in sources]
        sources, cut, ready = self._checked(sources, prefixes, "prefix")
        ready |= {i: [self._empty()] for i, source in enumerate(sources) if i not in ready and not len(source)}
        everything = enumerate(zip(sources, prefixes, phrases, strict=True))
        sentences = [Sentence(i, *parts) for i, parts in everything if i not in ready]
        sentences.sort(key=lambda sentence: -len(sentence.source))
        found = fitting(lambda some: self.engine.run(some, first), {one.number: one for one in sentences})
        results = self._attended(found, sources, timed)
        try:
            in_order = self._in_order(len(sources), results, ready, progress)
            for number, (some, n_best) in enumerate(zip(phrases, in_order, strict=True)):
                for one in n_best if number in cut else ():
                    one.source_truncated = True
                if n_best[0].error:
                    yield n_best
                    continue
                if some:
                    n_best = [replace(one, unmet=lacking(one.ids, some)) for one in n_best]
                if self.config.mbr != "none":
                    texts = [self.text(one.ids, plain(sources[number])) for one in n_best]
                    n_best = [n_best[most_like_all(texts, self.config.mbr)]]
                yield n_best
        finally:
            results.close()

    def cut(self, source: Ids) -> Ids:
        """A source as far as decode.max_source and the models take it."""
        if self.limit is None or not len(source) or self.length(source) <= self.limit:
            return source
        return source[: bisect_right(range(len(source) + 1), self.limit, key=self.model.memory_length) - 1]

    def _checked(self, sources: list, companions: list[Ids], name: str) -> tuple[list, set[int], dict]:
        """Sources, those that are too long cut; which these are; and the hypotheses of sentences that are known to
        fail: of companions (prefixes or targets, which `name` says) that are not for the models, too."""
        found, cut, failed = list(sources), set(), {}
        for i, (source, ids) in enumerate(zip(sources, companions, strict=True)):
            if (error := self._complaint(source, ids, name)) is not None:
                failed[i] = [Hypothesis.failed(error)]
            elif (short := self.cut(source)) is not source:
                found[i] = short
                cut.add(i)
        return found, cut, failed

    def _complaint(self, source: Ids | UserError | Failure, ids: Ids, name: str) -> UserError | Failure | None:
        """Why a sentence fails, as of `_checked`, if that is known."""
        if isinstance(source, Exception):
            return source
        if (most := self.scorer.max_length) is not None and len(ids) >= most:
            return UserError(f"{name} of {len(ids)} tokens; with EOS, model.max_positions={most} is the most")
        frames = self.length(source) if len(source) else 0
        if self.config.long_source == "refuse" and self.limit is not None and frames > self.limit:
            return UserError(f"source of {frames} {'tokens' if self.seconds is None else 'positions'}; at most "
                             f"{self.limit} are taken (decode.max_source, model.max_positions)")  # fmt: skip
        needed = len(ids) + sum(one == other for one, other in pairwise(ids))  # with a blank between two of the same
        if self.ctc_weight and name == "prefix" and len(ids) and needed > frames:
            return UserError(f"prefix of {len(ids)} tokens: they do not fit into {frames} frames of the encoder, and "
                             "have no probability by CTC; decode.ctc_weight=0 leaves it out")  # fmt: skip
        return None

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

        sources, cut, ready = self._checked(sources, targets, "target")
        pairs = list(zip(sources, targets, strict=True))
        ready |= {i: [self._empty()] for i, pair in enumerate(pairs) if i not in ready and not any(map(len, pair))}
        todo = [i for i in range(len(pairs)) if i not in ready]
        lengths = [max(self.length(pairs[i][0]), len(pairs[i][1])) + 1 for i in todo]
        batches = plan(lengths, self.config.rows, self.config.batch_tokens)
        results = (found for batch in batches for found in fitting(rate, {todo[j]: todo[j] for j in batch}))
        results = self._attended(results, sources, self.timestamps)
        for number, (hypothesis,) in enumerate(self._in_order(len(pairs), results, ready, progress)):
            hypothesis.source_truncated = number in cut
            yield hypothesis

    @torch.inference_mode()
    def _score(self, sources: list[Ids], targets: list[Ids]) -> list[Hypothesis]:
        """One batch of `score`."""
        decoder_input, target = _forced(targets, self.device)
        values = self.scorer.score(self.collate(sources, self.device), decoder_input, target).tolist()
        hypotheses = []
        for ids, row in zip(targets, values, strict=True):
            hypotheses.append(self._rated(list(map(int, ids)), row[: len(ids) + 1]))
        return hypotheses

    def _rated(self, ids: Ids, each: list[float]) -> Hypothesis:
        """A hypothesis of tokens with log-probabilities, EOS's too."""
        total = sum(each)
        if math.isnan(total):
            return Hypothesis.not_finite()
        if self.ctc_weight == 1:
            return Hypothesis(ids, total + self.config.word_reward * len(ids), total, each)
        return Hypothesis(ids, normalised(self.config, total, len(each)), total, each)

    def _empty(self) -> Hypothesis:
        """Of an empty source."""
        return replace(
            Hypothesis.empty(), alignment=[] if self.alignment else None, times=[] if self.timestamps else None
        )

    def _attended(self, results: Iterator, sources: list[Ids], timed: bool) -> Iterator:
        """Lists of (index, hypotheses), with what attention adds to them: alignments, and ranks by coverage; `timed`:
        and with the times of their tokens."""
        if self.attention is None and not timed:
            yield from results
            return
        waiting: list[tuple[int, list[Hypothesis]]] = []
        tokens = 0
        for some in results:
            waiting += some
            tokens += sum(len(one.ids) + 1 for _, found in some for one in found)
            if tokens >= self.config.batch_tokens:
                yield self._attend(waiting, sources, timed)
                waiting, tokens = [], 0
        if waiting:
            yield self._attend(waiting, sources, timed)

    def _attend(self, results: list[tuple[int, list[Hypothesis]]], sources: list[Ids], timed: bool):
        """Some of `_attended`, which are changed here."""
        pairs = [(i, sources[i], one) for i, found in results for one in found if one.error is None]
        lengths = [max(self.length(source), len(one.ids)) + 1 for _, source, one in pairs]
        failed = {}
        for batch in plan(lengths, 1, self.config.batch_tokens):
            for found in fitting(lambda some: self._look(some, timed), {place: pairs[place] for place in batch}):
                failed |= {pairs[place][0]: errors for place, errors in found if errors}
        results = [(i, failed.get(i, found)) for i, found in results]
        if not self.config.coverage_penalty:
            return results
        return [(i, sorted(found, key=lambda one: -one.score)[: self.config.n_best]) for i, found in results]

    def _look(self, some: list[tuple[int, Ids, Hypothesis]], timed: bool) -> tuple:
        """One batch of `_attend`, which are changed here; nothing else is found."""
        inputs, targets = self.collate([source for _, source, _ in some], self.device), [one.ids for *_, one in some]
        if timed:
            found = token_times(self.model, inputs, targets, self.seconds)
            for (*_, one), times in zip(some, found, strict=True):
                one.times = times
        if self.attention is None:
            return ()
        weights = self.attention(inputs, _forced(targets, self.device)[0])
        for (_, source, one), mine in zip(some, weights, strict=True):
            mine = mine[: len(one.ids) + 1, : self.length(source) + 1]
            if self.alignment:
                one.alignment = mine.argmax(axis=1).tolist()
            if self.config.coverage_penalty:
                one.score += self.config.coverage_penalty * coverage(mine[:, : self.length(source)])
        return ()

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


def _scorer(models: list[EncoderDecoder], config: DecodeConfig, ctc_weight: float,
            wholes: list[torch.nn.Linear] | None) -> ModelScorer | EnsembleScorer:  # fmt: skip
    """What rates the continuations of hypotheses; `wholes`: the output matrices that a shortlist is taken from."""
    # Samples are drawn at the temperature, but rated without it.
    temperature = config.temperature if config.search == "beam" else 1.0
    rating = {"temperature": temperature, "eos_scale": config.eos_scale}
    if ctc_weight:
        return JointScorer(models[0], ctc_weight, **rating)
    if len(models) == 1 and not config.ensemble_weights:
        return ModelScorer(models[0], wholes and wholes[0], **rating)
    return EnsembleScorer(models, config.ensemble, config.ensemble_weights, wholes, **rating)


def longest_source(config: DecodeConfig, default: int | None, most: int | None) -> int | None:
    """Tokens, or positions of the encoder, of the longest source that is not cut; None: any is.

    Args:
        config: Decode options.
        default: decode.max_source where they do not say it.
        most: That the models take.
    """
    limits = (config.max_source or (default if config.chunk_seconds is None else None), most)
    return min((limit for limit in limits if limit is not None), default=None)


def _exiting(model: EncoderDecoder, config: DecodeConfig) -> EncoderDecoder:
    """The model with the early exits that are asked for. Raises UserError where it has none."""
    said = "decode.exit_confidence" if config.exit_layer is None else f"decode.exit_layer={config.exit_layer}"
    if not model.exits or config.exit_layer not in (None, *model.exits):
        has = ", ".join(map(str, model.exits)) or "none"
        raise UserError(f"{said}: layers before the last with CTC (model.encoder.ctc_layers): {has}")
    return model.exiting(config.exit_layer, config.exit_confidence)


def _mixing(model: EncoderDecoder, weights: list[float]) -> EncoderDecoder:
    """The model with its auxiliary heads in its logits. Raises UserError where it has not as many."""
    heads = model.auxiliary_heads
    if len(weights) != len(heads):
        raise UserError(f"decode.auxiliary_weights={weights}: one weight is needed for each of "
                        f"model.auxiliary_heads={heads}")  # fmt: skip
    return mixing(model, weights)


def _forced(targets: list[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Targets for teacher forcing: the decoder's input, BOS first, and what it is to predict, padded with EOS. Both
    [B, T] int64."""
    target = torch.full((len(targets), max(map(len, targets)) + 1), EOS)
    for row, ids in zip(target, targets, strict=True):
        row[: len(ids)] = torch.as_tensor(ids)
    decoder_input = torch.cat([torch.full((len(targets), 1), BOS), target[:, :-1]], dim=1)
    return decoder_input.to(device), target.to(device)


def plan(lengths: list[int], rows: int, budget: int) -> list[list[int]]:
    """Which sentences are decoded together: by falling length, as many as the budget allows.

    Args:
        lengths: Source length of each sentence, EOS included.
        rows: Hypotheses a sentence, K.
        budget: Largest sentences x K x longest source of a batch; a sentence over it alone has a batch to itself.

    Returns:
        Batches of indices into `lengths`, each index once.
    """
    batches: list[list[int]] = []
    size = 0  # sentences that the batch may hold
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or len(batches[-1]) >= size:
            batches.append([])
            size = max(1, budget // (rows * lengths[i]))
        batches[-1].append(i)
    return batches
