"""BART and its relatives come in, and give the same logits and lines as in transformers."""

import json

import pytest
import sentencepiece
import torch

from s2s.checkpoint.loading import load_model
from s2s.text.vocabulary import BOS
from s2s_cli import importing
from tests.interop.taught import compare, same_logits, teach, words, written

transformers = pytest.importorskip("transformers")

SYMBOLS = ["das", "haus", "ist", "klein", "ein", "hund", "und", "der", "alte", "baum"]
LANGUAGES = {"mbart": ["de_DE", "en_XX"], "nllb": ["deu_Latn", "eng_Latn"], "m2m": ["__de__", "__en__"]}
UNBOUNDED = {"model_max_length": 1000000000000000019884624838656}  # as transformers writes it
CLASSES = {"bart": "Bart", "mbart": "MBart", "nllb": "M2M100", "m2m": "M2M100", "pegasus": "Pegasus"}


def tokenizer(kind, path):
    """The symbols by id, and functions from lines to ids and back. Writes the files."""
    if kind == "bart":
        import tokenizers

        made = tokenizers.ByteLevelBPETokenizer()
        made.train_from_iterator(words(60, SYMBOLS), vocab_size=290, show_progress=False,
                                 special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])  # fmt: skip
        made.save_model(str(path))
        symbols = sorted(made.get_vocab(), key=made.get_vocab().get)
        return symbols, lambda line: [0, *made.encode(line).ids, 2], lambda ids: made.decode([i for i in ids if i > 4])
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} if kind == "pegasus" else {
        "unk_id": 0, "bos_id": 1, "eos_id": 2}  # fmt: skip
    name = "spiece" if kind == "pegasus" else "sentencepiece.bpe"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words(60, SYMBOLS)), model_prefix=str(path / name), vocab_size=45, minloglevel=4,
        hard_vocab_limit=False, **special)  # fmt: skip
    spm = sentencepiece.SentencePieceProcessor(model_file=str(path / f"{name}.model"))
    units = spm.id_to_piece(list(range(len(spm))))
    if kind == "pegasus":
        symbols = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{n}>" for n in range(2, 103)), *units[2:]]
    else:
        symbols = ["<s>", "<pad>", "</s>", "<unk>", *units[3:]]
        if kind == "m2m":
            (path / "vocab.json").write_text(json.dumps({symbol: n for n, symbol in enumerate(symbols)}))
        symbols += [*LANGUAGES[kind], *["<mask>"] * (kind != "m2m")]
        (path / "tokenizer_config.json").write_text(
            json.dumps(UNBOUNDED | {"additional_special_tokens": LANGUAGES[kind]})
        )
    place = {symbol: n for n, symbol in enumerate(symbols)}
    first = [place[LANGUAGES[kind][0]]] if kind in LANGUAGES else []

    def encode(line):
        return [*first, *(place[unit] for unit in spm.encode(line, out_type=str)), place["</s>"]]

    return symbols, encode, lambda ids: spm.decode([symbols[i] for i in ids if symbols[i] in units[3:]]).strip()


def check(kind, tmp_path, s2s, beams):
    folder = tmp_path / "theirs"
    folder.mkdir()
    symbols, encode, decode = tokenizer(kind, folder)
    place = {symbol: n for n, symbol in enumerate(symbols)}
    pad, end = place["<pad>"], place["</s>"]
    start = pad if kind == "pegasus" else end
    torch.manual_seed(0)
    config = getattr(transformers, f"{CLASSES[kind]}Config")(
        vocab_size=len(symbols) + 3, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=20, dropout=0.0, init_std=0.2,
        max_position_embeddings=64, pad_token_id=pad, eos_token_id=end, decoder_start_token_id=start, bos_token_id=0,
        forced_eos_token_id=None, forced_bos_token_id=None, encoder_layerdrop=0.0, decoder_layerdrop=0.0,
        scale_embedding=kind not in ("bart", "mbart"))  # fmt: skip
    model = getattr(transformers, f"{CLASSES[kind]}ForConditionalGeneration")(config)
    first = {"bart": [0], "pegasus": []}.get(kind) if kind not in LANGUAGES else [place[LANGUAGES[kind][1]]]
    plain = [
        n for n, symbol in enumerate(symbols) if not symbol.startswith("<") and symbol not in LANGUAGES.get(kind, [])
    ]
    teach(model, plain[-25:], end, first)
    model.save_pretrained(folder)
    report = importing.write(folder, "auto", tmp_path / "ours")
    ours, task, _ = load_model(str(tmp_path / "ours"))
    names = {f"<{name.strip('_')}>": name for name in LANGUAGES.get(kind, [])} | {"<begin>": "<s>", "\\<s>": "<s>"}
    row = [pad, place["<unk>"], start, end, *(
        int(symbol[8:-1]) if symbol.startswith("<unused_") else place[names.get(symbol, symbol)]
        for symbol in task.target_tokenizer.vocabulary.symbols[4:])]  # fmt: skip
    assert sorted({*row}) == [*range(len(symbols) + 3)]
    tags = {} if kind not in LANGUAGES else {f"{side}_language": name.strip("_") for side, name in
                                             zip(("source", "target"), LANGUAGES[kind], strict=True)}  # fmt: skip
    lines = words(24, SYMBOLS)
    same_logits(
        model, ours, task, lines, encode, row, tags=tags, prefix=[row.index(number, BOS + 1) for number in first]
    )
    for count in beams:
        more = {"forced_bos_token_id": first[0]} if first else {}
        expected = written(model, lines, encode, decode, count, 30, bad_words_ids=[[pad]], **more)
        given = ",".join(f"{name}={value}" for name, value in tags.items())
        compare(s2s, tmp_path, tmp_path / "ours", lines, expected, count, *[f"tags=[{given}]"] * bool(tags))
    return report


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_every_family(kind, tmp_path, s2s, capsys):
    check(kind, tmp_path, s2s, [1, 5])
    assert "slower" not in capsys.readouterr().err  # the kernels take all of them
