"""s2s-generate: decode sentences with a checkpoint; hypotheses come out in the order of the input."""

import dataclasses
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from s2s import files
from s2s.config import command, signals, streams
from s2s.config.schema import LARGEST_SEED, group, option
from s2s.data.directions import LANGUAGES, parse_tags
from s2s.data.lines import MAX_LINE_BYTES
from s2s.decoding.hypothesis import Skipped
from s2s.errors import UserError

ABOUT = """Translate (or score given targets) with one model or an ensemble.
From a store: s2s-generate checkpoint=RUN store=STORE split=test output=hyp.en
From a file:  s2s-generate checkpoint=RUN input=test.de output=hyp.en
Recordings:   s2s-generate checkpoint=RUN input=talk.flac (or a manifest, or a list of files)
In a pipe:    cat test.de | s2s-generate checkpoint=RUN > hyp.en"""

PROMPT = "> "
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} sentences{postfix}, {remaining} left"
COUNTER = "{n_fmt} sentences{postfix}, {elapsed}"  # where the number of sentences is unknown
NAMED = 20  # failed sentences that are named; the others are only counted
COMPANIONS = ("prefix", "target", "constraints", "line_tags")  # files with one line for each sentence
RECORDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff", ".au")  # file names that are not text


@dataclasses.dataclass
class GenerateCommand:
    """Schema of s2s-generate."""

    COMMON = (
        "checkpoint", "input", "store", "split", "output", "format", "device", "decode.beam_size", "decode.n_best",
        "decode.length_penalty", "decode.search", "decode.max_length_a", "decode.max_length_b", "decode.batch_tokens",
        "decode.dtype",
    )  # fmt: skip

    checkpoint: list[str] = option(
        [], "a run (its best checkpoint, or else its last one), a checkpoint's folder, or a list of them: an ensemble"
    )
    draft: str | None = option(None, "checkpoint of a smaller model that proposes tokens, for decode.speculative=draft")
    input: str | None = option(
        None, "file of source lines, plain, .gz, .xz or .zst; for speech a manifest (.tsv, .jsonl, Kaldi folder), a "
        "list of files (.txt, .list, a pipe) or a recording; -, or null without store=: standard input",
    )  # fmt: skip
    store: str | None = option(None, "store with a split to decode")
    split: str = option("test", "split of the store", needs="store")
    output: str | None = option(None, "file to write, replaced when complete; - or null: standard output")
    format: str = option(
        "text",
        "text: one line per input line; tsv: index (from 0), score, text; json: also tokens and log-probabilities",
        ("text", "tsv", "json"),
    )
    mode: str = option("translate", "translate, or score given targets by teacher forcing", ("translate", "score"))
    target: str | None = option(None, "mode=score: file of targets; null: the targets of the store's split")
    alignment: bool = option(
        False, "json and tsv: add for each target token, EOS included, the source position it attends to most, from 0"
    )
    timestamps: bool = option(
        False, "json: add start and end of each word of a recording in seconds, by CTC's alignment"
    )
    prefix: str | None = option(
        None, "file of target prefixes, one per input line, that the hypotheses must start with"
    )
    constraints: str | None = option(
        None, "file with one line per input line: phrases, separated by tabs, that the hypotheses must all contain"
    )
    source_language: str | None = option(None, "as tags=[source_language=...]: the language of all lines")
    target_language: str | None = option(None, "as tags=[target_language=...]: the language into which to translate")
    tags: list[str] = option(
        [], "NAME=VALUE of each tag that the model reads, for all lines, such as target_language=de; with store= the "
        "default is the store's own tags",
    )  # fmt: skip
    line_tags: str | None = option(
        None, "file with one line per input line: NAME=VALUE tags, separated by spaces; they override tags="
    )
    skip_broken: bool = option(
        False, "report and count input that cannot be read (a recording, a line that is too long or not UTF-8), and "
        "leave its output empty (in JSON: an error); false: such input ends the command",
    )  # fmt: skip
    max_line_bytes: int = option(MAX_LINE_BYTES, "longest line of a file; a longer one cannot be read", at_least=1)
    batch_wait: float = option(
        0.01, "seconds to wait for more lines from a pipe before decoding the lines read so far", at_least=0
    )
    device: str = option("auto", "auto: a GPU if there is one", ("auto", "cpu", "cuda"))
    seed: int = option(1, "seed of sampling", at_least=0, at_most=LARGEST_SEED)
    decode: Any = group("decode", "default", "the search and its options")


