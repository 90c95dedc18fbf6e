"""Makes jobs of requests: of lines in JSON, or of a recording. Refuses what is invalid or beyond the bounds."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from s2s import registry
from s2s.data.directions import parse_tags
from s2s.data.manifest import Entry
from s2s.decoding.companions import check_known
from s2s.decoding.config import DecodeConfig
from s2s.decoding.translator import Translator
from s2s.decoding.watching import Watches
from s2s.errors import UserError
from s2s.serving.batcher import Job
from s2s.serving.requests import Batch, Options, Request, complaint, request_model
from s2s.text.tokenizer import is_blank

STEREO = 2 * 48_000  # samples of a second of a recording; one with more channels may be so much shorter
EXTRAS = ("alignment", "attention", "timestamps")


@dataclasses.dataclass
class Bounds:
    """Limits of a request.

    Attributes:
        body_bytes, lines, line_characters, cost, recording_bytes, recording_seconds: Upper bounds; a request that
            exceeds one is refused with 413.
        seconds: Time to answer; decoding of a request that takes longer ends.
        beam_size: Largest beam_size and n_best.
        options: Keys of `decode` that a request may set.
    """

    body_bytes: int
    lines: int
    line_characters: int
    cost: int
    recording_bytes: int
    recording_seconds: float
    seconds: float
    beam_size: int
    options: list[str]


class Jobs:
    """Makes jobs of requests. Every method raises HTTPException if the request is invalid or beyond the bounds.

    Args:
        translator: It will decode them.
        decode: Decode options that apply unless a request sets them.
        bounds: Limits of a request.
    """

    def __init__(self, translator: Translator, decode: DecodeConfig, bounds: Bounds):
        self.translator, self.decode, self.bounds = translator, decode, bounds
        self.watches = Watches(translator.task, "the lines of requests", say=_warn)
        self.request, self.options = (request_model(base, bounds.options, decode, bounds.beam_size)
                                      for base in (Request, Options))  # fmt: skip

    def of_json(self, content: bytes, caller: str) -> tuple[Job, Options]:
        """The job of lines, and what the request asks for."""
        try:
            asked = self.request.model_validate_json(content)
        except ValidationError as error:
            raise _refused(error, self.request) from error
        self._check_sizes(asked.lines)
        try:
            sources = self.translator.task.encode(asked.lines)
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        self.watches.add(sources, asked.lines)
        most = self.translator.limit(self._config(asked))
        for number, source in enumerate(sources, 1):
            if most is not None and len(source) > most:
                raise HTTPException(413, f"line {number} has {len(source)} tokens; at most {most} are allowed")
        return self._job(asked, sources, caller), asked

    def of_batch(self, content: bytes, caller: str) -> list[tuple[Job, Options] | HTTPException]:
        """The job of each request of a batch, or why it is refused."""
        try:
            batch = Batch.model_validate_json(content)
        except ValidationError as error:
            raise _refused(error, Batch) from error
        self._check_count(sum(len(lines) for one in batch.requests if isinstance(lines := one.get("lines"), list)))
        jobs: list[tuple[Job, Options] | HTTPException] = []
        for each in batch.requests:
            try:
                if each.pop("stream", False):
                    raise HTTPException(400, "stream: a batch is answered as a whole")
                jobs.append(self.of_json(json.dumps(each).encode(), caller))
            except HTTPException as error:
                jobs.append(error)
        self._check_cost(sum(sum(each[0].costs) for each in jobs if isinstance(each, tuple)))
        return jobs

    def of_recording(self, path: Path, query: Iterable[tuple[str, str]], caller: str) -> tuple[Job, Options]:
        """The job of a recording, and what the request asks for; `query`: its options, as texts."""
        asked = self._asked_in_query(list(query))
        config = self._config(asked)
        self._check_length(path)
        (source,) = self.translator.task.encode_each([Entry("", "", path, "")])
        if isinstance(source, Exception):
            raise HTTPException(400, str(source).replace(str(path), "the recording"))
        most, length = self.translator.limit(config), self.translator.length(source)
        if most is not None and length > most:
            raise HTTPException(413, f"the recording has {length} encoder positions; at most {most} are allowed")
        return self._job(asked, [source], caller), asked

    def _asked_in_query(self, query: list[tuple[str, str]]) -> Options:
        lists: dict[str, list[str]] = {"prefixes": [], "constraints": [], "tags": []}
        single: dict[str, Any] = {}
        for name, value in query:
            if name in lists:
                lists[name].append(value)
            elif name in single:
                raise HTTPException(400, f"{name}: given twice")
            else:
                single[name] = value
        try:
            tags = dict(parse_tags(lists["tags"]))
            asked = self.options.model_validate_strings({**single, "tags": tags})
        except ValidationError as error:
            raise _refused(error, self.options) from error
        except UserError as error:
            raise HTTPException(400, f"tags: {error}") from error
        phrases = [lists["constraints"]] if lists["constraints"] else None
        return asked.model_copy(update={"prefixes": lists["prefixes"] or None, "constraints": phrases})

    def _check_length(self, path: Path) -> None:
        import soundfile

        most = self.bounds.recording_seconds
        try:
            with soundfile.SoundFile(path) as file:
                seconds, samples = file.frames / file.samplerate, file.frames * file.channels
        except soundfile.LibsndfileError:
            return  # `encode_each` says why
        if seconds > most:
            raise HTTPException(413, f"the recording is {seconds:,.1f} s long; at most {most:g} s are allowed")
        if samples > most * STEREO:
            raise HTTPException(413, f"the recording has {samples:,} samples in all channels; at most "
                                     f"{most * STEREO:,.0f} are allowed")  # fmt: skip

    def _check_sizes(self, lines: list[str]) -> None:
        self._check_count(len(lines))
        for number, line in enumerate(lines, 1):
            if len(line) > self.bounds.line_characters:
                raise HTTPException(413, f"line {number} has {len(line):,} characters; "
                                         f"at most {self.bounds.line_characters:,} are allowed")  # fmt: skip

    def _check_count(self, lines: int) -> None:
        if lines > self.bounds.lines:
            raise HTTPException(413, f"the request has {lines:,} lines; at most {self.bounds.lines:,} are allowed")

    def _check_cost(self, costs: int) -> None:
        if costs > self.bounds.cost:
            raise HTTPException(413, f"the request may cost {costs:,} (its tokens, and its beam_size or n_best "
                                     "hypotheses at their maximum length); at most "
                                     f"max_request_cost={self.bounds.cost:,} is allowed")  # fmt: skip

    def _job(self, asked: Options, sources: list, caller: str) -> Job:
        tags = asked.all_tags()
        try:
            self.translator.task.check_tags(tags)
        except UserError as error:
            raise HTTPException(400, f"tags: {error}") from error
        try:
            prefixes, constraints = self._prefixes(asked, len(sources)), self._constraints(asked, len(sources))
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        config = self._config(asked, prefix=prefixes, constraints=constraints)
        extras = {name: True for name in EXTRAS if getattr(asked, name)}
        job = Job.of(self.translator, sources, config, asked.seed, caller, tags, prefixes, constraints=constraints,
                     extras=extras)  # fmt: skip
        self._check_cost(sum(job.costs))
        return job

    def _prefixes(self, asked: Options, lines: int) -> list[list[int]] | None:
        if asked.prefixes is None:
            return None
        _check_number("prefixes", asked.prefixes, lines)
        ids = self.translator.task.encode_prefixes(asked.prefixes)
        check_known(ids, asked.prefixes, (f"prefixes, line {number}" for number in range(1, lines + 1)))
        return ids if any(ids) else None

    def _constraints(self, asked: Options, lines: int) -> list[list[list[int]]] | None:
        if asked.constraints is None:
            return None
        _check_number("constraints", asked.constraints, lines)
        rows = [[phrase for phrase in row if not is_blank(phrase)] for row in asked.constraints]
        texts = [phrase for row in rows for phrase in row]
        ids = self.translator.task.encode_phrases(texts)
        check_known(ids, texts, (f"constraints, line {number}" for number, row in enumerate(rows, 1) for _ in row))
        encoded = iter(ids)
        return [[next(encoded) for _ in row] for row in rows] if texts else None

    def _config(self, asked: Options, **given: Any) -> DecodeConfig:
        """The decode options of the server, with those of a request in their place. If the request chooses another
        search, only the server's options that this search reads are kept. `given`: prefix and constraints."""
        options, own = asked.model_dump(include=set(self.bounds.options)), self.decode.search
        if (name := options.pop("search", own.type)) == own.type:
            config = dataclasses.replace(self.decode, **options)
        else:
            config = dataclasses.replace(DecodeConfig(search=name), **{
                key: value for key, value in (vars(self.decode) | options).items()
                if key != "search" and (key in asked.model_fields_set or registry.find("searcher", name).reads(key))
            })  # fmt: skip
        if config.n_best > 1 and not asked.hypotheses:
            raise HTTPException(
                400, f'n_best={config.n_best} requires "hypotheses": true; otherwise each line has one text'
            )
        for extra in EXTRAS:
            if getattr(asked, extra) and not asked.hypotheses:
                raise HTTPException(400, f'{extra} requires "hypotheses": true; a text has none')
        aligned = asked.alignment or asked.attention
        labels = {key: f"{key}s" if key == "prefix" else key for key, value in given.items() if value}
        try:
            config.check_alignment(aligned, '"alignment": true')
            config.check(labels | ({"alignment": "alignment"} if aligned else {}))
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        return config


def _check_number(name: str, values: list, lines: int) -> None:
    if len(values) != lines:
        raise HTTPException(400, f"{name}: there must be as many as lines, {lines}; there are {len(values)}")


def _warn(message: str) -> None:
    print(f"s2s-serve: warning: {message}", file=sys.stderr, flush=True)


def _refused(error: ValidationError, model: type[BaseModel]) -> HTTPException:
    return HTTPException(400, complaint(error, model))
