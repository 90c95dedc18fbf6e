"""s2s-score: compare hypotheses with references; every score is printed with its signature."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial

from s2s import registry, scoring
from s2s.config import command, streams
from s2s.config.documents import to_json
from s2s.config.schema import option
from s2s.data.corpus import refuse_table
from s2s.data.lines import MAX_LINE_BYTES
from s2s.errors import UserError
from s2s.scoring import details, frequencies
from s2s.scoring.edits import ErrorRate
from s2s.scoring.lines import read_lines
from s2s.scoring.metric import normalise, without_punctuation

ABOUT = """Score hypotheses against references, line by line. The signature of a score says how it was computed.
Example: s2s-score hypothesis=hyp.en reference=[ref.a.en,ref.b.en] metrics=[bleu,chrf,ter]
Systems: s2s-score hypothesis=[old.en,new.en] reference=ref.en compares new.en with old.en, with p-values
Speech:  s2s-score hypothesis=hyp.txt store=data-bin/an4 split=test metrics=[wer,cer] groups=speaker worst=5"""
FEWEST = 100  # lowest number of resamples for an interval, and of trials for a p-value
RESAMPLES = 1000  # bootstrap resamples of a comparison
FACTS = ("speaker", "language")  # facts about an utterance that a store holds
CONFUSED = 10  # substitutions shown with the worst lines


@dataclass
class ScoreConfig:
    """The keys of `s2s-score`."""

    hypothesis: list[str] = option(
        [],
        "file of hypotheses, one per line; - means standard input, here and for every input file. A list of files, "
        "one for each system, is a comparison",
    )
    reference: list[str] = option([], "file of references, or a list of files with the same number of lines")
    metrics: list[str] = option(["bleu", "chrf"], "metrics to compute, in this order", choices=registry.Names("metric"))
    store: str | None = option(None, "store with a split whose target text is the reference")
    split: str = option("test", "split of the store", needs="store")
    test_set: str | None = option(None, "test set of sacrebleu whose references to use, such as wmt20")
    langpair: str | None = option(None, "language pair of the test set, such as en-de", needs="test_set")
    baseline: str | None = option(
        None, "the one of several files of hypotheses that the others are compared with; null: the first"
    )
    source: str | None = option(None, "file of source lines, for metrics that need them")
    language: str | None = option(None, "language that lines should be in, such as de, for metrics that need it")
    model: str | None = option(None, "name or path of the model of comet or bleurt; null: the usual one")
    lowercase: bool = option(False, "compare lower-cased text (TER always does)")
    remove_punctuation: bool = option(False, "compare text without punctuation, except inside words")
    tokenizer: str = option("13a", "BLEU's tokenizer, by sacrebleu's name", choices=scoring.TOKENIZERS)
    bootstrap: int | None = option(
        None,
        "bootstrap resamples for 95% confidence intervals and for p-values of a comparison; 0: none; null: 1000 "
        "for a comparison and otherwise 0",
        at_least=0,
    )
    trials: int = option(
        10_000, "trials of paired approximate randomisation in a comparison, for p-values; 0: none", at_least=0
    )
    groups: str | None = option(
        None, "file with the group of each line, for a table of scores by group; or speaker or language, from the store"
    )
    word_frequency: str | None = option(
        None, "file of the training targets: also score words by how often they are in it"
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
        if len(config.hypothesis) > 1:
            output.write(_compared(config).encode())
            return
        results = _score(config)
        if config.errors:
            with streams.opened(config.errors, "errors") as file:
                file.write("".join(f"{line}\n\n" for line in results.wrong).encode())
        text = as_json(results, config.worst) if config.format == "json" else as_text(results, config)
        output.write(text.encode())


class Texts:
    """The lines of all files, which are parallel. Raises UserError if they are not, or a file cannot be read.

    Attributes:
        hypotheses: File -> its lines.
        references: Lists of lines.
        groups: Group of each line, or None.
        training: Lines of the training targets, or None.
        inputs: What metrics can need besides.
        split: The split that holds the references, or None.
    """

    def __init__(self, config: ScoreConfig):
        read = partial(read_lines, max_line_bytes=config.max_line_bytes)
        self.hypotheses = {path: read(path) for path in config.hypothesis}
        self.split = _split(config)
        references, source = list(config.reference), config.source
        if config.test_set:
            from s2s.scoring import test_sets

            path, files = test_sets.files(config.test_set, config.langpair)
            references, source = list(map(str, files)), source or str(path)
        sides = {path: read(path) for path in references} | self.hypotheses
        if self.split:
            sides[f"store={config.store}"] = self.split.lines("target.text")
        self.references = [sides[path] for path in references] or [sides[f"store={config.store}"]]
        self.groups = _groups(config, self.split)
        if self.groups:
            sides[f"groups={config.groups}"] = self.groups
        self.training = None if config.word_frequency is None else read(config.word_frequency)
        self.inputs = {"source": None, "language": config.language, "model": config.model}
        if source and _needed(config, "source"):
            self.inputs["source"] = sides[source] = read(source)
        first = config.hypothesis[0]
        for path, lines in sides.items():
            if len(lines) != len(sides[first]):
                raise UserError(f"{first} has {len(sides[first])} lines and {path} has {len(lines)}; "
                                "line N of one belongs to line N of the other")  # fmt: skip


def _needed(config: ScoreConfig, name: str) -> bool:
    """Whether one of the metrics needs an input."""
    scorers = (scoring.metric(metric, config.lowercase, config.tokenizer) for metric in config.metrics)
    return any({name, f"{name}?"} & {*getattr(scorer, "needs", ())} for scorer in scorers)


def _score(config: ScoreConfig) -> "Results":
    """Read the files and score them. Raises UserError."""
    texts = Texts(config)
    if (config.worst or config.errors) and len(texts.references) > 1:
        raise UserError("worst= and errors= require a single reference; there are several")
    ((_, hypotheses),) = texts.hypotheses.items()
    names = list(dict.fromkeys(config.metrics))

    def score_of(name: str, hypotheses, references, resamples: int = 0, inputs=texts.inputs) -> scoring.Score:
        return scoring.score(name, hypotheses, references, config.lowercase, config.tokenizer,
                             config.remove_punctuation, resamples, inputs)  # fmt: skip

    resamples = config.bootstrap or 0
    results = Results({name: score_of(name, hypotheses, texts.references, resamples) for name in names})
    if texts.groups:
        results.groups = {
            name: details.by_group(
                texts.groups, hypotheses, texts.references, lambda h, r, name=name: score_of(name, h, r)
            )
            for name in names
        }
        results.sizes = dict(sorted(Counter(texts.groups).items()))
    results.words = _by_frequency(config, texts)
    if config.worst or config.errors:
        results.wrong = list(_wrong(config, hypotheses, texts.references[0], texts.split))
    return results


def _compared(config: ScoreConfig) -> str:
    """A comparison of systems, as text or JSON. Raises UserError."""
    from s2s.scoring import compare

    texts = Texts(config)
    first = config.baseline or config.hypothesis[0]
    systems = {path: texts.hypotheses[path] for path in dict.fromkeys([first, *config.hypothesis])}
    resamples = RESAMPLES if config.bootstrap is None else config.bootstrap
    comparisons = {
        name: compare.compare(name, systems, texts.references, resamples, config.trials, config.lowercase,
                              config.tokenizer, config.remove_punctuation, texts.inputs)
        for name in dict.fromkeys(config.metrics)
    }  # fmt: skip
    table = _by_frequency(config, texts)
    if config.format == "json":
        content = {name: asdict(comparison) for name, comparison in comparisons.items()} | _json_of(table)
        return to_json(content, indent=2) + "\n"
    text = "\n".join(map(compare.as_text, comparisons.values())) + compare.note([*comparisons.values()])
    return text + (f"\n{frequencies.as_text(table)}\n" if table else "")


def _by_frequency(config: ScoreConfig, texts: Texts) -> frequencies.Table:
    """The words of all systems by their frequency in the training text; empty: there is none. Raises UserError."""
    if texts.training is None:
        return {}
    if len(texts.references) > 1:
        raise UserError("word_frequency= requires a single reference; there are several")

    def seen(lines) -> list[str]:
        return [_line(config, text) for text in lines]

    systems = {path: seen(lines) for path, lines in texts.hypotheses.items()}
    return frequencies.by_frequency(seen(texts.training), seen(texts.references[0]), systems)


def _json_of(table: frequencies.Table) -> dict:
    """The table as plain values; empty: there is none."""
    rows = {name: {system: asdict(words) for system, words in row.items()} for name, row in table.items()}
    return {"word_frequency": rows} if rows else {}


@dataclass
class Results:
    """The results: scores by metric, scores by metric and group, number of lines of each group, lines with errors,
    words by frequency."""

    scores: dict[str, scoring.Score]
    groups: dict[str, dict[str, scoring.Score]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    wrong: list[details.Aligned] = field(default_factory=list)
    words: frequencies.Table = field(default_factory=dict)


def _check(config: ScoreConfig) -> None:
    """Check options against each other. Raises UserError."""
    references = {"reference": config.reference, "store": config.store, "test_set": config.test_set}
    if not (config.hypothesis and any(references.values()) and config.metrics):
        keys = {"hypothesis": config.hypothesis, "reference": any(references.values()), "metrics": config.metrics}
        missing = next(key for key, value in keys.items() if not value)
        raise UserError(f"{missing}= is missing; s2s-score hypothesis=FILE reference=FILE metrics=[bleu,chrf]")
    given = [f"{key}=" for key, value in references.items() if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: give one of them")
    _check_systems(config)
    for key in ("hypothesis", "reference", "source", "groups", "word_frequency"):
        value = getattr(config, key)
        for path in value if isinstance(value, list) else [value]:
            refuse_table(key, path)
    inputs = [*config.hypothesis, *config.reference, *[config.source] * bool(config.source)]
    if config.groups in FACTS and not config.store:
        raise UserError(f"groups={config.groups} requires store=, a store of speech; or give a file")
    if config.groups and config.groups not in FACTS:
        inputs.append(config.groups)
    if config.word_frequency:
        inputs.append(config.word_frequency)
    if (path := streams.read_twice(inputs)) is not None:
        raise UserError(f"{path}: given twice, but a stream can be read only once")
    for key in ("output", "errors"):
        path = getattr(config, key)
        if path and streams.overwritten(path, inputs):
            raise UserError(f"{key}={path} is also an input, which would be overwritten")
    if config.tokenizer != ScoreConfig.tokenizer and "bleu" not in config.metrics:
        raise UserError(f"tokenizer={config.tokenizer} requires metrics=[bleu]; other metrics have units of their own")
    for key in ("source", "language", "model"):
        if getattr(config, key) is not None and not _needed(config, key):
            raise UserError(f"{key}= does nothing: none of metrics=[{','.join(config.metrics)}] needs it")
    if config.bootstrap and config.bootstrap < FEWEST:
        raise UserError(f"bootstrap={config.bootstrap}: an interval needs at least {FEWEST} resamples")


def _check_systems(config: ScoreConfig) -> None:
    """Check the options of a comparison, or that there are none. Raises UserError."""
    systems = config.hypothesis
    if len(systems) > 1:
        for key in ("groups", "worst", "errors"):
            if getattr(config, key):
                raise UserError(f"{key}= requires a single file of hypotheses; there are {len(systems)}")
        if twice := [path for path, count in Counter(systems).items() if count > 1]:
            raise UserError(f"hypothesis: {twice[0]} is given twice")
        if config.baseline not in (None, *systems):
            raise UserError(f"baseline={config.baseline} is none of the files of hypothesis=: {', '.join(systems)}")
        if 0 < config.trials < FEWEST:
            raise UserError(f"trials={config.trials}: a p-value needs at least {FEWEST} trials")
        return
    for key in ("baseline", "trials"):
        if getattr(config, key) != getattr(ScoreConfig, key):
            raise UserError(f"{key}= compares systems and requires several files: hypothesis=[FILE,FILE]")


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

    line = partial(_line, config)
    known = split.known() if split else None
    ids = [facts.get("id", "") for facts in known] if known else None
    return details.aligned([line(text) for text in hypotheses], [line(text) for text in references], units, ids)


def _line(config: ScoreConfig, text: str) -> str:
    """A line as it is compared."""
    text = without_punctuation(text) if config.remove_punctuation else text
    return normalise(text, config.lowercase)


def as_text(results: Results, config: ScoreConfig) -> str:
    """Results as text: one line per metric, the table of groups, the worst lines."""
    parts = ["".join(f"{score}\n" for score in results.scores.values())]
    if results.groups:
        name = config.groups if config.groups in FACTS else "group"
        parts.append(details.group_table(name, results.groups, results.sizes) + "\n")
    if results.words:
        parts.append(frequencies.as_text(results.words) + "\n")
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
    content |= _json_of(results.words)
    if worst:
        content["worst"] = [asdict(line) for line in details.worst(results.wrong, worst)]
    return to_json(content, indent=2) + "\n"


def main() -> None:
    """The console script."""
    command.run("s2s-score", ScoreConfig, score, ABOUT)


if __name__ == "__main__":
    main()
