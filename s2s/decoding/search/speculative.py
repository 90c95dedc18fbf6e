"""Speculative decoding: the model checks several guessed tokens at once. It is exact for greedy search.

A round guesses k tokens for each sentence, by a smaller model (Leviathan et al. 2023), by a part of the model
(s2s/nn/nested.py) or by copying from the source.
One pass of the decoder over the last token and the guesses computes what greedy search would choose at each of these
positions. Guesses are accepted as long as they agree with these choices, and so is the choice after them: 1 to k + 1
tokens per pass. The hypotheses are those of beam_size=1, whatever the guesses are, up to ties within rounding.

On a CPU, sentences are decoded one at a time unless `decode.slots` is set. For one sentence, most of the time goes into
reading the weights, and further positions cost little. With four sentences, a pass over five positions takes as long as
several steps.

Shapes: B sentences, k guesses, T = k + 1 positions of a pass, S source positions (EOS among them), L tokens so far.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from s2s.backends.prepare import is_native
from s2s.data.batch import Inputs
from s2s.decoding.budget import together
from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.limits import Limits, needs, normalised
from s2s.decoding.sentence import Sentence
from s2s.decoding.setting import Setting
from s2s.errors import UserError
from s2s.models.claims import lacks_blocks
from s2s.models.contract import Memory
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.text.vocabulary import BOS, EOS, PAD, UNK

MATCH = 4  # maximum number of last tokens to match with the source

Ids = list[int]


class Copying:
    """Guesses by copying the source from the end of its longest match with the last tokens.

    Of several longest matches, the one nearest to the end of the last guess is taken. Without a match, the last token
    is assumed to replace one source token.
    """

    def __init__(self, sources: list[Ids]):
        S = max(map(len, sources)) + 1
        self.source = np.full((len(sources), S + 1), -1)  # [B, 1 + S], BOS first, EOS last
        for row, ids in zip(self.source, sources, strict=True):
            row[: len(ids) + 2] = [BOS, *ids, EOS]
        self.next = np.ones(len(sources), np.int64)  # position from which to copy if nothing matches

    def guess(self, history: np.ndarray, lengths: np.ndarray, k: int, forced: Callable) -> np.ndarray:
        """Guess the next k tokens of each sentence, [B, k].

        Args:
            history: [B, L], tokens so far.
            lengths: [B], how many of them there are.
            k: Tokens to guess.
            forced: Not used here.
        """
        B, size = self.source.shape
        rows = np.arange(B)
        same, matched = np.ones((B, size), bool), np.zeros((B, size), np.int64)
        for back in range(MATCH):
            at = lengths - 1 - back
            token = np.where(at >= 0, history[rows, at.clip(min=0)], -2)
            shifted = np.full((B, size), -3)
            shifted[:, back:] = self.source[:, : size - back]
            same &= shifted == token[:, None]
            matched += same
        distance = np.abs(np.arange(size) + 1 - self.next[:, None])
        best = (matched * 2 * size - distance).argmax(axis=1)
        self.start = np.where(matched[rows, best] > 0, best + 1, self.next)
        places = self.start[:, None] + np.arange(k)
        copied = np.take_along_axis(self.source, places.clip(max=size - 1), axis=1)
        return np.where((places < size) & (copied >= 0), copied, EOS)

    def settle(self, counts: np.ndarray) -> None:
        """Record how many new tokens were accepted; counts: [B]."""
        self.next = self.start + counts

    def release(self, keep: np.ndarray) -> None:
        """Keep these sentences, and drop the others; keep: bool [B]."""
        self.source, self.next = self.source[keep], self.next[keep]


class Drafting:
    """Guesses by a smaller model, the draft."""

    def __init__(self, model: EncoderDecoder, memory: Memory, forbidden: Tensor):
        self.model, self.forbidden = model, forbidden
        self.state = model.start(memory, 1)

    def guess(self, history: np.ndarray, lengths: np.ndarray, k: int, forced: Callable) -> np.ndarray:
        """Guess the next k tokens of each sentence, [B, k].

        Args:
            history: [B, L], tokens so far.
            lengths: [B], how many of them there are.
            k: Tokens to guess.
            forced: forced(tokens, i) replaces tokens [B] at position lengths + i that are dictated by a prefix or by
                the maximum length.
        """
        tokens, guesses = history[np.arange(len(history)), lengths - 1], []
        device = self.forbidden.device
        for i in range(k + 1):  # the last step only completes the cache
            logits = self.model.step(torch.from_numpy(tokens).to(device), self.state)
            if i < k:
                tokens = forced(logits.index_fill_(1, self.forbidden, float("-inf")).argmax(1).cpu().numpy(), i)
                guesses.append(tokens)
        self.taken = k + 1
        return np.stack(guesses, axis=1) if k else np.zeros((len(history), 0), np.int64)

    def settle(self, counts: np.ndarray) -> None:
        """Record how many new tokens were accepted; counts: [B]."""
        self.state.rewind(torch.from_numpy(self.taken - counts).to(self.forbidden.device))

    def release(self, keep: np.ndarray) -> None:
        """Keep these sentences, and drop the others; keep: bool [B]."""
        self.state.release(torch.from_numpy(np.flatnonzero(keep)).to(self.forbidden.device), int(keep.sum()))


class SelfDrafting:
    """Guesses by a part of the model. Both have the same attention, so the part continues the state of the model, which
    then computes the positions of the guesses anew. A part with kernels has a state of its own (Drafting), because one
    of their steps takes less time than a block of one position.

    Args:
        part: The part of the model, prepared for decoding.
        state: The state of the model.
        forbidden: As in Drafting.
    """

    def __init__(self, part: EncoderDecoder, state, forbidden: Tensor):
        self.part, self.state, self.forbidden = part, state, forbidden

    def guess(self, history: np.ndarray, lengths: np.ndarray, k: int, forced: Callable) -> np.ndarray:
        """As Drafting.guess."""
        tokens, device = history[np.arange(len(history)), lengths - 1], self.forbidden.device
        guesses = np.zeros((len(history), k), np.int64)
        for i in range(k):
            logits = self.part.step_block(torch.from_numpy(tokens).to(device)[:, None], self.state)[:, 0]
            tokens = forced(logits.index_fill_(1, self.forbidden, float("-inf")).argmax(1).cpu().numpy(), i)
            guesses[:, i] = tokens
        self.state.rewind(torch.full((len(history),), k, device=device))
        return guesses

    def settle(self, counts: np.ndarray) -> None:
        """Nothing to do: the state is the model's."""

    def release(self, keep: np.ndarray) -> None:
        """As `settle`."""


