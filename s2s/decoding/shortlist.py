"""`decode.shortlist`: restricts the output layer to likely target symbols, which saves computation.

The candidates of a sentence are the special symbols, the most frequent target symbols, the most probable translations
of each of its symbols (see s2s/decoding/lexicon.py) and its forced prefix. Logits are computed for the candidates of
all sentences in the slots. Before a sentence's probabilities are normalised, symbols that are not its own candidates
are masked, so its hypotheses do not depend on the other sentences.

Shapes: B slots, V target vocabulary, V' symbols of the output product.
"""

import hashlib
import json
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from s2s.config.streams import content, is_there, opened
from s2s.data.store import Store, Stores
from s2s.decoding import lexicon
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.errors import UserError
from s2s.text.vocabulary import EOS, SPECIALS

FORMATS = ("1", "2")  # formats that can be read; the last one is written, format 1 has no hash
# Packing rows of the output layer is costly, so it is done for at least this many of the next sentences.
AHEAD = 64


class Shortlist:
    """Candidates by source symbol.

    Attributes:
        without: As in `Component`.

    Args:
        translations: Int32 [source symbols, n], target symbols; EOS where there are fewer than n.
        frequent: Int32 [m], target symbols that are candidates of all sentences.
        vocabularies: Digests of the source and the target vocabulary.
        symbols: V.
    """

    without: ClassVar = dict.fromkeys(["rules", "scorers", "constraints"], "a shortlist changes the ids of symbols")

    def __init__(self, translations: np.ndarray, frequent: np.ndarray, vocabularies: tuple[str, str], symbols: int):
        self.translations, self.frequent, self.vocabularies = translations, frequent, vocabularies
        self.always = np.zeros(symbols, bool)
        self.always[: len(SPECIALS)] = self.always[frequent] = True

    @classmethod
    def learn(
        cls, store: Store | Stores, split: str, candidates: int, frequent: int, iterations: int, pairs: int,
        progress: lexicon.Progress = lambda sentences: None,
    ) -> "Shortlist":  # fmt: skip
        """Learn from a split of a store.

        Args:
            store: A store or several.
            split: Name of the split.
            candidates: n.
            frequent: m.
            iterations, pairs, progress: As in `lexicon.translation_probabilities`, which is called once.

        Raises:
            UserError: the split has no pair of sentences, or the sources of the store are not text.
        """
        tokenizers = store.tokenizers()
        if not {"source", "target"} <= tokenizers.keys():
            raise UserError("a shortlist is learned from pairs of texts; the sources of this store are not text")
        text, source, target = store.split(split), tokenizers["source"].vocabulary, tokenizers["target"].vocabulary
        keys, probabilities = lexicon.translation_probabilities(text, len(target), iterations, pairs, progress)
        if not len(keys):
            raise UserError(f"split '{split}' has no pair of sentences to learn from")
        best = lexicon.most_probable(keys, probabilities, len(source), len(target), candidates, EOS)
        counts = np.zeros(len(target), np.int64)
        for numbers in lexicon.blocks(len(text), pairs):
            counts += np.bincount(text.gather("target.tokens", numbers)[0], minlength=len(target))
        counts[: len(SPECIALS)] = 0
        most = np.argsort(-counts, kind="stable")[: min(frequent, int((counts > 0).sum()))]
        return cls(best, most.astype(np.int32), (source.digest, target.digest), len(target))

    def save(self, path: str) -> None:
        """Write a file, which appears only when it is complete. Raises as `opened`."""
        facts = dict(zip(("source", "target"), self.vocabularies, strict=True))
        facts |= {"format": FORMATS[-1], "sha256": _hash(self.translations, self.frequent)}
        content = save({"translations": self.translations, "frequent": self.frequent}, facts)
        with opened(path) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str, task) -> "Shortlist":
        """Read a file that `save` has written.

        Raises:
            UserError: there is no such file, it is damaged, or it was learned with other vocabularies than the task's,
                which must be those of one source and one target.
        """
        if task.vocabularies.keys() != {"source", "target"}:
            raise UserError("decode.shortlist: lists likely translations of the symbols of one source of text; models "
                            f"of task={task.Config.type} have no such source")  # fmt: skip
        if not is_there(path):
            raise UserError(f"decode.shortlist={path}: no such file; s2s-shortlist makes one")
        try:
            data = content(path)
            translations, frequent = map(load(data).__getitem__, ("translations", "frequent"))
            facts = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            vocabularies, form = (facts["source"], facts["target"]), facts["format"]
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"decode.shortlist={path}: not a shortlist, or damaged: {error}") from error
        if form not in FORMATS:
            raise UserError(f"decode.shortlist={path}: has format {form}; this version reads {' and '.join(FORMATS)}; "
                            "make it again with s2s-shortlist")  # fmt: skip
        if form == FORMATS[-1] and facts.get("sha256") != _hash(translations, frequent):
            raise UserError(f"decode.shortlist={path}: damaged: its SHA-256 does not match; make it again with "
                            "s2s-shortlist")  # fmt: skip
        task_vocabularies = {side: getattr(task, f"{side}_tokenizer").vocabulary for side in ("source", "target")}
        for digest, (side, vocabulary) in zip(vocabularies, task_vocabularies.items(), strict=True):
            if digest != vocabulary.digest:
                raise UserError(f"decode.shortlist={path}: was learned with another {side} vocabulary than the "
                                "checkpoint's; make one with s2s-shortlist from the checkpoint's store")  # fmt: skip
        shapes = translations.ndim == 2 and len(translations) == len(task_vocabularies["source"]) and frequent.ndim == 1
        for ids in (translations, frequent):
            if (
                not shapes
                or ids.dtype != np.int32
                or (ids < 0).any()
                or (ids >= len(task_vocabularies["target"])).any()
            ):
                raise UserError(f"decode.shortlist={path}: damaged: some ids are not in the target vocabulary, or "
                                "arrays have wrong shapes; make it again with s2s-shortlist")  # fmt: skip
        return cls(translations, frequent, vocabularies, len(task_vocabularies["target"]))

    def of(self, source: list[int], prefix: list[int]) -> np.ndarray:
        """The candidates of a sentence, bool [V]; source and prefix: token ids."""
        candidates = self.always.copy()
        candidates[self.translations[source]] = True
        candidates[prefix] = True
        return candidates


