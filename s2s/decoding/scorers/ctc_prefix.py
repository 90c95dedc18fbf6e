"""CTC prefix scores: how CTC rates the next token in label-synchronous search (Watanabe et al. 2017).

psi of a prefix is the log-probability that a hypothesis begins with it. For each number of frames t, a row keeps the
log-probability of all alignments of the first t frames with its prefix g: label[t] of those that end in a label, and
blank[t] of those that end in the blank. At t = 0 there is only the empty prefix, with blank[0] = 0. Let x_t be the
log-probabilities at frame t, counted from 1. Let phi[t] = label[t] (+) blank[t], or blank[t] if the next label c is
also the last label of g. Extending g by c gives (the recursion of ESPnet)

    label'[t] = (label'[t-1] (+) phi[t-1]) + x_t[c]
    blank'[t] = (label'[t-1] (+) blank'[t-1]) + x_t[blank]
    psi'      = (+) over t of phi[t-1] + x_t[c]

The score of a label is psi' - psi, that of EOS is label[T] (+) blank[T] - psi. The scores of a hypothesis add up to its
log-probability. psi' needs no recursion: label' and blank' are computed for chosen labels only.

The compiled kernels loop over the frames. Without them, label'[t] = X[t] + (+) over u <= t of (phi[u-1] - X[u-1]), X
being the running sum of x[c], and blank' likewise, in fp64: a few operators for all frames.

Shapes: B sentences, K rows per sentence, C candidates per row, V symbols, S frames, T frames of a sentence.
"""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from s2s.backends.prepare import is_native
from s2s.config.schema import option
from s2s.data.batch import Inputs
from s2s.decoding.ctc import BLANK
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.scorers.scorer import PartialScorer
from s2s.models.contract import Memory
from s2s.native.library import call
from s2s.nn.slots import kept
from s2s.text.vocabulary import EOS

FLOOR = -1e30  # in place of minus infinity, where differences are computed
LEAST = -1e5  # lower bound of the log-probabilities of a frame


