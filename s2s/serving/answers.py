"""What clients are told: translations as JSON, whole or as a stream of events; and the metrics of a request."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from s2s.config.documents import to_json
from s2s.decoding.hypothesis import Translation
from s2s.serving.metrics import Metrics
from s2s.serving.requests import Hypothesis

DIGITS = 4  # of an attention weight and of a time in seconds
OPTIONAL = ("alignment", "attention", "source_tokens", "words")  # not in an answer unless they were asked for


def answer_to(n_bests: list[list[Translation]], hypotheses: bool) -> dict[str, Any]:
    """The answer to a request, from the n-best list of each line."""
    content: dict[str, Any] = {"translations": [_translation(n_best, hypotheses) for n_best in n_bests]}
    failed = [(number, n_best[0].error) for number, n_best in enumerate(n_bests, 1) if n_best[0].error]
    if failed:
        content["errors"] = [{"line": number, "error": str(error)} for number, error in failed]
    return content


def line_of(n_best: list[Translation], number: int, hypotheses: bool) -> dict[str, Any]:
    """The event of a line, whose number counts from 1."""
    error = {"error": str(n_best[0].error)} if n_best[0].error else {}
    return {"line": number, "translation": _translation(n_best, hypotheses), **error}


def _translation(n_best: list[Translation], hypotheses: bool) -> str | list[dict] | None:
    if n_best[0].error:
        return None
    return list(map(_hypothesis, n_best)) if hypotheses else n_best[0].text


def _hypothesis(hypothesis: Translation) -> dict[str, Any]:
    content = {name: getattr(hypothesis, name) for name in Hypothesis.model_fields}
    content = {name: value for name, value in content.items() if name not in OPTIONAL or value is not None}
    if hypothesis.attention is not None:
        content["attention"] = [[round(weight, DIGITS) for weight in row] for row in hypothesis.attention]
    if hypothesis.words is not None:
        content["words"] = [{"word": word.word, "start": round(word.start, DIGITS), "end": round(word.end, DIGITS)}
                            for word in hypothesis.words]  # fmt: skip
    return content


class Event(NamedTuple):
    """A server-sent event; `status`: what the metrics count if it is the last one."""

    name: str
    content: dict[str, Any]
    status: int = 200


class Stream(Response):
    """An answer of server-sent events.

    Args:
        events: The events. The generator ends when the client has left.

    Attributes:
        ended: Called with the status of the last event.
    """

    def __init__(self, events: AsyncGenerator[Event, None]):
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self.events = events
        self.ended: Callable[[int], None] = lambda status: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        status = 500
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self.events) as events:
                async for event in events:
                    status = event.status
                    text = f"event: {event.name}\ndata: {to_json(event.content)}\n\n"
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.ended(status)


class Counting:
    """Counts a request in the metrics, from its creation to `end`."""

    def __init__(self, metrics: Metrics):
        self.metrics, self.start = metrics, time.perf_counter()
        metrics.in_flight.inc()

    def end(self, status: int) -> None:
        """The request was answered with a status."""
        seconds = time.perf_counter() - self.start
        self.metrics.in_flight.dec()
        self.metrics.requests.labels(status).inc()
        self.metrics.errors.inc(status != 200)
        self.metrics.request_seconds.inc(seconds)
        self.metrics.latency.observe(seconds)
