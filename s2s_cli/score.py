"""s2s-score: compare hypotheses with references; every score is printed with its signature."""

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

ABOUT = """Score hypotheses against references, line by line. The signature of a score says how it was computed.
Example: s2s-score hypothesis=hyp.en reference=[ref.a.en,ref.b.en] metrics=[bleu,chrf,ter]
Speech:  s2s-score hypothesis=hyp.txt store=data-bin/an4 split=test metrics=[wer,cer] groups=speaker worst=5"""
FEWEST = 100  # lowest number of resamples for an interval
FACTS = ("speaker", "language")  # facts about an utterance that a store holds
CONFUSED = 10  # substitutions shown with the worst lines


@dataclass
class ScoreConfig:
    """The keys of `s2s-score`."""

    hypothesis: str | None = option(
        None, "file of hypotheses, one per line; - means standard input, here and for every input file"
    )
    reference: list[str] = option([], "file of references, or a list of files with the same number of lines")
    metrics: list[str] = option(["bleu", "chrf"], "metrics to compute, in this order", choices=registry.Names("metric"))
    store: str | None = option(None, "store with a split whose target text is the reference")
    split: str = option("test", "split of the store", needs="store")
    lowercase: bool = option(False, "compare lower-cased text (TER always does)")
    remove_punctuation: bool = option(False, "compare text without punctuation, except inside words")
    tokenizer: str = option("13a", "BLEU's tokenizer, by sacrebleu's name", choices=scoring.TOKENIZERS)
    bootstrap: int = option(
        0, "bootstrap resamples for 95% confidence intervals, such as 1000; 0: no intervals", at_least=0
    )
    groups: str | None = option(
        None, "file with the group of each line, for a table of scores by group; or speaker or language, from the store"
    )
    worst: int = option(0, "number of lines with the most errors to show, aligned with their references", at_least=0)
    errors: str | None = option(None, "file to write all lines with errors to, aligned with their references")
    format: str = option("text", "one line per metric, or one JSON object", choices=("text", "json"))
    output: str | None = option(None, "file to write, replaced when complete; null: standard output")
    max_line_bytes: int = option(MAX_LINE_BYTES, "longest line; a longer one is an error", at_least=1)


def score(config: ScoreConfig) -> None:
    """Read the files, score them, print the results. Raises UserError if a file is missing, unreadable or not
    parallel to the others."""
    _check(config)
    with streams.opened(config.output) as output:
        results = _score(config)
        if config.errors:
            with streams.opened(config.errors, "errors") as file:
                file.write("".join(f"{line}\n\n" for line in results.wrong).encode())
        text = as_json(results, config.worst) if config.format == "json" else as_text(results, config)
        output.write(text.encode())


def _score(config: ScoreConfig) -> "Results":
    """Read the files and score them. Raises UserError."""
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

    def score_of(name: str, hypotheses, references, resamples: int = 0) -> scoring.Score:
        return scoring.score(name, hypotheses, references, config.lowercase, config.tokenizer,
                             config.remove_punctuation, resamples)  # fmt: skip

    results = Results({name: score_of(name, hypotheses, references, config.bootstrap) for name in names})
    if groups:
        results.groups = {
            name: details.by_group(groups, hypotheses, references, lambda h, r, name=name: score_of(name, h, r))
            for name in names
        }
        results.sizes = dict(sorted(Counter(groups).items()))
    if config.worst or config.errors:
        results.wrong = list(_wrong(config, hypotheses, references[0], split))
    return results


