"""A searcher without steps: Jacobi decoding (Santilli et al. 2023) guesses all tokens and mends them side by side."""

import dataclasses

import torch

from s2s.config.schema import option
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.limits import bounds, normalised
from s2s.decoding.search.searcher import LENGTHS, RATED, Searcher
from s2s.text.vocabulary import BOS, EOS, PAD, UNK


@dataclasses.dataclass
class JacobiConfig:
    """Options of the search."""

    type: str = option("jacobi", "component")
    rounds: int = option(1000, "times at most that the guesses are mended; fewer than the tokens: it is not exact")


class Jacobi(Searcher):
    """Each round reads the last guess, [1, T], by teacher forcing, and what the model would say at each place is the
    next one. After as many rounds as there are tokens, and mostly sooner, it is what greedy search finds."""

    Config = JacobiConfig
    options = RATED | LENGTHS

    @torch.inference_mode()
    def run(self, sentences, first=0):
        """As of `Searcher`; one sentence at a time."""
        for sentence in sentences:
            if self.setting.tick:
                self.setting.tick()
            yield [(sentence.number, [self._decode(sentence)])]

    def _decode(self, sentence) -> Hypothesis:
        setting, model = self.setting, self.setting.models[0]
        least, most = bounds(self.config, setting.length(sentence.source), 0, self.max_length)
        memory = model.encode(*setting.collate([sentence.source]))
        guess = torch.full((1, most + 1), EOS, device=setting.device)
        for _ in range(min(self.own.rounds, most + 1)):
            x = model.decode(memory, torch.nn.functional.pad(guess[:, :-1], (1, 0), value=BOS)).logits().log_softmax(2)
            masked = x.index_fill(2, guess.new_tensor([PAD, UNK, BOS]), float("-inf"))
            masked[:, :least, EOS] = float("-inf")
            guess, before = masked.argmax(2), guess
            guess[:, most] = EOS  # where a hypothesis has to end
            if torch.equal(guess, before):
                break
        length = int((guess[0] == EOS).int().argmax())
        each = x[0, : length + 1].gather(1, guess[0, : length + 1, None])[:, 0].tolist()
        return Hypothesis(guess[0, :length].tolist(), normalised(self.config, sum(each), len(each)), sum(each), each)
