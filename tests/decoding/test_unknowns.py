"""An unknown symbol of the output becomes the source token that its attention points at."""

import json

import pytest

from s2s import registry
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.unknowns import Unknowns
from s2s.errors import UserError
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import UNK

LINE = "Zoë saw Xanthippe there"


class Model:
    """A model that keeps all tokens."""

    encoder = None

    @staticmethod
    def memory_length(length):
        return length


def task(kind, order="none", **options):
    tokenizer = registry.find("tokenizer", kind)
    learned = tokenizer.learn(tokenizer.Config(**options), [["we saw three there", "three ewes there saw we"] * 9])
    return TranslationTask(learned, learned, order)


def written(kind, dictionary, places, **options):
    """The text of a hypothesis of known tokens, and unknown ones that point at these tokens of LINE."""
    made = task(kind, **options)
    ids = made.target_tokenizer.encode("saw" if kind == "words" else "we")
    tokens = [*ids, *[UNK] * len(places)]
    hypothesis = Hypothesis(tokens, 0.0, 0.0, [], alignment=[0] * len(ids) + [*places, 9])
    return Unknowns(made, [Model()], dictionary).text(hypothesis, LINE), made.target_tokenizer.decode(tokens)


def test_the_raw_text_is_written_whatever_the_tokens():
    assert written("words", {}, [2, 0, 1]) == ("saw Xanthippe Zoë saw", "saw <unk> <unk> <unk>")
    assert written("words", {"Zoë": "Zoe"}, [2, 0]) == ("saw Xanthippe Zoe", "saw <unk> <unk>")
    assert written("words", {}, [4]) == ("saw <unk>", "saw <unk>")  # the end of the source
    assert written("characters", {}, [0, 2]) == ("weZë", "we\ufffd\ufffd")
    text, before = written("sentencepiece", {}, [1], vocab_size=14)
    assert "\u2047" in before
    assert text == "weZoë"


def test_what_cannot_be_replaced_is_an_error():
    for made, model, message in (
        (task("bytes"), Model, "the tokenizer bytes has no unknown symbol"),
        (task("words", "reverse"), Model, "requires a model that writes tokens in their order"),
        (task("words"), type("Halving", (), {"memory_length": lambda self, n: n // 2}), "that keep all tokens"),
    ):
        with pytest.raises(UserError, match=message):
            Unknowns(made, [model()], {})


def test_the_command_writes_what_the_alignment_says(generate, runs, lines, tmp_path):
    raw = [f"qqq {line} zzz" for line in lines[:4]]
    stdin = "".join(f"{line}\n" for line in raw).encode()
    common = [f"checkpoint={runs[0]}", "decode.search=sample", "decode.n_best=8", "decode.temperature=9", "format=json",
              "decode.allow_unknown=true"]  # fmt: skip
    aligned = [json.loads(row) for row in generate(*common, "alignment=true", stdin=stdin)[1].splitlines()]
    dictionary = tmp_path / "names"
    dictionary.write_text("qqq\tQ q\nzzz Z\n")
    replacing = [*common, "decode.replace_unknown=true", f"decode.unknown_dictionary={dictionary}"]
    replaced = [json.loads(row) for row in generate(*replacing, stdin=stdin)[1].splitlines()]
    pointed = 0
    for one, other in zip(aligned, replaced, strict=True):
        words = [{"qqq": "Q q", "zzz": "Z"}.get(word, word) for word in raw[one["index"]].split()] + ["<unk>"]
        pairs = list(zip(one["tokens"][:-1], one["alignment"], strict=False))
        assert other["hypothesis"] == " ".join(words[at] if token == "<unk>" else token for token, at in pairs)
        assert other == {**{key: value for key, value in one.items() if key not in ("alignment", "source_tokens")},
                         "hypothesis": other["hypothesis"]}  # fmt: skip
        pointed += sum(token == "<unk>" and at in (0, len(words) - 2) for token, at in pairs)
    assert pointed, "some unknown symbols point at unknown words"


def test_a_store_has_the_lines_too(generate, runs, store):
    words = [f"checkpoint={runs[0]}", f"store={store}", "decode.allow_unknown=true"]
    code, printed, error = generate(*words, "decode.replace_unknown=true")
    assert code == 0, error
    assert len(printed.splitlines()) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["decode.replace_unknown=true"], "requires decode.allow_unknown=true"),
        (["decode.replace_unknown=true", "decode.allow_unknown=true", "mode=score", "target=x"], "with mode=score"),
        (["decode.unknown_dictionary=x"], "decode.unknown_dictionary=x: does nothing without decode.replace_unknown"),
        (["decode.replace_unknown=true", "decode.allow_unknown=true", "decode.unknown_dictionary=no"], "no such file"),
    ],
)
def test_mistakes(generate, runs, words, message):
    code, _, error = generate(f"checkpoint={runs[0]}", *words, stdin=b"a\n")
    assert code == 2
    assert message in error
