"""s2s-generate: decode sentences with a checkpoint; hypotheses come out in the order of the input."""

import dataclasses
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, ClassVar

from s2s import __version__, files
from s2s.config import command, schema, signals, streams
from s2s.config.schema import LARGEST_SEED, group, option
from s2s.data.directions import LANGUAGES, parse_tags
from s2s.data.lines import MAX_LINE_BYTES
from s2s.decoding.component import check_scoring
from s2s.decoding.progress import Progress
from s2s.decoding.totals import Totals
from s2s.errors import UserError
from s2s.parts import JOIN, Parts, Shard, contents

ABOUT = """Translate (or score given targets) with one model or an ensemble.
From a store: s2s-generate checkpoint=RUN store=STORE split=test output=hyp.en
From a file:  s2s-generate checkpoint=RUN input=test.de output=hyp.en
Recordings:   s2s-generate checkpoint=RUN input=talk.flac (or a manifest, or a list of files)
In a pipe:    cat test.de | s2s-generate checkpoint=RUN > hyp.en"""

FILES = ("forbidden", "allowed", "shortlist", "unknown_dictionary")  # options of decode that name files
# Options that do not change the output, or that are compared by their content.
NEUTRAL = ("input", "output", "overwrite", "distributed", "skip_broken", "batch_wait", "max_line_bytes", "checkpoint",
           "draft", "store", "shard")  # fmt: skip
PACKED = (".gz", ".xz", ".zst")
SHARES = 8  # windows that a small input has for each process
LEAST = 8192  # bytes of text in such a window
COMPANIONS = ("prefix", "target", "constraints", "line_tags")  # files with one line for each sentence
RECORDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff", ".au")  # file names that are not text


@dataclasses.dataclass
class ProcessesConfig:
    """Options of decoding in several processes."""

    processes: int = option(
        1, "number of processes on this machine, each with its own GPU, or all on the CPU; as with torchrun",
        at_least=1,
    )  # fmt: skip
    timeout: float = option(
        30.0, "seconds without a heartbeat after which a process counts as dead, and the command ends", at_least=2
    )


@dataclasses.dataclass
class GenerateCommand:
    """Schema of s2s-generate."""

    COMMON = (
        "checkpoint", "input", "store", "split", "output", "format", "device", "decode.beam_size", "decode.n_best",
        "decode.length_penalty", "decode.search", "decode.max_length_a", "decode.max_length_b", "decode.batch_tokens",
        "decode.dtype",
    )  # fmt: skip

    given: ClassVar[frozenset[str]] = frozenset()  # the keys that the user has set

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
    shard: str | None = option(
        None, "K/N: decode part K of N of the input into the folder OUTPUT.parts, as on one of N machines; join: make "
        "the output of the parts",
    )  # fmt: skip
    overwrite: bool = option(False, "leave what an earlier call has decoded of an unfinished output, and start anew")
    seed: int = option(1, "seed of sampling", at_least=0, at_most=LARGEST_SEED)
    distributed: ProcessesConfig = option(ProcessesConfig, "decoding in several processes")
    decode: Any = group("decode", "default", "the search and its options")


def _generate(config: GenerateCommand) -> None:
    if config.shard == JOIN:
        _check(config)
        if os.environ.get("RANK", "0") == "0":
            _join(config)
        return
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:  # one of several processes
        from s2s.training.distributed import ranks

        with ranks(config.device, config.distributed.timeout, "s2s-generate", "window") as group:
            _check(config)
            _decode(config, group)
        return
    _check(config)
    if config.distributed.processes > 1:
        if "--multirun" in sys.argv:
            raise UserError("distributed.processes and --multirun exclude each other: use more shards")
        from s2s.training.distributed import launch

        sys.exit(launch(config.distributed.processes, "s2s_cli.generate", sys.argv[1:], "s2s-generate", saves=False))
    _decode(config, _Alone())


