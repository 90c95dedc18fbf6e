"""`s2s-score`: hypotheses and references in, scores with their signatures out."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial

from s2s import registry, scoring
from s2s.config import command, streams
from s2s.config.documents import to_json
from s2s.config.schema import option
from s2s.data.lines import MAX_LINE_BYTES
from s2s.errors import UserError
from s2s.scoring import details
from s2s.scoring.edits import ErrorRate
from s2s.scoring.lines import read_lines
from s2s.scoring.metric import normalise, without_punctuation

ABOUT = """Score hypotheses against references, line by line. Every score carries a signature: how it was made.
Example: s2s-score hypothesis=hyp.en reference=[ref.a.en,ref.b.en] metrics=[bleu,chrf,ter]
Speech:  s2s-score hypothesis=hyp.txt store=data-bin/an4 split=test metrics=[wer,cer] groups=speaker worst=5"""
FEWEST = 100  # resamples
FACTS = ("speaker", "language")  # of an utterance in a store
CONFUSED = 10  # substitutions shown with the worst lines


@dataclass
class ScoreConfig:
    """The keys of `s2s-score`."""

    hypothesis: str | None = option(None, "file of hypotheses, one a line; for any file to read, - is standard input")
    reference: list[str] = option([], "file of references, or a list of several files, all of the same line count")
    metrics: list[str] = option(["bleu", "chrf"], "what to compute, in this order", choices=registry.Names("metric"))
    store: str | None = option(None, "store whose split's target text is the reference")
    split: str = option("test", "split of the store", needs="store")
    lowercase: bool = option(False, "compare lower-cased text (TER always does)")
    remove_punctuation: bool = option(False, "compare text without punctuation, but that inside words")
    tokenizer: str = option("13a", "BLEU's tokenizer, by sacrebleu's name", choices=scoring.TOKENIZERS)
    bootstrap: int = option(0, "resamples of the lines for 95% intervals, such as 1000; 0: none", at_least=0)
    groups: str | None = option(
        None, "file that names each line's group, for a table of their scores; speaker or language: those of the store"
    )
    worst: int = option(0, "show so many lines with the most errors, aligned with their references", at_least=0)
    errors: str | None = option(None, "file to write: all lines with errors, aligned with their references")
    format: str = option("text", "one line a metric, or one JSON object", choices=("text", "json"))
    output: str | None = option(None, "file to write, replaced when complete; null prints")
    max_line_bytes: int = option(MAX_LINE_BYTES, "a longer line is an error", at_least=1)


def score(config: ScoreConfig) -> None:
    """Read, score, print. Raises UserError for files that are missing, unreadable or not parallel."""
    _check(config)
    with streams.opened(config.output) as output:
        found = _score(config)
        if config.errors:
            with streams.opened(config.errors, "errors") as file:
                file.write("".join(f"{line}\n\n" for line in found.wrong).encode())
        text = as_json(found, config.worst) if config.format == "json" else as_text(found, config)
        output.write(text.encode())


def _score(config: ScoreConfig) -> "Found":
    """Read and score. Raises UserError."""
    read = partial(read_lines, max_line_bytes=config.max_line_bytes)
    hypotheses = read(config.hypothesis)
    split = _split(config)
    references = [split.lines("target.text")] if split else list(map(read, config.reference))
    groups = _groups(config, split)
    sides = {path: lines for path, lines in zip(config.reference, references, strict=False)}
    sides |= {f"store={config.store}": references[0]} if split else {}
    sides |= {f"groups={config.groups}": groups} if groups else {}
    for path, lines in sides.items():
        if len(lines) != len(hypotheses):
            raise UserError(f"{config.hypothesis} has {len(hypotheses)} lines and {path} has {len(lines)}; "
                            "line N of one belongs to line N of the other")  # fmt: skip
    names = list(dict.fromkeys(config.metrics))

    def one(name: str, hypotheses, references, resamples: int = 0) -> scoring.Score:
        return scoring.score(name, hypotheses, references, config.lowercase, config.tokenizer,
                             config.remove_punctuation, resamples)  # fmt: skip

    found = Found({name: one(name, hypotheses, references, config.bootstrap) for name in names})
    if groups:
        found.groups = {
            name: details.by_group(groups, hypotheses, references, lambda h, r, name=name: one(name, h, r))
            for name in names
        }
        found.sizes = dict(sorted(Counter(groups).items()))
    if config.worst or config.errors:
        found.wrong = list(_wrong(config, hypotheses, references[0], split))
    return found


@dataclass
class Found:
    """What was asked for: scores by metric, scores by metric and group, lines of each group, lines with errors."""

    scores: dict[str, scoring.Score]
    groups: dict[str, dict[str, scoring.Score]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    wrong: list[details.Aligned] = field(default_factory=list)


def _check(config: ScoreConfig) -> None:
    """What concerns several keys. Raises UserError."""
    if config.hypothesis is None or not (config.reference or config.store) or not config.metrics:
        keys = {"hypothesis": config.hypothesis, "reference": config.reference or config.store,
                "metrics": config.metrics}  # fmt: skip
        missing = next(key for key, value in keys.items() if not value)
        raise UserError(f"{missing}= is missing; s2s-score hypothesis=FILE reference=FILE metrics=[bleu,chrf]")
    if config.reference and config.store:
        raise UserError("reference= and store=: one of them says what is right")
    inputs = [config.hypothesis, *config.reference]
    if config.groups in FACTS and not config.store:
        raise UserError(f"groups={config.groups}: only a store of speech knows it; give store=, or a file")
    if config.groups and config.groups not in FACTS:
        inputs.append(config.groups)
    if (path := streams.read_twice(inputs)) is not None:
        raise UserError(f"{path}: is there twice, and a stream can be read only once")
    for key in ("output", "errors"):
        path = getattr(config, key)
        if path and streams.overwritten(path, inputs):
            raise UserError(f"{key}={path}: is also an input, and would be overwritten")
    if config.tokenizer != ScoreConfig.tokenizer and "bleu" not in config.metrics:
        raise UserError(f"tokenizer={config.tokenizer}: is for metrics=[bleu]; the others have their own units")
    if 0 < config.bootstrap < FEWEST:
        raise UserError(f"bootstrap={config.bootstrap}: fewer than {FEWEST} resamples say nothing of an interval")
    if (config.worst or config.errors) and len(config.reference) > 1:
        raise UserError("worst= and errors= align each line with one reference; there are several")


def _split(config: ScoreConfig):
    """The split of the store that is asked for, or None."""
    if not config.store:
        return None
    from s2s.data.store import Store

    return Store(config.store).split(config.split)


def _groups(config: ScoreConfig, split) -> list[str] | None:
    """The group of each line, or None. Raises UserError where the store does not know them."""
    if config.groups is None:
        return None
    if config.groups not in FACTS:
        return read_lines(config.groups, config.max_line_bytes)
    names = [one.get(config.groups) for one in split.known() or ()]
    if not any(names):
        raise UserError(f"groups={config.groups}: store={config.store} does not say the {config.groups} of its lines")
    return [name or "unknown" for name in names]


def _wrong(config: ScoreConfig, hypotheses, references, split):
    """Lines with errors, in the units of the first error rate that was asked for, or words."""
    kinds = (scoring.metric(name, config.lowercase) for name in config.metrics)
    kind = next((one for one in kinds if isinstance(one, ErrorRate)), None)
    units = kind.units if kind else str.split

    def line(text: str) -> str:
        text = without_punctuation(text) if config.remove_punctuation else text
        return normalise(text, config.lowercase)

    known = split.known() if split else None
    ids = [one.get("id", "") for one in known] if known else None
    return details.aligned([line(text) for text in hypotheses], [line(text) for text in references], units, ids)


def as_text(found: Found, config: ScoreConfig) -> str:
    """For people: a line a metric, the table of groups, the worst lines."""
    parts = ["".join(f"{score}\n" for score in found.scores.values())]
    if found.groups:
        name = config.groups if config.groups in FACTS else "group"
        parts.append(details.group_table(name, found.groups, found.sizes) + "\n")
    if config.worst:
        parts += [f"{line}\n" for line in details.worst(found.wrong, config.worst)]
        pairs = details.confused(found.wrong, CONFUSED)
        parts += ["".join(f"{times} times {ref} -> {hyp}\n" for ref, hyp, times in pairs)] if pairs else []
    return "\n".join(parts)


def as_json(found: Found, worst: int) -> str:
    """As one JSON object: metric -> name, value, signature, counts, higher_is_better, and what else was asked for.
    Values are not rounded."""

    def of(score: scoring.Score) -> dict:
        keys = ("name", "value", "signature", "counts", "higher_is_better")
        interval = {"interval": score.interval} if score.interval else {}
        return {key: getattr(score, key) for key in keys} | interval

    content: dict = {name: of(score) for name, score in found.scores.items()}
    if found.groups:
        content["groups"] = {
            name: {group: of(score) for group, score in some.items()} for name, some in found.groups.items()
        }
    if worst:
        content["worst"] = [asdict(line) for line in details.worst(found.wrong, worst)]
    return to_json(content, indent=2) + "\n"


def main() -> None:
    """The console script."""
    command.run("s2s-score", ScoreConfig, score, ABOUT)


if __name__ == "__main__":
    main()
