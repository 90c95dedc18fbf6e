"""Made-up speech: letters are tones of 120 ms with silence between them."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

RATE = 8000
TONES = {"a": 400, "b": 800, "c": 1600, "d": 3000}


def tones(text: str, rng: random.Random) -> np.ndarray:
    """Samples of the letters of a text, float32, with a little noise."""
    pieces = []
    for letter in text:
        time = np.arange(int(0.12 * RATE)) / RATE
        pieces += [np.sin(2 * np.pi * TONES[letter] * time) * rng.uniform(0.2, 0.5), np.zeros(rng.randrange(400, 900))]
    samples = np.concatenate([np.zeros(rng.randrange(400, 1200)), *pieces])
    noise = np.random.default_rng(rng.randrange(1 << 30)).standard_normal(len(samples)) * 1e-3
    return (samples + noise).astype(np.float32)


def write_tones(folder: Path, counts: dict[str, int], seed: int = 0, most: int = 6,
                text_of: Callable[[str], str] = str, speakers: int = 3) -> dict[str, list[str]]:  # fmt: skip
    """Write NAME.tsv and the recordings of so many utterances of each split, of at most so many letters each; returns
    the texts, which `text_of` makes of the letters."""
    import soundfile

    rng, texts = random.Random(seed), {}
    for name, count in counts.items():
        letters = ["".join(rng.choices("abcd", k=rng.randint(2, most))) for _ in range(count)]
        texts[name] = [text_of(said) for said in letters]
        rows = ["id\taudio\ttext\tspeaker\n"]
        for number, (said, text) in enumerate(zip(letters, texts[name], strict=True)):
            soundfile.write(folder / f"{name}-{number}.flac", tones(said, rng), RATE)
            rows.append(f"{name}-{number}\t{name}-{number}.flac\t{text}\tspeaker{number % speakers}\n")
        (folder / f"{name}.tsv").write_text("".join(rows))
    return texts
