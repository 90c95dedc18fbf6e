"""The HTTP interface of s2s-serve: checks requests and answers them."""

import asyncio
import dataclasses
import time
from weakref import WeakValueDictionary

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from s2s import __version__, registry
from s2s.config.documents import to_json
from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Translation
from s2s.errors import UserError
from s2s.serving.batcher import Batcher, Closed, Full, Job
from s2s.serving.metrics import CONTENT_TYPE
from s2s.serving.requests import Answer, Hypothesis, Refusal, complaint, request_model
from s2s.serving.requests import Request as Asked

LEFT = 499  # status in the metrics of a request whose client has left
REFUSALS = {
    400: "the request is invalid",
    408: "the request did not come in time",
    413: "the request is too long or too costly",
    415: "the content-type of the request is not application/json",
    429: "too many lines are waiting",
    503: "the server is shutting down, or the answer takes too long",
}
CLOSING = "the server is shutting down"
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass
class Bounds:
    """Limits of a request.

    Attributes:
        body_bytes, lines, line_characters, cost: Upper bounds; a request that exceeds one is refused with 413.
        seconds: Time to answer; decoding of a request that takes longer ends.
        beam_size: Largest beam_size and n_best.
        options: Keys of `decode` that a request may set.
    """

    body_bytes: int
    lines: int
    line_characters: int
    cost: int
    seconds: float
    beam_size: int
    options: list[str]


