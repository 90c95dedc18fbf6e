"""A rule: an acrostic. The words of a hypothesis begin with the letters of a name, and it has as many."""

import dataclasses

import torch

from s2s.config.schema import option
from s2s.decoding.rules.rule import Rule
from s2s.errors import UserError
from s2s.text.vocabulary import EOS


@dataclasses.dataclass
class AcrosticConfig:
    """Options of the rule."""

    type: str = option("acrostic", "component")
    name: str = option("", "its letters; a word is a token")


class Acrostic(Rule):
    """Which tokens there may be at each place: bool [letters + 1, V], the last row the end alone."""

    Config = AcrosticConfig

    @classmethod
    def load(cls, config: AcrosticConfig, task, device):
        """The table, made once for any number of searches."""
        symbols = task.target_tokenizer.vocabulary.symbols
        allowed = torch.zeros(len(config.name) + 1, len(symbols), dtype=torch.bool)
        for place, letter in enumerate(config.name):
            allowed[place] = torch.tensor([symbol.startswith(letter) for symbol in symbols])
            if not allowed[place].any():
                raise UserError(f"decode.rules: acrostic: no word begins with '{letter}'")
        allowed[-1, EOS] = True
        return allowed.to(device)

    def __init__(self, config: AcrosticConfig, loaded, setting):
        super().__init__(config, loaded, setting)
        self.allowed = loaded

    def __call__(self, logits, history, limits):
        """Mask logits [R, V] at the place of each row's next token."""
        places = limits.done.clamp(max=len(self.allowed) - 1)  # [B, 1]
        rows = len(logits) // len(places)
        logits.masked_fill_(~self.allowed[places.expand(-1, rows).flatten()], float("-inf"))
