"""Small data sets that show what a method does: TSV files of source and target, from published data or generated.

Every set is a folder with train.tsv, valid.tsv and test.tsv, of sources and a target; in a set of several directions
the languages of both come before them. A generated set is drawn from a fixed seed.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from s2s.data.transforms import noisy

Pairs = list[tuple[str, ...]]
SPLITS = ("train", "valid", "test")


def make(name: str, published: Path | None, folder: Path) -> None:
    """Write the three files of a data set, unless they are there.

    Args:
        name: One of NAMES.
        published: Folder with the published sets (README.md says how it is laid out); generated sets need none.
        folder: Where the files go.

    Raises:
        ValueError: an unknown name, or a published set without its folder.
    """
    if all((folder / f"{split}.tsv").is_file() for split in SPLITS):
        return
    if name in GENERATED:
        splits = GENERATED[name]()
    elif name in PUBLISHED:
        if published is None:
            raise ValueError(f"{name}: --data FOLDER must name the published data")
        splits = PUBLISHED[name](published)
    else:
        raise ValueError(f"no data set is called {name}; there are {', '.join(NAMES)}")
    folder.mkdir(parents=True, exist_ok=True)
    for split, pairs in zip(SPLITS, splits, strict=True):
        text = "".join("\t".join(pair) + "\n" for pair in pairs)
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise ValueError(f"no such file: {file}")
    return file.read_text(encoding="utf-8").splitlines()


def g2p(language: str) -> Callable[[Path], Iterator[Pairs]]:
    """SIGMORPHON 2021, task 1: a word and its phonemes."""

    def read(folder: Path) -> Iterator[Pairs]:
        for split in ("train", "dev", "test"):
            rows = (line.split("\t") for line in _lines(folder / "g2p" / f"{language}_{split}.tsv"))
            yield [(row[0], row[1]) for row in rows]

    return read


def multi30k(source: str, target: str) -> Callable[[Path], Iterator[Pairs]]:
    """Multi30k, task 1: captions of 29,000 pictures."""

    def read(folder: Path) -> Iterator[Pairs]:
        for split in ("train", "val", "test_2016_flickr"):
            sides = (_lines(folder / "multi30k" / "raw" / f"{split}.{side}") for side in (source, target))
            yield [(a, b) for a, b in zip(*sides, strict=True) if "\t" not in a + b]

    return read


def misspelt(folder: Path) -> Iterator[Pairs]:
    """Multi30k, German to English, with changes of a tenth of the source's characters in the test alone."""
    *learned, test = multi30k("de", "en")(folder)
    yield from learned
    yield [(noisy(source, number, 0.1), target) for number, (source, target) in enumerate(test)]


