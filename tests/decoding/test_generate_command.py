"""s2s-generate by its command line: inputs, outputs, formats, and one clear line for each mistake."""

import gzip
import json
import math
import re
import shutil
import signal
import time

import pytest
import torch

from s2s.checkpoint import loading
from s2s.decoding import translator
from tests.conftest import write_corpus
from tests.decoding.generating import SMALL, fails


def test_store_file_and_pipe_give_the_same_lines_in_order(generate, runs, store, lines, tmp_path):
    output, packed = tmp_path / "hyp", tmp_path / "test.src.gz"
    packed.write_bytes(gzip.compress((store.parent / "test.src").read_bytes()))
    code, printed, error = generate(f"checkpoint={runs[0]}", f"store={store}", "split=test", f"output={output}")
    assert (code, printed) == (0, "")
    assert re.fullmatch(r"10 sentences, \d+ tokens, [\d.]+ s, [\d.,]+ sentences/s(; .*)?\n", error)
    text = output.read_text()
    assert text.count("\n") == 10
    assert generate(f"checkpoint={runs[0]}", f"input={packed}")[:2] == (0, text)
    stdin = (store.parent / "test.src").read_bytes()
    for buffer in (1, 3, 4096):
        assert generate(f"checkpoint={runs[0]}", f"decode.buffer={buffer}", stdin=stdin)[:2] == (0, text)


def test_empty_lines_stay_empty_and_a_last_line_needs_no_line_feed(generate, runs):
    code, printed, _ = generate(f"checkpoint={runs[0]}", stdin=b"\na b c\n\n   \r\nd e")
    rows = printed.split("\n")
    assert code == 0
    assert [bool(row) for row in rows] == [False, True, False, False, True, False]
    assert generate(f"checkpoint={runs[0]}", stdin=b"")[:2] == (0, "")


def test_formats_agree_and_json_holds_tokens_with_log_probabilities(generate, runs, lines):
    stdin = "\n".join([*lines, ""]).encode()
    common = f"checkpoint={runs[0]}", "decode.n_best=3"
    plain = generate(common[0], stdin=stdin)[1].splitlines()
    tsv = [row.split("\t") for row in generate(*common, "format=tsv", stdin=stdin)[1].splitlines()]
    objects = [json.loads(row) for row in generate(*common, "format=json", stdin=stdin)[1].splitlines()]
    assert len(tsv) == len(objects) == 30
    assert [row[2] for row in tsv[::3]] == plain
    assert [(int(row[0]), row[2]) for row in tsv] == [(o["index"], o["hypothesis"]) for o in objects]
    for row, o in zip(tsv, objects, strict=True):
        assert float(row[1]) == pytest.approx(o["score"], abs=1e-6)
        assert o["tokens"] == [*o["hypothesis"].split(), "</s>"]
        assert sum(o["token_log_probabilities"]) == pytest.approx(o["log_probability"])
        assert o["score"] == pytest.approx(o["log_probability"] / len(o["tokens"]), rel=1e-5)
    assert [o["rank"] for o in objects] == [0, 1, 2] * 10


def test_scoring_the_output_gives_the_scores_of_the_search(generate, runs, store, tmp_path):
    output = tmp_path / "hyp.tsv"
    common = f"checkpoint=[{runs[0]},{runs[1]}]", f"store={store}"
    assert generate(*common, "format=tsv", f"output={output}")[0] == 0
    _, scores, texts = zip(*(row.split("\t") for row in output.read_text().splitlines()), strict=True)
    target = tmp_path / "hyp"
    target.write_text("".join(f"{text}\n" for text in texts))
    for source in (f"store={store}", f"input={store.parent}/test.src"):
        code, printed, _ = generate(common[0], source, "mode=score", f"target={target}")
        assert code == 0
        assert list(map(float, printed.splitlines())) == pytest.approx(list(map(float, scores)), abs=1e-5)
    # Without a file the store's own targets are scored.
    printed = generate(*common, "mode=score", "format=json")[1]
    own = [" ".join(json.loads(row)["tokens"][:-1]) for row in printed.splitlines()]
    assert own == (store.parent / "test.tgt").read_text().splitlines()