@dataclass
class Results:
    """The results: scores by metric, scores by metric and group, number of lines of each group, lines with errors."""

    scores: dict[str, scoring.Score]
    groups: dict[str, dict[str, scoring.Score]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    wrong: list[details.Aligned] = field(default_factory=list)


def _check(config: ScoreConfig) -> None:
    """Check options against each other. Raises UserError."""
    if config.hypothesis is None or not (config.reference or config.store) or not config.metrics:
        keys = {"hypothesis": config.hypothesis, "reference": config.reference or config.store,
                "metrics": config.metrics}  # fmt: skip
        missing = next(key for key, value in keys.items() if not value)
        raise UserError(f"{missing}= is missing; s2s-score hypothesis=FILE reference=FILE metrics=[bleu,chrf]")
    if config.reference and config.store:
        raise UserError("reference= and store= exclude each other: give one of them")
    inputs = [config.hypothesis, *config.reference]
    if config.groups in FACTS and not config.store:
        raise UserError(f"groups={config.groups} requires store=, a store of speech; or give a file")
    if config.groups and config.groups not in FACTS:
        inputs.append(config.groups)
    if (path := streams.read_twice(inputs)) is not None:
        raise UserError(f"{path}: given twice, but a stream can be read only once")
    for key in ("output", "errors"):
        path = getattr(config, key)
        if path and streams.overwritten(path, inputs):
            raise UserError(f"{key}={path} is also an input, which would be overwritten")
    if config.tokenizer != ScoreConfig.tokenizer and "bleu" not in config.metrics:
        raise UserError(f"tokenizer={config.tokenizer} requires metrics=[bleu]; other metrics have units of their own")
    if 0 < config.bootstrap < FEWEST:
        raise UserError(f"bootstrap={config.bootstrap}: an interval needs at least {FEWEST} resamples")
    if (config.worst or config.errors) and len(config.reference) > 1:
        raise UserError("worst= and errors= require a single reference; there are several")


def _split(config: ScoreConfig):
    """The split that holds the references, or None."""
    if not config.store:
        return None
    from s2s.data.store import Store

    return Store(config.store).split(config.split)


def _groups(config: ScoreConfig, split) -> list[str] | None:
    """The group of each line, or None. Raises UserError if the store does not know the groups."""
    if config.groups is None:
        return None
    if config.groups not in FACTS:
        return read_lines(config.groups, config.max_line_bytes)
    names = [facts.get(config.groups) for facts in split.known() or ()]
    if not any(names):
        raise UserError(f"groups={config.groups}: store={config.store} does not know the {config.groups} of its lines")
    return [name or "unknown" for name in names]


def _wrong(config: ScoreConfig, hypotheses, references, split):
    """Lines with errors, in the units of the first error rate among the metrics, or in words."""
    kinds = (scoring.metric(name, config.lowercase) for name in config.metrics)
    kind = next((metric for metric in kinds if isinstance(metric, ErrorRate)), None)
    units = kind.units if kind else str.split

    def line(text: str) -> str:
        text = without_punctuation(text) if config.remove_punctuation else text
        return normalise(text, config.lowercase)

    known = split.known() if split else None
    ids = [facts.get("id", "") for facts in known] if known else None
    return details.aligned([line(text) for text in hypotheses], [line(text) for text in references], units, ids)


def as_text(results: Results, config: ScoreConfig) -> str:
    """Results as text: one line per metric, the table of groups, the worst lines."""
    parts = ["".join(f"{score}\n" for score in results.scores.values())]
    if results.groups:
        name = config.groups if config.groups in FACTS else "group"
        parts.append(details.group_table(name, results.groups, results.sizes) + "\n")
    if config.worst:
        parts += [f"{line}\n" for line in details.worst(results.wrong, config.worst)]
        pairs = details.confused(results.wrong, CONFUSED)
        parts += ["".join(f"{times} times {ref} -> {hyp}\n" for ref, hyp, times in pairs)] if pairs else []
    return "\n".join(parts)


def as_json(results: Results, worst: int) -> str:
    """Results as one JSON object: metric -> name, value, signature, counts, higher_is_better; and groups and worst
    lines, if they were asked for. Values are not rounded."""

    def of(score: scoring.Score) -> dict:
        keys = ("name", "value", "signature", "counts", "higher_is_better")
        interval = {"interval": score.interval} if score.interval else {}
        return {key: getattr(score, key) for key in keys} | interval

    content: dict = {name: of(score) for name, score in results.scores.items()}
    if results.groups:
        content["groups"] = {
            name: {group: of(score) for group, score in scores.items()} for name, scores in results.groups.items()
        }
    if worst:
        content["worst"] = [asdict(line) for line in details.worst(results.wrong, worst)]
    return to_json(content, indent=2) + "\n"


def main() -> None:
    """The console script."""
    command.run("s2s-score", ScoreConfig, score, ABOUT)


if __name__ == "__main__":
    main()