def zero_shot(folder: Path) -> Iterator[Pairs]:
    """Multi30k between English and German or French, on different captions each; tested between German and French."""
    trained = [("de", "en"), ("en", "de"), ("fr", "en"), ("en", "fr")]
    tested = [("de", "fr"), ("fr", "de")]
    for split, directions in zip(SPLITS, (trained, trained, tested), strict=True):
        rows = []
        for source, target in directions:
            pairs = list(multi30k(source, target)(folder))[SPLITS.index(split)]
            if split == "train":  # so that no caption is seen in all languages
                pairs = pairs[: len(pairs) // 2] if "de" in (source, target) else pairs[len(pairs) // 2 :]
            rows += [(source, target, *pair) for pair in pairs[: 200 if split == "valid" else None]]
        yield rows


def two_sources(folder: Path) -> Iterator[Pairs]:
    """Multi30k: German and French captions into English."""
    for split in ("train", "val", "test_2016_flickr"):
        sides = (_lines(folder / "multi30k" / "raw" / f"{split}.{side}") for side in ("de", "fr", "en"))
        yield [row for row in zip(*sides, strict=True) if "\t" not in "".join(row)]


def inflection(language: str) -> Callable[[Path], Iterator[Pairs]]:
    """SIGMORPHON 2022, task 0: features and letters of a lemma, the letters of its form; a space is `_`."""

    def read(folder: Path) -> Iterator[Pairs]:
        for ending in ("_large.train", ".dev", ".gold"):
            rows = (line.split("\t") for line in _lines(folder / "inflection2022" / f"{language}{ending}"))
            yield [(" ".join([*row[2].split(";"), *_letters(row[0])]), " ".join(_letters(row[1]))) for row in rows]

    return read


def _letters(word: str) -> list[str]:
    return list(word.replace(" ", "_"))


def scan(folder: Path) -> Iterator[Pairs]:
    """SCAN, simple split: a command and its actions; every sixteenth training line is held out for validation."""
    for split in ("train", "test"):
        rows = (line[4:].split(" OUT: ") for line in _lines(folder / "scan" / f"tasks_{split}_simple.txt"))
        pairs = [(row[0], row[1]) for row in rows]
        if split == "train":
            yield [pair for number, pair in enumerate(pairs) if number % 16]
            yield pairs[::16]
        else:
            yield pairs


def generated(draw: Callable[[random.Random, str], tuple[str, str]], sizes: tuple[int, int, int]):
    """A set of drawn examples; `draw` is told the split."""

    def make_splits() -> Iterator[Pairs]:
        rng = random.Random(1)
        for split, size in zip(SPLITS, sizes, strict=True):
            yield [draw(rng, split) for _ in range(size)]

    return make_splits


def parity(rng: random.Random, split: str) -> tuple[str, str]:
    """Bits and the parity of their number of ones; 1 to 20 bits to learn from, 21 to 60 in the test."""
    bits = [rng.choice("01") for _ in range(rng.randint(21, 60) if split == "test" else rng.randint(1, 20))]
    return " ".join(bits), "odd" if bits.count("1") % 2 else "even"


def first_symbol(rng: random.Random, split: str) -> tuple[str, str]:
    """Bits and the first of them; 1 to 20 bits to learn from, 100 to 300 in the test."""
    bits = [rng.choice("01") for _ in range(rng.randint(100, 300) if split == "test" else rng.randint(1, 20))]
    return " ".join(bits), bits[0]


def sorting(rng: random.Random, split: str) -> tuple[str, str]:
    """Five to ten different numbers below 100, and their positions, from 1, in rising order."""
    numbers = rng.sample(range(100), rng.randint(5, 10))
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return " ".join(map(str, numbers)), " ".join(str(place + 1) for place in order)


def convex_hull(rng: random.Random, split: str) -> tuple[str, str]:
    """Five to ten points of a 32 x 32 grid as `x,y`, and the positions, from 1, of the corners of their convex hull,
    counter-clockwise from the leftmost one."""
    cells = rng.sample(range(32 * 32), rng.randint(5, 10))
    points = [divmod(cell, 32) for cell in cells]
    corners = _hull(points)
    return " ".join(f"{x},{y}" for x, y in points), " ".join(str(points.index(corner) + 1) for corner in corners)


def _hull(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Andrew's monotone chain."""

    def half(ordered: list[tuple[int, int]]) -> list[tuple[int, int]]:
        chain: list[tuple[int, int]] = []
        for x, y in ordered:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    ordered = sorted(points)
    return half(ordered) + half(ordered[::-1])


GENERATED = {
    "parity": generated(parity, (20_000, 500, 1_000)),
    "first_symbol": generated(first_symbol, (20_000, 500, 1_000)),
    "sorting": generated(sorting, (20_000, 500, 1_000)),
    "convex_hull": generated(convex_hull, (20_000, 500, 1_000)),
}
PUBLISHED = (
    {f"g2p_{language}": g2p(language) for language in ("arm_e", "dut", "fre", "hun", "jpn_hira")}
    | {f"inflection_{language}": inflection(language) for language in ("got", "hun", "non", "tur")}
    | {f"multi30k_{a}_{b}": multi30k(a, b) for a in ("de", "en", "fr") for b in ("de", "en", "fr") if a != b}
    | {
        "multi30k_zero_shot": zero_shot,
        "multi30k_de_fr_en": two_sources,
        "multi30k_de_en_misspelt": misspelt,
        "scan": scan,
    }
)
NAMES = [*PUBLISHED, *GENERATED]
