"""Decoding by CTC alone, `decode.ctc_weight=1`, without a decoder.

The score of a hypothesis is its log-probability, without length normalisation: every hypothesis explains all frames,
however many labels it has. Its length is limited by the number of frames, not by options.

Shapes: B sentences, S frames, V symbols.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from s2s.backends.prepare import has_kernels
from s2s.data.batch import Inputs
from s2s.decoding.budget import together
from s2s.decoding.config import DecodeConfig
from s2s.decoding.ctc import BLANK, best_path, prefix_beam_search
from s2s.decoding.hypothesis import NEVER, Hypothesis
from s2s.decoding.scorers.ctc_prefix import PrefixScores, token_log_probabilities
from s2s.decoding.scorers.language_model import LanguageModelScorer, PrefixBonus
from s2s.decoding.sentence import Sentence
from s2s.decoding.setting import Setting
from s2s.errors import UserError
from s2s.text.vocabulary import EOS

Ids = list[int]


class CtcDecoder:
    """Decodes sentences by the best path (beam_size=1) or by prefix beam search.

    Args:
        config: Decode options.
        setting: One model with CTC, and perhaps a language model as a scorer.

    Raises:
        UserError: there is more than one scorer.
    """

    def __init__(self, config: DecodeConfig, setting: Setting):
        self.config, self.setting, self.model = config, setting, setting.models[0]
        if len(setting.scorers) > 1:
            raise UserError("CTC alone (decode.ctc_weight=1) goes with one language model, not with several")
        self.language_model: LanguageModelScorer | None = next(iter(setting.scorers), None)

    @torch.inference_mode()
    def run(self, sentences: list[Sentence], first: int = 0) -> Iterator[list[tuple[int, list[Hypothesis]]]]:
        """As Engine.run; the sentences must be sorted by falling length."""
        lengths = np.array([self.setting.positions(sentence.source) for sentence in sentences])
        each, start = np.stack([lengths, lengths]), 0  # no hypothesis has more labels than frames
        while start < len(sentences):
            batch = sentences[start : start + together(self.config, each[:, start:])]
            start += len(batch)
            if self.setting.tick:
                self.setting.tick()
            x, lengths, broken = self._frames(self.setting.collate([sentence.source for sentence in batch]))
            results = zip(batch, self._decode(x, lengths), broken, strict=True)
            yield [(sentence.number, [Hypothesis.not_finite()] if failed or not n_best else n_best)
                   for sentence, n_best, failed in results]  # fmt: skip

    def _frames(self, inputs: Inputs) -> tuple[Tensor, Tensor, list[bool]]:
        """Encode sentences.

        Returns:
            Log-probabilities [B, S, V], numbers of frames [B], and for each sentence whether it has a NaN. Frames of
            such a sentence are replaced by blanks, so that the others can be decoded.
        """
        memory = self.model.encode(*inputs)
        x = self.model.ctc_log_probabilities(memory)
        valid = torch.arange(x.size(1), device=x.device) < memory.lengths[:, None]
        broken = (x.isnan().any(2) & valid).any(1).tolist()
        if any(broken):
            x, rows = x.clone(), np.flatnonzero(broken)
            x[rows] = NEVER
            x[rows, :, BLANK] = 0
        return x, memory.lengths, broken

    def _decode(self, x: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        config = self.config
        bonus = None
        if self.language_model:
            bonus = PrefixBonus(self.language_model.model, self.language_model.weight, (len(x), config.beam_size))
        elif config.beam_size == 1 and not config.word_reward:
            return [[hypothesis] for hypothesis in best_path(x, lengths, config.allow_unknown)]
        beams = prefix_beam_search(x, lengths, config.beam_size, config.allow_unknown, bonus, config.word_reward)
        # The search dropped some alignments; these are the sums over all of them.
        values = self._each(x, lengths, [[ids for ids, _, _ in beam] for beam in beams])
        results = []
        for beam, rows in zip(beams, values, strict=True):
            n_best = [Hypothesis(ids, sum(each) + bonus, sum(each), each)
                      for (ids, _, bonus), each in zip(beam, rows, strict=True)]  # fmt: skip
            n_best = [hypothesis for hypothesis in n_best if not math.isnan(hypothesis.score)]  # by the language model
            results.append(sorted(n_best, key=lambda hypothesis: -hypothesis.score)[: config.n_best])
        return results

    def _each(self, x: Tensor, lengths: Tensor, targets: list[list[Ids]]) -> list[list[list[float]]]:
        rows = max(1, *map(len, targets))
        state = PrefixScores(x, lengths, rows, has_kernels(self.model, self.config.backend))
        return token_log_probabilities(state, targets)

    def score(self, inputs: Inputs, decoder_input: Tensor, target: Tensor) -> Tensor:
        """As ModelScorer.score."""
        targets = [[row[: row.index(EOS)]] for row in target.tolist()]
        values = torch.zeros(target.shape, dtype=torch.float64)
        x, lengths, broken = self._frames(inputs)
        for row, (each,) in zip(values, self._each(x, lengths, targets), strict=True):
            row[: len(each)] = torch.tensor(each, dtype=torch.float64)
        values[broken] = math.nan
        if self.language_model:
            values += self.language_model.weight * self.language_model.score(inputs, [], decoder_input, target).cpu()
        return values
