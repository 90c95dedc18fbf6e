"""What a store's report says about its text, as facts, text and picture, held to slow counts of single lines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from s2s.data import picture
from s2s.data.report import BARS, SideCounts, bar_width, percentile, premium_facts, premium_sums, table, unknown_tokens
from s2s.text.vocabulary import UNK

values = st.lists(st.integers(0, 50), min_size=1)


@settings(deadline=None)
@given(values, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_percentiles_are_nearest_ranks(values, share):
    assert percentile(np.bincount(values), share) == np.percentile(values, 100 * share, method="inverted_cdf")


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1), st.lists(st.integers(0, 9), min_size=1), st.integers(1, 9))
def test_a_histogram_has_every_line_in_its_bar(source, target, chunk):
    sides = SideCounts(), SideCounts()
    for side, lengths in zip(sides, (source, target), strict=True):
        for i in range(0, len(lengths), chunk):
            side.add(np.array(lengths[i : i + chunk], np.int32), 1, 10)
    width = bar_width(sides)
    for side, lengths in zip(sides, (source, target), strict=True):
        facts = side.facts(width)
        bars = facts["histogram"]["lines"]
        expected = [0] * len(bars)
        for length in lengths:
            expected[min(length // width, len(bars) - 1)] += 1
        assert bars == expected
        assert len(bars) <= BARS
        assert len(bars) < BARS or bars[-1] <= 0.01 * len(lengths)
        assert facts["tokens"] == sum(lengths)
        assert facts["unknown"] == -(-len(lengths) // chunk)
        assert facts["characters"] == 10 * facts["unknown"]


lines = st.lists(st.lists(st.sampled_from([UNK, 5, 6]), max_size=12), max_size=20)


def flat(lines: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([i for line in lines for i in line], int), np.array(list(map(len, lines)), int)


@settings(deadline=None)
@given(lines)
def test_unknown_tokens_are_counted_by_line(lines):
    assert unknown_tokens(*flat(lines)).tolist() == [line.count(UNK) for line in lines]


pairs = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 3), st.integers(0, 3)), max_size=20)


@settings(deadline=None)
@given(pairs, st.integers(1, 20))
def test_the_premium_is_the_mean_ratio_of_the_pairs_that_count_however_they_are_chunked(pairs, chunk):
    sums = np.zeros(3, object)
    for i in range(0, len(pairs), chunk):
        source, target, *unknown = np.array(pairs[i : i + chunk], np.int32).T
        lengths = {"source": source, "target": target}
        sums = sums + premium_sums(lengths, dict(zip(lengths, unknown, strict=True))).astype(object)
    counted = [(s, t) for s, t, *unknown in pairs if s and t and unknown[0] <= s / 10 and unknown[1] <= t / 10]
    facts = premium_facts(sums)
    assert facts["pairs"] == len(counted)
    if counted:
        assert facts["target_over_source"] == pytest.approx(np.mean([t / s for s, t in counted]), abs=1e-4)
        assert facts["source_over_target"] == pytest.approx(np.mean([s / t for s, t in counted]), abs=1e-4)
    else:
        assert facts["target_over_source"] is facts["source_over_target"] is None


def made_up(splits: dict[str, tuple[list[int], list[int]]], languages: tuple[str, str] = ("de", "en")) -> dict:
    """A report of splits whose lines have these lengths."""
    report = {f"{side}_language": language for side, language in zip(("source", "target"), languages, strict=True)}
    report["vocabularies"] = {side: {"size": 9, "digest": side} for side in ("source", "target")}
    report["splits"] = {}
    for name, lengths in splits.items():
        sides = SideCounts(), SideCounts()
        for side, of_side in zip(sides, lengths, strict=True):
            side.add(np.array(of_side), 0, 2 * sum(of_side))
        facts = dict(zip(("source", "target"), (side.facts(bar_width(sides)) for side in sides), strict=True))
        arrays = dict(zip(facts, map(np.array, lengths), strict=True))
        sums = premium_sums(arrays, {side: np.zeros_like(array) for side, array in arrays.items()})
        pairs = len(lengths[0])
        report["splits"][name] = {"pairs": pairs, "read": pairs, "dropped": {}, "corpora": [{}], **facts}
        report["splits"][name]["premium"] = premium_facts(sums.astype(object))
    return report


def test_the_text_draws_bars_and_says_the_premium_both_ways():
    text = table(made_up({"train": ([1, 1, 1, 1, 3], [2, 2, 2, 2, 2])}))
    rows = [line.split() for line in text.split("\n")]
    assert ["train", "de", "1", "█", "▂"] in rows
    assert ["train", "en", "1", "█"] in rows
    assert ["split", "en/de", "de/en", "pairs"] in rows
    assert ["train", "1.733", "0.700", "5"] in rows
    assert "vocabulary: 9 + 9" in text


REPORTS = {
    "one split": {"train": ([3, 4, 5, 9], [1, 2, 2, 2])},
    "many splits, some with long lines": {f"test{i}": ([i, 700, 3], [1, 1, 10 * i]) for i in range(9)},
    "one length": {"train": ([4, 4], [4, 4]), "valid": ([1], [1])},
    "nothing but empty lines": {"valid": ([0, 0], [0, 0])},
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_picture_shows_both_sides_of_every_split(tmp_path, name):
    report = made_up(REPORTS[name], ("Süddeutsch", "中文"))
    (tmp_path / "report.png").write_bytes(picture.draw(report))
    with Image.open(tmp_path / "report.png") as image:
        image.load()
        columns = min(2, len(report["splits"]))
        assert image.format == "PNG"
        assert image.width == columns * picture.WIDTH
        for number in range(len(report["splits"])):
            corner = number % columns * picture.WIDTH, number // columns * picture.HEIGHT
            panel = image.crop((corner[0], corner[1] + 100, corner[0] + picture.WIDTH, corner[1] + picture.HEIGHT))
            colors = {color for _, color in panel.getcolors(1 << 16)}
            assert {(0, 0x72, 0xB2), (0xE6, 0x9F, 0)} <= colors
    assert table(report)
