"""A Marian model of transformers comes in, and gives the same logits and lines as there."""

import json

import pytest
import sentencepiece
import torch

from s2s.checkpoint.loading import load_model
from s2s.data.batch import Source
from s2s.text.vocabulary import BOS, EOS, PAD
from s2s_cli import importing

transformers = pytest.importorskip("transformers")

LINES = ["das ist ein haus", "ein kleiner hund", "der hund ist klein und das haus ist alt", "haus", "und der alte hund"]


def pieces(path, text, size):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(path), vocab_size=size, character_coverage=1.0, minloglevel=4,
        hard_vocab_limit=False, bos_id=-1, pad_id=-1, eos_id=0, unk_id=1)  # fmt: skip
    path.with_suffix(".model").rename(path.with_suffix(".spm"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Marian model with its tokenizer, as OPUS-MT has them."""
    path = tmp_path_factory.mktemp("marian")
    pieces(path / "source", LINES * 20, 40)
    pieces(path / "target", [line[::-1] for line in LINES] * 20, 40)
    names: dict[str, None] = dict.fromkeys(["</s>", "<unk>"])
    for side in ("source", "target"):
        spm = sentencepiece.SentencePieceProcessor(model_file=str(path / f"{side}.spm"))
        names |= dict.fromkeys(spm.id_to_piece(list(range(len(spm)))))
    names |= dict.fromkeys([">>fra<<", "<pad>"])
    known = {name: number for number, name in enumerate(names)}
    (path / "vocab.json").write_text(json.dumps(known))
    V, pad = len(known), len(known) - 1
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=V, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, pad_token_id=pad,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, activation_function="swish",
        scale_embedding=True, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0,
        max_position_embeddings=64)  # fmt: skip
    model = transformers.MarianMTModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "embed_positions" not in name:
                p.normal_(float("norm.weight" in name), 0.5 if p.dim() < 2 else 0.4)
        model.final_logits_bias.normal_()
    model.generation_config = transformers.GenerationConfig(
        bad_words_ids=[[pad]], decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0, max_length=30,
        num_beams=4, pad_token_id=pad)  # fmt: skip
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def imported(folder):
    output = folder.parent / "imported"
    report = importing.write(folder, "auto", output)
    assert report[0].startswith("Marian")
    return output


@torch.no_grad()
def test_same_tokens_and_logits(folder, imported):
    theirs = transformers.MarianMTModel.from_pretrained(folder).eval()
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    model, task, _ = load_model(str(imported))
    vocabulary = task.target_tokenizer.vocabulary
    known = json.loads((folder / "vocab.json").read_text())
    lines = [*LINES, "xyz haus", ">>fra<< das haus"]
    row = [known["<pad>"], known["<unk>"], known["<pad>"], known["</s>"], *map(known.get, vocabulary.symbols[4:])]
    sources = task.encode(lines)
    batch = tokenizer(lines, padding=True, return_tensors="pt")
    for ids, real, ours in zip(batch["input_ids"], batch["attention_mask"], sources, strict=True):
        assert ids[real.bool()].tolist() == [row[i] for i in [*ours, EOS]]
    target = torch.randint(4, len(vocabulary), (len(lines), 9))
    target[:, 0] = BOS
    (source,) = task.collate_sources(sources).sources
    logits = model.decode(model.encode((source,)), target).logits()
    expected = theirs(**batch, decoder_input_ids=torch.tensor(row)[target]).logits[..., row]
    keep = torch.tensor([i for i in range(len(vocabulary)) if i != BOS])
    torch.testing.assert_close(logits[..., keep], expected[..., keep], rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.5 and (logits[..., BOS] < -50).all()