class Service:
    """Answers requests.

    Args:
        batcher: Decodes the lines.
        decode: Decode options that apply unless the request sets them.
        bounds: Limits of a request.
        hosts: Names that the header `Host` may have besides the server's address: `*.domain` stands for all names in
            a domain, `*` for any name.
        caller_header: Header that names the caller; without it the client's address is its name.
    """

    def __init__(self, batcher: Batcher, decode: DecodeConfig, bounds: Bounds, hosts: list[str] | None = None,
                 caller_header: str | None = None):  # fmt: skip
        self.batcher, self.translator, self.decode, self.bounds = batcher, batcher.translator, decode, bounds
        self.hosts, self.caller_header = hosts or list(LOCAL), caller_header
        self.metrics = batcher.metrics
        self.model = request_model(bounds.options, decode, bounds.beam_size)
        self.closing = False
        self._encoding: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def application(self) -> ASGIApp:
        """The service as an ASGI application."""
        handlers = {HTTPException: _error, Exception: _failure}
        # The documentation pages are off: they would load scripts from other servers.
        app = FastAPI(
            title="s2s-serve", version=__version__, exception_handlers=handlers, docs_url=None, redoc_url=None
        )
        refusals = {status: {"model": Refusal, "description": text} for status, text in REFUSALS.items()}
        body = {"required": True, "content": {"application/json": {"schema": self.model.model_json_schema()}}}
        app.post("/translate", responses={200: {"model": Answer}, **refusals}, response_model=None,
                 openapi_extra={"requestBody": body})(self.translate)  # fmt: skip
        for path, content in (("/health", self.health), ("/metrics", self.text_of_metrics)):
            app.get(path, response_model=None)(content)
            app.head(path, include_in_schema=False, response_model=None)(content)

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            """Refuse requests to a foreign host name, which an attacker's web page could make point to this
            machine (DNS rebinding)."""
            named = next((value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"), "")
            host, _, port = named.rpartition(":")
            host = (host if host and port.isdigit() else named).strip("[]")
            if self._is_host(host, scope):
                await app(scope, receive, send)
            else:
                message = f"'{host[:100]}' is not a name of this server; allowed_hosts of s2s-serve adds names"
                await JSONResponse({"error": message}, 400)(scope, receive, send)

        return guarded

    def _is_host(self, host: str, scope: Scope) -> bool:
        """Whether `host` is a name of this server, or the address that received the request."""
        return host == (scope.get("server") or [None])[0] or any(
            pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            for pattern in self.hosts
        )

    async def translate(self, request: Request) -> Response:
        """Answer POST /translate, and count the request in the metrics."""
        start, status = time.perf_counter(), 500
        with self.metrics.in_flight.track_inprogress():
            try:
                content = await self._translate(request)
                status = 200
                return Response(content, media_type="application/json")
            except ClientDisconnect as error:
                status = request.scope["state"].get("refused", LEFT)  # by the connection: see server.py
                raise HTTPException(status, "the client has left") from error  # only for the metrics
            except HTTPException as error:
                status = error.status_code
                raise
            finally:
                self.metrics.requests.labels(status).inc()
                self.metrics.errors.inc(status != 200)
                self.metrics.request_seconds.inc(time.perf_counter() - start)
                self.metrics.latency.observe(time.perf_counter() - start)

    async def _translate(self, request: Request) -> bytes:
        deadline = time.monotonic() + self.bounds.seconds
        if self.closing:
            raise HTTPException(503, CLOSING)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the header 'content-type: application/json' is missing")
        body, caller = await self._body(request), self._caller(request)
        async with self._encoding.setdefault(caller, asyncio.Lock()):  # one at a time for each caller
            if await request.is_disconnected():
                raise ClientDisconnect
            job, hypotheses = await run_in_threadpool(self._job, body, caller)
        n_bests = await self._decoded(request, job, deadline)
        return await run_in_threadpool(_content, n_bests, hypotheses)

    def _caller(self, request: Request) -> str:
        named = request.headers.get(self.caller_header) if self.caller_header else None
        return named or (request.client.host if request.client else "")

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.bounds.body_bytes:
                raise HTTPException(413, f"the request is over {self.bounds.body_bytes:,} bytes")
        return bytes(body)

    def _job(self, body: bytes, caller: str) -> tuple[Job, bool]:
        """The job that a request asks for, and whether it asks for hypotheses."""
        asked = self._asked(body)
        config = self._config(asked.model_dump(include=set(self.bounds.options)), asked.model_fields_set)
        if config.n_best > 1 and not asked.hypotheses:
            raise HTTPException(
                400, f'n_best={config.n_best} requires "hypotheses": true; otherwise each line has one text'
            )
        try:
            self.translator.task.check_tags(asked.all_tags())
        except UserError as error:
            raise HTTPException(400, f"tags: {error}") from error
        sources = self.translator.task.encode(asked.lines)
        if (most := self.translator.limit(config)) is not None:
            for number, ids in enumerate(sources, 1):
                if len(ids) > most:
                    raise HTTPException(413, f"line {number} has {len(ids)} tokens; at most {most} are allowed")
        job = Job.of(self.translator, sources, config, asked.seed, caller, asked.all_tags())
        if (costs := sum(job.costs)) > self.bounds.cost:
            raise HTTPException(413, f"the request may cost {costs:,} (its tokens, and its beam_size or n_best "
                                     "hypotheses at their maximum length); at most "
                                     f"max_request_cost={self.bounds.cost:,} is allowed")  # fmt: skip
        return job, asked.hypotheses

    def _asked(self, body: bytes) -> Asked:
        """Parse and check the body of a request. Raises HTTPException."""
        try:
            asked = self.model.model_validate_json(body)
        except ValidationError as error:
            raise HTTPException(400, complaint(error, self.bounds.options)) from error
        if len(asked.lines) > self.bounds.lines:
            raise HTTPException(
                413, f"the request has {len(asked.lines):,} lines; at most {self.bounds.lines:,} are allowed"
            )
        for number, line in enumerate(asked.lines, 1):
            if len(line) > self.bounds.line_characters:
                raise HTTPException(413, f"line {number} has {len(line):,} characters; "
                                         f"at most {self.bounds.line_characters:,} are allowed")  # fmt: skip
        return asked

    def _config(self, options: dict, asked: set[str]) -> DecodeConfig:
        """The decode options of the server, with those of a request in their place. If the request chooses another
        search, only the server's options that this search reads are kept. `asked`: names of the options that the
        request sets itself."""
        own = self.decode.search
        if (name := options.pop("search", own.type)) == own.type:
            config = dataclasses.replace(self.decode, **options)
        else:
            config = dataclasses.replace(DecodeConfig(search=name), **{
                key: value for key, value in (vars(self.decode) | options).items()
                if key != "search" and (key in asked or registry.find("searcher", name).reads(key))
            })  # fmt: skip
        try:
            config.check()
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        return config

    async def _decoded(self, request: Request, job: Job, deadline: float) -> list[list[Translation]]:
        """The n-best lists of a job. Raises HTTPException if they cannot be had, ClientDisconnect if the client leaves
        before."""
        try:
            results = asyncio.wrap_future(self.batcher.submit(job))
        except Full as error:
            raise HTTPException(429, "too many lines are waiting; try again", {"Retry-After": "1"}) from error
        except Closed as error:
            raise HTTPException(503, CLOSING) from error
        left = asyncio.ensure_future(_left(request))
        try:
            seconds = max(0.0, deadline - time.monotonic())
            await asyncio.wait({results, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if results.done() and not results.cancelled():
                return results.result()
            if left.done():
                raise ClientDisconnect
            if results.cancelled():
                raise HTTPException(503, CLOSING)
            raise HTTPException(503, f"not decoded within {self.bounds.seconds:g} seconds; ask for less")
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        except (HTTPException, ClientDisconnect):
            raise
        except Exception as error:  # the batcher has printed it
            raise HTTPException(500, f"translation failed: {type(error).__name__}") from error
        finally:
            results.cancel()
            left.cancel()

    async def health(self) -> Response:
        """Answer GET /health: 200 while the server decodes, otherwise 503."""
        status = "failed" if not self.batcher.alive else "closing" if self.closing else "ok"
        return JSONResponse({"status": status, "s2s": __version__}, 200 if status == "ok" else 503)

    async def text_of_metrics(self) -> Response:
        """Answer GET /metrics: counters, gauges and histograms in the text format of Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)


async def _left(request: Request) -> None:
    """Wait until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _content(n_bests: list[list[Translation]], hypotheses: bool) -> bytes:
    """The answer as JSON, encoded in UTF-8."""

    def translation(n_best: list[Translation]) -> str | list[dict] | None:
        if n_best[0].error:
            return None
        if not hypotheses:
            return n_best[0].text
        return [{name: getattr(hypothesis, name) for name in Hypothesis.model_fields} for hypothesis in n_best]

    content = {"translations": list(map(translation, n_bests))}
    failed = [(number, n_best[0].error) for number, n_best in enumerate(n_bests, 1) if n_best[0].error]
    if failed:
        content["errors"] = [{"line": number, "error": str(error)} for number, error in failed]
    return to_json(content).encode()


async def _error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed"}, 500)
