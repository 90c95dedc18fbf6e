"""FSMT comes in with its Moses tokenization, and gives the lines of transformers' own tokenizer and `generate`."""

import json

import pytest
import torch

from s2s.checkpoint.loading import load_model
from s2s.text.vocabulary import BOS
from s2s_cli import importing
from tests.interop.taught import compare, teach, words, written

transformers = pytest.importorskip("transformers")
pytest.importorskip("sacremoses")

SYMBOLS = ["das", "haus", "ist's", "klein,", "ein", "hund.", "und", "der", "alte", "(baum)"]
PIECES = ["d", "a", "s", "h", "u", "i", "t", "k", "l", "e", "n", "r", "b", "m"]
MERGES = ["d a", "da s</w>", "h a", "e i", "ei n</w>", "d e", "de r</w>", "u n", "un d</w>", "k l"]


def save(folder, steps=150):
    """A taught model, its tokenizer and its folder."""
    folder.mkdir()
    merged = [merge.replace(" ", "") for merge in MERGES]
    marks = [f"{mark}</w>" for mark in (",", ".", "(", ")", "&apos;s")]
    pieces = [*PIECES, *(f"{piece}</w>" for piece in PIECES), *merged, *marks]
    for side, order in {"src": pieces, "tgt": pieces[::-1]}.items():
        known = ["<s>", "<pad>", "</s>", "<unk>", *order]
        (folder / f"vocab-{side}.json").write_text(json.dumps({symbol: n for n, symbol in enumerate(known)}))
    (folder / "merges.txt").write_text("".join(f"{merge} 9\n" for merge in MERGES))
    (folder / "tokenizer_config.json").write_text(json.dumps({"langs": ["de", "en"], "do_lower_case": False}))
    torch.manual_seed(0)
    config = transformers.FSMTConfig(
        langs=["de", "en"], src_vocab_size=len(known), tgt_vocab_size=len(known), d_model=16, encoder_layers=2,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=24,
        decoder_ffn_dim=20, dropout=0.0, init_std=0.2, forced_eos_token_id=None, scale_embedding=True,
        tie_word_embeddings=False)  # fmt: skip
    model = transformers.FSMTForConditionalGeneration(config)
    for side in (model.model.encoder, model.model.decoder):
        side.embed_positions.weight.requires_grad_(False)
    teach(model, range(4, len(known)), 2, steps=steps)
    model.generation_config = transformers.GenerationConfig(
        bad_words_ids=[[1]], decoder_start_token_id=2, eos_token_id=2, pad_token_id=1, bos_token_id=0)  # fmt: skip
    model.save_pretrained(folder)
    tokenizer = transformers.FSMTTokenizer(
        langs=["de", "en"], src_vocab_file=str(folder / "vocab-src.json"),
        tgt_vocab_file=str(folder / "vocab-tgt.json"), merges_file=str(folder / "merges.txt"))  # fmt: skip
    return model, tokenizer


@pytest.mark.slow
def test_same_ids_logits_and_lines(tmp_path, s2s):
    model, tokenizer = save(tmp_path / "theirs")
    report = importing.write(tmp_path / "theirs", "auto", tmp_path / "ours")
    assert report[0].startswith("FSMT (Hugging Face): ")
    ours, task, _ = load_model(str(tmp_path / "ours"))
    lines = words(24, SYMBOLS)
    known = json.loads((tmp_path / "theirs" / "vocab-src.json").read_text())

    def row(symbols, known):
        pieces = {name.removesuffix("</w>") if name.endswith("</w>") else f"{name}@@": n for name, n in known.items()}
        return [1, 3, 2, 2, *(pieces.get(symbol, 0) for symbol in symbols[4:])]

    source = row(task.source_tokenizer.vocabulary.symbols, known)
    encoded = task.encode(lines)
    for line, ids in zip(lines, encoded, strict=True):
        assert tokenizer(line).input_ids == [*(source[i] for i in ids), 2]
    target = row(task.target_tokenizer.vocabulary.symbols,
                 json.loads((tmp_path / "theirs" / "vocab-tgt.json").read_text()))  # fmt: skip
    (batch,) = task.collate_sources(encoded).sources
    given = torch.randint(4, len(target) - 1, (len(lines), 7))
    given[:, 0] = BOS
    mask = (torch.arange(batch.values.size(1)) < batch.lengths[:, None]).long()
    with torch.no_grad():
        found = ours.decode(ours.encode((batch,)), given).logits()
        wanted = model(use_cache=False, input_ids=torch.tensor(source)[batch.values], attention_mask=mask,
                       decoder_input_ids=torch.tensor(target)[given]).logits[..., target]  # fmt: skip
    keep = [i for i in range(len(target)) if i != BOS]
    torch.testing.assert_close(found[..., keep], wanted[..., keep], rtol=1e-4, atol=1e-4)
    for count in (1, 5):
        expected = written(model, lines, lambda line: tokenizer(line).input_ids,
                           lambda ids: tokenizer.decode(ids, skip_special_tokens=True), count, 30)  # fmt: skip
        compare(s2s, tmp_path, tmp_path / "ours", lines, expected, count)


def test_files_that_are_missing_are_named(tmp_path, s2s, capsys):
    save(tmp_path / "theirs", steps=1)
    (tmp_path / "theirs" / "merges.txt").write_text("a b c d\n")
    assert s2s("importing", f"from={tmp_path / 'theirs'}", f"output={tmp_path / 'new'}") == 2
    assert "merges.txt: not byte pairs" in capsys.readouterr().err
    (tmp_path / "theirs" / "vocab-tgt.json").unlink()
    (tmp_path / "theirs" / "merges.txt").write_text("a b 1\n")
    assert s2s("importing", f"from={tmp_path / 'theirs'}", f"output={tmp_path / 'new'}") == 2
    assert "has no vocab-tgt.json" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
