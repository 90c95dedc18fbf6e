"""s2s-serve: translation over HTTP."""

import dataclasses
import socket
import sys
from typing import Any

from s2s.config import command
from s2s.config.schema import group, option
from s2s.errors import UserError

ABOUT = """Translate over HTTP. Requests that wait are decoded together.
Example: s2s-serve checkpoint=RUN port=8000
         curl localhost:8000/translate --json '{"lines": ["ein Haus"], "beam_size": 3}'"""

# Keys of decode that cost little, whatever their value. What a server computes with, and its files, are its own.
OPTIONS = ["search", "beam_size", "n_best", "length_penalty", "length_normalization", "word_reward", "temperature",
           "top_k", "top_p", "epsilon", "no_repeat_ngram", "allow_unknown"]  # fmt: skip
COSTLY = ["stopping", "min_length_a", "min_length_b", "max_length_a", "max_length_b"]


@dataclasses.dataclass
class ServeCommand:
    """Schema of s2s-serve."""

    checkpoint: list[str] = option(
        [], "a run (its best checkpoint, else its last), a checkpoint's folder, or a list of them for an ensemble"
    )
    host: str = option("127.0.0.1", "address to listen at; 0.0.0.0: of all networks, for everyone who can reach it")
    port: int = option(8000, "port to listen at; 0: any free one", at_least=0, at_most=65535)
    allowed_hosts: list[str] = option(
        [],
        "names that clients reach the server by, besides localhost and the address they connect to; '*.domain': all "
        "names in it, '*': any; a request to another name is refused (400)",
    )
    caller_header: str | None = option(
        None, "header that says who asks, as a proxy sets it; callers take turns; null: the client's address says it"
    )
    device: str = option("auto", "auto: a GPU where there is one", ("auto", "cpu", "cuda"))
    batch_lines: int = option(256, "lines decoded together at most", at_least=1)
    batch_seconds: float = option(
        0.5, "lines are decoded together as long as they take about so many seconds, by the speed until then",
        at_least=0.001,
    )  # fmt: skip
    batch_wait: float = option(0.005, "seconds to wait for more requests before decoding", at_least=0)
    max_body_bytes: int = option(1_000_000, "a longer request is refused (413)", at_least=1)
    max_lines: int = option(1000, "a request of more lines is refused (413)", at_least=1)
    max_line_characters: int = option(5000, "a request with a longer line is refused (413)", at_least=1)
    max_request_cost: int = option(
        1_000_000,
        "a costlier request is refused (413); the cost of a line is its tokens and beam_size (or n_best samples) x the "
        "greatest length of a hypothesis, times 1 + (both lengths) / 1000",
        at_least=1,
    )
    max_waiting_lines: int = option(
        10_000, "while so many lines wait, requests are refused (429), but for a caller's share of them", at_least=1
    )
    max_beam_size: int = option(20, "a request of a greater beam_size or n_best is refused (400)", at_least=1)
    max_connections: int = option(256, "open connections; beyond, the one that is idle longest is closed", at_least=1)
    header_seconds: float = option(10.0, "for a client to send the header of a request", at_least=0.1)
    body_seconds: float = option(30.0, "for a client to send the rest of it, and to read the answer", at_least=0.1)
    idle_seconds: float = option(5.0, "a connection is kept for another request", at_least=0.1)
    request_seconds: float = option(300.0, "a request that is not answered by then is given up (503)", at_least=0.1)
    grace_seconds: float = option(
        10.0, "from a SIGTERM to the end of the process; what is not decoded in most of them is refused (503)",
        at_least=1,
    )  # fmt: skip
    options: list[str] = option(OPTIONS, "keys of decode that a request may set", tuple(OPTIONS + COSTLY))
    decode: Any = group("decode", "default", "search, where a request does not say otherwise")


def _serve(config: ServeCommand) -> None:
    _check(config)
    try:
        from s2s.serving.http import LOCAL, Bounds, Service
        from s2s.serving.server import Patience, Server
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "prometheus_client", "pydantic", "uvicorn"):
            raise
        raise UserError(f"{error.name} is not installed: pip install 's2s[serve]'") from error
    from s2s.decoding.translator import load
    from s2s.serving.batcher import Batcher
    from s2s.serving.cost import measure

    listener = _listener(config.host, config.port)
    translator = load(config.checkpoint, config.device, config.decode.dtype, backend=config.decode.backend)
    if translator.task.reads != "lines":  # which would be names of files here
        raise UserError(f"checkpoint={config.checkpoint[0]}: reads {translator.task.reads}; only text is served")
    translator.decode([], config.decode)  # options that do not fit the model are told now
    speed = measure(translator, config.decode)
    batcher = Batcher(translator, speed, config.batch_seconds, config.batch_lines, config.batch_wait,
                      config.max_waiting_lines)  # fmt: skip
    bounds = Bounds(config.max_body_bytes, config.max_lines, config.max_line_characters, config.max_request_cost,
                    config.request_seconds, config.max_beam_size, config.options)  # fmt: skip
    hosts = [host.lower() for host in [*LOCAL, config.host, *config.allowed_hosts]]
    service = Service(batcher, config.decode, bounds, hosts, config.caller_header)
    patience = Patience(config.header_seconds, config.body_seconds, config.idle_seconds, config.grace_seconds,
                        config.max_connections)  # fmt: skip
    host, port = listener.getsockname()[:2]
    print(f"listening at http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr)
    print(f"the costliest request, max_request_cost={config.max_request_cost:,}, takes about "
          f"{max(1, round(config.max_request_cost / speed)):,} s alone", file=sys.stderr, flush=True)  # fmt: skip
    Server(service, patience).serve_at(listener)


def _check(config: ServeCommand) -> None:
    """What concerns several keys. Raises UserError."""
    if not config.checkpoint:
        raise UserError("checkpoint= is missing; s2s-serve checkpoint=RUN port=8000")
    config.decode.check()
    if config.decode.speculative == "draft":
        raise UserError("decode.speculative=draft: is for s2s-generate; a server has no draft")
    if config.decode.n_best > 1:
        raise UserError(f"decode.n_best={config.decode.n_best}: a request asks for more than one itself, by n_best")
    if config.decode.rows > config.max_beam_size:
        raise UserError(f"decode.beam_size={config.decode.beam_size}: is over max_beam_size={config.max_beam_size}")


def _listener(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError where there can be none."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"host={host} port={port}: cannot listen there: {error.strerror}") from error


def main() -> None:
    """Run the command."""
    command.run("s2s-serve", ServeCommand, _serve, ABOUT)


if __name__ == "__main__":
    main()
