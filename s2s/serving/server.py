"""A uvicorn server that no client can block: it bounds the time and the number of connections, and ends in time.

uvicorn itself waits for ever for the rest of a header or of a body, and for a client that does not read its answer.
"""

import asyncio
import http
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from functools import partial

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from s2s.serving.http import CLOSING, Service

# Shares of the seconds of grace after a signal. Until DECODED requests are decoded, until SENT answers are sent, until
# HANDLED uvicorn waits for its handlers. At ENDED the process ends, whatever is still going on.
DECODED, SENT, HANDLED, ENDED = 0.8, 0.85, 0.9, 0.95


LINGERING = 1.0  # seconds that a client has to read why it was refused


@dataclass
class Patience:
    """Time limits in seconds, and the limit of connections.

    Attributes:
        header: From the opening of a connection, or the first byte of a later request, to the end of the header.
        body: From there to the end of the body. Also for the client to read its answer.
        idle: From an answer to the next request.
        grace: From a signal to the end of the process.
        connections: Most connections that are open at a time.
    """

    header: float
    body: float
    idle: float
    grace: float
    connections: int


class Connection(H11Protocol):
    """A connection that is closed when its client takes too long.

    Args:
        patience: Time limits.
    """

    def __init__(self, *args, patience: Patience, **options):
        super().__init__(*args, **options)
        self.patience = patience
        self.opened = self.loop.time()
        self._refused = False
        self._stage = None  # what the client must send next: IDLE: a header; SEND_BODY: a body; None: nothing
        self._overdue: asyncio.TimerHandle | None = None  # fires when that did not come in time
        self._unread: asyncio.TimerHandle | None = None  # fires when the client did not read its answer in time

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # pause_writing is called as soon as the client leaves something unread
        self._watch()
        if len(self.connections) > self.patience.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in filter(None, (self._overdue, self._unread)):
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # the next request, which waited for this answer
            self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.patience.body, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.cancel()

    def shutdown(self) -> None:
        """Refuse a request whose body is incomplete, for which uvicorn would wait; otherwise as uvicorn does."""
        if self.conn.their_state is h11.SEND_BODY:
            self._refuse(503, CLOSING)
        else:
            super().shutdown()

    def _watch(self) -> None:
        """Start the timer for what the client must send next, if that has changed."""
        seconds = {h11.IDLE: self.patience.header, h11.SEND_BODY: self.patience.body}
        stage = self.conn.their_state if self.conn.their_state in seconds else None
        if stage is self._stage:
            return
        self._stage = stage
        if self._overdue:
            self._overdue.cancel()
        self._overdue = stage and self.loop.call_later(seconds[stage], self._expire)

    def _expire(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.transport.close()  # no request has begun
        else:
            self._refuse(408, "the request did not come in time")

    def _refuse(self, status: int, message: str) -> None:
        """Answer with an error, unless an answer has begun, and close. The connection is closed a little later, since a
        client that is still sending would not get the answer otherwise."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.connections.discard(self)
        if self.cycle and not self.cycle.response_complete:
            self.scope["state"]["refused"] = status
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": message}).encode()
            self.transport.write(
                b"HTTP/1.1 %d %s\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (status, http.HTTPStatus(status).phrase.encode(), len(body), body)
            )
        self.transport.write_eof()
        self.loop.call_later(LINGERING, self.transport.abort)

    @property
    def _idle(self) -> bool:
        """Whether there is no request, and the client has read all answers."""
        return self.conn.their_state is h11.IDLE and not self.flow.write_paused

    def _make_room(self) -> None:
        """Close the oldest idle connection, or refuse this one if none is idle."""
        idle = [each for each in self.connections if each._idle and each is not self]
        if idle:
            oldest = min(idle, key=lambda each: each.opened)
            self.connections.discard(oldest)
            oldest.transport.abort()
        else:
            self._refuse(503, "too many connections are open; try again")


class Server(uvicorn.Server):
    """Serves until a signal, and then ends in time.

    Args:
        service: Answers the requests.
        patience: Time limits, and the limit of connections.
    """

    def __init__(self, service: Service, patience: Patience):
        self.service, self.patience = service, patience
        service.metrics.connections.set_function(lambda: len(self.server_state.connections))
        super().__init__(
            uvicorn.Config(
                service.application(), http=partial(Connection, patience=patience), ws="none", lifespan="off",
                log_level="error", access_log=False, proxy_headers=False, server_header=False,
                timeout_keep_alive=patience.idle, timeout_graceful_shutdown=patience.grace * HANDLED,
            )
        )  # fmt: skip

    def serve_at(self, listener: socket.socket) -> None:
        """Serve at a listening socket. After a SIGTERM the process ends with exit code 0 when all requests are answered
        or the time of grace is over. Raises KeyboardInterrupt after a SIGINT."""
        # uvicorn raises the signal again for the handler that was there before.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            self.run(sockets=[listener])
        finally:
            self.service.batcher.close(self.patience.grace * (ENDED - HANDLED) / 2)
            self._report()
        os._exit(0)  # does not wait for a step of the model, nor for much memory to be freed

    def _report(self) -> None:
        """Print the totals: lines, tokens, batches, seconds of decoding."""
        names = "lines", "target_tokens", "batches"
        lines, tokens, batches = (int(self.service.metrics.value(f"{name}_total")) for name in names)
        seconds = self.service.metrics.value("decoding_seconds_total")
        text = f"{lines:,} lines, {tokens:,} tokens, {batches:,} batches, {seconds:.1f} s"
        print(text, file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame) -> None:
        """Begin the shutdown at the first signal, and start the timer that ends the process in any case."""
        if not self.should_exit:
            timer = threading.Timer(self.patience.grace * ENDED, os._exit, [1])
            timer.daemon = True
            timer.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the open requests as far as the time of grace allows, and refuse the others."""
        self.service.closing = True
        loop = asyncio.get_running_loop()
        loop.call_later(self.patience.grace * DECODED, self.service.batcher.cancel)
        loop.call_later(self.patience.grace * SENT, self._abort)
        await super().shutdown(sockets)
        self._abort()

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