def _decode(config: GenerateCommand, group) -> None:
    """Decode, as one process of a group, or `_Alone`."""
    from s2s.decoding.outputs import formatter
    from s2s.decoding.translator import load

    translator = load(config.checkpoint, config.device, config.decode.dtype, config.draft, config.decode.backend)
    write = formatter(config.format, config.mode == "score")
    if config.output and not _streams(config):
        _go_on(config, group, translator, write)
        return
    source, companions, given = _input(config, translator.task, _reading(config, translator.task))
    from s2s.decoding.inputs import windows

    with (
        signals.answered("s2s-generate", lambda: config.output and files.abandon(config.output)),
        Progress(source.total, _typed(config)) as progress,
        streams.opened(config.output) as output,
    ):
        heard = progress.heard(windows(source, companions, given), translator.task.frame_seconds)
        heard = _watched(heard, config, translator.task)
        for index, n_best in enumerate(_results(config, translator, heard, progress, progress.advance)):
            progress.count(index + 1, n_best[0])
            output.write(write(index, n_best).encode())
            output.flush()  # the reader of a pipe need not wait for more
            progress.answered()
    progress.report()


def _go_on(config: GenerateCommand, group, translator, write) -> None:
    """Decode from where an earlier call of the same command was ended, window by window, the windows divided among
    the processes of a group."""
    from s2s.decoding.inputs import windows
    from s2s.decoding.unfinished import Turns, Unfinished

    shard = None if config.shard is None else Shard.parse(config.shard)
    task, how, parts = translator.task, group.first(lambda: _task(config)), Parts("output", config.output)
    if shard and not group.first(lambda: parts.begin(shard, how, config.overwrite)):
        if group.is_first:
            print(f"{parts.place(shard)}: is there already", file=sys.stderr)
        return
    reading = _reading(config, task, group, shard)
    # A total that is not needed is not counted by every process.
    source, companions, given = _input(config, task, reading, group.is_first)
    if shard and (smaller := _smaller(config, source, reading, shard)) != reading:
        reading = smaller
        source, companions, given = _input(config, task, reading, group.is_first)
    first, last, every = group.first(lambda: _share(source, reading, shard)) if shard else (0, None, None)
    output = str(parts.place(shard)) if shard else config.output
    unfinished, total = Unfinished(output, first), source.total if group.is_first and not shard else None
    with (
        signals.answered("s2s-generate", lambda: files.abandon(output) if group.is_first else None),
        Progress(total, hidden=not group.is_first) as progress,
        unfinished.claimed() if group.is_first else nullcontext(),
    ):
        state = group.first(lambda: unfinished.begin(how, _window_of(reading), config.overwrite))
        if _window_of(reading) != state.window:
            reading = dataclasses.replace(reading, size=state.window[0], size_bytes=state.window[1] or None)
            source, companions, given = _input(config, task, reading, group.is_first)
        progress.goes_on(state.sentences if group.is_first else 0, output)
        turns = Turns(state, first, last, lambda: group.count("window", 1) - 1, output)
        heard = progress.heard(windows(source, companions, given, turns), task.frame_seconds)
        heard = _watched(heard, config, task) if group.is_first else heard
        alone = group.size == 1
        results = _results(config, translator, heard, progress, progress.advance if alone else None)
        for n_best in results:  # the first one of a window
            window = progress.window
            with unfinished.piece(group.rank) as piece:
                totals = Totals()
                for index in range(window.first, window.first + len(window.sources)):
                    n_best = n_best if index == window.first else next(results)
                    progress.count(index + 1, n_best[0])
                    totals.add(index + 1, n_best[0])
                    piece.write(write(index, n_best).encode())
                piece.finish(window.number, window.mark(), totals)
            group.reached(window.number)
            if not alone:
                progress.reached(state.sentences + group.count("sentences", len(window.sources)))
            if group.is_first:
                unfinished.join()
        progress.add(group.gather(progress.totals))
        if group.is_first:
            unfinished.finish(turns.windows)
            if shard:
                facts = {"windows": [first, last, every], "unit": source.unit, "totals": unfinished.state.totals}
                parts.finish(shard, how, facts)
    if group.is_first:
        progress.report()


