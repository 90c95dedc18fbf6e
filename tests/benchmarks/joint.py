"""A batch of 16 recordings, of 3 to 12 seconds, decoded together by a Conformer with CTC and a decoder.

The reference decodes them one at a time. Weights and features are random; a hypothesis has three tokens a second. The
GFLOP/s say how far a batch can be faster: one recording's matrices may be large enough for all that a processor does.
"""

from collections.abc import Callable

import numpy as np
import torch
from corpus import Corpus
from measure import Paired, Row, interleaved

from s2s.config.compose import compose
from s2s.data.batch import Inputs, Source
from s2s.data.spec import FeatureSource, Spec
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.models.speech import SpeechModel
from s2s_cli.train import TrainCommand

REFERENCE = "one recording at a time"
BATCH, BANDS, VOCABULARY = 16, 80, 1000
TOKENS = 0.12  # for each position of the encoder, 25 a second
WAYS = {
    "CTC and decoder, beam 5": {"ctc_weight": 0.3},
    "CTC and decoder, greedy": {"ctc_weight": 0.3, "beam_size": 1},
    "CTC, best path": {"ctc_weight": 1.0, "beam_size": 1},
}


def run(corpus: Corpus, device: str, quick: bool, rounds: int | str = 5) -> list[Row]:
    """Recordings a second; of the encoder alone too, and if it computes on all rows at once."""
    presets, seconds, rounds = (
        (["conformer_tiny"], 1, 1) if quick else (["conformer_small", "conformer_base"], 12, int(rounds))
    )
    rng = np.random.default_rng(0)
    frames = rng.integers(25 * seconds, 100 * seconds, BATCH)
    recordings = [rng.standard_normal((n, BANDS), dtype=np.float32) for n in frames]
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    rows = []
    for preset in presets:
        rows += measure(preset, recordings, device, lambda works: interleaved(works, rounds, wait))
    x, weight = torch.randn(512, 1024, device=device), torch.randn(1024, 1024, device=device)
    (most,) = interleaved([lambda _: [x @ weight for _ in range(50)] and 50 * 2 * 512 * 1024**2], rounds, wait)
    return [*rows, Row("a product of 512 x 1024 x 1024", "GFLOP/s", float(np.median(most)) / 1e9)]


def measure(preset: str, recordings: list[np.ndarray], device: str, speeds: Callable) -> list[Row]:
    """A model's rows; speeds: of some works, in turn."""
    torch.manual_seed(0)
    config = compose(TrainCommand, [("task", "speech_to_text"), ("model", preset)]).model
    model = SpeechModel(config, Spec((FeatureSource(BANDS),), VOCABULARY)).eval().to(device)
    rows, pairs = [], []
    for case, options in WAYS.items():
        lengths = {}
        if options["ctc_weight"] < 1:  # CTC alone decides by itself
            lengths = {"max_length_a": TOKENS, "max_length_b": 0, "min_length_a": TOKENS}
        generator = Generator([model], DecodeConfig(**options, **lengths, batch_tokens=10**6), Sides(collate))

        def work(size: int, generator: Generator = generator) -> Callable[[int], int]:
            parts = [recordings[i : i + size] for i in range(0, BATCH, size)]
            return lambda _: sum(len(list(generator.generate(part))) for part in parts)

        pairs.append(Paired(*speeds([work(BATCH), work(1)])))
        rows.append(pairs[-1].row(f"{preset}, {case}", "recordings/s"))
    rows.insert(1, pairs[0].row(rows[0].case, "GFLOP/s", operations(model, recordings) / BATCH / 1e9))
    ready = generator.model
    undivided = ready.light()
    undivided.together = None
    together, at_once, alone = speeds(
        [encoding(ready.encode, [recordings], device), encoding(undivided.encode, [recordings], device),
         encoding(ready.encode, [[one] for one in recordings], device)]
    )  # fmt: skip
    rows.append(Paired(together, alone).row(f"{preset}, encoder", "recordings/s"))
    rows.append(Paired(at_once, alone).row(f"{preset}, encoder, all rows at once", "recordings/s"))
    return rows


def encoding(encode: Callable, parts: list[list[np.ndarray]], device: str) -> Callable[[int], int]:
    """The work of encoding recordings in these parts."""

    @torch.inference_mode()
    def one_round(number: int) -> int:
        for part in parts:
            encode(*collate(part, device))
        return BATCH

    return one_round


def operations(model: SpeechModel, recordings: list[np.ndarray]) -> int:
    """Floating-point operations of a beam of 5 over all recordings, EOS too."""
    frames = torch.tensor([len(recording) for recording in recordings])
    tokens = [5 * (int(TOKENS * model.memory_length(int(n))) + 1) for n in frames]
    return model.flops(frames, torch.tensor(tokens))


def collate(sources: list[np.ndarray], device: torch.device | str = "cpu") -> Inputs:
    """Features as the model takes them."""
    lengths = torch.tensor([len(source) for source in sources])
    values = torch.zeros(len(sources), int(lengths.max()), BANDS)
    for row, source in zip(values, sources, strict=True):
        row[: len(source)] = torch.from_numpy(source)
    return Inputs((Source(values, lengths).to(device),))
