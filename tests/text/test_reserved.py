"""Reserved symbols: in every tokenizer, by name, and never out of a text."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.checkpoint.loading import load_model
from s2s.data.iterator import Draw
from s2s.data.store import Store
from s2s.data.transforms import TransformConfig
from s2s.errors import UserError
from s2s.tasks.translation import TranslationTask
from s2s.text.bytes import ByteTokenizer
from s2s.text.characters import CharacterTokenizer
from s2s.text.sentencepiece import SentencePieceTokenizer
from s2s.text.tokenizer import load_tokenizer
from s2s.text.vocabulary import BOS, SPECIALS, UNK, Vocabulary
from s2s.text.words import WordTokenizer
from tests.decoding.generating import SMALL

RESERVED = ["<mask>", "<de>"]
TEXT = ["a <mask> b <de> c", "<mask><mask> <de>", "<mask> <mask> <mask> x y", "the cat <mask> the mat"] * 20


def learned(kind, **options):
    return kind.learn(kind.Config(reserved=RESERVED, **options), [TEXT])


KINDS = {
    "bytes": lambda: learned(ByteTokenizer),
    "characters": lambda: learned(CharacterTokenizer),
    "words": lambda: learned(WordTokenizer),
    "unigram": lambda: learned(SentencePieceTokenizer, vocab_size=24),
    "bpe": lambda: learned(SentencePieceTokenizer, vocab_size=40, algorithm="bpe"),
}
MADE = {name: make() for name, make in KINDS.items()}
lines = st.lists(st.sampled_from(["<mask>", "<de>", "\\<mask>", " ", "a", "b", "<", ">", "mask", "de", "<unk>", "the"]))


@pytest.mark.parametrize("name", KINDS)
def test_they_come_last_and_are_known_by_name(name):
    vocabulary = MADE[name].vocabulary
    size = len(vocabulary)
    assert vocabulary.reserved == {"<mask>": size - 2, "<de>": size - 1}
    assert vocabulary.symbols[-2:] == RESERVED
    assert vocabulary.index("<mask>") == UNK  # as of a text
    assert tuple(vocabulary.symbols[:4]) == SPECIALS


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60)
@given(parts=lines)
def test_no_text_gives_one_and_none_gives_text(name, parts):
    tokenizer, line = MADE[name], "".join(parts)
    reserved = tokenizer.vocabulary.reserved.values()
    ids = tokenizer.encode(line)
    assert not set(ids) & set(reserved)
    spread = [part for i in ids for part in (*reserved, i)] + list(reserved)
    assert tokenizer.decode(spread) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", KINDS)
def test_they_are_saved_and_loaded(name, tmp_path):
    tokenizer = MADE[name]
    tokenizer.save(tmp_path, "source")
    loaded = load_tokenizer(tmp_path, "source")
    assert loaded.vocabulary.symbols == tokenizer.vocabulary.symbols
    assert loaded.vocabulary.reserved == tokenizer.vocabulary.reserved
    assert loaded.encode(TEXT[0]) == tokenizer.encode(TEXT[0])
    loaded.save(tmp_path, "again")
    for end in ("tokenizer.json", "vocabulary.txt"):
        assert (tmp_path / f"again.{end}").read_bytes() == (tmp_path / f"source.{end}").read_bytes()


def test_a_piece_that_is_spelt_like_one_is_another_symbol():
    vocabulary = Vocabulary([*SPECIALS, "<mask>", "\\<mask>", "a"]).with_reserved(["<mask>"])
    assert vocabulary.symbols == [*SPECIALS, "\\\\<mask>", "\\<mask>", "a", "<mask>"]
    assert vocabulary.reserved == {"<mask>": 7}


@pytest.mark.parametrize("names", [["mask"], ["<a b>"], ["<unk>"], ["<a>", "<a>"], ["<0x41>"], ["<>"]])
def test_other_names_are_refused(names):
    with pytest.raises(UserError, match="a name of its own in <>, such as <mask>, is needed"):
        Vocabulary(list(SPECIALS)).with_reserved(names)


def test_a_vocabulary_file_without_them_is_damaged(tmp_path):
    MADE["words"].save(tmp_path, "source")
    path = tmp_path / "source.vocabulary.txt"
    path.write_text(path.read_text().replace("<de>\n", ""))
    with pytest.raises(UserError, match=r"source.vocabulary.txt: its last symbols must be <mask> <de>"):
        load_tokenizer(tmp_path, "source")


@pytest.fixture
def masking(store, tmp_path, s2s):
    """A store whose vocabulary has a mask."""
    folder = store.parent
    words = ["source=src", "target=tgt", f"train={folder}/train", f"valid={folder}/valid", "workers=1"]
    path = tmp_path / "masking"
    assert s2s("preprocess", *words, "tokenizer=words", "tokenizer.reserved=[<mask>]", f"store={path}") == 0
    return path


def test_what_the_decoder_reads_is_masked_by_the_mask(masking, store):
    for path, expected in ((masking, None), (store, UNK)):
        task = TranslationTask.setup(Store(path))
        mask = task.target_tokenizer.vocabulary.reserved["<mask>"] if expected is None else expected
        split, draw = Store(path).split("train"), Draw(TransformConfig(prev_output_mask=0.5), 1, 1)
        batch, plain = (task.dataset(split).collate(np.arange(50), None, one) for one in (draw, None))
        changed = batch.decoder_input != plain.decoder_input
        assert 0.3 < changed.sum() / (plain.target_lengths.sum() - 50) < 0.7
        assert set(batch.decoder_input[changed].tolist()) == {mask}
        assert torch.equal(batch.target, plain.target)
        assert (batch.decoder_input[:, 0] == BOS).all()


def test_they_keep_their_rows_by_name_when_a_checkpoint_starts_a_run(masking, store, tmp_path, s2s, capsys):
    words = [*SMALL, "train.max_updates=2"]
    assert s2s("train", f"store={masking}", f"run={tmp_path}/first", *words) == 0
    folder, other = store.parent, tmp_path / "other"
    more = ["tokenizer=words", "tokenizer.reserved=[<sep>,<mask>]", "tokenizer.vocab_size=9"]
    assert s2s("preprocess", "source=src", "target=tgt", f"train={folder}/train", f"valid={folder}/valid",
               f"store={other}", "workers=1", *more) == 0  # fmt: skip
    begin = [f"train.init.checkpoint={tmp_path}/first", "train.max_updates=1", "optim.lr=1e-12"]
    assert s2s("train", f"store={other}", f"run={tmp_path}/second", *SMALL, *begin) == 0
    rows = []
    for run in ("first", "second"):
        model, task, _ = load_model(str(tmp_path / run))
        rows.append(model.output.weight[task.target_tokenizer.vocabulary.reserved["<mask>"]])
    torch.testing.assert_close(*rows, rtol=0, atol=1e-6)


def test_tokenizers_without_a_symbol_that_a_task_needs_are_refused(store, masking, tmp_path, s2s, capsys, monkeypatch):
    from s2s.data.preprocess import TextRecipe

    monkeypatch.setattr(TextRecipe, "reserved", ("<mask>",))
    words = ["source=src", "target=tgt", f"train={store.parent}/train", f"store={tmp_path}/new", "workers=1"]
    assert s2s("preprocess", *words, f"tokenizer_from={store}") == 2
    assert "do not reserve <mask>; task=translation requires it" in capsys.readouterr().err
    assert s2s("preprocess", *words, f"tokenizer_from={masking}") == 0
    monkeypatch.setattr(TranslationTask, "reserved", ("<mask>",))
    assert TranslationTask.setup(Store(masking))
    with pytest.raises(UserError, match="task=translation: requires the reserved symbol <mask>"):
        TranslationTask.setup(Store(store))


def test_a_tokenizer_without_any_is_saved_as_before(tmp_path):
    WordTokenizer.learn(WordTokenizer.Config(), [TEXT]).save(tmp_path, "source")
    assert "reserved" not in json.loads((tmp_path / "source.tokenizer.json").read_text())
