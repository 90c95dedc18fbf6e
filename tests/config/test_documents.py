"""The one reader of JSON and YAML: what it takes, what it refuses, and that nothing makes it slow or large."""

import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.config.documents import parse_json, parse_yaml, read_json, read_json_lines, read_yaml, to_json
from s2s.config.shapes import mapping, number, one_of, text, whole
from s2s.errors import UserError

MANIFEST = {
    "format": int,
    "files": mapping({"bytes": whole(at_least=0), "sha256": text("[0-9a-f]{4}", "a SHA-256")},
                     text(r"[\w.-]+", "the name of a file")),
    "rate?": (float, None),
    "form?": one_of("none", "nfc"),
    "share?": number(at_least=0, at_most=1),
}  # fmt: skip
GOOD = '{"format": 1, "files": {"a.b": {"bytes": 3, "sha256": "abcd"}}, "rate": 2, "form": "nfc"}'


def refused(call, *args, **options) -> str:
    with pytest.raises(UserError) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_has_the_shape_is_taken_as_it_is():
    content = parse_json(GOOD, "f", MANIFEST)
    assert content == json.loads(GOOD)
    assert isinstance(content["rate"], float)  # a whole number where a number is wanted
    assert parse_yaml(GOOD, "f", MANIFEST) == content
    assert parse_json(b"\xef\xbb\xbf[1]", "f", [int]) == [1]
    assert parse_json('{"known": 1, "new": [null]}', "f", {"known": int, ...: object}) == {"known": 1, "new": [None]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "1"}, "f: format: a whole number is needed, not '1'"),
        ({"format": True}, "f: format: a whole number is needed, not true"),
        ({"format": 1.0}, "f: format: a whole number is needed, not 1.0"),
        ({"format": None}, "f: format: a whole number is needed, not null"),
        ({"format": ...}, "f: format is missing"),
        ({"format": 1 << 64}, "f: 18446744073709551616 has more than 64 bits"),
        ({"rate": [1]}, "f: rate: a number or null is needed, not a list"),
        ({"rate": float("nan")}, "f: NaN is not a finite number"),
        ({"rate": float("-inf")}, "f: -Infinity is not a finite number"),
        ({"form": "../../x"}, "f: form: one of none, nfc is needed, not '../../x'"),
        ({"share": 1.5}, "f: share: a number of at least 0 and at most 1 is needed, not 1.5"),
        ({"ratio": 1}, "f: unknown key 'ratio'; did you mean 'rate'?"),
        ({"files": []}, "f: files: an object of keys and values is needed, not a list"),
        ({"files": {"../x": {}}}, "f: files: the key '../x': the name of a file is needed, not '../x'"),
        ({"files": {"a.b": {"sha256": "abcd"}}}, "f: files['a.b'].bytes is missing"),
        ({"files": {"a.b": {"bytes": -1, "sha256": "abcd"}}}, "f: files['a.b'].bytes: a whole number of at least 0 is"),
        ({"files": {"a.b": {"bytes": 1, "sha256": "ABCDE"}}}, "f: files['a.b'].sha256: a SHA-256 is needed, not 'AB"),
    ],
)
def test_another_shape_is_named_with_its_place(change, message):
    content = {key: value for key, value in (json.loads(GOOD) | change).items() if value is not ...}
    assert refused(parse_json, json.dumps(content), "f", MANIFEST).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "F:1: empty"),
        (b'{"a": [1,\n 2', "F:2: not JSON: it ends too early"),
        (b'{"a": "b', "F:1: not JSON: it ends too early"),
        (b'{\n"a" 1}', "F:2: not JSON: expecting ':' delimiter at column 5"),
        (b"[1]\n]", "F:2: not JSON: extra data at column 1"),
        (b'{"a": 1, "b": 2, "a": 3}', "F: the key 'a' appears twice"),
        (b'{"a": 1e400}', "F: 1e400 is not a finite number"),
        (b'["a\\ud83d"]', "F: [0]: half of a surrogate pair is not a character"),
        (b'{"\\udc00": 1}', "F: half of a surrogate pair is not a character"),
        ("[1]".encode("utf-16"), "F: UTF-16; save it as UTF-8"),
        ("[1]".encode("utf-16-le"), "F: a zero byte at byte 1; it is damaged, or not UTF-8"),
        (b'{"a": ' + bytes(4096), "F: a zero byte at byte 6; it is damaged, or not UTF-8"),
        ('["é"]'.encode("latin-1"), "F: not UTF-8, at byte 2"),
        (b"[" * 40 + b"]" * 40, "F: nested deeper than 32"),
        (b"[" * 200_000, "F: nested deeper than 32"),
        (b"[" + b"[]," * 2_000_000 + b"[]]", "F: more than 1,048,576 values"),
        (b"1" * 5000, f"F: {'1' * 40}... has more than 64 bits"),
        (b'["' + b"a" * (1 << 21) + b'"]', "F: [0]: a text of more than 1,048,576 characters"),
        (b" " * ((32 << 20) + 1), "F: larger than 33,554,432 bytes"),
    ],
)
def test_json_that_is_none_is_named(tmp_path, content, message):
    file = tmp_path / "f.json"
    file.write_bytes(content)
    started = time.process_time()
    assert refused(read_json, file, remedy="make it again") == f"{message.replace('F', str(file), 1)}; make it again"
    assert time.process_time() - started < 5


