"""The HTTP side of s2s-serve: what a request may ask, what it is answered, and the metrics."""

import asyncio
import dataclasses
import json
import time
from collections import Counter

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from s2s import __version__
from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Translation
from s2s.errors import UserError
from s2s.serving.batcher import Batcher, Full

FIELDS = ("text", "score", "log_probability", "tokens", "token_log_probabilities", "truncated")


@dataclasses.dataclass
class Bounds:
    """What a request may hold.

    Attributes:
        body_bytes, lines, line_characters: At most so many; over them the answer is 413.
        beam_size: The greatest beam_size and n_best.
        options: Keys of `decode` that a request may set.
    """

    body_bytes: int
    lines: int
    line_characters: int
    beam_size: int
    options: list[str]


class Service:
    """Answers requests.

    Args:
        batcher: Decodes.
        decode: Decode options of a request that says nothing.
        bounds: Of requests.
    """

    def __init__(self, batcher: Batcher, decode: DecodeConfig, bounds: Bounds):
        self.batcher, self.translator, self.decode, self.bounds = batcher, batcher.translator, decode, bounds
        self.statuses: Counter[int] = Counter()
        self.seconds = 0.0  # of answered translation requests
        self.in_flight = 0

    def application(self) -> Starlette:
        """As an ASGI application."""
        routes = [
            Route("/translate", self.translate, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _error, Exception: _failure})

    async def translate(self, request: Request) -> Response:
        """POST /translate: a JSON object with `lines`, and perhaps `hypotheses`, `seed` and decode options."""
        start = time.perf_counter()
        self.in_flight += 1
        status = 500
        try:
            content = await self._translate(request)
            status = 200
            return JSONResponse(content)
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self.in_flight -= 1
            self.statuses[status] += 1
            self.seconds += time.perf_counter() - start

    async def _translate(self, request: Request) -> dict:
        asked = _parsed(await self._body(request))
        lines = self._lines(asked.pop("lines", None))
        hypotheses = asked.pop("hypotheses", False)
        if not isinstance(hypotheses, bool):
            raise HTTPException(400, "hypotheses: true or false is needed")
        seed = asked.pop("seed", 1)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise HTTPException(400, "seed: a whole number of at least 0 is needed")
        config = self._config(asked)
        if config.n_best > 1 and not hypotheses:
            raise HTTPException(400, f'n_best={config.n_best} needs "hypotheses": true: one text belongs to one line')
        sources = await run_in_threadpool(self.translator.task.encode, lines)
        if (most := self.translator.max_length) is not None:
            for number, ids in enumerate(sources, 1):
                if len(ids) >= most:
                    message = f"line {number} has {len(ids)} tokens; the model takes at most {most - 1}"
                    raise HTTPException(413, message)
        try:
            n_bests = await asyncio.wrap_future(self.batcher.submit(sources, config, seed))
        except Full as error:
            raise HTTPException(429, "too many lines are waiting; try again", {"Retry-After": "1"}) from error
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        except Exception as error:  # which the batcher has told
            raise HTTPException(500, f"translation failed: {type(error).__name__}") from error
        if hypotheses:
            return {"translations": [[_content(one) for one in n_best] for n_best in n_bests]}
        return {"translations": [n_best[0].text for n_best in n_bests]}

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > self.bounds.body_bytes:
                    raise HTTPException(413, f"the request is over {self.bounds.body_bytes:,} bytes")
        except ClientDisconnect as error:
            raise HTTPException(400, "the request ended early") from error
        return bytes(body)

    def _lines(self, lines) -> list[str]:
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise HTTPException(400, "lines: a list of texts is needed")
        if len(lines) > self.bounds.lines:
            raise HTTPException(413, f"{len(lines):,} lines; at most {self.bounds.lines:,} go into a request")
        for number, line in enumerate(lines, 1):
            if len(line) > self.bounds.line_characters:
                raise HTTPException(413, f"line {number} has {len(line):,} characters; "
                                         f"at most {self.bounds.line_characters:,} are allowed")  # fmt: skip
            try:
                line.encode()
            except UnicodeEncodeError as error:
                raise HTTPException(400, f"line {number}: half of a surrogate pair is no character") from error
        return lines

    def _config(self, options: dict) -> DecodeConfig:
        """Decode options of a request, over those of the server."""
        for name, value in options.items():
            if name not in self.bounds.options:
                allowed = ", ".join(["lines", "hypotheses", "seed", *self.bounds.options])
                raise HTTPException(400, f"'{name}' cannot be set here; there is {allowed}")
            # No lists, and nothing that the config's language would look up ("${...}").
            if not isinstance(value, int | float | str) or "$" in str(value):
                raise HTTPException(400, f"{name}: a number, a word, true or false is needed")
        try:
            config = self.translator.config(**dataclasses.asdict(self.decode) | options)
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        if config.rows > self.bounds.beam_size:
            raise HTTPException(400, f"beam_size and n_best may be {self.bounds.beam_size} at most")
        return config

    async def health(self, request: Request) -> Response:
        """GET /health: 200 while lines are decoded, else 503."""
        alive = self.batcher.alive
        return JSONResponse({"status": "ok" if alive else "failed", "s2s": __version__}, 200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics: counters in the text format of Prometheus."""
        counts = self.batcher.counts
        answered = [(f'{{status="{status}"}}', number) for status, number in sorted(self.statuses.items())]
        rows = [
            ("requests_total", "counter", "translation requests by status", answered),
            ("errors_total", "counter", "translation requests that were not answered with 200",
             [("", sum(number for status, number in self.statuses.items() if status != 200))]),
            ("request_seconds_total", "counter", "seconds that translation requests took", [("", self.seconds)]),
            ("requests_in_flight", "gauge", "translation requests that are not answered yet", [("", self.in_flight)]),
            ("waiting_lines", "gauge", "lines that wait to be decoded", [("", self.batcher.waiting)]),
            ("batches_total", "counter", "batches decoded", [("", counts.batches)]),
            ("lines_total", "counter", "lines decoded", [("", counts.lines)]),
            ("source_tokens_total", "counter", "tokens of their sources", [("", counts.source_tokens)]),
            ("target_tokens_total", "counter", "tokens of their best translations", [("", counts.tokens)]),
            ("decoding_seconds_total", "counter", "seconds spent decoding", [("", counts.seconds)]),
        ]  # fmt: skip
        text = []
        for name, kind, help, values in rows:
            text += [f"# HELP s2s_{name} {help}", f"# TYPE s2s_{name} {kind}"]
            text += [f"s2s_{name}{label} {value}" for label, value in values]
        return PlainTextResponse("\n".join(text) + "\n", media_type="text/plain; version=0.0.4")


def _content(one: Translation) -> dict:
    """A translation for JSON."""
    return {name: getattr(one, name) for name in FIELDS}


def _parsed(body: bytes) -> dict:
    """A JSON object."""

    def constant(name: str):
        raise ValueError(f"{name} is no JSON")

    try:
        asked = json.loads(body, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the request is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise HTTPException(400, 'a JSON object is needed, such as {"lines": ["..."]}')
    return asked


async def _error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed"}, 500)