class PrefixScores:
    """The state of the rows' prefixes, with the methods of a DecoderState.

    Args:
        log_probabilities: [B, S, V].
        lengths: [B] int64, frames.
        rows: K.
        native: Whether to use the compiled kernels, in fp32 on a CPU.

    Attributes:
        x: [B, V, S]; values after a sentence's last frame are ignored.
        tables: [B, 2, 1 + S, K], label and blank.
        last: [B, K] int64, last label; BLANK: there is none.
        psi: [B, K].
    """

    def __init__(self, log_probabilities: Tensor, lengths: Tensor, rows: int, native: bool):
        B, S, _ = log_probabilities.shape
        self.lengths, self.rows, self.native = lengths, rows, native
        x = log_probabilities if log_probabilities.dtype == torch.float64 and not native else log_probabilities.float()
        self.x = x.clamp(min=LEAST).transpose(1, 2).contiguous()
        silence = self.x[:, BLANK].to(torch.float32 if native else torch.float64)
        tables = silence.new_full((B, 2, 1 + S, rows), FLOOR)
        tables[:, 1] = torch.nn.functional.pad(silence.cumsum(1), (1, 0))[:, :, None]
        self.tables = tables
        self.last = torch.full((B, rows), BLANK, device=lengths.device)
        self.psi = tables.new_zeros(B, rows)

    def score(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the candidates of each row, and of EOS.

        Args:
            tokens: [B, K, C] int64, the candidates.

        Returns:
            [B, K, C] and [B, K]; -inf for a label for which there are too few frames.
        """
        (B, K, C), S = tokens.shape, self.x.size(2)
        values, ends = self.psi.new_empty(B, K, C), torch.empty_like(self.psi)
        if self.native:
            call("ctc_score", self.x, self.lengths, self.tables, self.last, self.psi, tokens.contiguous(), values, ends)
            return values, ends
        either, blank = (table.transpose(1, 2) for table in (self._either, self.tables[:, 1]))  # [B, K, 1 + S]
        again = (tokens == self.last[:, :, None])[:, :, :, None]
        before = torch.where(again, blank[:, :, None, :S], either[:, :, None, :S])  # [B, K, C, S]
        added = self.x.gather(1, tokens.flatten(1)[:, :, None].expand(-1, -1, S)).view(B, K, C, S)
        valid = torch.arange(S, device=tokens.device) < self.lengths[:, None]
        psi = (before + added).masked_fill(~valid[:, None, None], FLOOR).logsumexp(3)
        values = torch.where(psi > FLOOR / 10, psi - self.psi[:, :, None], NEVER)
        place = self.lengths[:, None, None].expand(-1, K, 1)
        return values, either.gather(2, place).squeeze(2) - self.psi

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        """Row k of a sentence becomes row parents[:, k], extended by the label tokens[:, k]; both [B, K] int64."""
        S = self.x.size(2)
        if self.native:
            tables, last, psi = torch.empty_like(self.tables), torch.empty_like(self.last), torch.empty_like(self.psi)
            call("ctc_advance", self.x, self.lengths, self.tables, self.last, parents.contiguous(),
                 tokens.contiguous(), tables, last, psi)  # fmt: skip
            self.tables, self.last, self.psi = tables, last, psi
            return
        from_rows = parents[:, None].expand(-1, S, -1)
        again = (tokens == self.last.gather(1, parents))[:, None]
        blank, either = (table[:, :S].gather(2, from_rows) for table in (self.tables[:, 1], self._either))
        before = torch.where(again, blank, either)  # [B, S, K]
        added = self.x.gather(1, tokens[:, :, None].expand(-1, -1, S)).transpose(1, 2).double()
        valid = torch.arange(S, device=tokens.device) < self.lengths[:, None]
        self.psi = (before + added).masked_fill(~valid[:, :, None], FLOOR).logsumexp(1)
        label = _carried(before, added)
        silence = self.x[:, BLANK, :, None].double()
        blank = _carried(torch.nn.functional.pad(label[:, :-1], (0, 0, 1, 0), value=FLOOR), silence)
        self.tables = torch.nn.functional.pad(torch.stack([label, blank], dim=1), (0, 0, 1, 0), value=FLOOR)
        self.last = tokens

    @property
    def _either(self) -> Tensor:
        """label (+) blank, [B, 1 + S, K]."""
        return torch.logaddexp(self.tables[:, 0], self.tables[:, 1])

    def empty(self, slots: int) -> "PrefixScores":
        """As DecoderState.empty."""
        state = PrefixScores(self.x[:0].transpose(1, 2), self.lengths[:0], self.rows, self.native)
        state.release(torch.arange(0, device=self.x.device), slots)
        return state

    def reorder(self, parents: Tensor) -> None:
        """As DecoderState.reorder; parents [R], each b*K + k."""
        parents = parents.view(-1, self.rows) % self.rows
        self.tables = self.tables.gather(3, parents[:, None, None].expand_as(self.tables))
        self.last, self.psi = self.last.gather(1, parents), self.psi.gather(1, parents)

    def admit(self, slots: Tensor, other: "PrefixScores", which: Tensor) -> None:
        """As DecoderState.admit."""
        size, wanted = self.x.size(2), other.x.size(2)
        if wanted > size:
            self.x = torch.nn.functional.pad(self.x, (0, wanted - size))
            self.tables = torch.nn.functional.pad(self.tables, (0, 0, 0, wanted - size))
        self.x[slots, :, :wanted] = other.x[which]
        self.tables[slots, :, : wanted + 1] = other.tables[which]
        self.lengths[slots], self.last[slots], self.psi[slots] = other.lengths[which], BLANK, 0.0

    def release(self, keep: Tensor, slots: int) -> None:
        """As DecoderState.release."""
        size = int(self.lengths[keep].amax()) if len(keep) else 0
        self.x, self.tables = self.x[:, :, :size], self.tables[:, :, : 1 + size]
        for name in ("x", "lengths", "tables", "last", "psi"):
            setattr(self, name, kept(getattr(self, name), keep, slots))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in (self.x, self.tables))


def _carried(terms: Tensor, added: Tensor) -> Tensor:
    """y[t] = (y[t-1] (+) terms[t]) + added[t] over the frames: both [B, S, K] or [B, S, 1]."""
    total = added.cumsum(1)
    return total + (terms - (total - added)).logcumsumexp(1)


def token_log_probabilities(state: PrefixScores, targets: list[list[list[int]]]) -> list[list[list[float]]]:
    """Log-probabilities of the labels and EOS of given hypotheses; they add up to CTC's log-probability of a
    hypothesis.

    Args:
        state: A new state; it is changed.
        targets: Labels of up to K hypotheses of each sentence.
    """
    B, K = state.last.shape
    longest = max((len(ids) for n_best in targets for ids in n_best), default=0)
    device = state.last.device
    padded = torch.full((B, K, longest), BLANK)
    for b, n_best in enumerate(targets):
        for k, ids in enumerate(n_best):
            padded[b, k, : len(ids)] = torch.as_tensor(ids)
    padded, own, steps = padded.to(device), torch.arange(K, device=device).expand(B, K), []
    for t in range(longest + 1):
        tokens = padded[:, :, min(t, longest - 1) :][:, :, :1] if longest else own.new_full((B, K, 1), BLANK)
        values, ends = state.score(tokens)
        steps.append(torch.cat([values, ends[:, :, None]], dim=2))
        if t < longest:
            state.advance(own, tokens[:, :, 0])
    table = torch.stack(steps, dim=2).tolist()  # [B, K, longest + 1, 2]
    return [
        [[row[t][0] for t in range(len(ids))] + [row[len(ids)][1]] for ids, row in zip(n_best, rows, strict=False)]
        for n_best, rows in zip(targets, table, strict=True)
    ]


@dataclasses.dataclass
class CtcScorerConfig:
    """Options of joint decoding."""

    type: str = option("ctc", "component")
    weight: float = option(0.3, "weight of CTC; the decoder has the rest", at_least=0, below=1)


class CtcScorer(PartialScorer):
    """Joint decoding with attention and CTC (Watanabe et al. 2017).

    The score of a token is (1 - w) * log p of the decoder + w * CTC prefix score, w being `decode.ctc_weight`. CTC has
    hardly an alignment for a hypothesis that leaves out or repeats speech, and so vetoes it. A hypothesis with as many
    labels as there are frames can only end.

    Attributes:
        prefixes: State of the rows' prefixes.
    """

    Config = CtcScorerConfig
    without: ClassVar = {
        "diverse_groups": "CTC scores the candidates of a single beam",
        "constraints": "CTC scores the candidates of a plain beam",
        "several_models": "CTC scores belong to one model",
    }
    leave_out = "; decode.ctc_weight=0 leaves CTC out"
    shares = falls = True

    def __init__(self, config: CtcScorerConfig, loaded: None, setting):
        super().__init__(config, loaded, setting)
        self.weight, self.prefixes, self.model = config.weight, None, setting.models[0]
        self.native = is_native(self.model)

    def prepare(self, inputs: Inputs, memories: list[Memory], rows: int) -> PrefixScores:
        (memory,) = memories
        return PrefixScores(self.model.ctc_log_probabilities(memory), memory.lengths, rows, self.native)

    def admit(self, slots: Tensor, prepared: PrefixScores, which: Tensor, size: int) -> None:
        if self.prefixes is None:
            self.prefixes = prepared.empty(size)
        self.prefixes.admit(slots, prepared, which)

    def rate(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.prefixes.score(tokens)

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        self.prefixes.advance(parents, tokens)

    def score(self, inputs: Inputs, memories: list[Memory], decoder_input: Tensor,
              target: Tensor) -> Tensor:  # fmt: skip
        targets = [[row[: row.index(EOS)]] for row in target.tolist()]
        values = torch.zeros(target.shape, dtype=torch.float64)
        each = token_log_probabilities(self.prepare(inputs, memories, 1), targets)
        for row, (scores,) in zip(values, each, strict=True):
            row[: len(scores)] = torch.tensor(scores, dtype=torch.float64)
        return values.to(target.device)

    def release(self, keep: Tensor, slots: int) -> None:
        self.prefixes.release(keep, slots)

    def close(self) -> None:
        self.prefixes = None

    @property
    def nbytes(self) -> int:
        return self.prefixes.nbytes