def _hash(*arrays: np.ndarray) -> str:
    """SHA-256 of the bytes of arrays."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


class Candidates:
    """The candidates of the sentences in the slots.

    Args:
        shortlist: The shortlist.
        slots: B.
        device: Device of the models.
    """

    def __init__(self, shortlist: Shortlist, slots: int, device: torch.device):
        self.shortlist, self.device = shortlist, device
        self.allowed = np.zeros((slots, len(shortlist.always)), bool)
        self.allowed[:, : len(SPECIALS)] = True
        self.computed = np.zeros_like(shortlist.always)  # bool [V], symbols in the scorer's narrowed output layer
        self.symbols: Tensor | None = None  # [V'] int64, their ids; None: the output layer must be narrowed again

    def admit(self, slots: np.ndarray, sentences: list, coming: list) -> None:
        """Put sentences into these slots; `coming`: sentences that will follow soon."""
        self.allowed[slots] = [self.shortlist.of(sentence.source, sentence.prefix) for sentence in sentences]
        if (self.allowed[slots] & ~self.computed).any():
            self.computed = self.allowed.any(axis=0)
            for sentence in coming:
                self.computed |= self.shortlist.of(sentence.source, sentence.prefix)
            self.symbols = None

    def free(self, slots: np.ndarray) -> None:
        """Mark these slots as free."""
        self.allowed[slots, len(SPECIALS) :] = False

    def release(self, keep: np.ndarray, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` become the first ones."""
        allowed = np.zeros((slots, self.allowed.shape[1]), bool)
        allowed[:, : len(SPECIALS)] = True
        allowed[: len(keep)] = self.allowed[keep]
        self.allowed = allowed

    def narrow(self, scorer, limits: Limits) -> None:
        """Restrict the scorer's output layer to the candidates, and tell the limits the new columns of symbols."""
        fresh = self.symbols is None
        if fresh:
            numbers = np.flatnonzero(self.computed)
            self.symbols = torch.from_numpy(numbers).to(self.device)
            places = np.zeros(len(self.computed), np.int64)
            places[numbers] = np.arange(len(numbers))
            limits.places = torch.from_numpy(places).to(self.device)
        mask = np.where(self.allowed[:, self.computed], np.float32(0), np.float32(NEVER))
        scorer.narrow(self.symbols if fresh else None, torch.from_numpy(mask).to(self.device)[:, None])