def test_hypotheses_start_with_their_prefixes(generate, runs, store, lines, tmp_path):
    prefix = tmp_path / "prefix"
    prefix.write_text("".join(["a b\n", "\n", "j\n"] + ["c d e\n"] * 7))
    for source, stdin in ((f"store={store}", b""), (f"input={store.parent}/test.src", b""),
                          ("decode.buffer=3", "\n".join([*lines, ""]).encode())):  # fmt: skip
        code, printed, _ = generate(f"checkpoint={runs[0]}", source, f"prefix={prefix}", stdin=stdin)
        assert code == 0
        for line, start in zip(printed.splitlines(), prefix.read_text().splitlines(), strict=True):
            assert f"{line} ".startswith(start)


def test_an_ensemble_is_not_its_first_model(generate, runs, lines):
    stdin = "\n".join([*lines, ""]).encode()
    words = "format=tsv", "decode.beam_size=2"
    one, two, both, same = (
        generate(f"checkpoint={names}", *words, stdin=stdin)[1]
        for names in (runs[0], runs[1], f"[{runs[0]},{runs[1]}]", f"[{runs[0]},{runs[0]}]")
    )
    assert len({one, two, both}) == 3
    assert [row.split("\t")[2] for row in same.splitlines()] == [row.split("\t")[2] for row in one.splitlines()]


def test_samples_depend_on_the_seed_and_not_on_the_buffer(generate, runs, lines):
    stdin = "\n".join([*lines, ""]).encode()
    words = f"checkpoint={runs[0]}", "decode.search=sample", "decode.n_best=2", "format=tsv"
    first = generate(*words, stdin=stdin)[1]
    texts = [row.split("\t")[2] for row in first.splitlines()]
    again = generate(*words, "decode.buffer=3", stdin=stdin)[1]
    assert [row.split("\t")[2] for row in again.splitlines()] == texts
    other = generate(*words, "seed=2", stdin=stdin)[1]
    assert [row.split("\t")[2] for row in other.splitlines()] != texts


def test_forbidden_words_come_from_a_file(generate, runs, lines, tmp_path):
    stdin = "\n".join([*lines, ""]).encode()
    checkpoint = f"checkpoint={runs[0]}"
    words = generate(checkpoint, stdin=stdin)[1].split()
    most = max(words, key=words.count)
    file = tmp_path / "forbidden"
    file.write_text(f"{most}\n\nnever-seen\n")
    code, printed, _ = generate(checkpoint, f"decode.forbidden={file}", stdin=stdin)
    assert code == 0
    assert most not in printed.split()
    assert len(printed.splitlines()) == 10
    fails(generate(checkpoint, "decode.forbidden=absent"), "decode.forbidden=absent: no such file")


def test_outputs_come_from_a_list(generate, runs, store, lines, tmp_path):
    stdin = "\n".join([*lines, ""]).encode()
    file = tmp_path / "allowed"
    file.write_text("a b c\n\nd e\nd e f\nj\n")
    code, printed, _ = generate(f"checkpoint={runs[0]}", f"decode.allowed={file}", stdin=stdin)
    assert code == 0
    assert len(printed.splitlines()) == 10
    assert set(printed.splitlines()) <= {"a b c", "d e", "d e f", "j"}
    file.write_text("a b\na unheard\n")
    fails(generate(f"checkpoint={runs[0]}", f"decode.allowed={file}"), f"{file}, line 2", "'a unheard'", "lacks")
    file.write_text("\n")
    fails(generate(f"checkpoint={runs[0]}", f"decode.allowed={file}"), f"{file}: all lines are empty")


