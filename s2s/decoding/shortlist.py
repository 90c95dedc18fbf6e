"""`decode.shortlist`: which target symbols a sentence may become, so that the output product computes no others.

The candidates of a sentence are the special symbols, the most frequent target symbols, the most probable translations
of each of its symbols (see s2s/decoding/lexicon.py) and its forced prefix. They are its own: the product is that of all
sentences in the slots, but what is not a sentence's is masked before its probabilities are normalised, so that its
hypotheses do not depend on the others.

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

FORMATS = ("1", "2")  # that are read; the last one is written, the one before has no hash
# Packing the product's rows has a price, so it is done for so many sentences that come at least.
AHEAD = 64


class Shortlist:
    """Candidates by source symbol.

    Attributes:
        without: As of `Component`.

    Args:
        translations: Int32 [source symbols, n], EOS where there are fewer.
        frequent: Int32 [m], of all sentences.
        vocabularies: Digests of the source and of the target vocabulary.
        symbols: V.
    """

    without: ClassVar = dict.fromkeys(["rules", "scorers", "constraints"], "it numbers symbols anew")

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
            candidates: n.
            frequent: m.
            iterations, pairs, progress: As in `lexicon.translation_probabilities`, which is called once.

        Raises:
            UserError: an empty split, or a store of speech.
        """
        tokenizers = store.tokenizers()
        if not {"source", "target"} <= tokenizers.keys():
            raise UserError("a shortlist is learned from pairs of texts; the sources of this store are none")
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
        """Write a file, which appears when it is complete. Raises as `opened`."""
        facts = dict(zip(("source", "target"), self.vocabularies, strict=True))
        facts |= {"format": FORMATS[-1], "sha256": _hash(self.translations, self.frequent)}
        content = save({"translations": self.translations, "frequent": self.frequent}, facts)
        with opened(path) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str, task) -> "Shortlist":
        """Read what `save` wrote. Raises UserError: no such file, or it is of other vocabularies than the task's."""
        if not is_there(path):
            raise UserError(f"decode.shortlist={path}: no such file; s2s-shortlist makes one")
        try:
            found = content(path)
            translations, frequent = map(load(found).__getitem__, ("translations", "frequent"))
            facts = json.loads(found[8 : 8 + int.from_bytes(found[:8], "little")])["__metadata__"]
            vocabularies, form = (facts["source"], facts["target"]), facts["format"]
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"decode.shortlist={path}: not a shortlist, or damaged: {error}") from error
        if form not in FORMATS:
            raise UserError(f"decode.shortlist={path}: of format {form}, this version reads {' and '.join(FORMATS)}; "
                            "make it again with s2s-shortlist")  # fmt: skip
        if form == FORMATS[-1] and facts.get("sha256") != _hash(translations, frequent):
            raise UserError(f"decode.shortlist={path}: damaged: its SHA-256 is another; make it again with "
                            "s2s-shortlist")  # fmt: skip
        mine = {side: getattr(task, f"{side}_tokenizer").vocabulary for side in ("source", "target")}
        for digest, (side, vocabulary) in zip(vocabularies, mine.items(), strict=True):
            if digest != vocabulary.digest:
                raise UserError(f"decode.shortlist={path}: was learned with another {side} vocabulary than the "
                                "checkpoint's; make it with s2s-shortlist from the checkpoint's store")  # fmt: skip
        shapes = translations.ndim == 2 and len(translations) == len(mine["source"]) and frequent.ndim == 1
        for ids in (translations, frequent):
            if not shapes or ids.dtype != np.int32 or (ids < 0).any() or (ids >= len(mine["target"])).any():
                raise UserError(f"decode.shortlist={path}: damaged: not ids of the target vocabulary for each source "
                                "symbol; make it again with s2s-shortlist")  # fmt: skip
        return cls(translations, frequent, vocabularies, len(mine["target"]))

    def of(self, source: list[int], prefix: list[int]) -> np.ndarray:
        """Bool [V], the candidates of a sentence."""
        mine = self.always.copy()
        mine[self.translations[source]] = True
        mine[prefix] = True
        return mine


def _hash(*arrays: np.ndarray) -> str:
    """SHA-256 of some arrays."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


class Candidates:
    """The candidates of the sentences in the slots.

    Args:
        shortlist: Knows those of each sentence.
        slots: B.
        device: Of the models.
    """

    def __init__(self, shortlist: Shortlist, slots: int, device: torch.device):
        self.shortlist, self.device = shortlist, device
        self.allowed = np.zeros((slots, len(shortlist.always)), bool)
        self.allowed[:, : len(SPECIALS)] = True
        self.computed = np.zeros_like(shortlist.always)  # by the output map that the scorer has
        self.symbols: Tensor | None = None  # [V'], which they are

    def admit(self, mine: np.ndarray, sentences: list, coming: list) -> None:
        """Sentences take the slots `mine`; `coming`: those that will soon."""
        self.allowed[mine] = [self.shortlist.of(sentence.source, sentence.prefix) for sentence in sentences]
        if (self.allowed[mine] & ~self.computed).any():
            self.computed = self.allowed.any(axis=0)
            for sentence in coming:
                self.computed |= self.shortlist.of(sentence.source, sentence.prefix)
            self.symbols = None

    def free(self, mine: np.ndarray) -> None:
        """These slots are free."""
        self.allowed[mine, len(SPECIALS) :] = False

    def release(self, mine: np.ndarray, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""
        allowed = np.zeros((slots, self.allowed.shape[1]), bool)
        allowed[:, : len(SPECIALS)] = True
        allowed[: len(mine)] = self.allowed[mine]
        self.allowed = allowed

    def narrow(self, scorer, limits: Limits) -> None:
        """Have a scorer rate the candidates only, and the limits name them by their places in its logits."""
        fresh = self.symbols is None
        if fresh:
            numbers = np.flatnonzero(self.computed)
            self.symbols = torch.from_numpy(numbers).to(self.device)
            places = np.zeros(len(self.computed), np.int64)
            places[numbers] = np.arange(len(numbers))
            limits.places = torch.from_numpy(places).to(self.device)
        mask = np.where(self.allowed[:, self.computed], np.float32(0), np.float32(NEVER))
        scorer.narrow(self.symbols if fresh else None, torch.from_numpy(mask).to(self.device)[:, None])
