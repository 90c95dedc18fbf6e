"""Whisper comes in: logits and lines are those of a random model of transformers."""

import json
import string
import wave

import numpy as np
import pytest
import torch

from s2s.checkpoint.loading import load_model
from s2s.text.vocabulary import BOS, EOS, UNK
from s2s_cli import importing

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SPECIALS = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
            "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", "<|0.00|>", "<|0.02|>"]  # fmt: skip
LETTERS = string.ascii_lowercase + "\u0120"


def save(folder, several=True):
    """A random model with a tokenizer of letters. Returns it and its extractor."""
    folder.mkdir()
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: n for n, c in enumerate(LETTERS)}, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(SPECIALS)
    made.save(str(folder / "tokenizer.json"))
    ids = {name: len(LETTERS) + n for n, name in enumerate(SPECIALS)}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(
        vocab_size=len(LETTERS) + len(SPECIALS), d_model=16, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=20, init_std=0.4,
        max_target_positions=40, pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
    )).eval()  # fmt: skip
    with torch.no_grad():
        model.model.encoder.embed_positions.weight.mul_(0.2)
        model.model.decoder.layers[1].encoder_attn.out_proj.weight.mul_(3)  # so that it hears
        model.model.decoder.embed_tokens.weight[end] *= 2
    options = {"decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": end, "bos_token_id": end,
               "no_timestamps_token_id": ids["<|notimestamps|>"], "max_length": 24, "is_multilingual": several,
               "suppress_tokens": [1, 5, *(ids[name] for name in SPECIALS[1:])],
               "begin_suppress_tokens": [3, end]}  # fmt: skip
    if several:
        options |= {"lang_to_id": {name: ids[name] for name in ("<|en|>", "<|de|>")},
                    "task_to_id": {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}}  # fmt: skip
    model.generation_config = transformers.GenerationConfig(**options)
    model.save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor()
    extractor.save_pretrained(folder)
    return model, extractor


def recordings(folder, count):
    """Names of recordings of tones, and their samples."""
    random, made = np.random.default_rng(0), {}
    for n in range(count):
        time = np.arange(4_000 + 9_000 * n) / 16_000
        tone = 0.2 * np.sin(2 * np.pi * random.uniform(100, 4000) * time) + random.normal(0, 0.01, len(time))
        samples = (tone * 32767).astype(np.int16)
        with wave.open(str(folder / f"{n}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        made[str(folder / f"{n}.wav")] = samples / np.float32(32768)
    return made


def taught(model, features, several, steps=30):
    """Teach a model something of each recording, so that its lines end."""
    random, end = np.random.default_rng(1), model.config.eos_token_id
    begin = [end + 3, end + 5, end + 9] if several else [end + 9]
    labels = torch.full((len(features), 12), -100)
    for row in labels:
        letters = random.integers(6, 26, random.integers(2, 7)).tolist()
        row[: len(begin) + len(letters) + 1] = torch.tensor([*begin, *letters, end])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_features=features, labels=labels).loss.backward()
        optimizer.step()


def check(tmp_path, s2s, several, count, beams):
    theirs, extractor = save(tmp_path / "theirs", several)
    files = recordings(tmp_path, count)
    features = extractor([*files.values()], sampling_rate=16_000, return_tensors="pt").input_features
    if max(beams) > 1:
        taught(theirs, features, several)
        theirs.save_pretrained(tmp_path / "theirs")
    report = importing.write(tmp_path / "theirs", "auto", tmp_path / "ours")
    assert report[0].startswith("whisper (Hugging Face): ")
    assert any("timestamps" in line for line in report)
    model, task, _ = load_model(str(tmp_path / "ours"))
    said = {"target_language": "de"} if several else {}
    sources = task.tagged(task.encode([*files]), said)
    symbols = task.target_tokenizer.vocabulary.symbols
    known = json.loads((tmp_path / "theirs" / "tokenizer.json").read_text())
    places = known["model"]["vocab"] | {f"<{each['content'][2:-2]}>": each["id"] for each in known["added_tokens"]}
    end, start = places["<endoftext>"], places["<startoftranscript>"]
    row = torch.tensor([end, end, start, end, *(places[symbol] for symbol in symbols[4:])])
    target = torch.randint(4, len(row), (count, 7))
    target[:, 0] = BOS
    with torch.no_grad():
        found = model.decode(model.encode(*task.collate_sources(sources)), target).logits()
        expected = theirs(input_features=features, decoder_input_ids=row[target]).logits[..., row]
        torch.testing.assert_close(found[..., EOS:], expected[..., EOS:], rtol=1e-4, atol=1e-4)
        assert (found[..., : UNK + 1] < -50).all()
        how = {"language": "de", "task": "transcribe"} if several else {}
    letters = {number: symbol for symbol, number in known["model"]["vocab"].items()}
    (tmp_path / "in.list").write_text("\n".join(files) + "\n")
    words = report[-1].partition("before: ")[2].split()
    for beam in beams:
        written = [theirs.generate(feature[None], return_timestamps=False, num_beams=beam, **how)[0].tolist()
                   for feature in features]  # fmt: skip
        lines = ["".join(letters.get(number, "") for number in ids).replace("\u0120", " ") for ids in written]
        assert s2s("generate", f"checkpoint={tmp_path / 'ours'}", f"input={tmp_path / 'in.list'}", "device=cpu",
                   f"output={tmp_path / 'out'}", *words, f"decode.beam_size={beam}",
                   *(f"{key}={value}" for key, value in said.items())) == 0  # fmt: skip
        # A hypothesis that is cut ends with an end of its own cost here.
        whole = [beam == 1 or len(line) < 24 for line in lines]
        found = (tmp_path / "out").read_text().split("\n")[:-1]
        assert [line for line, ended in zip(found, whole, strict=True) if ended] == [
            line for line, ended in zip(lines, whole, strict=True) if ended
        ]
        assert sum(whole) > count / 2
        assert len(set(lines)) >= count / 2, lines
        assert all(lines)
    return report


def test_whisper_in_several_languages(tmp_path, s2s):
    assert "target_language: de en" in check(tmp_path, s2s, True, 2, [1])


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_greedy_and_beam_search_write_the_same(several, tmp_path, s2s):
    check(tmp_path, s2s, several, 6, [1, 5])


def test_what_is_not_read_is_refused(tmp_path, s2s, capsys):
    save(tmp_path / "theirs")
    file = tmp_path / "theirs" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hop_length": 200, "chunk_length": 10}))
    capsys.readouterr()
    assert s2s("importing", f"from={tmp_path / 'theirs'}", f"output={tmp_path / 'new'}") == 2
    assert "Whisper is not read with hop_length=200, chunk_length=10" in capsys.readouterr().err
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    file.unlink()
    assert s2s("importing", f"from={tmp_path / 'theirs'}", f"output={tmp_path / 'new'}") == 2
    assert "tokenizer.json" in capsys.readouterr().err
