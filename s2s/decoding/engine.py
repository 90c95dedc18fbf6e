"""The decoding engine: slots for sentences, which advance by one token per step and are refilled when they are free.

A slot holds one sentence with all its rows. When the sentence is finished its hypotheses are read, and the slot takes
the next encoded sentence: a long sentence does not keep a batch of finished ones waiting. Every slot counts its own
steps. Searches by steps differ only in their `Chooser`; the loop around it is the same, and has no Python loop over
rows. Choices are kept as back-pointers, which are read when a sentence is finished.

`decode.stopping` decides when a sentence is finished:

- `first_finished`: when beam_size hypotheses have finished; these are returned (fairseq's rule).
- `best_possible`: when no live hypothesis can beat the n_best finished ones. The log-probability c <= 0 of a live
  hypothesis can only fall. So its score is at most c / d plus the largest word reward, d being the largest divisor of
  length normalisation, both over the lengths that it can still reach. If a scorer may add more than 0, as a language
  model of negative weight does, there is no bound, and the search goes on as with `exhaustive`. The result is always
  that of `exhaustive`.
- `worst_finished`: when beam_size hypotheses have finished, and the best live one has no better score, at its present
  length, than the worst of them (the rule of `generate` of transformers). With beam_size=1, as `first_finished`.
- `exhaustive`: when every live hypothesis has reached the maximum length.

A sentence is also finished when no hypothesis is live. EOS is forced at the maximum length. In diverse beam search,
`first_finished` waits for every group. Stochastic beam search finishes when no live row can enter the n_best.

Memory: the models' states of slots x rows hypotheses. `decode.batch_tokens` and the longest sentence in the slots
decide the number of slots (s2s/decoding/budget.py): beside a long sentence there are few slots, and the other sentences
wait.

Shapes: B slots, K rows per slot, R = B*K rows, V vocabulary, n n_best.
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
from s2s.decoding.search.choice import Choice, Chooser, without_nan
from s2s.decoding.sentence import Sentence
from s2s.decoding.setting import Setting
from s2s.decoding.shortlist import AHEAD, Candidates
from s2s.decoding.trellis import Trellis
from s2s.nn.slots import kept
from s2s.text.vocabulary import BOS

# Steps between two checks for finished sentences, and steps from a check until the host reads its result. The host
# waits for the device there, but by then the device has the next step to compute.
POLL_STEPS = {"cpu": 1, "cuda": 8}
POLL_DELAY = {"cpu": 0, "cuda": 1}
# Free slots are refilled, or removed, when they are at least this share of all slots: both have a fixed cost.
REFILL_SHARE = 1 / 16
# If free slots cost no computation, they are removed only at this share: removal copies all other slots.
IDLE_SHARE = 1 / 2
# Slots are added when shorter sentences allow at least this many times as many.
GROW = 1.5

Ids = list[int]
Choose = Callable[[int, list[Sentence], int], Chooser]  # (slots, sentences, number of the first sentence)


class Finished:
    """The finished hypotheses of each slot: at most K, and at most k for each group of k rows.

    Args:
        config: Decode options.
        choose: The chooser of the run; its attributes say which finished hypotheses are kept.
        falls: Whether the log-probability of a live hypothesis can only fall.
        slots: B.
        like: A tensor of the dtype and device of scores.

    Attributes:
        scores: [B, K] normalised scores, or the chooser's own ranks; -inf where there is no hypothesis.
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
        """Add the hypotheses that ended in this step. If there are more than K, the first ones (`first_finished`) or
        the best ones stay.

        Args:
            steps: [B, 1] int64, steps done before this one.
            choice: The choice of this step.
        """
        new = choice.end_scores
        if self.choose.scored:
            new = normalised(self.config, new, (steps + 1).to(self.scores.dtype))
        old = self.scores
        if self.choose.first:
            old = old.masked_fill(old > NEVER, float("inf"))
        place = self._both(old, new).topk(self.group, dim=1).indices

        def chosen(old: Tensor, new: Tensor) -> Tensor:
            return self._both(old, new).gather(1, place).view(new.shape)

        self.ends = chosen(self.ends, torch.add(self.rows, steps, alpha=self.scores.size(1)))
        self.scores, self.values = chosen(self.scores, new), chosen(self.values, choice.end_log_probabilities)

    def _both(self, old: Tensor, new: Tensor) -> Tensor:
        """Two tensors [B, K] side by side, [B * groups, 2 * size of a group]."""
        return torch.cat([old.view(-1, self.group), new.view(-1, self.group)], dim=1)

    def done(self, steps: Tensor, longest: Tensor, live: Tensor) -> Tensor:
        """Which sentences are finished, bool [B].

        Args:
            steps: [B, 1] int64, steps done.
            longest: [B] int64, maximum length of hypotheses, in tokens.
            live: [B, K] scores of the live rows, -inf for dead ones.
        """
        best = live.amax(dim=1)
        over = best == NEVER
        if self.choose.first:
            groups = len(live), -1, self.group
            full = self.scores.view(groups)[:, :, -1] > NEVER
            return (full | (live.view(groups).amax(dim=2) == NEVER)).all(dim=1)
        if self.config.stopping == "worst_finished" and self.choose.scored:
            worst = self.scores.amin(dim=1)
            now = normalised(self.config, best, steps[:, 0].to(best.dtype))
            return over | ((worst > NEVER) & (now <= worst))
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
        """Empty these slots for new sentences."""
        self.scores[slots] = NEVER

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""
        self.scores, self.ends, self.values = (kept(x, keep, slots) for x in (self.scores, self.ends, self.values))

    def best(self, slots: Tensor) -> tuple[np.ndarray, ...]:
        """Scores, ends and EOS log-probabilities of these slots, each [slots, n].

        The best hypothesis is first. Samples are in the order of their numbers; samples without replacement in the
        order in which they were drawn.
        """
        scores, ends, values = self.scores[slots], self.ends[slots], self.values[slots]
        key = -(ends % scores.size(1)) if self.choose.numbered else scores
        order = key.sort(dim=1, descending=True, stable=True).indices[:, : self.config.n_best]
        return tuple(tensor.gather(1, order).cpu().numpy() for tensor in (scores, ends, values))


