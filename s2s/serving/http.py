"""The HTTP interface of s2s-serve: checks requests and answers them."""

import asyncio
import concurrent.futures
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from s2s import __version__
from s2s.config.documents import to_json
from s2s.decoding.alignment import Attention
from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Translation
from s2s.errors import UserError
from s2s.serving.answers import Counting, Event, Stream, answer_to, line_of
from s2s.serving.batcher import Batcher, Closed, Full, Job
from s2s.serving.jobs import Bounds, Jobs
from s2s.serving.metrics import CONTENT_TYPE
from s2s.serving.requests import Answer, Answers, Batch, Options, Refusal

LEFT = 499  # status in the metrics of a request whose client has left
REFUSALS = {
    400: "the request is invalid",
    408: "the request did not come in time",
    413: "the request is too long or too costly",
    415: "the content-type of the request is not application/json, or audio/* where the model reads recordings",
    429: "too many lines are waiting",
    503: "the server is shutting down, or the answer takes too long",
}
CLOSING = "the server is shutting down"
PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
LOCAL = ("localhost", "127.0.0.1", "::1")


class Service:
    """Answers requests.

    Args:
        batcher: Decodes the lines.
        decode: Decode options that apply unless the request sets them.
        bounds: Limits of a request.
        hosts: Names that the header `Host` may have besides the server's address: `*.domain` stands for all names in
            a domain, `*` for any name.
        caller_header: Header that names the caller; without it the client's address is its name.
        name: What clients call the model.
    """

    def __init__(self, batcher: Batcher, decode: DecodeConfig, bounds: Bounds, hosts: list[str] | None = None,
                 caller_header: str | None = None, name: str = "model"):  # fmt: skip
        self.batcher, self.translator, self.decode, self.bounds = batcher, batcher.translator, decode, bounds
        self.hosts, self.caller_header = hosts or list(LOCAL), caller_header
        self.metrics = batcher.metrics
        self.jobs = Jobs(self.translator, decode, bounds)
        self.name = name
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
        for path, endpoint, answer in (
            ("/v1/translate", self.translate, Answer),
            ("/v1/batch", self.batch, Answers),
        ):
            app.post(path, responses={200: {"model": answer}, **refusals}, response_model=None,
                     openapi_extra=self._description(path))(endpoint)  # fmt: skip
        app.post("/translate", include_in_schema=False, response_model=None)(self.translate)
        for path, name in (("/", "index.html"), ("/page.js", "page.js"), ("/page.css", "page.css")):
            app.get(path, include_in_schema=False, response_model=None)(partial(_page, name))
        for path, content in (
            ("/v1/models", self.models),
            ("/health", self.health),
            ("/metrics", self.text_of_metrics),
        ):
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

    def _description(self, path: str) -> dict:
        """What OpenAPI says about the request to a path."""
        request = self.jobs.request.model_json_schema(ref_template="#/components/schemas/{model}")
        if path == "/v1/batch":
            batch = Batch.model_json_schema()
            batch["properties"]["requests"]["items"] = request
            request = batch
        elif self.translator.task.reads != "lines":
            options = self.jobs.options.model_json_schema()["properties"]
            parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in options.items()]
            recording = {"audio/*": {"schema": {"type": "string", "format": "binary"}}}
            return {"parameters": parameters, "requestBody": {"required": True, "content": recording}}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": request}}}}

    def _is_host(self, host: str, scope: Scope) -> bool:
        """Whether `host` is a name of this server, or the address that received the request."""
        return host == (scope.get("server") or [None])[0] or any(
            pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            for pattern in self.hosts
        )

    async def translate(self, request: Request) -> Response:
        """Answer POST /v1/translate: lines in JSON or, for a model that hears, a recording as the body."""
        return await self._answered(request, self._translate)

    async def batch(self, request: Request) -> Response:
        """Answer POST /v1/batch: several requests, each with options of its own."""
        return await self._answered(request, self._batch)

    async def _answered(self, request: Request, answer: Callable[[Request, float], Awaitable[Response]]) -> Response:
        """An answer. The request is counted in the metrics; a stream when it has ended."""
        counting = Counting(self.metrics)
        try:
            response = await answer(request, time.monotonic() + self.bounds.seconds)
        except ClientDisconnect as error:
            status = request.scope["state"].get("refused", LEFT)  # by the connection: see server.py
            counting.end(status)
            raise HTTPException(status, "the client has left") from error  # nobody reads it
        except HTTPException as error:
            counting.end(error.status_code)
            raise
        except BaseException:
            counting.end(500)
            raise
        if isinstance(response, Stream):
            response.ended = counting.end
        else:
            counting.end(200)
        return response

    async def _translate(self, request: Request, deadline: float) -> Response:
        job, asked = await self._read(request)
        if asked.stream:
            return Stream(self._events(request, job, asked.hypotheses, deadline))
        (n_bests,) = await self._decoded(request, [job], deadline)
        if isinstance(n_bests, HTTPException):
            raise n_bests
        content = await run_in_threadpool(lambda: to_json(answer_to(n_bests, asked.hypotheses)).encode())
        return Response(content, media_type="application/json")

    async def _batch(self, request: Request, deadline: float) -> Response:
        if self.translator.task.reads != "lines":  # a line would name a file
            raise HTTPException(400, f"a batch has lines, and the model reads {self.translator.task.reads}")
        self._check_kind(request, "application/json")
        read = await self._limited(request, self.jobs.of_batch)
        jobs = [each for each in read if isinstance(each, tuple)]
        results = iter(await self._decoded(request, [job for job, _ in jobs], deadline))

        def answer(each: tuple[Job, Options] | HTTPException) -> dict:
            result = next(results) if isinstance(each, tuple) else each
            if isinstance(result, HTTPException):
                return {"error": result.detail, "status": result.status_code}
            return answer_to(result, each[1].hypotheses)

        content = await run_in_threadpool(lambda: to_json({"answers": list(map(answer, read))}).encode())
        return Response(content, media_type="application/json")

    async def _read(self, request: Request) -> tuple[Job, Options]:
        """The job that a request asks for."""
        if self.translator.task.reads == "lines":
            self._check_kind(request, "application/json")
            return await self._limited(request, self.jobs.of_json)
        self._check_kind(request, "audio/*")
        query = request.query_params.multi_items()

        def job(body: bytes, caller: str) -> tuple[Job, Options]:
            with tempfile.TemporaryDirectory(prefix="s2s-serve-") as folder:
                path = Path(folder) / "recording"
                path.write_bytes(body)
                return self.jobs.of_recording(path, query, caller)

        return await self._limited(request, job, self.bounds.recording_bytes)

    async def _limited(self, request: Request, make: Callable[[bytes, str], Any], most: int | None = None) -> Any:
        """What `make` makes of a body of at most `most` bytes (None: that of JSON), one at a time for each caller."""
        if self.closing:
            raise HTTPException(503, CLOSING)
        body, caller = await self._body(request, most or self.bounds.body_bytes), self._caller(request)
        async with self._encoding.setdefault(caller, asyncio.Lock()):
            if await request.is_disconnected():
                raise ClientDisconnect
            return await run_in_threadpool(make, body, caller)

    def _check_kind(self, request: Request, kind: str) -> None:
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not fnmatchcase(given, kind):
            reads = "" if kind == "application/json" else "; the model reads a recording, as the body of the request"
            raise HTTPException(415, f"the header 'content-type: {kind}' is missing{reads}")

    def _caller(self, request: Request) -> str:
        named = request.headers.get(self.caller_header) if self.caller_header else None
        return named or (request.client.host if request.client else "")

    async def _body(self, request: Request, most: int) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise HTTPException(413, f"the request is over {most:,} bytes")
        return bytes(body)

    def _submitted(self, jobs: list[Job]) -> list[asyncio.Future]:
        """The futures of the n-best lists of jobs. Raises HTTPException if there is no place for them."""
        futures: list[asyncio.Future] = []
        try:
            for job in jobs:
                futures.append(asyncio.wrap_future(self.batcher.submit(job)))
        except (Full, Closed) as error:
            for future in futures:
                future.cancel()
            if isinstance(error, Closed):
                raise HTTPException(503, CLOSING) from error
            raise HTTPException(429, "too many lines are waiting; try again", {"Retry-After": "1"}) from error
        return futures

    async def _decoded(self, request: Request, jobs: list[Job],
                       deadline: float) -> list[list[list[Translation]] | HTTPException]:  # fmt: skip
        """The n-best lists of each job, or its error. Raises HTTPException if some are not decoded, ClientDisconnect if
        the client leaves before."""
        futures = self._submitted(jobs)
        left = asyncio.ensure_future(_left(request))
        results = asyncio.gather(*futures, return_exceptions=True)
        try:
            seconds = max(0.0, deadline - time.monotonic())
            await asyncio.wait({results, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if results.done():
                return [self._refusal(each) if isinstance(each, BaseException) else each for each in results.result()]
            if left.done():
                raise ClientDisconnect
            raise self._late()
        finally:
            for future in [*futures, results, left]:
                future.cancel()

    def _late(self) -> HTTPException:
        return HTTPException(503, f"not decoded within {self.bounds.seconds:g} seconds; ask for less")

    def _refusal(self, error: BaseException) -> HTTPException:
        """What a client is told about an error of its job."""
        if isinstance(error, asyncio.CancelledError | concurrent.futures.CancelledError):
            return HTTPException(503, CLOSING)
        if isinstance(error, UserError):
            return HTTPException(400, str(error))
        return HTTPException(500, f"translation failed: {type(error).__name__}")  # the batcher has printed it

    async def _events(
        self, request: Request, job: Job, hypotheses: bool, deadline: float
    ) -> AsyncGenerator[Event, None]:
        """The events of a stream: `line` for each line as soon as it is decoded, then `end`; or `error`."""
        loop, news = asyncio.get_running_loop(), asyncio.Queue()

        def tell(line: int | None) -> None:
            loop.call_soon_threadsafe(news.put_nowait, line)

        job.on_line = tell
        (future,) = self._submitted([job])
        future.add_done_callback(lambda _: news.put_nowait(None))
        left = asyncio.ensure_future(_left(request))
        try:
            while True:
                new = asyncio.ensure_future(news.get())
                seconds = max(0.0, deadline - time.monotonic())
                await asyncio.wait({new, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if not new.done():
                    new.cancel()
                    error = None if left.done() else self._late()
                    yield Event("error", {"error": error.detail if error else ""}, error.status_code if error else LEFT)
                    return
                if new.result() is None:
                    break
                yield Event("line", line_of(job.results[new.result()], new.result() + 1, hypotheses))
            if future.cancelled() or future.exception():
                refusal = self._refusal(asyncio.CancelledError() if future.cancelled() else future.exception())
                yield Event("error", {"error": refusal.detail}, refusal.status_code)
            else:
                yield Event("end", {})
        finally:
            future.cancel()
            left.cancel()

    async def models(self) -> Response:
        """Answer GET /v1/models: the model, what it reads, and the options and limits of requests."""
        options = {name: getattr(self.decode, name) for name in self.bounds.options}
        if "search" in options:
            options["search"] = options["search"].type
        limits = {key: value for key, value in vars(self.bounds).items() if key != "options"}
        task, models = self.translator.task, self.translator.models
        model = {
            "id": self.name,
            "object": "model",
            "reads": task.reads,
            "sources": len(task.spec.sources),
            "tags": task.tags,
            "attention": self._attends(),
            "parameters": sum(parameter.numel() for model in models for parameter in model.parameters()),
            "options": options,
            "limits": limits,
        }
        return JSONResponse({"object": "list", "data": [model]})

    def _attends(self) -> bool:
        """Whether the models have the attention that alignments are read from."""
        try:
            Attention(self.translator.models, self.decode)
        except (UserError, AttributeError):
            return False
        return True

    async def health(self) -> Response:
        """Answer GET /health: 200 while the server decodes, otherwise 503."""
        status = "failed" if not self.batcher.alive else "closing" if self.closing else "ok"
        return JSONResponse({"status": status, "s2s": __version__}, 200 if status == "ok" else 503)

    async def text_of_metrics(self) -> Response:
        """Answer GET /metrics: counters, gauges and histograms in the text format of Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)


async def _page(name: str) -> Response:
    """Answer with a file of the page."""
    return FileResponse(PAGE / name, headers=PAGE_HEADERS)


async def _left(request: Request) -> None:
    """Wait until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed"}, 500)