def test_hypotheses_hold_their_constraints(generate, runs, store, lines, tmp_path):
    file, source = tmp_path / "constraints", f"input={store.parent}/test.src"
    phrases = [["j j", "a"], [], ["b"], ["c d e", "j"], *[["f"]] * 6]
    file.write_text("".join("\t".join(row) + "\n" for row in phrases))
    for words, stdin in ((("decode.buffer=3",), "\n".join([*lines, ""]).encode()), ((source,), b""),
                         ((f"store={store}",), b"")):  # fmt: skip
        code, printed, error = generate(f"checkpoint={runs[0]}", f"constraints={file}", *words, stdin=stdin)
        assert code == 0
        assert "constraints" not in error
        for line, row in zip(printed.splitlines(), phrases, strict=True):
            assert all(f" {phrase} " in f" {line} " for phrase in row)
    words = f"checkpoint={runs[0]}", source, f"constraints={file}"
    limits = "decode.max_length_a=0", "decode.max_length_b=1"
    assert "; 2 lack some of their constraints" in generate(*words, *limits)[2]
    fails(generate(*words, "decode.search=sample"), "constraints=: does not go with decode.search=sample")
    fails(generate(*words, "mode=score", f"target={file}"), "constraints= requires mode=translate")
    file.write_text("a\n" * 8 + "a\tunheard\na\n")
    fails(generate(*words), f"{file}, line 9", "'unheard'")
    for count in (9, 11):
        file.write_text("a\n" * count)
        fails(generate(*words), f"{file} has {count}", "10 lines")
        piped = generate(
            *words[::2], "decode.buffer=4", f"output={tmp_path}/hyp", stdin="\n".join([*lines, ""]).encode()
        )
        fails(piped, f"{file} has {count}")


def test_minimum_bayes_risk_gives_one_line(generate, runs, lines):
    stdin = "\n".join([*lines, "", ""]).encode()
    words = f"checkpoint={runs[0]}", "decode.search=sample", "decode.n_best=8"
    samples = [row.split("\t") for row in generate(*words, "format=tsv", stdin=stdin)[1].splitlines()]
    code, printed, _ = generate(*words, "decode.mbr=chrf", stdin=stdin)
    assert code == 0
    assert len(printed.splitlines()) == 11
    for index, line in enumerate(printed.splitlines()):
        assert line in [text for number, _, text in samples if int(number) == index]
    fails(generate(words[0], "decode.mbr=bleu"), "requires decode.n_best of at least 2")
    fails(
        generate(words[0], "decode.top_p=0.5"),
        "decode.top_p=0.5: does nothing with decode.search=beam; it goes with decode.search=sample",
    )


def test_the_end_by_the_maximum_length_is_reported(generate, runs):
    words = f"checkpoint={runs[0]}", "decode.max_length_a=0", "decode.max_length_b=1"
    assert "; 2 ended by the maximum length" in generate(*words, stdin=b"a b c d\ne f g h\n")[2]


def test_the_share_of_layers_that_were_run_is_reported(generate, runs):
    words = ["decode.encoder_exit_similarity=1", "decode.decoder_exit_similarity=1", "decode.backend=eager"]
    error = generate(f"checkpoint={runs[0]}", *words, stdin=b"a b c\n")[2]
    assert "; 100% of the encoder's layers were run; 100% of the decoder's layers were run" in error


def test_a_line_break_in_a_hypothesis_does_not_break_the_lines():
    from s2s.decoding.hypothesis import Translation
    from s2s.decoding.outputs import formatter

    n_best = [Translation([4, 5], -1.0, -3.0, [-1.0, -1.0, -1.0], text="a\nb\rc\td", tokens=["e", "f", "</s>"])]
    for name, expected in (("text", "a b c\td\n"), ("tsv", "7\t-1.000000\ta b c d\n")):
        assert formatter(name)(7, n_best) == expected


