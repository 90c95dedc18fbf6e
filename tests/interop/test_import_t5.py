"""T5 models of transformers come in, and give the same logits and lines as there."""

import pytest
import sentencepiece
import torch

from s2s.checkpoint.loading import load_model
from s2s_cli import importing
from tests.interop.taught import compare, same_logits, teach, words, written

transformers = pytest.importorskip("transformers")

SYMBOLS = ["das", "haus", "ist", "klein", "ein", "hund", "und", "der", "alte", "baum"]
KINDS = {
    "t5": {"feed_forward_proj": "relu"},
    "flan": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "untied": {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False},
    "library": {"feed_forward_proj": "gated-gelu"},
    "mt5": {"feed_forward_proj": "gated-gelu"},
    "byt5": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def save(kind, path):
    """A random model of a kind and its tokenizer: the model, and functions from lines to ids and back."""
    V = 384 if kind == "byt5" else 100
    if kind == "byt5":

        def encode(line):
            return [byte + 3 for byte in line.encode()] + [1]

        def decode(ids):
            return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="ignore")
    else:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words(60, SYMBOLS)), model_prefix=str(path / "spiece"), vocab_size=50,
            minloglevel=4, hard_vocab_limit=False, bos_id=-1, pad_id=0, eos_id=1, unk_id=2)  # fmt: skip
        (path / "tokenizer_config.json").write_text('{"extra_ids": 30}')
        spm = sentencepiece.SentencePieceProcessor(model_file=str(path / "spiece.model"))
        if kind == "library":
            scored = [(spm.id_to_piece(i), spm.get_score(i)) for i in range(len(spm))]
            names = [f"<extra_id_{n}>" for n in reversed(range(30))]
            transformers.T5Tokenizer([*scored, *((name, 0.0) for name in names)], extra_ids=30).save_pretrained(path)
            (path / "spiece.model").rename(path.parent / "spiece.model")

        def encode(line):
            return [*spm.encode(line), 1]

        def decode(ids):
            return spm.decode([i for i in ids if 2 < i < len(spm)])

    torch.manual_seed(0)
    config = (transformers.MT5Config if kind == "mt5" else transformers.T5Config)(
        vocab_size=V, d_model=16, d_kv=10, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=20, dropout_rate=0.0,
        initializer_factor=0.5, decoder_start_token_id=0, **KINDS[kind])  # fmt: skip
    model = (transformers.MT5ForConditionalGeneration if kind == "mt5" else
             transformers.T5ForConditionalGeneration)(config)  # fmt: skip
    if kind == "untied":
        model.lm_head = torch.nn.Linear(16, V, bias=False)
    teach(model, range(100, 110) if kind == "byt5" else range(3, 30), 1)
    for name, p in model.named_parameters():
        if "relative" in name:
            torch.nn.init.normal_(p)
    model.save_pretrained(path)
    return model, encode, decode


def check(kind, tmp_path, s2s, beams):
    folder = tmp_path / "theirs"
    folder.mkdir()
    theirs, encode, decode = save(kind, folder)
    report = importing.write(folder, "auto", tmp_path / "ours")
    assert report[0].startswith("T5")
    model, task, _ = load_model(str(tmp_path / "ours"))
    symbols = task.target_tokenizer.vocabulary.symbols
    if kind == "byt5":
        row = [0, 2, 0, 1, *range(3, 384)]
    else:
        file = folder / "spiece.model"
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(file if file.exists() else tmp_path / file.name))
        known = {pieces.id_to_piece(i): i for i in range(len(pieces))}
        known |= {f"<extra_id_{n}>": len(pieces) + 29 - n for n in range(30)}
        row = [0, 2, 0, 1, *(known[s] if s in known else int(s.strip("<>").split("_")[1]) for s in symbols[4:])]
        assert sorted(row[1:]) == [*range(100)]
    lines = [line.replace(" ", "") for line in words(16, "abcdefghij")] if kind == "byt5" else words(16, SYMBOLS)
    same_logits(theirs, model, task, lines, encode, row)
    for count in beams:
        expected = written(theirs, lines, encode, decode, count, 30, bad_words_ids=[[0]])
        compare(s2s, tmp_path, tmp_path / "ours", lines, expected, count)


def test_a_t5_with_gated_gelu(tmp_path, s2s):
    check("flan", tmp_path, s2s, [5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_t5(kind, tmp_path, s2s):
    check(kind, tmp_path, s2s, [1, 5])
