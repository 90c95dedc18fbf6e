"""Words by their frequency in the training text, counted by hand."""

import json

from s2s.scoring.frequencies import Words, by_frequency

TRAINING = ["the cat", "the dog", "the the cat"]  # the: 4, cat: 2, dog: 1
REFERENCES = ["the cat sat", "the dog dog", "a bird"]
FIRST = ["the cat cat", "the dog", "bird"]  # of sat, dog, a: missing; cat: one too many
SECOND = ["the sat", "dog dog dog", "a a bird"]


def test_words_are_counted_by_range():
    table = by_frequency(TRAINING, REFERENCES, {"first": FIRST, "second": SECOND})
    assert table == {
        "0": {"first": Words(3, 1, 1), "second": Words(3, 4, 3)},  # sat, a, bird
        "1": {"first": Words(2, 1, 1), "second": Words(2, 3, 2)},  # dog
        "2-4": {"first": Words(3, 4, 3), "second": Words(3, 1, 1)},  # the, cat
    }
    words = table["0"]["second"]
    assert (words.precision, words.recall, round(words.f1, 3)) == (75, 100, 85.714)
    assert (Words().precision, Words().recall, Words().f1) == (0, 0, 0)


def test_large_frequencies():
    training = ["x " * 9999, "y " * 10_000, "z " * 99, "w " * 100]
    table = by_frequency(training, ["x y z w v"], {"a": ["x y z w v"]})
    assert list(table) == ["0", "10-99", "100-999", "1000-9999", "10000+"]


def test_the_command_prints_the_table(tmp_path, s2s, capsys):
    files = {"train": ["The cat", "the dog", "the the cat"], "ref": REFERENCES, "first": FIRST, "second": SECOND}
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    options = [f"reference={tmp_path}/ref", f"word_frequency={tmp_path}/train", "lowercase=true", "metrics=[chrf]"]
    assert s2s("score", f"hypothesis={tmp_path}/first", *options) == 0
    assert capsys.readouterr().out.splitlines()[-4:] == [
        f"in training  words  F1 {tmp_path}/first (precision/recall)",
        "0            3      50.0 (100.0/33.3)",
        "1            2      66.7 (100.0/50.0)",
        "2-4          3      85.7 (75.0/100.0)",
    ]
    both = f"hypothesis=[{tmp_path}/first,{tmp_path}/second]"
    assert s2s("score", both, *options, "trials=0", "bootstrap=0") == 0
    last = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split("  ")[0] for line in last] == ["0", "1", "2-4"]
    assert last[0].endswith("85.7 (75.0/100.0)")
    for hypothesis in ([both, "trials=0", "bootstrap=0"], [f"hypothesis={tmp_path}/first"]):
        assert s2s("score", *hypothesis, *options, "format=json") == 0
        content = json.loads(capsys.readouterr().out)["word_frequency"]
        assert content["1"][f"{tmp_path}/first"] == {"reference": 2, "hypothesis": 1, "right": 1}
    several = f"reference=[{tmp_path}/ref,{tmp_path}/second]"
    assert s2s("score", f"hypothesis={tmp_path}/first", several, options[1]) == 2
    assert "word_frequency= requires a single reference" in capsys.readouterr().err
