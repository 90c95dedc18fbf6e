"""`decode.allowed`: a list of allowed outputs, as a trie. The search can produce no other output.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, E edges of the trie.
"""

import dataclasses
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.decoding.companions import read_phrases
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.rules.rule import Rule
from s2s.decoding.search.choice import Choice
from s2s.decoding.sentence import Sentence
from s2s.nn.slots import kept
from s2s.text.vocabulary import EOS, PAD

Ids = list[int]


@dataclasses.dataclass
class AllowedOutputsConfig:
    """Options of the rule."""

    type: str = option("allowed", "component")
    file: str | None = option(None, "file of the only allowed outputs, one per line")


class AllowedOutputs(Rule):
    """Every hypothesis is one of the allowed outputs. Length limits do not apply."""

    Config = AllowedOutputsConfig
    without: ClassVar = {
        "rules": "the list alone decides which outputs are allowed",
        "prefix": "both decide how outputs begin",
        "constraints": "the list alone decides which outputs are allowed",
    }

    @classmethod
    def load(cls, config: AllowedOutputsConfig, task, device: torch.device) -> list[Ids]:
        return read_phrases("decode.allowed", config.file, task.encode_target, needed=True)

    def __init__(self, config: AllowedOutputsConfig, loaded: list[Ids], setting):
        super().__init__(config, loaded, setting)
        outputs, device = loaded, setting.device
        self.lengths = min(map(len, outputs)), max(map(len, outputs))
        edges: dict[tuple[int, int], int] = {}  # node, token -> node; 0 is the root
        for output in outputs:
            node = 0
            for token in (*output, EOS):
                node = edges.setdefault((node, token), len(edges) + 1)
        pairs = np.array(list(edges))  # [E, 2]
        keys = pairs[:, 0] << 32 | pairs[:, 1]
        order = keys.argsort()
        self.keys = torch.from_numpy(keys[order]).to(device)
        self.tokens = torch.from_numpy(pairs[order, 1]).to(device)
        self.children = torch.from_numpy(order + 1).to(device)  # edge n (from 0) leads to node n + 1
        self.nowhere = len(edges) + 1
        nodes = torch.arange(self.nowhere + 2, device=device)
        self.firsts = torch.searchsorted(self.keys, nodes << 32)  # edges of node n: firsts[n] up to firsts[n + 1]
        self.width, self.largest = int(np.bincount(pairs[:, 0]).max()), int(pairs[:, 1].max())  # edges of a node; token

    def start(self, slots: int, rows: int) -> None:
        self.nodes = torch.zeros(slots, rows, dtype=torch.int64, device=self.keys.device)

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        first, end = self.firsts[self.nodes.flatten()], self.firsts[self.nodes.flatten() + 1]
        # The host waits for no number of a GPU, where the widest node counts.
        width = self.width if logits.is_cuda else int((end - first).max())
        place = first[:, None] + torch.arange(width, device=first.device)
        inside = place < end[:, None]
        tokens = self.tokens[place.clamp(max=len(self.tokens) - 1)]
        if self.largest >= logits.size(1):
            inside &= tokens < logits.size(1)
        tokens = tokens.where(inside, PAD)  # PAD is never allowed
        values = logits.gather(1, tokens).masked_fill(~inside, NEVER)
        logits.fill_(NEVER).scatter_(1, tokens, values)

    def advance(self, choice: Choice) -> None:
        nodes = self.nodes if choice.parents is None else self.nodes.gather(1, choice.parents)
        keys = nodes << 32 | choice.tokens
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        self.nodes = torch.where(self.keys[place] == keys, self.children[place], self.nowhere)  # only dead rows

    def admit(self, slots: Tensor, sentences: list[Sentence]) -> None:
        self.nodes[slots] = 0

    def release(self, keep: Tensor, slots: int) -> None:
        self.nodes = kept(self.nodes, keep, slots)
