"""The HTTP side of s2s-serve: what a request may ask, and what it is answered."""

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

LEFT = 499  # the status, for the metrics, of a request that nobody waits for any more
REFUSALS = {
    400: "what a request says is wrong",
    408: "the request did not come in time",
    413: "the request is too long or too costly",
    415: "the request is not JSON by its content-type",
    429: "too many lines wait",
    503: "the server is about to end, or the answer takes too long",
}
CLOSING = "the server is about to end"
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass
class Bounds:
    """What a request may hold and cost.

    Attributes:
        body_bytes, lines, line_characters, cost: At most so many; over them the answer is 413.
        seconds: For the answer; a request that takes longer is not decoded any further.
        beam_size: The greatest beam_size and n_best.
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
        batcher: Decodes.
        decode: Decode options of a request that says nothing.
        bounds: Of requests.
        hosts: Names that a request may have in `Host`, `*.` before a domain for all in it, `*` for any; besides the
            address that it came to.
        caller_header: The header that says who asks; without it, it is the client's address.
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
        """As an ASGI application."""
        handlers = {HTTPException: _error, Exception: _failure}
        # Pages of documentation would load scripts from elsewhere.
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
            """A page elsewhere that has a name of its own point to this machine is not answered."""
            named = next((value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"), "")
            host, _, port = named.rpartition(":")
            host = (host if host and port.isdigit() else named).strip("[]")
            if self._is_host(host, scope):
                await app(scope, receive, send)
            else:
                message = f"'{host[:100]}' is no name of this server; allowed_hosts of s2s-serve adds names"
                await JSONResponse({"error": message}, 400)(scope, receive, send)

        return guarded

    def _is_host(self, host: str, scope: Scope) -> bool:
        """Whether that is a name of this server, or the address that the request came to."""
        return host == (scope.get("server") or [None])[0] or any(
            pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            for pattern in self.hosts
        )

    async def translate(self, request: Request) -> Response:
        """Translate lines."""
        start, status = time.perf_counter(), 500
        with self.metrics.in_flight.track_inprogress():
            try:
                content = await self._translate(request)
                status = 200
                return Response(content, media_type="application/json")
            except ClientDisconnect as error:
                status = request.scope["state"].get("refused", LEFT)  # by the connection: see server.py
                raise HTTPException(status, "the client has left") from error  # nobody hears it
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
            raise HTTPException(415, "the header 'content-type: application/json' is needed")
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
        """What a request wants, and whether with hypotheses."""
        asked = self._asked(body)
        config = self._config(asked.model_dump(include=set(self.bounds.options)), asked.model_fields_set)
        if config.n_best > 1 and not asked.hypotheses:
            raise HTTPException(400, f'n_best={config.n_best} needs "hypotheses": true: one text belongs to one line')
        try:
            self.translator.task.check_tags(asked.tags)
        except UserError as error:
            raise HTTPException(400, f"tags: {error}") from error
        sources = self.translator.task.encode(asked.lines)
        if (most := self.translator.limit(config)) is not None:
            for number, ids in enumerate(sources, 1):
                if len(ids) > most:
                    raise HTTPException(413, f"line {number} has {len(ids)} tokens; at most {most} are taken")
        job = Job.of(self.translator, sources, config, asked.seed, caller, asked.tags)
        if (costs := sum(job.costs)) > self.bounds.cost:
            raise HTTPException(413, f"the request may cost {costs:,}, of its tokens and its beam_size or n_best "
                                     "hypotheses at their greatest length; at most "
                                     f"max_request_cost={self.bounds.cost:,} is allowed")  # fmt: skip
        return job, asked.hypotheses

    def _asked(self, body: bytes) -> Asked:
        """A request's content, checked."""
        try:
            asked = self.model.model_validate_json(body)
        except ValidationError as error:
            raise HTTPException(400, complaint(error, self.bounds.options)) from error
        if len(asked.lines) > self.bounds.lines:
            raise HTTPException(413, f"{len(asked.lines):,} lines; at most {self.bounds.lines:,} go into a request")
        for number, line in enumerate(asked.lines, 1):
            if len(line) > self.bounds.line_characters:
                raise HTTPException(413, f"line {number} has {len(line):,} characters; "
                                         f"at most {self.bounds.line_characters:,} are allowed")  # fmt: skip
        return asked

    def _config(self, options: dict, asked: set[str]) -> DecodeConfig:
        """Decode options of a request, over those of the server: of another search than the server's, those that it
        reads. `asked`: what the request says itself."""
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
        """What a request wants, unless the client leaves before."""
        try:
            found = asyncio.wrap_future(self.batcher.submit(job))
        except Full as error:
            raise HTTPException(429, "too many lines are waiting; try again", {"Retry-After": "1"}) from error
        except Closed as error:
            raise HTTPException(503, CLOSING) from error
        left = asyncio.ensure_future(_left(request))
        try:
            seconds = max(0.0, deadline - time.monotonic())
            await asyncio.wait({found, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if found.done() and not found.cancelled():
                return found.result()
            if left.done():
                raise ClientDisconnect
            if found.cancelled():
                raise HTTPException(503, CLOSING)
            raise HTTPException(503, f"not decoded within {self.bounds.seconds:g} seconds; ask for less")
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        except (HTTPException, ClientDisconnect):
            raise
        except Exception as error:  # which the batcher has told
            raise HTTPException(500, f"translation failed: {type(error).__name__}") from error
        finally:
            found.cancel()
            left.cancel()

    async def health(self) -> Response:
        """200 while lines are decoded, else 503."""
        status = "failed" if not self.batcher.alive else "closing" if self.closing else "ok"
        return JSONResponse({"status": status, "s2s": __version__}, 200 if status == "ok" else 503)

    async def text_of_metrics(self) -> Response:
        """Counters, gauges and histograms in the text format of Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _content(n_bests: list[list[Translation]], hypotheses: bool) -> bytes:
    """The answer as JSON."""

    def translation(n_best: list[Translation]) -> str | list[dict] | None:
        if n_best[0].error:
            return None
        if not hypotheses:
            return n_best[0].text
        return [{name: getattr(one, name) for name in Hypothesis.model_fields} for one in n_best]

    content = {"translations": list(map(translation, n_bests))}
    failed = [(number, n_best[0].error) for number, n_best in enumerate(n_bests, 1) if n_best[0].error]
    if failed:
        content["errors"] = [{"line": number, "error": str(error)} for number, error in failed]
    return to_json(content).encode()


async def _error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed"}, 500)
