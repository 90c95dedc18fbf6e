"""`s2s-score`: hypotheses and references in, scores with their signatures out."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from s2s import scoring
from s2s.config import command
from s2s.config.schema import option
from s2s.errors import UserError
from s2s.scoring.lines import read_lines

ABOUT = """Score hypotheses against references, line by line. Every score carries a signature: how it was made.
Example: s2s-score hypothesis=hyp.en reference=[ref.a.en,ref.b.en] metrics=[bleu,chrf,ter]"""


@dataclass
class ScoreConfig:
    """The keys of `s2s-score`."""

    hypothesis: str | None = option(None, "file of hypotheses, one a line; - reads standard input")
    reference: list[str] = option([], "file of references, or a list of several files, all of the same line count")
    metrics: list[str] = option(["bleu", "chrf"], "what to compute, in this order", choices=tuple(scoring.METRICS))
    lowercase: bool = option(False, "compare lower-cased text (TER always does)")
    tokenizer: str = option("13a", "BLEU's tokenizer, by sacrebleu's name", choices=scoring.TOKENIZERS)
    format: str = option("text", "one line a metric, or one JSON object", choices=("text", "json"))
    output: str | None = option(None, "file to write; null prints")


def score(config: ScoreConfig) -> None:
    """Read, score, print. Raises UserError for files that are missing, unreadable or not parallel."""
    if config.hypothesis is None or not config.reference or not config.metrics:
        missing = next(key for key in ("hypothesis", "reference", "metrics") if not getattr(config, key))
        raise UserError(f"{missing}= is missing; s2s-score hypothesis=FILE reference=FILE metrics=[bleu,chrf]")
    inputs = [config.hypothesis, *config.reference]
    if inputs.count("-") > 1:
        raise UserError("standard input (-) can be read only once")
    if config.output and any(_same_file(config.output, path) for path in inputs):
        raise UserError(f"output={config.output}: is also an input, and would be overwritten")
    hypotheses, *references = (read_lines(path) for path in inputs)
    for path, lines in zip(config.reference, references, strict=True):
        if len(lines) != len(hypotheses):
            raise UserError(f"{config.hypothesis} has {len(hypotheses)} lines and {path} has {len(lines)}; "
                            "line N of one belongs to line N of the other")  # fmt: skip
    names = list(dict.fromkeys(config.metrics))
    scores = {name: scoring.score(name, hypotheses, references, config.lowercase, config.tokenizer) for name in names}
    text = as_json(scores) if config.format == "json" else "".join(f"{score}\n" for score in scores.values())
    if config.output:
        Path(config.output).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


def as_json(scores: dict[str, scoring.Score]) -> str:
    """Scores as one JSON object: metric -> name, value, signature, counts, higher_is_better. Values are not rounded."""
    keys = ("name", "value", "signature", "counts", "higher_is_better")
    content = {name: {key: getattr(score, key) for key in keys} for name, score in scores.items()}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _same_file(output: str, path: str) -> bool:
    return os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path)


def main() -> None:
    """The console script."""
    command.run("s2s-score", ScoreConfig, score, ABOUT)


if __name__ == "__main__":
    main()