class Speculative:
    """Decodes sentences by speculative greedy search.

    Args:
        config: Decode options.
        setting: One model; `loaded` has the draft for `decode.speculative=draft`, and the slice for `self`.

    Raises:
        UserError: a model cannot advance by several tokens, or the draft does not fit the model.
    """

    def __init__(self, config: DecodeConfig, setting: Setting):
        draft, model = setting.loaded.get("draft"), setting.models[0]
        draft = draft and setting.prepare(draft)
        if reason := lacks_blocks(model):
            raise UserError(f"decode.speculative: the model cannot advance by several tokens at once: {reason}")
        if draft is not None and draft.target_vocabulary_size != model.target_vocabulary_size:
            raise UserError(f"draft: has {draft.target_vocabulary_size} target symbols, "
                            f"the model {model.target_vocabulary_size}")  # fmt: skip
        self.model, self.draft, self.config, self.setting, self.device = model, draft, config, setting, setting.device
        self.slice = setting.loaded.get("slice")
        limits = [each.max_length for each in (model, draft) if each is not None and each.max_length is not None]
        self.most = min(limits, default=None)
        if draft is not None and self.most != model.max_length:
            raise UserError(f"draft: takes at most {draft.max_length} tokens (model.max_positions), "
                            f"the model {model.max_length or 'any number'}")  # fmt: skip
        forbidden = [PAD, BOS] if config.allow_unknown else [PAD, UNK, BOS]
        self.forbidden = torch.tensor(forbidden, device=self.device)

    @torch.inference_mode()
    def run(self, sentences: list[Sentence], first: int = 0) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
        """As Engine.run."""
        config = self.config
        if config.slots is None and self.device.type == "cpu":
            config = replace(config, slots=1)  # the fastest
        each, start = needs(sentences, config, self.setting, self.model.max_length), 0
        while start < len(sentences):
            batch = sentences[start : start + together(config, each[:, start:])]
            start += len(batch)
            yield from self._run(batch)

    def _run(self, sentences: list[Sentence]) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
        """Decode sentences together."""
        sources = [sentence.source for sentence in sentences]
        inputs = self.setting.collate(sources)
        memory = self.model.encode(*inputs)
        state = self.model.start_blocks(memory)
        guesser = self._guesser(sources, inputs, memory, state)
        bounds = Limits(self.config, len(sentences), sentences, "cpu", self.model.max_length, self.setting.length)
        slots = np.arange(len(sentences))
        bounds.admit(torch.from_numpy(slots), slots, sentences)
        _, shortest, longest, starts = bounds.host
        prefix = bounds.prefix.numpy() if bounds.prefix.size(1) else np.zeros((len(sentences), 1), np.int64)
        numbers = np.array([sentence.number for sentence in sentences])
        history = np.full((len(sentences), 2 + bounds.steps + self.config.speculative_tokens), EOS)  # BOS first
        first = self.setting.first(sources)
        history[:, :1] = first if isinstance(first, int) else first.cpu()
        values = np.zeros(history.shape)
        lengths, passes = np.ones(len(sentences), np.int64), 0

        def forced(tokens: np.ndarray, i: int) -> np.ndarray:
            place = lengths - 1 + i
            start = prefix[np.arange(len(prefix)), place.clip(max=prefix.shape[1] - 1)]
            return np.where(place < starts, start, np.where(place < longest, tokens, EOS))

        while len(numbers):
            if self.setting.tick:
                self.setting.tick()
            k = self.config.speculative_tokens
            if self.most is not None:  # no guess may be beyond the last position
                k = min(k, max(0, self.most - int(lengths.max())))
            guesses = guesser.guess(history, lengths, k, forced)
            guesses = np.stack([forced(guesses[:, i], i) for i in range(k)], axis=1) if k else guesses
            last = history[np.arange(len(numbers)), lengths - 1]
            block = torch.from_numpy(np.concatenate([last[:, None], guesses], axis=1)).to(self.device)
            logits = self.model.step_block(block, state)
            places = (lengths - 1)[:, None] + np.arange(k + 1)  # tokens before each position of the block
            tokens, chosen = self._choose(logits, places < shortest[:, None], forced)
            right = np.cumprod(guesses == tokens[:, :k], axis=1).sum(axis=1)  # accepted guesses
            ended = tokens == EOS
            end = np.where(ended.any(axis=1), ended.argmax(axis=1), k + 1)
            counts = np.minimum(right, end) + 1  # tokens that are new
            for i in range(k + 1):
                new = np.flatnonzero(i < counts)
                history[new, lengths[new] + i], values[new, lengths[new] + i] = tokens[new, i], chosen[new, i]
            state.rewind(torch.from_numpy(k + 1 - counts).to(self.device))
            guesser.settle(counts)
            lengths, passes = lengths + counts, passes + 1
            if not (done := end <= right).any():
                continue
            yield [self._result(*row, passes) for row in zip(
                numbers[done], history[done], values[done], lengths[done], longest[done], strict=True)]  # fmt: skip
            live = ~done
            keep = torch.from_numpy(np.flatnonzero(live)).to(self.device)
            state.release(keep, len(keep))
            guesser.release(live)
            numbers, history, values, lengths, prefix, shortest, longest, starts = (
                array[live] for array in (numbers, history, values, lengths, prefix, shortest, longest, starts)
            )

    def _guesser(self, sources: list[Ids], inputs: Inputs, memory: Memory, state) -> Copying | Drafting | SelfDrafting:
        """What guesses for these sentences; memory, state: of the model."""
        if self.slice is not None and is_native(self.slice):
            return Drafting(self.slice, memory, self.forbidden)
        if self.slice is not None:
            return SelfDrafting(self.slice, state, self.forbidden)
        if self.draft is None:
            return Copying(sources)
        return Drafting(self.draft, self.draft.encode(*inputs), self.forbidden)

    def _choose(self, logits: Tensor, early: np.ndarray, forced: Callable) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of greedy search, [B, T], and their log-probabilities.

        Args:
            logits: [B, T, V].
            early: Bool [B, T], where EOS is not allowed.
            forced: As in `Drafting.guess`.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        normalizer = logits.logsumexp(dim=2, keepdim=True)
        masked = logits.index_fill(2, self.forbidden, float("-inf"))
        masked[:, :, EOS].masked_fill_(torch.from_numpy(early).to(self.device), float("-inf"))
        tokens = masked.argmax(dim=2).cpu().numpy()
        tokens = np.stack([forced(tokens[:, i], i) for i in range(tokens.shape[1])], axis=1)
        chosen = logits.gather(2, torch.from_numpy(tokens).to(self.device)[:, :, None]) - normalizer
        return tokens, chosen[:, :, 0].double().cpu().numpy()

    def _result(self, number: int, history: np.ndarray, values: np.ndarray, length: int, longest: int, passes: int):
        """A finished sentence, as `run` yields it."""
        each = values[1:length].tolist()
        total = sum(each)
        if not np.isfinite(total):
            return int(number), [Hypothesis.not_finite()]
        score = float(normalised(self.config, total, len(each)))
        ids = history[1 : length - 1].tolist()
        return int(number), [Hypothesis(ids, score, total, each, bool(len(ids) >= longest), passes=passes)]
