"""The decoding engine: slots for sentences, each advanced by one token a step, and refilled as soon as they are free.

A slot holds a sentence with all its rows. When the sentence is done its hypotheses are read, and the slot takes the
next encoded sentence, so that a long sentence does not hold a batch of finished ones. Every slot has its own step.
Searches by steps are choices (`Chooser`) around one loop, which has no Python loop over rows: what happened is kept as
back-pointers and read when a sentence is done.

When a sentence is done (`decode.stopping`):

- `first_finished`: beam_size hypotheses have finished, the first ones to do so (fairseq's rule).
- `best_possible`: the n_best finished hypotheses of the highest scores cannot be beaten by any live one. A live one's
  log-probability c <= 0 can only fall, so its score is at most c / d with d the largest divisor of the length
  normalisation among the lengths that it can still reach, and with the largest word reward among them. Where a scorer
  may add more than 0, as a language model of negative weight does, there is no bound, and this is `exhaustive`. The
  result is that of `exhaustive`.
- `exhaustive`: every live hypothesis has reached the maximum length.

In all of them a sentence is done when no hypothesis is live, and EOS is forced at the maximum length. In diverse beam
search, `first_finished` waits for every group. Stochastic beam search is done when no live row can enter the n_best.

Memory: slots x rows hypotheses of the models' states, as many slots as `decode.batch_tokens` allows for the longest of
the sentences at hand (s2s/decoding/budget.py): next to a long one there are few, and the others wait.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, n n_best.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.budget import room, together
from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER, Hypothesis
from s2s.decoding.limits import Limits, divisor, needs, normalised
from s2s.decoding.rules.rule import Rules
from s2s.decoding.search.choice import Choice, Chooser, real
from s2s.decoding.sentence import Sentence
from s2s.decoding.setting import Setting
from s2s.decoding.shortlist import AHEAD, Candidates
from s2s.decoding.trellis import Trellis
from s2s.nn.slots import kept
from s2s.text.vocabulary import BOS

# Steps between two looks at which sentences are done: each look makes the host wait for the device.
POLL_STEPS = {"cpu": 1, "cuda": 8}
# Free slots are refilled, or given up, when they are at least this share of all: both have a price of their own.
REFILL_SHARE = 1 / 16
# Where nothing is computed for free slots, they are given up when they are at least this share: it copies the others.
IDLE_SHARE = 1 / 2
# Slots are added when at least so many more fit, because shorter sentences have come.
GROW = 1.5

Ids = list[int]
Choose = Callable[[int, list[Sentence], int], Chooser]  # slots, sentences, number of the first: how a step goes on


class Finished:
    """The finished hypotheses of each slot, at most K; of each group as many as it has rows.

    Args:
        config: Decode options.
        choose: How hypotheses that end are kept.
        falls: Whether a live hypothesis's log-probability can only fall.
        slots: B.
        like: Of the type of scores.

    Attributes:
        scores: [B, K] normalised, or what ranks hypotheses in place of that; -inf where there is none.
        ends: [B, K] int64, step * K + row: where the hypothesis took its EOS.
        values: [B, K] log-probability of that EOS.
    """

    def __init__(self, config: DecodeConfig, choose: Chooser, falls: bool, slots: int, like: Tensor):
        self.config, self.choose = config, choose
        self.bounded = falls and config.stopping == "best_possible"
        self.group = config.rows // choose.groups  # its size
        self.scores = like.new_full((slots, config.rows), NEVER)
        self.ends = torch.zeros_like(self.scores, dtype=torch.int64)
        self.values = torch.zeros_like(self.scores)
        self.rows = torch.arange(config.rows, device=like.device)

    def add(self, steps: Tensor, choice: Choice) -> None:
        """Take in what ended in this step: where the K places are not enough the first ones stay (`first_finished`),
        or the best ones. steps: [B, 1] int64."""
        new = choice.end_scores
        if self.choose.scored:
            new = normalised(self.config, new, (steps + 1).to(self.scores.dtype))
        old = self.scores
        if self.choose.first:
            old = old.masked_fill(old > NEVER, float("inf"))
        place = self._both(old, new).topk(self.group, dim=1).indices

        def chosen(old: Tensor, new: Tensor) -> Tensor:
            return self._both(old, new).gather(1, place).view(new.shape)

        self.ends = chosen(self.ends, steps * self.scores.size(1) + self.rows)
        self.scores, self.values = chosen(self.scores, new), chosen(self.values, choice.end_log_probabilities)

    def _both(self, old: Tensor, new: Tensor) -> Tensor:
        """Two of [B, K] as [B * groups, 2 * size of a group]."""
        return torch.cat([old.view(-1, self.group), new.view(-1, self.group)], dim=1)

    def done(self, steps: Tensor, longest: Tensor, live: Tensor) -> Tensor:
        """Bool [B], which sentences need no further step.

        Args:
            steps: [B, 1] int64, steps done.
            longest: [B] int64, the most tokens of a hypothesis.
            live: [B, K] scores of the live rows.
        """
        best = live.amax(dim=1)
        over = best == NEVER
        if self.choose.first:
            groups = len(live), -1, self.group
            full = self.scores.view(groups)[:, :, -1] > NEVER
            return (full | (live.view(groups).amax(dim=2) == NEVER)).all(dim=1)
        least = self.scores.sort(dim=1, descending=True).values[:, self.config.n_best - 1]
        if not self.choose.scored:
            return over | (best <= least)
        if self.bounded:
            reach = torch.maximum(longest, steps[:, 0]).to(best.dtype) + 1
            most = torch.maximum(divisor(self.config, reach), divisor(self.config, steps[:, 0].to(best.dtype) + 1))
            bound = best / most
            if reward := self.config.word_reward:
                bound = bound + torch.maximum(reward * steps[:, 0], reward * (reach - 1))
            return over | (bound <= least)
        return over

    def admit(self, slots: Tensor) -> None:
        """Nothing has finished in these slots."""
        self.scores[slots] = NEVER

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""
        self.scores, self.ends, self.values = (kept(x, keep, slots) for x in (self.scores, self.ends, self.values))

    def best(self, slots: Tensor) -> tuple[np.ndarray, ...]:
        """Scores, ends and EOS log-probabilities of some slots, each [slots, n]: the best first; samples in the
        order of their numbers, or (without replacement) in the order of their draws."""
        scores, ends, values = self.scores[slots], self.ends[slots], self.values[slots]
        key = -(ends % scores.size(1)) if self.choose.numbered else scores
        order = key.sort(dim=1, descending=True, stable=True).indices[:, : self.config.n_best]
        return tuple(tensor.gather(1, order).cpu().numpy() for tensor in (scores, ends, values))


class Engine:
    """Decodes sentences as they come, in slots.

    Args:
        config: Decode options.
        setting: What it works with.
        choice: Makes what a run chooses by.
    """

    def __init__(self, config: DecodeConfig, setting: Setting, choice: Choose):
        self.config, self.setting, self.choice = config, setting, choice
        self.scorer, self.device, self.length = setting.scorer, setting.device, setting.length

    def prepare(self, sources: list[Ids]):
        """The models' states of encoded sentences."""
        return self.scorer.prepare(self.setting.collate(sources), self.config.rows)

    @torch.inference_mode()
    def run(self, sentences: list[Sentence], first: int = 0) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
        """Decode; best in falling order of source length, which is the order in which memory is asked for.

        Args:
            sentences: What to decode, each with a source of at least one token.
            first: What is added to their numbers for the sake of samples, which depend on them.

        Yields:
            Now and then, some numbers of sentences that are done, with up to n_best hypotheses of each (fewer only if
            fewer exist), the best first; samples by number. A sentence without any of finite score has failed.
        """
        self.scorer.close()
        waiting = _Waiting(sentences, self)
        run: _Run | None = None
        while True:
            if waiting and (run is None or run.wants(waiting)):
                run = run or _Run(self, waiting, first)
                run.refill(waiting)
            if run is None or not run.busy:
                return
            if self.setting.tick:
                self.setting.tick()
            run.step()
            if run.clock % POLL_STEPS[self.device.type] == 0 and (results := run.collect()):
                yield results
                if not waiting and not run.fused:  # which computes nothing for free slots
                    run.shrink()