def _join(config: GenerateCommand) -> None:
    """Make the output of its parts, and print their totals."""
    parts = Parts("output", config.output)
    found, end = parts.read(_task(config)), 0
    for path, facts in found:
        first, last, every = facts["windows"]
        if first != end or (path == found[-1][0] and last != every):
            raise UserError(f"{path}: does not begin where the part before it ends; make the parts again")
        end = last
    with files.whole_file(config.output) as output:
        for path, _ in found:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, output)
    totals = Totals.of_all(Totals.of_plain(facts["totals"]) for _, facts in found)
    parts.clear()
    print(f"{len(found):,} parts: {totals.line(None, found[0][1]['unit'])}", file=sys.stderr)


def _share(source, reading, shard: Shard) -> tuple[int, int, int]:
    """The windows of a shard: the first one, that after the last one, and the number of all."""
    by_size = source.unit == "line"  # windows of lines also end by their size
    every = sum(1 for _ in source.parts()) if by_size else -(-source.total // reading.size)
    share = shard.share(every)
    return share.start, share.stop, every


def _smaller(config: GenerateCommand, source, reading, shard: Shard):
    """How an input that is not text is read, so that each shard has some of it."""
    if config.decode.buffer or source.unit == "line":
        return reading
    return dataclasses.replace(reading, size=max(1, min(reading.size, source.total // (SHARES * shard.of))))


def _results(config: GenerateCommand, translator, windows: Iterator, progress: "Progress", advance) -> Iterator:
    """The translations of each sentence of windows."""
    return translator.decode(
        windows,
        config.decode,
        config.seed,
        config.mode == "score",
        config.alignment,
        config.timestamps,
        advance,
        tally=progress.totals.tally,
    )


class _Alone:
    """A group of one process, with the interface of `s2s.training.distributed.Ranks`."""

    rank, size, is_first = 0, 1, True

    def __init__(self):
        self._counts = Counter()

    def first(self, function: Callable[[], Any]) -> Any:
        return function()

    def gather(self, value: Any) -> list:
        return [value]

    def reached(self, window: int) -> None:
        pass

    def count(self, name: str, number: int) -> int:
        self._counts[name] += number
        return self._counts[name]


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
        check_scoring(config.given)
    elif config.target:
        raise UserError("target= requires mode=score; with mode=translate, prefix= gives the beginnings of hypotheses")
    elif config.decode.n_best > 1 and config.decode.mbr == "none" and config.format == "text":
        raise UserError(f"decode.n_best={config.decode.n_best} requires format=tsv or format=json: "
                        "format=text has one output line for each input line")  # fmt: skip
    if (config.distributed.processes > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1) and _streams(config):
        raise UserError("several processes require input=FILE or store=, and output=FILE: each reads its part of the "
                        "input, and what is decoded is kept beside the output until all of it is there")  # fmt: skip
    if config.shard is not None and _streams(config):
        raise UserError(f"shard={config.shard} requires input=FILE or store=, and output=FILE")
    if config.shard is not None and config.shard != JOIN:
        Shard.parse(config.shard)
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
    read |= {f"decode.{key}": getattr(config.decode, key) for key in FILES}
    if twice := streams.read_twice([path for path in read.values() if path]):
        raise UserError(f"{twice}: given twice, but a stream can be read only once")


def _streams(config: GenerateCommand) -> bool:
    """Whether the output or anything that is read is a stream."""
    read = [path for key in COMPANIONS if (path := getattr(config, key))]
    read += [path for key in FILES if (path := getattr(config.decode, key))]
    read += [] if config.store else [config.input or "-"]
    written = config.output is None or config.output == "-" or streams.is_stream(config.output)
    return written or any(path == "-" or streams.is_stream(path) for path in read)


def _reading(config: GenerateCommand, task, group=None, shard: Shard | None = None):
    """How the input is read. Several processes or shards read a small input in smaller windows, so that each has some;
    the windows of all shards are the same, however many processes each one has."""
    from s2s.decoding.reading import Reading

    size = config.decode.buffer or task.buffer
    reading = Reading(size, config.batch_wait, config.max_line_bytes, config.skip_broken)
    if group is None or (group.size == 1 and not shard):
        return reading
    number, of = (shard.number - 1, shard.of) if shard else (0, 1)
    reading = dataclasses.replace(reading, checked=(group.rank + group.size * number, group.size * of))
    if config.decode.buffer or not config.input or task.reads != "lines":
        return reading
    size_bytes = os.path.getsize(config.input) * (3 if config.input.endswith(PACKED) else 1)
    share = size_bytes // (SHARES * (of if shard else group.size))
    return dataclasses.replace(reading, size_bytes=min(max(share, LEAST), size << 10))


def _window_of(reading) -> tuple[int, int]:
    return reading.size, reading.size_bytes or 0


def _task(config: GenerateCommand) -> dict[str, Any]:
    """What is decoded and with which options, for a command that goes on: what can change its output."""
    from s2s.checkpoint.runs import resolve, weights_hash
    from s2s.data.store import Store

    options = schema.values(config)
    for key in (*NEUTRAL, *COMPANIONS):
        del options[key]
    paths = options["decode"]
    read = {key: path for key in ("input", *COMPANIONS) if (path := getattr(config, key))} if config.shard else {}
    checkpoints = [weights_hash(resolve(path)) for path in filter(None, [*config.checkpoint, config.draft])]
    return {
        "s2s": __version__,
        "checkpoint": checkpoints,
        "store": Store(config.store).digest if config.store else None,
        "files": {f"decode.{key}": files.file_hash(paths[key]) for key in FILES if paths.get(key)},
        "options": options,
        **{key: [*contents([path]).values()] for key, path in read.items()},
    }


def _input(config: GenerateCommand, task, reading, count: bool = True) -> tuple:
    """The input, its companions, and the tags of all sentences. `count`: whether the number of sentences matters."""
    from s2s.data.corpus import refuse_table
    from s2s.decoding.companions import Companion
    from s2s.decoding.inputs import from_input, from_split
    from s2s.tasks import tags

    languages = [f"{key}={value}" for key in LANGUAGES if (value := getattr(config, key)) is not None]
    given = parse_tags([*languages, *config.tags])
    tags.check_read(task.tags, given)
    if not config.line_tags and not config.store:
        tags.numbers(task.tags, given)  # before anything is read
    companions = [Companion(key, path, task, reading) for key in COMPANIONS if (path := getattr(config, key))]
    if config.store:
        from s2s.data.store import Store

        store = Store(config.store)
        if difference := task.fits(store):
            raise UserError(f"checkpoint={config.checkpoint[0]} does not fit store={config.store}: {difference}")
        split = store.split(config.split)
        return from_split(task, split, config.mode == "score" and not companions, reading.size), companions, given
    if _typed(config):
        print(f"reading {task.reads} from the terminal; Ctrl-D ends", file=sys.stderr)
    if task.reads == "lines":
        refuse_table("input", config.input, tabs=len(task.spec.sources) > 1)
    for key in COMPANIONS:
        refuse_table(key, getattr(config, key), tabs=key == "constraints")
    if task.reads == "lines" and config.input and config.input.lower().endswith(RECORDINGS):
        raise UserError(f"input={config.input} is a recording, but the model reads lines of text")
    counts = count and (sys.stderr.isatty() or any(companion.counts for companion in companions))
    return from_input(task, config.input, reading, counts), companions, given


def _watched(windows: Iterator, config: GenerateCommand, task) -> Iterator:
    """Yield the windows unchanged; warn if many tokens of their texts are unknown. A store was checked when it was
    made."""
    from s2s.data.unknown import warn
    from s2s.decoding.reading import named
    from s2s.decoding.watching import Watches

    if config.store and not config.target:
        return windows
    return Watches(task, str(named(config.input)), config.target, warn).over(windows)


def _typed(config: GenerateCommand) -> bool:
    """Whether the user types the input."""
    return not config.store and config.input in (None, "-") and os.isatty(streams.INPUT)


def _parts():
    """What the jobs of --multirun come to."""
    from s2s.config.sweep import of_parts

    return of_parts("output")


def main() -> None:
    """Run the command."""
    # SIGTERM cleans up like an interrupt.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    command.run("s2s-generate", GenerateCommand, _generate, ABOUT, _parts)


if __name__ == "__main__":
    main()
