"""The Translator, the library interface of decoding: lines in, translations out, in order. The commands use it, too."""

import dataclasses
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from itertools import count, islice, zip_longest
from pathlib import Path
from typing import Any

from torch import nn

from s2s import registry
from s2s.backends.prepare import prepare
from s2s.checkpoint.loading import load_model
from s2s.config import schema
from s2s.decoding.alignment import position_symbols
from s2s.decoding.companions import check_known
from s2s.decoding.compose import generator_of
from s2s.decoding.compose import load as load_components
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.hypothesis import Hypothesis, Translation
from s2s.decoding.inputs import NO_TAGS, Window
from s2s.decoding.intake import longest_source
from s2s.decoding.times import words
from s2s.decoding.unknowns import Unknowns, read_dictionary
from s2s.decoding.watching import Watches
from s2s.device import choose_device
from s2s.errors import UserError
from s2s.tasks.tags import Tags, plain


def load(
    checkpoint: str | Path | list[str | Path],
    device: str = "auto",
    dtype: str = "auto",
    draft: str | Path | None = None,
    backend: str = "auto",
) -> "Translator":
    """Load a checkpoint, or several as an ensemble, once for any number of calls.

    Args:
        checkpoint: A run (its best checkpoint, or else its last one), the folder of a checkpoint, or a list of them.
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.
        dtype: Default of `decode.dtype` for calls.
        draft: The checkpoint of a smaller model, for calls with `speculative="draft"`.
        backend: Default of `decode.backend` for calls.

    Raises:
        UserError: a checkpoint is missing or damaged, checkpoints do not fit each other, or `dtype` is not available on
            the device.
    """
    paths = [checkpoint] if isinstance(checkpoint, str | Path) else list(checkpoint)
    if not paths:
        raise UserError("checkpoint=: requires at least one checkpoint")
    on = choose_device(device)
    loaded = [load_model(str(path), on) for path in paths]
    task = loaded[0][1]
    drafts = [] if draft is None else [load_model(str(draft), on)]
    names = [f"checkpoint={path}" for path in paths] + [f"draft={draft}"]
    for name, (_, other, _) in zip(names, loaded + drafts, strict=False):
        if difference := task.difference(other):
            raise UserError(f"{name}: has {difference} of {paths[0]}; models that decode together must agree")
    return Translator([model for model, _, _ in loaded], task, dtype, drafts[0][0] if drafts else None, backend)