class _Waiting:
    """Sentences that wait for a slot, some of them encoded.

    Attributes:
        needs: [2], positions in memory of the longest source of those that are encoded together next, and tokens of
            the longest hypothesis that they may have, with EOS.
    """

    def __init__(self, sentences: list[Sentence], engine: Engine):
        self.sentences, self.engine, self.taken = sentences, engine, 0
        self.each = needs(sentences, engine.config, engine.setting, engine.scorer.max_length)
        self.encoded, self.first, self.until = None, 0, 0  # the models' states of sentences first ... until - 1
        self._plan()

    def __bool__(self) -> bool:
        return self.taken < len(self.sentences)

    def _plan(self) -> None:
        """Choose sentences to encode together, as many as memory allows."""
        if self.taken < self.until or not self:
            return
        self.encoded, self.first = None, self.taken
        self.until = self.taken + together(self.engine.config, self.each[:, self.taken :])
        self.needs = self.each[:, self.first : self.until].max(axis=1)

    def next(self, most: int) -> list[Sentence]:
        """Up to `most` sentences that wait."""
        return self.sentences[self.taken : self.taken + most]

    def take(self, most: int):
        """Up to `most` sentences that are encoded together: they, their states, their places in these, and what each of
        them needs, as `needs`, [2, sentences]."""
        if self.encoded is None:
            sources = [sentence.source for sentence in self.sentences[self.first : self.until]]
            self.encoded = self.engine.prepare(sources)
        encoded, first, last = self.encoded, self.taken, min(self.taken + most, self.until)
        places = torch.arange(first - self.first, last - self.first, device=self.engine.device)
        self.taken = last
        self._plan()
        return self.sentences[first:last], encoded, places, self.each[:, first:last]