def _generate(config: GenerateCommand) -> None:
    _check(config)
    from s2s.decoding.outputs import formatter
    from s2s.decoding.translator import load

    translator = load(config.checkpoint, config.device, config.decode.dtype, config.draft, config.decode.backend)
    windows, total = _windows(config, translator.task)
    score = config.mode == "score"
    write = formatter(config.format, score)
    with (
        signals.answered("s2s-generate", lambda: config.output and files.abandon(config.output)),
        _Progress(total, _typed(config)) as progress,
        streams.opened(config.output) as output,
    ):
        windows = progress.heard(windows, translator.task.frame_seconds)
        if translator.task.reads == "lines" and not config.store:  # a store was checked when it was made
            from s2s.decoding.inputs import named

            windows = _watched(windows, translator.task, str(named(config.input)))
        results = translator.decode(
            windows,
            config.decode,
            config.seed,
            score,
            config.alignment,
            config.timestamps,
            progress.advance,
            tally=progress.tally,
        )
        for index, n_best in enumerate(results):
            progress.count(n_best[0])
            output.write(write(index, n_best).encode())
            output.flush()  # the reader of a pipe need not wait for more
            progress.answered()
    progress.report()


def _check(config: GenerateCommand) -> None:
    """Check options against each other. Raises UserError."""
    if not config.checkpoint:
        raise UserError("checkpoint= is missing; s2s-generate checkpoint=RUN, with store=, input= or standard input")
    if config.input and config.store:
        raise UserError("input= and store= exclude each other: give one of them")
    if config.mode == "score":
        if config.prefix:
            raise UserError("prefix= requires mode=translate; with mode=score the whole target is given")
        if config.constraints:
            raise UserError("constraints= requires mode=translate; with mode=score the whole target is given")
        if not config.target and not config.store:
            raise UserError("mode=score requires target=FILE, or store=, whose targets are then scored")
        if config.decode.replace_unknown:
            raise UserError("decode.replace_unknown=true: does nothing with mode=score, which writes no texts")
    elif config.target:
        raise UserError("target= requires mode=score; with mode=translate, prefix= gives the beginnings of hypotheses")
    elif config.decode.n_best > 1 and config.decode.mbr == "none" and config.format == "text":
        raise UserError(f"decode.n_best={config.decode.n_best} requires format=tsv or format=json: "
                        "format=text has one output line for each input line")  # fmt: skip
    if config.alignment and config.format == "text":
        raise UserError("alignment=true requires format=json or format=tsv")
    if config.timestamps and config.format != "json":
        raise UserError("timestamps=true requires format=json")
    if config.store and config.skip_broken:
        raise UserError("skip_broken=true requires input= or standard input; a store has no broken entries")
    _check_files(config)
    if config.draft and config.decode.speculative == "none":
        config.decode.speculative = "draft"
    config.decode.check_alignment(config.alignment, "alignment=true")
    given = {"alignment": "alignment=true"} if config.alignment else {}
    config.decode.check(given | ({"draft": f"draft={config.draft}"} if config.draft else {}))