def test_mistakes_in_the_words(generate, runs, store, tmp_path):
    checkpoint = f"checkpoint={runs[0]}"
    fails(generate(), "checkpoint= is missing")
    fails(generate(checkpoint, "decode.n_best=2"), "decode.n_best=2", "format=tsv or format=json")
    fails(generate(checkpoint, "decode.n_best=9", "format=tsv"), "at most decode.beam_size=5")
    fails(generate(checkpoint, "decode.beam=2"), "did you mean 'decode.beam_size'?")
    fails(generate(checkpoint, f"store={store}", "input=x"), "input= and store=")
    fails(generate(checkpoint, "input=absent"), "input=absent: no such file")
    fails(generate(checkpoint, "input=x", "split=valid"), "split=valid: does nothing without store")
    alone = "decode.alignment_head=1: does nothing without alignment=true or decode.coverage_penalty"
    fails(generate(checkpoint, f"store={store}", "decode.alignment_head=1"), alone)
    (tmp_path / "talk.wav").write_bytes(b"RIFF")
    fails(generate(checkpoint, f"input={tmp_path}/talk.wav"), "talk.wav is a recording, but the model reads lines")
    fails(generate(checkpoint, "mode=score"), "mode=score requires target=FILE")
    fails(generate(checkpoint, f"target={runs[0]}"), "target= requires mode=score")
    fails(generate(checkpoint, "mode=score", f"store={store}", "prefix=x"), "prefix= requires mode=translate")
    fails(generate(checkpoint, f"store={store}", "split=test7"), "no split 'test7'", "train, valid, test")
    fails(generate(checkpoint, f"store={store}", f"output={tmp_path}"), f"output={tmp_path}: is a folder")
    fails(generate(checkpoint, f"input={tmp_path}"), "is a folder")
    fails(generate(checkpoint, f"store={tmp_path}"), "not a store")


def test_an_input_is_never_overwritten(generate, runs, tmp_path):
    text = tmp_path / "text"
    text.write_text("a b\n")
    fails(generate(f"checkpoint={runs[0]}", f"input={text}", f"output={text}"), "is also input")
    assert text.read_text() == "a b\n"


def test_invalid_utf8_is_named_with_its_line_and_leaves_no_output(generate, runs, tmp_path):
    text, output = tmp_path / "text", tmp_path / "hyp"
    text.write_bytes(b"a b\nc\nd \xff e\nf\n")
    for buffer in (100, 1):
        words = f"checkpoint={runs[0]}", f"decode.buffer={buffer}"
        fails(generate(*words, f"output={output}", stdin=text.read_bytes()), "standard input:3")
        fails(generate(*words, f"input={text}", f"output={output}"), f"{text}:3", "0xff")
        left = {100: ["text"], 1: [".unfinished-hyp", "text"]}[buffer]  # two lines were decoded before the third
        assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_an_output_file_is_replaced_only_when_complete(generate, runs, tmp_path):
    text, output = tmp_path / "text", tmp_path / "hyp"
    output.write_text("old\n")
    text.write_bytes(b"a b\n\xff\n")
    fails(generate(f"checkpoint={runs[0]}", f"input={text}", f"output={output}"))
    assert output.read_text() == "old\n"
    text.write_bytes(b"\n")
    assert generate(f"checkpoint={runs[0]}", f"input={text}", f"output={output}")[0] == 0
    assert output.read_text() == "\n"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("count", "named"), [(9, "has 9"), (11, "has 11")])
@pytest.mark.parametrize("role", ["prefix", "target"])
def test_a_prefix_or_target_file_of_another_line_count(generate, runs, store, lines, tmp_path, role, count, named):
    companion = tmp_path / "companion"
    companion.write_text("a\n" * count)
    words = [f"checkpoint={runs[0]}", f"{role}={companion}"] + ["mode=score"] * (role == "target")
    fails(generate(*words, f"store={store}"), "split 'test' has 10 lines", named)
    fails(generate(*words, f"input={store.parent}/test.src"), "test.src has 10 lines", named)
    output = tmp_path / "hyp"  # of a pipe the count is known only at its end
    stdin = "\n".join([*lines, ""]).encode()
    fails(generate(*words, f"output={output}", "decode.buffer=4", stdin=stdin), "standard input has", companion)
    assert not output.exists()


