"""What run.sh has made of each model, in one table. Usage: python table.py OUTPUT_FOLDER"""

import json
import re
import sys
from pathlib import Path

COLUMNS = ("model", "WER", "CER", "parameters", "training", "RTFx training", "RTFx decoding")


def row(folder: Path) -> tuple[str, ...]:
    """Of a model's folder: error rates on the test part, its size, minutes of training, seconds of audio a second."""
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open(encoding="utf-8")]
    updates = [event for event in events if event["kind"] == "train"]
    seconds = sum(event["seconds"] for event in updates)
    audio = sum(event["seconds"] * event["rtfx"] for event in updates)
    (size,) = set(re.findall(r"([\d,]+) parameters", (folder / "run" / "train.log").read_text(encoding="utf-8")))
    (decoding,) = re.findall(r"RTFx ([\d,.]+)", (folder / "generate.log").read_text(encoding="utf-8"))
    return (folder.name, f"{scores['wer']['value']:.2f}", f"{scores['cer']['value']:.2f}", size,
            f"{seconds / 60:.0f} min", f"{audio / seconds:.0f}" if seconds else "-", decoding)  # fmt: skip


if __name__ == "__main__":
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/scores.json"))
    for cells in (COLUMNS, *map(row, folders)):
        print("  ".join(f"{cell:>13}" for cell in cells))
