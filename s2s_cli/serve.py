"""s2s-serve: translation over HTTP."""

import dataclasses
import os
import socket
import sys
from typing import Any

from s2s.config import command
from s2s.config.schema import group, option
from s2s.errors import UserError, install

ABOUT = """Translate over HTTP. Waiting requests are decoded together.
Example: s2s-serve checkpoint=RUN port=8000
         curl localhost:8000/v1/translate --json '{"lines": ["ein Haus"], "beam_size": 3}'"""

# Keys of `decode` that a request may set by default: their cost is small for any value. How the server computes, and
# its files, are not for a request to choose.
OPTIONS = ["search", "beam_size", "n_best", "length_penalty", "length_normalization", "word_reward", "temperature",
           "top_k", "top_p", "epsilon", "no_repeat_ngram", "allow_unknown"]  # fmt: skip
COSTLY = ["stopping", "min_length_a", "min_length_b", "max_length_a", "max_length_b"]


@dataclasses.dataclass
class ServeCommand:
    """Schema of s2s-serve."""

    checkpoint: list[str] = option(
        [], "a run (its best checkpoint, or else its last one), a checkpoint's folder, or a list of them: an ensemble"
    )
    host: str = option(
        "127.0.0.1", "address to listen on; 0.0.0.0: all networks, open to everyone who can reach the machine"
    )
    port: int = option(8000, "port to listen on; 0: any free port", at_least=0, at_most=65535)
    allowed_hosts: list[str] = option(
        [],
        "names by which clients reach the server, besides localhost and its address; '*.domain': all names in it, "
        "'*': any; a request to another name is refused (400)",
    )
    caller_header: str | None = option(
        None, "header by which a proxy identifies the client; clients take turns; null: the address identifies it"
    )
    device: str = option("auto", "auto: a GPU if there is one", ("auto", "cpu", "cuda"))
    batch_lines: int = option(256, "most lines decoded together", at_least=1)
    batch_seconds: float = option(
        0.5, "longest time to decode one batch, in seconds, as estimated from the speed so far",
        at_least=0.001,
    )  # fmt: skip
    batch_wait: float = option(0.005, "seconds to wait for more requests before decoding", at_least=0)
    max_body_bytes: int = option(1_000_000, "largest request; a larger one is refused (413)", at_least=1)
    max_lines: int = option(1000, "most lines of a request; one with more is refused (413)", at_least=1)
    max_line_characters: int = option(
        5000, "longest line of a request; one with a longer line is refused (413)", at_least=1
    )
    max_recording_bytes: int = option(
        10_000_000, "largest recording of a request; a larger one is refused (413)", at_least=1
    )
    max_recording_seconds: float = option(
        600.0, "longest recording of a request; a longer one is refused (413)", at_least=0.1
    )
    max_request_cost: int = option(
        1_000_000,
        "highest cost of a request; a costlier one is refused (413); a line costs (its tokens + beam_size, or n_best "
        "samples, x the maximum length of a hypothesis) x (1 + both lengths / 1000)",
        at_least=1,
    )
    max_waiting_lines: int = option(
        10_000,
        "most waiting lines; when they are reached, a client with its share of them is refused (429)",
        at_least=1,
    )
    max_beam_size: int = option(
        20, "largest beam_size and n_best of a request; a larger one is refused (400)", at_least=1
    )
    max_connections: int = option(
        256, "most open connections; one more closes the one that has been idle longest", at_least=1
    )
    header_seconds: float = option(10.0, "time for a client to send the header of a request", at_least=0.1)
    body_seconds: float = option(
        30.0, "time for a client to send the body of a request, and to read the answer", at_least=0.1
    )
    idle_seconds: float = option(5.0, "time that an idle connection is kept open for another request", at_least=0.1)
    request_seconds: float = option(300.0, "time to answer a request; after that it is given up (503)", at_least=0.1)
    grace_seconds: float = option(
        10.0, "time from SIGTERM to the end of the process; lines not decoded within 80% of it are refused (503)",
        at_least=1,
    )  # fmt: skip
    options: list[str] = option(OPTIONS, "keys of decode that a request may set", tuple(OPTIONS + COSTLY))
    decode: Any = group("decode", "default", "the search and its options, unless a request sets them")


def _serve(config: ServeCommand) -> None:
    _check(config)
    try:
        from s2s.serving.http import LOCAL, Service
        from s2s.serving.jobs import Bounds
        from s2s.serving.server import Patience, Server
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "prometheus_client", "pydantic", "uvicorn"):
            raise
        raise UserError(f"{error.name} is not installed: {install('serve')}") from error
    from s2s.decoding.translator import load
    from s2s.serving.batcher import Batcher
    from s2s.serving.cost import measure

    listener = _listener(config.host, config.port)
    translator = load(config.checkpoint, config.device, config.decode.dtype, backend=config.decode.backend)
    translator.decode([], config.decode)  # report options that do not fit the model now
    speed = measure(translator, config.decode)
    batcher = Batcher(translator, speed, config.batch_seconds, config.batch_lines, config.batch_wait,
                      config.max_waiting_lines)  # fmt: skip
    bounds = Bounds(config.max_body_bytes, config.max_lines, config.max_line_characters, config.max_request_cost,
                    config.max_recording_bytes, config.max_recording_seconds, config.request_seconds,
                    config.max_beam_size, config.options)  # fmt: skip
    hosts = [host.lower() for host in [*LOCAL, config.host, *config.allowed_hosts]]
    name = "+".join(os.path.basename(os.path.abspath(path)) for path in config.checkpoint)
    service = Service(batcher, config.decode, bounds, hosts, config.caller_header, name)
    patience = Patience(config.header_seconds, config.body_seconds, config.idle_seconds, config.grace_seconds,
                        config.max_connections)  # fmt: skip
    host, port = listener.getsockname()[:2]
    print(f"listening at http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr)
    print(f"the costliest request, max_request_cost={config.max_request_cost:,}, takes about "
          f"{max(1, round(config.max_request_cost / speed)):,} s alone", file=sys.stderr, flush=True)  # fmt: skip
    Server(service, patience).serve_at(listener)


def _check(config: ServeCommand) -> None:
    """Check options against each other. Raises UserError."""
    if not config.checkpoint:
        raise UserError("checkpoint= is missing; s2s-serve checkpoint=RUN port=8000")
    config.decode.check()
    if config.decode.buffer is not None:
        raise UserError(f"decode.buffer={config.decode.buffer}: does nothing in a server, which reads no input ahead; "
                        "batch_lines says how many lines are decoded together")  # fmt: skip
    if config.decode.replace_unknown:
        raise UserError("decode.replace_unknown=true: a server does not have it; use s2s-generate")
    if config.decode.n_best > 1:
        raise UserError(f"decode.n_best={config.decode.n_best}: a request sets n_best itself if it wants more than one")
    if config.decode.rows > config.max_beam_size:
        raise UserError(f"decode.beam_size={config.decode.beam_size} exceeds max_beam_size={config.max_beam_size}")


def _listener(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError if the address or port cannot be used."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"host={host} port={port}: cannot listen there: {error.strerror}") from error


def main() -> None:
    """Run the command."""
    command.run("s2s-serve", ServeCommand, _serve, ABOUT)


if __name__ == "__main__":
    main()