def test_a_checkpoint_that_does_not_fit_the_store_or_its_companions(generate, runs, s2s, store, tmp_path):
    write_corpus(tmp_path, {"train": 50, "valid": 5, "test": 5})
    for side in ("src", "tgt"):
        path = tmp_path / f"train.{side}"
        path.write_text(path.read_text().replace("a", "z y"))
    other = tmp_path / "store"
    assert s2s("preprocess", "source=src", "target=tgt", f"train={tmp_path}/train", f"valid={tmp_path}/valid",
               f"test={tmp_path}/test", "tokenizer=words", f"store={other}", "workers=1") == 0  # fmt: skip
    run = tmp_path / "run"
    assert s2s("train", f"store={other}", f"run={run}", *SMALL, "train.max_updates=2") == 0
    generate("checkpoint=x")  # what the two commands printed is read away
    fails(
        generate(f"checkpoint={runs[0]}", f"store={other}"),
        "does not fit store=",
        "another source vocabulary, of 15 symbols against 14",
    )
    fails(generate(f"checkpoint=[{runs[0]},{run}]", f"store={store}"), f"checkpoint={run}", "together must agree")


def test_a_checkpoint_that_is_missing_or_damaged(generate, runs, tmp_path):
    fails(generate("checkpoint=nowhere"), "checkpoint=nowhere: no such folder")
    fails(generate(f"checkpoint={tmp_path}"), "neither a checkpoint nor a run")
    fails(generate(f"checkpoint={runs[0]}", f"output={tmp_path}/no/hyp", stdin=b"a b\n"), "there is no folder")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "t5"}')
    fails(generate(f"checkpoint={tmp_path}/theirs"), f"s2s-import from={tmp_path}/theirs output=RUN")
    copy = tmp_path / "copy"
    shutil.copytree(runs[0] / "last", copy)
    assert generate(f"checkpoint={copy}", stdin=b"a b\n")[0] == 0  # complete in itself
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    fails(generate(f"checkpoint={copy}", stdin=b"a b\n"), weights, "damaged")


@pytest.fixture
def poison(monkeypatch):
    """poison(symbol): from now on the output of models is not a number for sources with it."""

    def start(symbol):
        def load_model(path, device):
            model, task, facts = loading.load_model(path, device)
            number = task.source_tokenizer.vocabulary.symbols.index(symbol)
            weight = model.frontend.embedding.tokens.weight.detach().clone()
            weight[number] = math.nan
            model.frontend.embedding.tokens = torch.nn.Embedding.from_pretrained(weight)
            return model, task, facts

        monkeypatch.setattr(translator, "load_model", load_model)

    return start


def test_a_line_that_fails_stops_the_command_or_is_marked(generate, runs, tmp_path, poison):
    text, output = b"a b\n\nc j\nb a\nj\n", tmp_path / "output"
    words = f"checkpoint={runs[0]}", "decode.buffer=2", "decode.max_length_b=5"
    whole = generate(*words, stdin=text)[1].splitlines()
    poison("j")
    for more in ([], ["decode.search=sample"]):
        code, printed, error = generate(*words, f"output={output}", *more, stdin=text)
        assert (code, printed, list(tmp_path.iterdir())) == (1, "", [])
        assert error == ("s2s-generate: failed: line 3: no hypothesis has a finite probability: the model's output is "
                         "not finite\n")  # fmt: skip
    words += ("decode.on_error=mark",)
    code, printed, error = generate(*words, stdin=text)
    assert (code, printed.splitlines()) == (0, [whole[0], "", "", whole[3], ""])
    assert error.endswith("; failed and left empty: 2 lines (3, 5)\n")
    assert generate(*words, "format=tsv", stdin=text)[1].splitlines()[2::2] == ["2\t\t", "4\t\t"]
    found = [json.loads(line) for line in generate(*words, "format=json", stdin=text)[1].splitlines()]
    assert [one.get("hypothesis") for one in found] == [whole[0], "", None, whole[3], None]
    assert [sorted(one) for one in found[2::2]] == [["error", "index"]] * 2
    assert "not finite" in found[4]["error"]