class Engine:
    """Decodes any number of sentences in a limited number of slots.

    Args:
        config: Decode options.
        setting: Models and task.
        choice: Makes the chooser of a run.
    """

    def __init__(self, config: DecodeConfig, setting: Setting, choice: Choose):
        self.config, self.setting, self.choice = config, setting, choice
        self.scorer, self.device, self.length = setting.scorer, setting.device, setting.length

    def prepare(self, sources: list[Ids]):
        """Encode sources; returns the models' initial states."""
        return self.scorer.prepare(self.setting.collate(sources), self.config.rows)

    @torch.inference_mode()
    def run(self, sentences: list[Sentence], first: int = 0) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
        """Decode sentences, best in falling order of source length: then the first allocations are the largest.

        Args:
            sentences: Each with a source of at least one token.
            first: Added to the sentences' numbers, on which samples depend.

        Yields:
            Lists of finished sentences: number, and up to n_best hypotheses (fewer only if fewer exist). The best
            hypothesis is first; samples are in the order of their numbers. A sentence without a hypothesis of finite
            score has one that carries an error.
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
            every, delay = POLL_STEPS[self.device.type], POLL_DELAY[self.device.type]
            if run.clock % every == 0:
                run.look()
            if run.done is not None and run.clock % every == delay and (results := run.collect()):
                yield results
                if not waiting and not run.fused:  # a fused choice computes nothing for free slots
                    run.shrink()


class _Waiting:
    """Sentences that wait for a slot; some of them are encoded.

    Attributes:
        needs: [2], of the sentences that are encoded together next: positions in memory of the longest source, and
            tokens of the longest possible hypothesis with EOS.
    """

    def __init__(self, sentences: list[Sentence], engine: Engine):
        self.sentences, self.engine, self.taken = sentences, engine, 0
        self.each = needs(sentences, engine.config, engine.setting, engine.scorer.max_length)
        self.encoded, self.first, self.until = None, 0, 0  # the models' states of sentences first ... until - 1
        self._plan()

    def __bool__(self) -> bool:
        return self.taken < len(self.sentences)

    def _plan(self) -> None:
        """Choose the sentences to encode together next, as many as memory allows."""
        if self.taken < self.until or not self:
            return
        self.encoded, self.first = None, self.taken
        self.until = self.taken + together(self.engine.config, self.each[:, self.taken :])
        self.needs = self.each[:, self.first : self.until].max(axis=1)

    def next(self, most: int) -> list[Sentence]:
        """The next sentences, up to `most`."""
        return self.sentences[self.taken : self.taken + most]

    def take(self, most: int):
        """Take up to `most` sentences that are encoded together.

        Returns:
            The sentences, the encoded states, the places [n] of the sentences in these states, and the memory needs of
            each sentence, [2, n], as in `needs`.
        """
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
        self.busy = 0  # the number of slots with a sentence
        self.starts = np.zeros(B, np.int64)  # clock of its first step
        self.needs = np.zeros((2, B), np.int64)  # memory needs of its sentence, as in _Waiting; 0: free
        self.clock = self.oldest = 0  # steps done; the clock at the first step of the oldest sentence in a slot
        self.changed = True  # whether sentences have come or gone since the last call of `wants`
        self.limits = Limits(config, B, waiting.sentences, device, engine.scorer.max_length, engine.length)
        rules = engine.setting.rules_of(waiting.sentences)
        self.choose = engine.choice(B, waiting.sentences, first)
        # skips: dead rows are left out of the models' steps. fused: the choice is a kernel, too.
        claims = type(self.choose).__dict__
        self.skips = claims.get("skips", False) and not rules and engine.scorer.native
        self.fused = self.skips and claims.get("fused", False)
        self.clean = self.fused or claims.get("clean", False)
        self.rules = Rules(rules, config, B, device) if rules else None
        free = config.free_beginning and engine.setting.sides.beginnings is not None
        self.free = max(int(free), config.uncounted)  # tokens at the beginning with the log-probability 0
        shortlist = engine.setting.loaded.get("shortlist")
        self.candidates = Candidates(shortlist, B, device) if shortlist else None
        self.tokens = torch.full((B, config.rows), BOS, device=device)
        self.first_rows = self.tokens[:0]  # [B, 1], the first row of each slot
        self.scores = self.finished = self.trellis = None  # made at the first step, in the dtype of the logits
        self.ended = False  # whether a hypothesis may have ended since the last `look`
        self.done: Tensor | None = None  # bool [B], the sentences that were finished then
        self.copied: torch.cuda.Event | None = None  # says that a GPU has copied `done`

    def wants(self, waiting: _Waiting) -> bool:
        """Whether it is time to move waiting sentences into slots."""
        if not self.changed:
            return False
        self.changed = False
        most, wanted = self._room(waiting)
        refill = self.slots - self.busy >= max(1, REFILL_SHARE * self.slots)
        return self.busy < most and (refill or wanted >= GROW * self.slots)

    def _room(self, waiting: _Waiting) -> tuple[int, int]:
        """The number of slots that memory allows with the next sentences, and the number of these that are needed."""
        most = int(room(self.config, *np.maximum(self.needs.max(axis=1), waiting.needs)))
        return most, min(most, self.busy + len(waiting.sentences) - waiting.taken)

    def refill(self, waiting: _Waiting) -> None:
        """Move waiting sentences into free slots, as memory allows. Add slots if memory now allows many more."""
        while waiting:
            most, wanted = self._room(waiting)
            if self.scores is None and most < self.slots:
                break  # there is nothing to resize before the first step
            if most < self.slots or wanted >= GROW * self.slots:
                self._resize(max(wanted, self.busy))
            free = np.flatnonzero(self.numbers < 0)
            if not free.size:
                break
            sentences, states, places, each = waiting.take(free.size)
            free_slots = free[: len(sentences)]
            slots = torch.from_numpy(free_slots).to(self.engine.device)
            self.scorer.admit(slots, states, places, self.slots)
            self.limits.admit(slots, free_slots, sentences)
            self.choose.admit(slots, [self.first + sentence.number for sentence in sentences])
            if self.rules:
                self.rules.admit(slots, sentences)
            if self.candidates:
                self.candidates.admit(free_slots, sentences, waiting.next(max(self.slots, AHEAD)))
            self.tokens[slots] = self.engine.setting.first([sentence.source for sentence in sentences])
            if self.scores is not None:
                self.scores[slots] = self.choose.first_scores(torch.zeros_like(self.scores[slots]))
                self.finished.admit(slots)
            self.numbers[free_slots] = [sentence.number for sentence in sentences]
            self.starts[free_slots], self.needs[:, free_slots] = self.clock, each
            self.busy += len(sentences)
        self._look()
        if self.candidates:
            self.candidates.narrow(self.scorer, self.limits)

    def _look(self) -> None:
        """Update what depends on which sentences are in the slots."""
        self.oldest, self.changed = int(self.starts[self.numbers >= 0].min(initial=self.clock)), True

    def _begin(self, like: Tensor) -> None:
        """Make the state of the search before its first step; scores have the dtype of `like`."""
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
        if not self.clean:
            choice = choice._replace(scores=without_nan(choice.scores), end_scores=without_nan(choice.end_scores))
        if self.free and (first := self.limits.done < self.free).any():
            choice = choice._replace(
                log_probabilities=choice.log_probabilities.masked_fill(first, 0),
                scores=choice.scores.masked_fill(first & (choice.scores > NEVER), 0),
            )
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
            if len(self.first_rows) != self.slots:
                rows = torch.arange(self.tokens.numel(), device=self.tokens.device)
                self.first_rows = rows.view_as(self.tokens)[:, :1]
            self.scorer.reorder((self.first_rows + choice.parents).flatten())
        self.limits.advance()
        self.clock += 1

    def look(self) -> None:
        """Begin to read which sentences are finished."""
        if not self.ended and self.choose.first:
            return
        self.ended = False
        done = self.finished.done(self.limits.done, self.limits.longest, self.scores)
        self.done = done.to("cpu", non_blocking=True)  # from a GPU, into page-locked memory
        if done.is_cuda:
            self.copied = torch.cuda.Event()
            self.copied.record()

    def collect(self) -> list[tuple[int, list[Hypothesis]]]:
        """Free the slots of sentences that were finished at the last `look`; returns their numbers and hypotheses."""
        assert self.done is not None
        if self.copied:
            self.copied.synchronize()
        done, self.done = self.done.numpy(), None
        done |= self.limits.host[0] > self.limits.host_longest  # whatever the scores are
        slots = np.flatnonzero(done & (self.numbers >= 0))
        if not slots.size:
            return []
        where = torch.from_numpy(slots).to(self.engine.device)
        scores, ends, end_values = self.finished.best(where)
        ids, values, lengths = self.trellis.paths(slots, self.starts[slots], ends)
        config, results = self.config, []
        longest = self.limits.host_longest[slots].tolist()
        parts = (scores, np.isfinite(scores), lengths, ids, values, end_values)
        columns = [self.numbers[slots].tolist(), longest, *(part.tolist() for part in parts)]
        for number, most, *rows in zip(*columns, strict=True):
            n_best = []
            for score, finite, length, path, each, last in zip(*rows, strict=True):
                if not finite:
                    continue
                each = [*each[:length], last]
                total = sum(each)
                if not self.choose.scored:
                    score = normalised(config, total, len(each))
                n_best.append(Hypothesis(path[:length], score, total, each, length >= most))
            results.append((number, n_best or [Hypothesis.not_finite()]))
        self.numbers[slots], self.needs[:, slots] = -1, 0
        self.busy -= len(slots)
        self._look()
        self.scores[where] = NEVER
        self.scorer.free(where)
        self.limits.free(where, slots)
        if self.candidates:
            self.candidates.free(slots)
        return results

    def shrink(self) -> None:
        """Remove free slots when no sentence waits for one."""
        share = IDLE_SHARE if self.skips else REFILL_SHARE
        if self.busy and self.slots - self.busy >= share * self.slots:
            self._resize(self.busy)
            if self.candidates:
                self.candidates.narrow(self.scorer, self.limits)

    def _resize(self, slots: int) -> None:
        """Change the number of slots to `slots`; those in use become the first ones."""
        used = np.flatnonzero(self.numbers >= 0)
        keep = torch.from_numpy(used).to(self.engine.device)
        self.scorer.release(keep, slots)
        self.limits.release(keep, used, slots)
        self.choose.release(keep, slots)
        if self.rules:
            self.rules.release(keep, slots)
        if self.candidates:
            self.candidates.release(used, slots)
        self.finished.release(keep, slots)
        self.trellis.release(keep, slots, self.clock, self.oldest)
        self.tokens, self.scores = kept(self.tokens, keep, slots), kept(self.scores, keep, slots)
        self.scores[len(used) :] = NEVER
        self.numbers = np.append(self.numbers[used], np.full(slots - len(used), -1))
        self.starts = np.append(self.starts[used], np.zeros(slots - len(used), np.int64))
        self.needs = kept(torch.from_numpy(self.needs), torch.from_numpy(used), slots, 1).numpy()
        self.slots = slots