def _check_files(config: GenerateCommand) -> None:
    """Check that inputs exist, that no stream is read twice, and that no input is also the output. Raises UserError."""
    read = {key: getattr(config, key) for key in ("input", *COMPANIONS)}
    for key, path in read.items():
        if path and path != "-" and not os.path.exists(path):
            raise UserError(f"{key}={path}: no such file")
        if path and config.output and streams.overwritten(config.output, [path]):
            raise UserError(f"output={config.output} is also {key}=, which would be overwritten")
    read["input"] = config.input or (None if config.store else "-")
    read |= {f"decode.{key}": getattr(config.decode, key) for key in 
             ("forbidden", "allowed", "shortlist", "unknown_dictionary")}  # fmt: skip
    if twice := streams.read_twice([path for path in read.values() if path]):
        raise UserError(f"{twice}: given twice, but a stream can be read only once")


def _windows(config: GenerateCommand, task) -> tuple[Iterator, int | None]:
    """Windows of sentences, and the number of all sentences (None if it is unknown)."""
    from s2s.data.corpus import refuse_table
    from s2s.decoding.inputs import Companion, Reading, from_input, from_split
    from s2s.tasks import tags

    size = config.decode.buffer or task.buffer
    languages = [f"{key}={value}" for key in LANGUAGES if (value := getattr(config, key)) is not None]
    given = parse_tags([*languages, *config.tags])
    tags.check_read(task.tags, given)
    if not config.line_tags and not config.store:
        tags.numbers(task.tags, given)  # before anything is read
    reading = Reading(size, config.batch_wait, config.max_line_bytes, config.skip_broken)
    companions = [Companion(key, path, task, reading) for key in COMPANIONS if (path := getattr(config, key))]
    if config.store:
        from s2s.data.store import Store

        store = Store(config.store)
        if difference := task.fits(store):
            raise UserError(f"checkpoint={config.checkpoint[0]} does not fit store={config.store}: {difference}")
        split = store.split(config.split)
        return from_split(task, split, companions, config.mode == "score", size, given)
    if _typed(config):
        print(f"reading {task.reads} from the terminal; Ctrl-D ends", file=sys.stderr)
    if task.reads == "lines":
        refuse_table("input", config.input, tabs=len(task.spec.sources) > 1)
    for key in COMPANIONS:
        refuse_table(key, getattr(config, key), tabs=key == "constraints")
    if task.reads == "lines" and config.input and config.input.lower().endswith(RECORDINGS):
        raise UserError(f"input={config.input} is a recording, but the model reads lines of text")
    return from_input(task, config.input, companions, reading, sys.stderr.isatty(), given)


def _watched(windows: Iterator, task, name: str) -> Iterator:
    """Yield the windows unchanged; warn if many tokens of their texts are unknown."""
    from s2s.data.unknown import Watch
    from s2s.tasks.multi_source import Several

    watches = [Watch(f"{name}{f', source {number}' if number > 1 else ''}", tokenizer)
               for number, tokenizer in enumerate(task.source_tokenizers.values(), 1)]  # fmt: skip
    for window in windows:
        texts = [(source, line) for source, line in zip(window.sources, window.lines(), strict=True)
                 if not isinstance(source, Exception)]  # fmt: skip
        for number, watch in enumerate(watches):
            parts = [source.parts[number] if isinstance(source, Several) else source for source, _ in texts]
            lines = [line.split("\t")[number] if len(watches) > 1 else line for _, line in texts]
            watch.add(parts, lines)
        yield window
    for watch in watches:
        watch.check()


def _typed(config: GenerateCommand) -> bool:
    """Whether the user types the input."""
    return not config.store and config.input in (None, "-") and os.isatty(streams.INPUT)