def test_a_target_that_fails_is_marked(generate, runs, tmp_path, poison):
    text, target = b"a b\nj\nb a\n", tmp_path / "target"
    target.write_bytes(text)
    words = f"checkpoint={runs[0]}", "mode=score", f"target={target}"
    whole = generate(*words, stdin=text)[1].splitlines()
    poison("j")
    code, _, error = generate(*words, stdin=text)
    assert code == 1
    assert "line 2: " in error
    assert generate(*words, "decode.on_error=mark", stdin=text)[1].splitlines() == [whole[0], "", whole[2]]


def test_what_fails_is_named_by_its_number_in_the_split(generate, runs, store, lines, poison):
    poison("j")
    code, _, error = generate(f"checkpoint={runs[0]}", f"store={store}", "split=test")
    first = next(number for number, line in enumerate(lines, 1) if "j" in line)
    assert code == 1
    assert f"failed: sentence {first}: no hypothesis" in error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_inside_a_long_call(spawn, runs, tmp_path, number):
    """The encoder's attention to 60,000 tokens is one call of many seconds, in which Python runs no handler."""
    (tmp_path / "in").write_text("a b\n" + "a b " * 30_000 + "\n")
    (tmp_path / "out").write_text("what was there\n")
    words = f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", "decode.buffer=1", "decode.max_source=100000"
    process = spawn("generate", f"checkpoint={runs[0]}", *words, "device=cpu", start_new_session=True)
    partial = tmp_path / ".unfinished-out/lines"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):  # the first line
        time.sleep(0.02)
    time.sleep(0.5)
    started = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - started < 8
    assert process.returncode == 128 + number
    assert error == ("s2s-generate: interrupted\n" if number == signal.SIGINT else "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished-out", "in", "out"]
    assert (tmp_path / "out").read_text() == "what was there\n"


def test_a_source_that_is_too_long_is_cut_and_named_or_refused(generate, runs, tmp_path):
    text = b"a b c d\na b\n\nd c b a\n" + b"a b c\n" * 6
    words = f"checkpoint={runs[0]}", "decode.max_source=2"
    code, printed, error = generate(*words, stdin=text)
    expected = generate(f"checkpoint={runs[0]}", stdin=b"a b\na b\n\nd c\n" + b"a b\n" * 6)[1]
    assert (code, printed) == (0, expected)
    assert error.endswith("; too long and cut (decode.max_source, model.max_positions): 8 lines (1, 4, 5, 6, 7, ...)\n")
    (first, *_) = generate(*words, "format=json", "alignment=true", stdin=text)[1].splitlines()
    assert json.loads(first)["source_truncated"]
    assert json.loads(first)["source_tokens"] == ["a", "b", "</s>"]
    (tmp_path / "target").write_bytes(text)
    scored = generate(*words, "mode=score", f"target={tmp_path / 'target'}", stdin=text)
    assert "8 lines (1, 4, 5, 6, 7, ...)" in scored[2]
    words += ("decode.long_source=refuse",)
    code, _, error = generate(*words, stdin=text)
    assert code == 2
    assert "error: line 1: source of 4 tokens; at most 2 are allowed (decode.max_source, model.max_positions)" in error
    code, printed, error = generate(*words, "decode.on_error=mark", stdin=text)
    assert (code, printed.splitlines()) == (0, ["", expected.splitlines()[1], "", "", *[""] * 6])
    assert error.endswith("; failed and left empty: 8 lines (1, 4, 5, 6, 7, ...)\n")