def test_what_is_no_file_is_named(tmp_path):
    assert refused(read_json, tmp_path / "no.json") == f"{tmp_path}/no.json: no such file"
    assert refused(read_json, tmp_path) == f"{tmp_path}: not a file"
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    assert refused(read_json, tmp_path / "pipe") == f"{tmp_path}/pipe: not a file"
    assert refused(read_json, "a\0b").startswith("a\0b: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a:\n\tb: 1", "f.yaml:2: a tab; YAML requires spaces"),
        ("\ta: 1", "f.yaml:1: a tab; YAML requires spaces"),
        ("a: 1\nb: 2\na: 3", "f.yaml:3: the key a appears twice"),
        ("a: 1\nb: [1,\n  2\n", "f.yaml:2: the bracket [ is not closed"),
        ("a: {b: 1", "f.yaml:1: the brace { is not closed"),
        ("a: 'x\nb: 1", "f.yaml:1: the quote is not closed"),
        ("a: b: c", "f.yaml:1: a colon inside a value; quote the value, or indent the line as its key"),
        ("a: 1\n  b: 2", "f.yaml:2: a colon inside a value"),
        ("a:\n    b: 1\n  c: 1", "f.yaml:3: the indentation does not match the lines before it"),
        ("a: @b", "f.yaml:1: '@' cannot begin a value; quote it"),
        ('a: "\\q"', "f.yaml:1: \\q is not an escape sequence; use single quotes"),
        ("a: &b 1", "f.yaml:1: & begins an anchor; anchors are not allowed: write the value out, or quote it"),
        ("a: *b", "f.yaml:1: * begins an alias; aliases are not allowed: write the value out, or quote it"),
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1: ! begins a tag; tags are not allowed: quote the value"),
        ("? [a]\n: 1", "f.yaml:1: a key must be text"),
        ("a: 1\n---\na: 2", "f.yaml:2: a second document; only one is allowed"),
        ("a: \x07", "f.yaml:1: the control character U+0007 is not allowed in YAML"),
        ("- a", "f.yaml:1: an object of keys and values is needed, not a list"),
        ("words", "f.yaml:1: an object of keys and values is needed, not 'words'"),
        ("", "f.yaml:1: an object of keys and values is needed, not null"),
        ("a: 1\nb: .nan", "f.yaml:2: nan is not a finite number"),
        ("a: " + "[" * 100_000, "f.yaml:1: nested deeper than 32"),
        ("- " * 100_000, "f.yaml:1: nested deeper than 32"),
        ("a: [" + "b, " * 100_000 + "]", "f.yaml: more than 65,536 values"),
        ("a: " + "b" * (1 << 20), "f.yaml: larger than 1,048,576 bytes"),
    ],
)
def test_yaml_that_is_none_is_named_with_its_line(content, message):
    started = time.process_time()
    assert refused(parse_yaml, content, "f.yaml", {...: object}).startswith(message)
    assert time.process_time() - started < 5


def test_aliases_that_explode_are_refused():
    content = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert refused(parse_yaml, content, "f.yaml").startswith("f.yaml:1: & begins an anchor")


@pytest.mark.parametrize("value", ["1.10", "2024_01", "1e3", "true", "no", "007", "1:30", "0x10", ".inf", "<<", "null"])
def test_text_of_yaml_is_what_stands_there(value):
    shape = {"key": str, "list": [str], "map": mapping(str)}
    content = parse_yaml(f"key: {value}\nlist: [{value}, '{value}']\nmap: {{{value}: {value}}}", "f.yaml", shape)
    assert content == {"key": value, "list": [value, value], "map": {value: value}}


def test_scalars_of_yaml_by_themselves():
    content = parse_yaml("[1, -2, +3, 1_000, 1.5, 1e-3, .5, true, FALSE, null, ~, , no, 0x10, '1', \"null\"]".replace(
        "~, ,", "~,"), "f.yaml")  # fmt: skip
    assert content == [1, -2, 3, 1000, 1.5, 0.001, 0.5, True, False, None, None, "no", "0x10", "1", "null"]
    shape = [(str, None)]
    assert parse_yaml("[null, ~, 'null', 1]", "f.yaml", shape) == [None, None, "null", "1"]


def test_lines_of_json_fail_alone(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_bytes(b'{"a": 1}\n\n[\n{"a": "x"}\r\n{"a": 2}\r\n{"a": \xff}\n{"a": 3}')
    told = []
    rows = list(read_json_lines(file, {"a": int}, broken=lambda error: told.append(str(error))))
    assert rows == [(f"{file}:1", {"a": 1}), (f"{file}:5", {"a": 2}), (f"{file}:7", {"a": 3})]
    assert told == [
        f"{file}:3: not JSON: it ends too early",
        f"{file}:4: a: a whole number is needed, not 'x'",
        f"{file}:6: not UTF-8, at byte 6",
    ]
    assert refused(list, read_json_lines(file)) == told[0]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20,
)  # fmt: skip


@settings(max_examples=50)
@given(VALUES)
def test_what_is_written_is_read(content):
    assert parse_json(to_json(content), "f") == content


def test_numbers_that_are_not_finite_are_written_as_null():
    assert to_json({"a": [float("nan"), (1, float("-inf"))]}) == '{"a": [null, [1, null]]}'


def test_the_reader_needs_neither_torch_nor_hydra_nor_yaml(tmp_path):
    code = (
        "import sys; from s2s.config.documents import read_json, read_yaml; "
        "assert not {'yaml', 'torch', 'numpy', 'hydra', 'omegaconf'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    (tmp_path / "c.yaml").write_text("a: 1.10")
    assert read_yaml(tmp_path / "c.yaml", {"a": str}) == {"a": "1.10"}
