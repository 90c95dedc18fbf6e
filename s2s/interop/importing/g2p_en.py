"""The model of the Python package g2p_en, which spells English words as phonemes: GRU layers without attention.

Its file is `checkpoint20.npz` of the package. The symbols are not in it: they are those of the package's code.
"""

import string
import zipfile
from pathlib import Path
from typing import Any

import torch

from s2s.errors import UserError
from s2s.interop.importing.imported import Imported, arranged, read_tensors
from s2s.interop.places import Place, Table
from s2s.tasks.translation import TranslationTask
from s2s.text.characters import CharacterConfig, CharacterTokenizer
from s2s.text.vocabulary import Vocabulary
from s2s.text.words import WordConfig, WordTokenizer

LETTERS = ["<pad>", "<unk>", "</s>", *string.ascii_lowercase]
CONSONANTS = ["B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V",
              "W", "Y", "Z", "ZH"]  # fmt: skip
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]  # with their stress
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>",
            *sorted([*CONSONANTS, "UW", *(f"{vowel}{stress}" for vowel in VOWELS for stress in range(3))])]  # fmt: skip
LONGEST = 20  # phonemes that the package writes for a word at most


def recognises(path: Path) -> bool:
    """Whether a path is such a file."""
    if path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return {"enc_w_ih.npy", "fc_w.npy"} <= {*file.namelist()}


def read(path: Path) -> Imported:
    """Read a model. Raises UserError: the file is damaged, or of other symbols."""
    tensors = read_tensors(path)
    sizes = {"enc_emb": len(LETTERS), "dec_emb": len(PHONEMES), "fc_w": len(PHONEMES)}
    wrong = [f"{name} {list(value.shape)}" for name, rows in sizes.items()
             if (value := tensors.get(name, torch.empty(0))).dim() != 2 or len(value) != rows]  # fmt: skip
    if wrong or "enc_w_hh" not in tensors or "dec_w_hh" not in tensors:
        raise UserError(f"{path}: not the model of g2p_en, with {len(LETTERS)} letters and {len(PHONEMES)} phonemes: "
                        f"{', '.join(wrong) or 'it has no enc_w_hh or no dec_w_hh'}")  # fmt: skip
    width = {"encoder": tensors["enc_w_hh"].size(-1), "decoder": tensors["dec_w_hh"].size(-1)}
    letters, _, source = arranged(LETTERS, [0, 1, 2, 2], len(LETTERS))
    phonemes, _, target = arranged(PHONEMES, [0, 1, 2, 3], len(PHONEMES))
    options: dict[str, Any] = {"positions": "none", "scale_embeddings": False, "output.bias": True,
                               "tie_embeddings": "none", "dropout": 0.0}  # fmt: skip
    for side, matrix in {"encoder": "enc_emb", "decoder": "dec_emb"}.items():
        options |= {side: "gru", f"{side}.layers": 1, f"{side}.width": width[side],
                    f"{side}.input_width": tensors[matrix].size(1)}  # fmt: skip
    options |= {"encoder.bidirectional": "none", "decoder.start": "encoder", "decoder.attention": "none",
                "decoder.input_feeding": False}  # fmt: skip
    table: Table = {"frontend.embedding.tokens.weight": Place(("enc_emb",), source),
                    "decoder.embedding.tokens.weight": Place(("dec_emb",), target),
                    "output.weight": Place(("fc_w",), target), "output.bias": Place(("fc_b",), target)}  # fmt: skip
    for ours, theirs in {"encoder.layers.0.recurrence": "enc", "decoder.layers.0": "dec"}.items():
        for part, name in {"input": "ih", "hidden": "hh"}.items():
            table[f"{ours}.{part}.weight"] = Place((f"{theirs}_w_{name}",))
            table[f"{ours}.{part}.bias"] = Place((f"{theirs}_b_{name}",))
    # A word has no accents there; NFC leaves those that English words have, whose letters are then unknown.
    spelling = CharacterConfig(normalization="nfc", lowercase=True, joint=False)
    apart = WordConfig(normalization="none", joint=False)
    task = TranslationTask(
        CharacterTokenizer(spelling, Vocabulary(letters)), WordTokenizer(apart, Vocabulary(phonemes))
    )
    return Imported(
        family="g2p_en", options=options, task=task, table=table, tensors=tensors, where=path,
        decode={"beam_size": 1, "min_length_b": 0, "max_length_b": LONGEST}, preset="fairseq",
        notes=["its dictionaries of words and homographs; a line is a word, whose accents are not removed"],
    )  # fmt: skip
