"""A trained model gets further symbols and tags: its tokenizer is widened, and new rows begin where old ones are."""

import itertools

import pytest
import sentencepiece
import torch

from s2s.checkpoint import loading
from s2s.data.store import Store
from s2s.errors import UserError
from s2s.text.bytes import ByteConfig, ByteTokenizer
from s2s.text.characters import CharacterConfig, CharacterTokenizer
from s2s.text.extension import extended, widened
from s2s.text.pieces import PiecesConfig, PiecesTokenizer
from s2s.text.sentencepiece import SentencePieceConfig, SentencePieceTokenizer
from s2s.text.vocabulary import SPECIALS, UNK, Vocabulary
from s2s.text.wordpiece import WordPieceConfig, WordPieceTokenizer
from s2s.text.words import WordConfig, WordTokenizer
from tests.conftest import write_corpus
from tests.training.test_resume import SMALL

LINES = ["low lower lowest", "new newer newest", "slow slower slowest"] * 5


def tokenizers():
    spm = SentencePieceTokenizer.learn(SentencePieceConfig(vocab_size=20, reserved=["<mask>"]), [LINES])
    symbols = [*SPECIALS, *(s for s in reversed(spm.vocabulary.symbols) if s not in (*SPECIALS, "<mask>"))]
    return {
        "sentencepiece": spm,
        "pieces": PiecesTokenizer(PiecesConfig(reserved=["<mask>"]), spm.model, Vocabulary(symbols)),
        "words": WordTokenizer.learn(WordConfig(reserved=["<mask>"]), [LINES]),
        "characters": CharacterTokenizer.learn(CharacterConfig(reserved=["<mask>"]), [LINES]),
        "wordpiece": WordPieceTokenizer.learn(WordPieceConfig(vocab_size=25, reserved=["<mask>"]), [LINES]),
    }


@pytest.fixture(scope="module")
def made():
    return tokenizers()


@pytest.mark.parametrize("kind", ["sentencepiece", "pieces", "words", "characters", "wordpiece"])
def test_a_tokenizer_gets_symbols_and_keeps_what_it_has(made, kind):
    before = made[kind]
    symbols = ["\u00e9"] if kind == "characters" else ["\u00e9", "Bundesrat"]
    after = widened(before, [*symbols, "\u00e9", before.vocabulary.symbols[4]], ["<gsw>", "<mask>"])
    texts = before.vocabulary.symbols[: len(before.vocabulary) - 1]
    assert after.vocabulary.symbols == [*texts, *symbols, "<mask>", "<gsw>"]
    assert set(after.vocabulary.reserved) == {"<mask>", "<gsw>"}
    for line in LINES[:3]:
        assert after.encode(line) == before.encode(line)
    text = "low \u00e9" if kind == "characters" else "low \u00e9 Bundesrat"
    ids = after.encode(text)
    assert UNK not in ids
    assert after.decode(ids) == text
    assert {after.vocabulary.index(symbol) for symbol in symbols} <= set(ids)
    assert UNK in before.encode(text)
    assert widened(before, [texts[4]], ["<mask>"]) is before


def test_long_symbols_of_a_sentencepiece_model(made):
    """The length of a field takes two bytes from 128 on."""
    symbol = "Donaudampfschifffahrt" * 10
    model = extended(made["sentencepiece"].model, [symbol])
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert processor.id_to_piece(processor.get_piece_size() - 1) == symbol
    assert symbol in processor.encode(f"low {symbol} low", out_type=str)


def test_bytes_get_reserved_symbols_alone():
    before = ByteTokenizer.learn(ByteConfig())
    assert widened(before, [], ["<gsw>"]).vocabulary.symbols == [*before.vocabulary.symbols, "<gsw>"]
    with pytest.raises(UserError, match="tokenizer=bytes cannot have further symbols"):
        widened(before, ["xyz"], [])


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    from tests.conftest import _call

    folder = tmp_path_factory.mktemp("parent")
    write_corpus(folder, {"train": 100, "valid": 10})
    with pytest.MonkeyPatch.context() as monkeypatch:
        texts = [f"train={folder}/train", f"valid={folder}/valid", "workers=1"]
        assert _call(monkeypatch, "s2s_cli.preprocess", *texts, "tokenizer.vocab_size=20", "languages=[src-tgt]",
                     f"store={folder}/store") == 0  # fmt: skip
        run = [*SMALL, f"store={folder}/store", f"run={folder}/run", "task.target_tag=target_language"]
        assert _call(monkeypatch, "s2s_cli.train", *run, "train.max_updates=5", "optim.lr=3e-3") == 0
    return folder