class _Run:
    """The slots, from the first sentence to the last."""

    def __init__(self, engine: Engine, waiting: _Waiting, first: int):
        self.first = first
        self.engine, self.config, self.scorer = engine, engine.config, engine.scorer
        config, device = engine.config, engine.device
        B = self.slots = min(int(room(config, *waiting.needs)), len(waiting.sentences))
        self.numbers = np.full(B, -1)  # of the sentence in each slot; -1: free
        self.starts = np.zeros(B, np.int64)  # clock of its first step
        self.needs = np.zeros((2, B), np.int64)  # of it, as of _Waiting; 0: the slot is free
        self.clock = self.oldest = 0  # steps done; the clock of the first step of those at work
        self.changed = True  # whether sentences have come or gone since `wants` was asked
        self.limits = Limits(config, B, waiting.sentences, device, engine.scorer.max_length, engine.length)
        rules = engine.setting.rules_of(waiting.sentences)
        self.choose = engine.choice(B, waiting.sentences, first)
        # Whether rows that are not live are left out of the models' steps; and whether the choice is a kernel too.
        claims = type(self.choose).__dict__
        self.skips = claims.get("skips", False) and not rules and engine.scorer.native
        self.fused = self.skips and claims.get("fused", False)
        self.rules = Rules(rules, config, B, device) if rules else None
        shortlist = engine.setting.loaded.get("shortlist")
        self.candidates = Candidates(shortlist, B, device) if shortlist else None
        self.tokens = torch.full((B, config.rows), BOS, device=device)
        self.scores = self.finished = self.trellis = None  # in the type of the first logits
        self.ended = False  # whether anything may have since the last `collect`

    @property
    def busy(self) -> bool:
        return bool((self.numbers >= 0).any())

    def wants(self, waiting: _Waiting) -> bool:
        """Whether it is time to take in waiting sentences."""
        if not self.changed:
            return False
        self.changed = False
        busy, (most, wanted) = int((self.numbers >= 0).sum()), self._room(waiting)
        return busy < most and (self.slots - busy >= max(1, REFILL_SHARE * self.slots) or wanted >= GROW * self.slots)

    def _room(self, waiting: _Waiting) -> tuple[int, int]:
        """How many slots there may be with those that come next, and how many there may and need be."""
        most = int(room(self.config, *np.maximum(self.needs.max(axis=1), waiting.needs)))
        return most, min(most, int((self.numbers >= 0).sum()) + len(waiting.sentences) - waiting.taken)

    def refill(self, waiting: _Waiting) -> None:
        """Give free slots to waiting sentences, as many as memory allows; where it has come to allow many more slots,
        add them."""
        while waiting:
            most, wanted = self._room(waiting)
            if self.scores is None and most < self.slots:
                break  # when there is something to resize
            if most < self.slots or wanted >= GROW * self.slots:
                self._resize(max(wanted, int((self.numbers >= 0).sum())))
            free = np.flatnonzero(self.numbers < 0)
            if not free.size:
                break
            sentences, states, places, each = waiting.take(free.size)
            mine = free[: len(sentences)]
            slots = torch.from_numpy(mine).to(self.engine.device)
            self.scorer.admit(slots, states, places, self.slots)
            self.limits.admit(slots, mine, sentences)
            self.choose.admit(slots, [self.first + sentence.number for sentence in sentences])
            if self.rules:
                self.rules.admit(slots, sentences)
            if self.candidates:
                self.candidates.admit(mine, sentences, waiting.next(max(self.slots, AHEAD)))
            self.tokens[slots] = BOS
            if self.scores is not None:
                self.scores[slots] = self.choose.first_scores(torch.zeros_like(self.scores[slots]))
                self.finished.admit(slots)
            self.numbers[mine] = [sentence.number for sentence in sentences]
            self.starts[mine], self.needs[:, mine] = self.clock, each
        self._look()
        if self.candidates:
            self.candidates.narrow(self.scorer, self.limits)

    def _look(self) -> None:
        """Other sentences are at work than before."""
        self.oldest, self.changed = int(self.starts[self.numbers >= 0].min(initial=self.clock)), True

    def _begin(self, like: Tensor) -> None:
        """Nothing has been found yet; scores have the type of `like`."""
        self.scores = like.new_full(self.tokens.shape, NEVER)
        taken = torch.from_numpy(np.flatnonzero(self.numbers >= 0)).to(like.device)
        self.scores[taken] = self.choose.first_scores(torch.zeros_like(self.scores[taken]))
        self.finished = Finished(self.config, self.choose, self.scorer.falls, self.slots, like)
        self.trellis = Trellis(*self.tokens.shape, like)

    def step(self) -> None:
        """Advance every slot by one token."""
        if self.skips and self.scores is None:
            self._begin(torch.empty(0))
        logits, normalizer = self.scorer.step(self.tokens.flatten(), self.scores if self.skips else None, self.fused)
        if self.scores is None:
            self._begin(logits)
        if self.rules:
            self.rules(logits, self.limits)
        choice = self.choose(logits, normalizer, self.scores, self.limits)
        if not self.fused:  # whose kernel does so
            choice = choice._replace(scores=real(choice.scores), end_scores=real(choice.end_scores))
        if self.candidates:
            choice = choice._replace(tokens=self.candidates.symbols[choice.tokens])
        if self.rules:
            self.rules.advance(choice, self.limits)
        self.trellis.add(self.clock, self.oldest, choice)
        if choice.ended:
            self.finished.add(self.limits.done, choice)
            self.ended = True
        self.tokens, self.scores = choice.tokens, choice.scores
        if choice.parents is not None:
            first = torch.arange(0, self.tokens.numel(), self.tokens.size(1), device=self.tokens.device)[:, None]
            self.scorer.reorder((first + choice.parents).flatten())
        self.limits.advance()
        self.clock += 1

    def collect(self) -> list[tuple[int, list[Hypothesis]]]:
        """The sentences that are done leave their slots."""
        if not self.ended and self.choose.first:
            return []
        self.ended = False
        done = self.finished.done(self.limits.done, self.limits.longest, self.scores).cpu().numpy()
        done |= self.limits.host[0] > self.limits.host_longest  # whatever the scores are
        slots = np.flatnonzero(done & (self.numbers >= 0))
        if not slots.size:
            return []
        where = torch.from_numpy(slots).to(self.engine.device)
        scores, ends, end_values = self.finished.best(where)
        ids, values, lengths = self.trellis.paths(slots, self.starts[slots], ends)
        config, longest = self.config, self.limits.host_longest[slots]
        results = []
        for i, number in enumerate(self.numbers[slots].tolist()):
            n_best = []
            for n in np.flatnonzero(np.isfinite(scores[i])):
                length = lengths[i, n]
                each = [*values[i, n, :length].tolist(), float(end_values[i, n])]
                path = ids[i, n, :length].tolist()
                total, score = float(sum(each)), float(scores[i, n])
                if not self.choose.scored:
                    score = normalised(config, total, len(each))
                truncated = bool(length >= longest[i])
                n_best.append(Hypothesis(path, score, total, each, truncated))
            results.append((number, n_best or [Hypothesis.not_finite()]))
        self.numbers[slots], self.needs[:, slots] = -1, 0
        self._look()
        self.scores[where] = NEVER
        self.scorer.free(where)
        self.limits.free(where, slots)
        if self.candidates:
            self.candidates.free(slots)
        return results

    def shrink(self) -> None:
        """Give up free slots, when no sentence waits for one."""
        busy, share = int((self.numbers >= 0).sum()), IDLE_SHARE if self.skips else REFILL_SHARE
        if busy and self.slots - busy >= share * self.slots:
            self._resize(busy)
            if self.candidates:
                self.candidates.narrow(self.scorer, self.limits)

    def _resize(self, slots: int) -> None:
        """Keep the slots in use as the first of `slots` ones."""
        mine = np.flatnonzero(self.numbers >= 0)
        keep = torch.from_numpy(mine).to(self.engine.device)
        self.scorer.release(keep, slots)
        self.limits.release(keep, mine, slots)
        self.choose.release(keep, slots)
        if self.rules:
            self.rules.release(keep, slots)
        if self.candidates:
            self.candidates.release(mine, slots)
        self.finished.release(keep, slots)
        self.trellis.release(keep, slots, self.clock, self.oldest)
        self.tokens, self.scores = kept(self.tokens, keep, slots), kept(self.scores, keep, slots)
        self.scores[len(mine) :] = NEVER
        self.numbers = np.append(self.numbers[mine], np.full(slots - len(mine), -1))
        self.starts = np.append(self.starts[mine], np.zeros(slots - len(mine), np.int64))
        self.needs = kept(torch.from_numpy(self.needs), torch.from_numpy(mine), slots, 1).numpy()
        self.slots = slots