class _Progress:
    """Shows a progress bar on a terminal, or a prompt where the user types the input, and the final line.

    Args:
        total: Number of sentences, if known.
        typed: Whether the user types the input.
    """

    def __init__(self, total: int | None, typed: bool = False):
        from tqdm import tqdm

        self.typed, self.read = typed, 0
        hidden = typed or not sys.stderr.isatty()
        self.bar = tqdm(total=total, dynamic_ncols=True, disable=hidden, bar_format=BAR if total else COUNTER)
        self.sentences = self.tokens = self.truncated = self.unmet = self.guessed = self.passes = 0
        self.cut, self.failed, self.unit = _Places(), _Places(), "line"
        self.audio, self.tally = 0.0, Counter()
        self.start = time.perf_counter()

    def __enter__(self) -> "_Progress":
        self.answered()
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def advance(self, sentences: int) -> None:
        """Advance the bar by this many decoded sentences."""
        if self.bar.disable:
            return
        speed = self.tokens / (time.perf_counter() - self.start)
        self.bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
        self.bar.update(sentences)

    def answered(self) -> None:
        """Show the prompt if everything that was typed has its answer."""
        if self.typed and self.sentences == self.read and sys.stderr.isatty():
            print(PROMPT, end="", file=sys.stderr, flush=True)

    def heard(self, windows: Iterator, frame_seconds: float | None) -> Iterator:
        """Yield the windows unchanged, and add up the seconds of their recordings."""
        for window in windows:
            self.unit = window.unit
            self.read += len(window.sources)
            if frame_seconds is not None:
                self.audio += sum(len(s) for s in window.sources if not isinstance(s, Exception)) * frame_seconds
            yield window

    def count(self, best) -> None:
        """Add the best hypothesis of a sentence to the totals."""
        self.sentences += 1
        self.tokens += len(best.ids)
        self.truncated += best.truncated
        if best.source_truncated:
            self.cut.add(self.sentences)
        if best.error is not None:
            self.failed.add(self.sentences)
            if self.failed.count <= NAMED:
                where = "" if isinstance(best.error, Skipped) else f"{self.unit} {self.sentences}: "
                self.bar.write(f"warning: {where}{best.error}", file=sys.stderr)
        if best.passes:
            self.passes += best.passes
            self.guessed += len(best.tokens) - best.passes
        self.unmet += bool(best.unmet)

    def report(self) -> None:
        """Print the final line."""
        if self.typed and sys.stderr.isatty():
            print(file=sys.stderr)  # after the prompt
        seconds = time.perf_counter() - self.start
        rate = self.sentences / seconds
        line = f"{self.sentences:,} sentences, {self.tokens:,} tokens, {seconds:.1f} s, {rate:,.1f} sentences/s"
        if self.audio:
            line += f", RTFx {self.audio / seconds:,.1f}"
        if self.truncated:
            line += f"; {self.truncated:,} ended by the maximum length (decode.max_length_a, decode.max_length_b)"
        if self.passes:
            line += f"; {self.guessed / self.passes:.2f} proposed tokens accepted per step"
        for side in ("encoder", "decoder"):
            if layers := self.tally[side]:
                line += f"; {self.tally[side + ' run'] / layers:.0%} of the {side}'s layers were run"
        if self.unmet:
            line += f"; {self.unmet:,} lack some of their constraints, which did not fit into the maximum length"
        if self.cut.count:
            line += f"; too long and cut (decode.max_source, model.max_positions): {self.cut.text(self.unit)}"
        if self.failed.count:
            line += f"; failed and left empty: {self.failed.text(self.unit)}"
        print(line, file=sys.stderr)


class _Places:
    """Counts sentences, and remembers the numbers of the first ones."""

    SHOWN = 5

    def __init__(self):
        self.count, self.first = 0, []

    def add(self, number: int) -> None:
        """Count a sentence by its number, from 1."""
        self.count += 1
        if len(self.first) < self.SHOWN:
            self.first.append(number)

    def text(self, unit: str) -> str:
        """The count and the first numbers; `unit` is what a sentence is called."""
        more = ", ..." * (self.count > len(self.first))
        return f"{self.count:,} {unit}{'s' * (self.count > 1)} ({', '.join(map(str, self.first))}{more})"


def main() -> None:
    """Run the command."""
    # SIGTERM cleans up like an interrupt.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    command.run("s2s-generate", GenerateCommand, _generate, ABOUT)


if __name__ == "__main__":
    main()
