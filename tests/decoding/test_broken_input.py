"""s2s-generate on lines that are no sentences: blank, too long, not UTF-8; and prefixes that cannot be produced."""

import gzip
import json
import subprocess
import sys
from itertools import product

import pytest
import torch
import zstandard

from s2s.data.target_transforms import LastWordFirst
from s2s.decoding.translator import Translator
from s2s.errors import UserError
from s2s.models.transformer import Transformer
from s2s.tasks.translation import TranslationTask
from s2s.text.bytes import ByteConfig, ByteTokenizer
from s2s.text.characters import CharacterConfig, CharacterTokenizer
from s2s.text.sentencepiece import SentencePieceConfig, SentencePieceTokenizer
from tests.decoding.generating import fails

BLANK = ["", " ", "\t", "\u00a0 ", "\u3000", "\u200b", "\u2028", "\ufeff \u2060", "\x0b\x0c"]
TEXT = ["ab ba cab", "abc ab bca", "a b c ba", "cab abba"]


def translator(tokenizer, target_transform="none", seed=1) -> Translator:
    """A random model; its weights are enlarged so that it writes something."""
    task = TranslationTask(tokenizer, tokenizer, target_transform)
    config = Transformer.Config()
    for stack in (config.encoder, config.decoder):
        stack.layers, stack.width, stack.heads, stack.ffn_width = 1, 16, 2, 32
    torch.manual_seed(seed)
    model = Transformer(config, task.spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.6)
    return Translator([model], task)


def tokenizers():
    yield CharacterTokenizer.learn(CharacterConfig(), [[*TEXT, "\u00a0\u3000\u200b\t"]])
    yield ByteTokenizer.learn(ByteConfig())
    yield SentencePieceTokenizer.learn(SentencePieceConfig(vocab_size=12), [TEXT])


@pytest.mark.parametrize("tokenizer", list(tokenizers()), ids=lambda tokenizer: tokenizer.config.type)
def test_a_blank_line_is_an_empty_line(tokenizer):
    lines = [line for blank in BLANK for line in ("ab", blank)]
    found = list(translator(tokenizer).translate(lines, min_length_b=3, hypotheses=True))
    assert [bool(best.ids) for best, *_ in found] == [True, False] * len(BLANK)


def test_lines_that_cannot_be_read_are_named_or_skipped(generate, runs, tmp_path):
    checkpoint = f"checkpoint={runs[0]}"
    lines = [b"a b", b"c" * 21, b"d \xff", b"e", b"f " * 10, b"g " * 11]
    text = b"\n".join(lines) + b"\n"
    (tmp_path / "text").write_bytes(text)
    fails(generate(checkpoint, f"input={tmp_path}/text", "max_line_bytes=20"),
          f"{tmp_path}/text:2: the line is longer than max_line_bytes=20 allows")  # fmt: skip
    fails(generate(checkpoint, stdin=text), "standard input:3: invalid UTF-8")
    good = generate(checkpoint, stdin=b"\n".join([lines[0], b"", b"", lines[3], lines[4], b""]) + b"\n")[1]
    for buffer in (2, 4096):
        words = checkpoint, "max_line_bytes=20", "skip_broken=true", f"decode.buffer={buffer}"
        code, printed, error = generate(*words, stdin=text)
        assert (code, printed) == (0, good)
        assert "warning: standard input:6: the line is longer than max_line_bytes=20 allows\n" in error
        assert error.endswith("; failed and left empty: 3 lines (2, 3, 6)\n")
        found = [json.loads(line) for line in generate(*words, "format=json", stdin=text)[1].splitlines()]
        assert [o.get("error", "").partition(": ")[2][:11] for o in found] == [
            "", "the line is", "invalid UTF", "", "", "the line is"
        ]  # fmt: skip
    fails(generate(checkpoint, f"store={tmp_path}", "skip_broken=true"), "a store has no broken entries")
    (tmp_path / "prefix").write_bytes(b"a\n" + b"b " * 20 + b"\n")
    fails(generate(checkpoint, "max_line_bytes=20", "skip_broken=true", f"prefix={tmp_path}/prefix", stdin=b"a\nb\n"),
          f"{tmp_path}/prefix:2: the line is longer")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("pack", [gzip.compress, lambda data: zstandard.ZstdCompressor().compress(data)])
def test_a_line_from_little_takes_little_memory(runs, tmp_path, pack):
    """One line of 32 MB, from a file of 32 KB or 1 KB."""
    for name, text in (("long", b"a " * 16_000_000), ("short", b"a b\n")):
        path = tmp_path / f"{name}{'.gz' if pack is gzip.compress else '.zst'}"
        path.write_bytes(pack(text))
        assert path.stat().st_size < 50_000
        program = (
            "import resource, sys\nfrom s2s_cli.generate import main\n"
            f"sys.argv[1:] = ['checkpoint={runs[0]}', 'input={path}', 'skip_broken=true', 'device=cpu']\nmain()\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        megabytes = int(done.stdout.splitlines()[-1])
        if name == "long":
            assert done.stdout.startswith("\n")
            most = megabytes
    assert most < megabytes + 100


@pytest.mark.parametrize("key", ["prefix", "constraints"])
def test_what_hypotheses_must_hold_has_known_symbols(generate, runs, store, tmp_path, key):
    (tmp_path / "beside").write_text("a\n" * 6 + "b unheard\n" + "a\n" * 3)
    for source, stdin in ((f"store={store}", b""), ("input=-", (store.parent / "test.src").read_bytes())):
        result = generate(f"checkpoint={runs[0]}", source, f"{key}={tmp_path}/beside", stdin=stdin)
        fails(result, f"{tmp_path}/beside, line 7: 'b unheard' has a symbol that the target vocabulary lacks")


def test_prefixes_of_translate_have_known_symbols():
    model = translator(next(tokenizers()))
    with pytest.raises(UserError, match="prefixes, line 5: 'aX' has a symbol that the target vocabulary lacks"):
        list(model.translate(["ab"] * 6, prefixes=["a", "", "b", "c", "aX", "Y"], buffer=2))


@pytest.mark.parametrize("tokenizer", list(tokenizers()), ids=lambda tokenizer: tokenizer.config.type)
def test_a_forced_last_word_is_whole(tokenizer, monkeypatch):
    """Where the model writes the last word first, for rhymes."""
    lines, rhymes = ["ab ba", "cab", "a"] * 4, ["ab", "c", "cab "] * 4
    options = [{"beam_size": 1}, {"beam_size": 4}, {"search": "sample"}]

    def longer() -> int:
        """How many hypotheses end in another word than the forced one."""
        models = [translator(tokenizer, "last_word_first", seed) for seed in range(3)]
        count = 0
        for model, some in product(models, options):
            found = model.translate(lines, prefixes=rhymes, min_length_b=5, **some)
            count += sum(text.split()[-1] != rhyme.strip() for text, rhyme in zip(found, rhymes, strict=True))
        return count

    assert longer() == 0
    monkeypatch.setattr(LastWordFirst, "closing", None)
    assert longer() > 20


def test_what_a_model_that_writes_the_last_word_first_cannot_do(tmp_path):
    model = translator(next(tokenizers()), "last_word_first")
    (tmp_path / "phrases").write_text("ab\nba ab\n")
    with pytest.raises(UserError, match="phrases: 'ba ab': a phrase of several words does not go with"):
        model.translate(["ab"], forbidden=str(tmp_path / "phrases"))
    with pytest.raises(UserError, match=r"prefix= of whole words .*: does not go with decode\.speculative=input"):
        list(model.translate(["ab"], prefixes=["ab"], beam_size=1, speculative="input"))