def test_a_run_gets_a_symbol_and_a_language(parent, tmp_path, s2s, capsys):
    """The rows of the language, of a text that is spelled by old pieces, and of all that was known."""
    for ending in ("src", "tgt"):
        (tmp_path / f"more.{ending}").write_text((parent / f"train.{ending}").read_text(encoding="utf-8"), "utf-8")
    (tmp_path / "more.gsw").write_text((parent / "train.tgt").read_text(encoding="utf-8"), "utf-8")
    (tmp_path / "symbols").write_text("abba\n", "utf-8")
    store = [f"train={tmp_path}/more", f"valid={tmp_path}/more", "workers=1",
             "languages=[src-gsw]", f"tokenizer_from={parent}/run", f"store={tmp_path}/store"]  # fmt: skip
    assert s2s("preprocess", *store, "overwrite=true") == 2
    assert "do not reserve <gsw>; task=translation requires it; add it by more_reserved=[<gsw>]" in (
        capsys.readouterr().err
    )
    assert s2s("preprocess", *store, f"more_symbols={tmp_path}/symbols", "more_reserved=[<gsw>]") == 0
    vocabulary = Store(tmp_path / "store").tokenizers()["target"].vocabulary
    run = [*SMALL, f"store={tmp_path}/store", "task.target_tag=target_language", "train.max_updates=1", "optim.lr=0",
           f"train.init.checkpoint={parent}/run"]  # fmt: skip
    options = ["train.init.new_rows=pieces", "train.init.copy_rows=[<gsw>=<tgt>]"]
    assert s2s("train", *run, f"run={tmp_path}/run", *options) == 0
    assert "are new (pieces)" in capsys.readouterr().err
    (model, _, _), (old, before, _) = (loading.load_model(str(path)) for path in (tmp_path / "run", parent / "run"))
    rows, theirs = model.output.weight, old.output.weight
    known = before.target_tokenizer.vocabulary
    assert rows[vocabulary.reserved["<gsw>"]].equal(theirs[known.reserved["<tgt>"]])
    spelled = [i for i in before.target_tokenizer.encode("abba") if known.symbols[i] != "\u2581"]
    torch.testing.assert_close(rows[vocabulary.index("abba")], theirs[spelled].mean(0))
    for symbol in known.symbols[4:]:
        place, original = (v.reserved.get(symbol, v.index(symbol)) for v in (vocabulary, known))
        assert rows[place].equal(theirs[original]), symbol
    for words, message in {
        "[<gsw>]": "<gsw>: NEW=OLD is needed",
        "[<xyz>=<tgt>]": "<xyz>=<tgt>: NEW=OLD is needed, where NEW is a symbol of the store",
        "[<tgt>=<src>]": "<tgt> is in the checkpoint",
        "[<gsw>=<xyz>]": "<xyz> is not in the checkpoint",
    }.items():
        assert s2s("train", *run, f"run={tmp_path}/wrong", f"train.init.copy_rows={words}") == 2
        assert message in capsys.readouterr().err
    assert s2s("preprocess", *store, "more_reserved=[<src>]", "overwrite=true") == 2
    assert "has all symbols of more_symbols and more_reserved" in capsys.readouterr().err


@pytest.mark.slow
def test_an_imported_model_of_many_languages_gets_another_one_by_adapters(tmp_path, s2s, capsys):
    """NLLB of transformers: the row of a new tag, and LoRA beside it."""
    import yaml

    from s2s.training.outcomes import flat
    from tests.interop.taught import words
    from tests.interop.test_import_families import SYMBOLS, tokenizer

    transformers = pytest.importorskip("transformers")
    (tmp_path / "theirs").mkdir()
    symbols, *_ = tokenizer("nllb", tmp_path / "theirs")
    config = transformers.M2M100Config(
        vocab_size=len(symbols), d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=20, max_position_embeddings=64,
        pad_token_id=symbols.index("<pad>"), eos_token_id=symbols.index("</s>"),
        decoder_start_token_id=symbols.index("</s>"), bos_token_id=0)  # fmt: skip
    transformers.M2M100ForConditionalGeneration(config).save_pretrained(tmp_path / "theirs")
    nllb = tmp_path / "nllb"
    assert s2s("importing", f"from={tmp_path / 'theirs'}", f"output={nllb}") == 0
    for name, ending in itertools.product(("train", "valid"), ("gsw_Latn", "eng_Latn")):
        (tmp_path / f"{name}.{ending}").write_text("\n".join(words(20, SYMBOLS)) + "\n")
    assert s2s("preprocess", "languages=[gsw_Latn-eng_Latn,eng_Latn-gsw_Latn]", f"train={tmp_path}/train",
               f"valid={tmp_path}/valid", f"tokenizer_from={nllb}", "more_reserved=[<gsw_Latn>]", "workers=1",
               f"store={tmp_path}/store") == 0  # fmt: skip
    options = flat(yaml.safe_load((nllb / "config.yaml").read_text())["model"])
    plain = {"encoder.type", "decoder.type", "encoder.layer.type", "type", "adapter", "auxiliary_heads"}
    own = [f"model.{key}={'null' if value is None else str(value).lower()}" for key, value in options.items()
           if key not in plain and not key.endswith(".type")]  # fmt: skip
    capsys.readouterr()
    assert s2s("train", "model=transformer_tiny", *own, f"store={tmp_path}/store", f"run={tmp_path}/run", "device=cpu",
               "task.source_tags=[source_language]", "task.target_tag=target_language", "data.batch_tokens=200",
               "train.max_updates=2", "train.samples=0", f"train.init.checkpoint={nllb}", "model.adapter=lora",
               "model.adapter.trained=[embeddings]", "train.init.copy_rows=[<gsw_Latn>=<deu_Latn>]",
               "optim.lr=1e-9") == 0  # fmt: skip
    assert "1 are new" in capsys.readouterr().err
    (model, task, _), (old, before, _) = (loading.load_model(str(path)) for path in (tmp_path / "run", nllb))
    new, known = (each.target_tokenizer.vocabulary.reserved for each in (task, before))
    torch.testing.assert_close(model.output.weight[new["<gsw_Latn>"]], old.output.weight[known["<deu_Latn>"]])
    torch.testing.assert_close(model.output.weight[new["<eng_Latn>"]], old.output.weight[known["<eng_Latn>"]])
    (tmp_path / "in").write_text("das haus\n")
    assert s2s("generate", f"checkpoint={tmp_path}/run", f"input={tmp_path}/in", f"output={tmp_path}/out",
               "source_language=eng_Latn", "target_language=gsw_Latn", "decode.max_length_b=5") == 0  # fmt: skip