class Translator:
    """Translates lines. Any number of threads may use it at once.

    Calls share the models, which are never changed. The state of a search belongs to its call.

    Args:
        models: One or an ensemble, in evaluation mode, on one device.
        task: The task of the models.
        dtype: Default of `decode.dtype` for calls.
        draft: The model that guesses in calls with `speculative="draft"`.
        backend: Default of `decode.backend` for calls.
    """

    def __init__(self, models: list[nn.Module], task, dtype: str = "auto", draft: nn.Module | None = None,
                 backend: str = "auto"):  # fmt: skip
        self.models, self.task, self.draft = models, task, draft
        self.defaults = {"dtype": dtype, "backend": backend}
        self.symbols = task.target_tokenizer.vocabulary.symbols
        limits = [model.max_length for model in models if model.max_length is not None]
        self.max_length = min(limits, default=None)
        self._lock = threading.Lock()
        self._made: dict[tuple, Any] = {}
        for model in models:
            self._pack(model, dtype, backend, None)  # now, not in the first call

    def translate(
        self,
        lines: Iterable[str],
        beam_size: int = 5,
        *,
        hypotheses: bool = False,
        prefixes: Iterable[str] | None = None,
        alignment: bool = False,
        timestamps: bool = False,
        seed: int = 1,
        tags: Tags | Iterable[Tags] = NO_TAGS,
        source_language: str | None = None,
        target_language: str | None = None,
        **options,
    ) -> Iterator:
        """Translate lines, `buffer` lines at a time.

        A line longer than decode.max_source, or than the maximum length of the model, is cut, with a warning. Another
        one says, once for all calls, if many tokens are unknown.

        Args:
            lines: Source lines, or, for a speech model, paths of recordings; perhaps a generator or an open file. A
                recording that cannot be read fails when its turn comes (see `on_error`).
            beam_size: As `decode.beam_size`.
            hypotheses: Whether to yield up to n_best Translations of each line, instead of the text of the best.
            prefixes: The text with which the translation of each line must start.
            alignment: Whether Translations get alignments.
            timestamps: Whether Translations of recordings get the times of their words.
            seed: Seed of sampling.
            tags: For a model that reads tags, such as {"target_language": "de"}: tags of all lines, or of each.
            source_language, target_language: These tags of all lines; `tags` may replace them for some lines.
            options: Other options of `decode`.

        Returns:
            An iterator in the order of the lines: a text for each, or a list of Translations.

        Raises:
            UserError: an option is unknown, or options contradict each other. Later, while iterating: the number of
                prefixes or tags differs from that of lines, or a prefix has a symbol that is not in the target
                vocabulary.
        """
        if isinstance(lines, str):
            raise UserError("translate() takes lines, such as a list of them, not one text")
        config = self.config(beam_size=beam_size, **options)
        if config.n_best > 1 and config.mbr == "none" and not hypotheses:
            raise UserError(f"n_best={config.n_best} requires hypotheses=True; otherwise each line has one text")
        if alignment and not hypotheses:
            raise UserError("alignment=True requires hypotheses=True; a text has no alignment")
        if timestamps and not hypotheses:
            raise UserError("timestamps=True requires hypotheses=True; a text has no timestamps")
        given = {"source_language": source_language, "target_language": target_language}
        if languages := {name: value for name, value in given.items() if value is not None}:
            tags = {**languages, **tags} if isinstance(tags, Mapping) else ({**languages, **own} for own in tags)
        if isinstance(tags, Mapping):
            self.task.check_tags(tags)
        windows = self.watches.over(self._windows(lines, prefixes, tags, config.buffer or self.task.buffer))
        results = self.decode(windows, config, seed, alignment=alignment, timestamps=timestamps)
        return self._warned(results, hypotheses, self.limit(config))

    @cached_property
    def watches(self) -> Watches:
        """Counts the unknown tokens of all calls."""
        return Watches(self.task)

    def limit(self, config: DecodeConfig) -> int | None:
        """The maximum length of a source, in tokens or encoder positions; longer ones are cut. None: there is none."""
        most = None if self.max_length is None else self.max_length - 1
        return longest_source(config, self.task.max_source, most)

    def length(self, source: Any) -> int:
        """The length of a source as the options count it: tokens of a text, or of several; encoder positions of a
        recording."""
        if self.task.frame_seconds is None:
            return sum(self.task.source_lengths(source))
        return self.models[0].memory_length(len(source))

    def config(self, **options) -> DecodeConfig:
        """Make and check decode options. Raises UserError."""
        known = [field.name for field in dataclasses.fields(DecodeConfig)]
        for name in options.keys() - set(known):
            raise UserError(f"unknown option '{name}'; {registry.nearest(name, known)}")
        config = schema.load(DecodeConfig, self.defaults | options, "decode")
        drafts = config.speculative == "draft" and self.draft is not None
        config.check({"draft": "draft="} if drafts else {})
        return config

    def decode(
        self,
        windows: Iterable[Window],
        config: DecodeConfig,
        seed: int = 1,
        score: bool = False,
        alignment: bool = False,
        timestamps: bool = False,
        progress: Callable[[int], None] | None = None,
        first: int = 0,
        tick: Callable[[], None] | None = None,
        tally: Counter | None = None,
        attention: bool = False,
    ) -> Iterator[list[Translation]]:
        """Decode windows of sentences, or score given targets.

        Args:
            windows: Windows of sources. A source that is too long is cut (decode.max_source).
            config: Decode options.
            seed: Seed of sampling.
            score: Whether to score targets; the windows' companions are then targets, not prefixes.
            alignment: Whether to add alignments.
            timestamps: Whether to add the times of words.
            progress: Called with the number of sentences decoded since the last call.
            first: Number of the first sentence; samples depend on it.
            tick: Called between two steps of a search; an exception that it raises ends decoding.
            tally: As in Generator.
            attention: Whether to add alignments and their weights.

        Yields:
            Up to n_best translations of each sentence, in order. With decode.on_error=mark, a sentence that fails has
            one translation without text, which carries the error.

        Raises:
            UserError: options contradict each other.
            UserError, Failure: with decode.on_error=stop, a sentence fails; the message names it.
        """
        if timestamps and not self.task.target_transform.is_none:
            raise UserError("timestamps=true requires models that write words in their order, without "
                            "data.target_transform")  # fmt: skip
        alignment = alignment or attention
        config.check_alignment(alignment, "alignment=true")
        options = {"alignment": alignment, "attention": attention, "timestamps": timestamps, "pack": self._pack,
                   "tick": tick, "tally": tally}  # fmt: skip
        loaded = dict(load_components(self.task, config, next(self.models[0].parameters()).device, self._once))
        if config.speculative == "draft":
            loaded["draft"] = self.draft
        generator = generator_of(self.task, self.models, config, seed, loaded, **options)
        unknowns = self._unknowns(config, score)
        results = self._decode(generator, windows, score, progress, first, unknowns)
        return results if alignment or unknowns is None else map(_without_alignment, results)

    def _unknowns(self, config: DecodeConfig, score: bool) -> Unknowns | None:
        """What writes texts without unknown symbols, if the options say so. Raises UserError."""
        if not config.replace_unknown:
            return None
        if score:
            raise UserError("decode.replace_unknown=true: does nothing where given targets are scored")
        path = config.unknown_dictionary
        return Unknowns(self.task, self.models, self._once(("dictionary", path), partial(read_dictionary, path)))

    def _decode(self, generator: Generator, windows: Iterable[Window], score: bool, progress, first: int,
                unknowns: Unknowns | None) -> Iterator:  # fmt: skip
        for window in windows:
            sources, companions = window.sources, window.companions
            first = first if window.first is None else window.first
            tagged, lines = self.task.tagged(sources, window.tags), None
            if score:
                results = ([hypothesis] for hypothesis in generator.score(tagged, companions, progress))
            else:
                results = generator.generate(tagged, companions, progress, first, window.constraints)
            for index, n_best in enumerate(results):
                if generator.config.on_error == "stop":
                    n_best[0].check(f"{window.unit} {first + index + 1}")
                n_best = [self._translation(hypothesis, tagged[index], generator) for hypothesis in n_best]
                if unknowns is not None and n_best[0].error is None:
                    lines = lines or unknowns.lines(window)
                    for hypothesis in n_best:
                        hypothesis.text = unknowns.text(hypothesis, lines[index])
                yield n_best
            first += len(sources)

    def _translation(self, hypothesis: Hypothesis, source: list[int], generator: Generator) -> Translation:
        if hypothesis.error is not None:
            return Translation(**vars(hypothesis), text="", tokens=[])
        symbols = None
        if hypothesis.alignment is not None:
            seen = plain(generator.cut(source))
            symbols = position_symbols(self.task, self.models[0], seen, generator.setting.positions(seen))
        # The hypothesis of an empty source was not decoded by a model, and has no EOS either.
        end = ["</s>"] if hypothesis.token_log_probabilities else []
        times, readable = hypothesis.times, partial(self.task.text, source=plain(source))
        return Translation(
            **vars(hypothesis),
            text=readable(hypothesis.ids),
            tokens=[self.symbols[i] for i in hypothesis.ids] + end,
            source_tokens=symbols,
            words=None if times is None else words(hypothesis.ids, times, readable),
        )

    def _windows(self, lines: Iterable[str], prefixes: Iterable[str] | None, tags: Tags | Iterable[Tags],
                 size: int) -> Iterator[Window]:  # fmt: skip
        pairs = ((line, "") for line in lines) if prefixes is None else _pairs(lines, prefixes)
        each, read = None if isinstance(tags, Mapping) else iter(tags), 0
        while window := list(islice(pairs, size)):
            sources, starts = ([line.rstrip("\r\n") for line in side] for side in zip(*window, strict=True))
            companions = None
            if prefixes is not None:
                companions = self.task.encode_prefixes(starts)
                check_known(companions, starts, (f"prefixes, line {number}" for number in count(read + 1)))
            window_tags = tags if each is None else list(islice(each, len(window)))
            if each is not None and len(window_tags) < len(window):
                raise UserError("tags: there must be as many as lines, or one mapping for all of them")
            for number, line_tags in enumerate(window_tags if each else (), read + 1):
                try:
                    self.task.check_tags(line_tags)
                except UserError as error:
                    raise UserError(f"tags, line {number}: {error}") from error
            read += len(window)
            yield Window(self.task.encode_each(sources), companions, unit=self.task.reads[:-1], tags=window_tags,
                         lines=partial(list, sources))  # fmt: skip

    def _warned(self, results: Iterator[list[Translation]], hypotheses: bool, limit: int | None) -> Iterator:
        unit = self.task.reads[:-1]
        for number, n_best in enumerate(results, 1):
            if (error := n_best[0].error) is not None:
                warnings.warn(f"{unit} {number} failed: {error}", stacklevel=2)
            if n_best[0].source_truncated:
                warnings.warn(f"{unit} {number} was cut to {limit} tokens (decode.max_source, model.max_positions)",
                              stacklevel=2)  # fmt: skip
            yield n_best if hypotheses else n_best[0].text

    def _pack(self, model: nn.Module, *how) -> nn.Module:
        """Prepare a model for decoding, once for each way; how: the arguments of `prepare`."""
        return self._once((id(model), *how), lambda: prepare(model, *how))

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """The value of `make()`, computed once per key. So each file is read once, and may be a stream."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]


def _without_alignment(n_best: list[Translation]) -> list[Translation]:
    """Translations whose alignments were computed for their texts only."""
    for translation in n_best:
        translation.alignment = translation.source_tokens = None
    return n_best


def _pairs(lines: Iterable[str], prefixes: Iterable[str]) -> Iterator[tuple[str, str]]:
    for pair in zip_longest(lines, prefixes):
        if None in pair:
            raise UserError("prefixes: there must be as many as lines")
        yield pair
