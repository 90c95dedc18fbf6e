"""What all commands share: their arguments, help and exit codes."""

import dataclasses
import errno
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from s2s import __version__, registry
from s2s.config import schema as schemas
from s2s.config import streams
from s2s.config.shapes import Node
from s2s.errors import Failure, ReaderGone, UserError

# Flags with a value: what the next argument must be, and a description if the value is required.
WITH_VALUE = {"--config": ("file", "a file"), "--help": ("name", ""), "--completion": ("name", "bash, zsh or fish")}


def run(name: str, schema: type, main: Callable[[Any], None], about: str,
        multirun: Callable[[], Any] | None = None, plain: str | None = None,
        by_task: Callable[[str], type] | None = None) -> None:  # fmt: skip
    """Run a command: read `sys.argv`, compose the config, call `main(config)`, exit.

    Exit codes: 0 success, 1 failure, 2 bad usage or input or a file that cannot be written, 130 interrupted, 141 if the
    reader of the results has gone away. The reader of progress may go away: see `streams`.

    Args:
        name: The command's name.
        schema: Its root config dataclass.
        main: Does the work; takes the config.
        about: One or two lines for `--help`.
        multirun: Returns the `sweep.Outcome` of a command that accepts `--multirun`; None: it does not.
        plain: The list key that takes arguments without `=`; None: such arguments are errors.
        by_task: Returns the schema for the value of the key `task`; used instead of `schema` if that key is set.
    """
    code = 0
    streams.prepare()
    try:
        _run(name, schema, main, about, multirun, plain, by_task, sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        code = 2
    except Failure as error:
        print(f"{name}: failed: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        code = 130
    except ReaderGone:  # no message: nobody reads the results
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno is None:
            raise
        hint = " (the disk is full; free some space and run the same command again)" * (error.errno == errno.ENOSPC)
        where = f"{error.filename}: " if error.filename else ""
        print(f"{name}: error: {where}{error.strerror}{hint}", file=sys.stderr)
        code = 2
    finally:
        streams.settle()
    if code:
        sys.exit(code)


def _run(name: str, schema: type, main: Callable, about: str, multirun: Callable[[], Any] | None, plain: str | None,
         by_task: Callable | None, words: list[str]) -> None:  # fmt: skip
    flags, overrides, values = _split(name, words, schema, multirun is not None, plain is not None)
    if "--version" in flags:
        print(f"{name} {__version__}")
        return
    if "--completion" in flags:
        from s2s.config import completion

        print(completion.script(flags["--completion"][-1], name, schema, multirun is not None, by_task), end="")
        return
    from s2s.config import compose  # YAML: not needed for --version

    pairs = [word for file in flags.get("--config", []) for word in compose.read_config(file)]
    pairs += [compose.Override(*pair) for pair in overrides]
    pairs += [compose.Override(plain, Node([Node(value, 0) for value in values], 0))] * bool(values)
    pairs = _with_plugins(schema, pairs)
    if by_task and (tasks := [word for word in pairs if word.key == "task"]):
        try:
            schema = by_task(tasks[-1].text)
        except UserError as error:
            raise UserError(f"{tasks[-1].where}{error}") from error
    if multirun and "--multirun" in flags:
        from s2s.config.sweep import sweep

        sweep(name, schema, main, pairs, multirun())
        return
    for word in pairs if multirun else []:
        if word.key.startswith(("hydra.", "hydra/")):
            raise UserError(f"{word.where}{word.key}: does nothing without --multirun")
    try:
        config = compose.compose(schema, pairs)
    except UserError as error:
        message = _sweep_hint(str(error), overrides) if multirun and not multirun().parts else str(error)
        raise UserError(_plain_hint(message, overrides, name) if plain else message) from error
    config.given = frozenset(word.key for word in pairs)
    if "--help" in flags:
        from s2s.config import help

        components = {key for key, _, _ in schemas.held(config)}
        chosen = [key for key in dict.fromkeys(word.key for word in pairs) if key in components]
        more = "[--multirun] " * bool(multirun) + (f"{plain.upper()} ... " if plain else "")
        print(help.text(name, config, about, flags["--help"][-1] or None, chosen, more))
    elif "--print-config" in flags:
        print(compose.to_yaml(config), end="")
    else:
        main(config)


def _with_plugins(schema: type, pairs: list) -> list:
    """Register the folders that `plugins` names on the command line; returns the overrides.

    Raises:
        UserError: a config file names plugins, but the command line does not. The file may come from somebody else, and
            must not decide which code is run.
    """
    from s2s.config.values import of_word, typed

    words = [word for word in pairs if word.key == "plugins"]
    allowed = any(not word.file for word in words)
    for word in words:
        node = of_word(word.value, list[str], word.key) if isinstance(word.value, str) else word.value
        for folder in typed(node, list[str], word.key, word.file):
            if not allowed:
                raise UserError(f"{word.where}plugins: a file cannot choose code to run; if you trust the code in "
                                f"{folder}, give plugins=[{folder}] on the command line")  # fmt: skip
            if not word.file:
                registry.add_folder(folder)
    recorded = any(field.name == "plugins" for field in dataclasses.fields(schema))
    return [word for word in pairs if recorded or word.key != "plugins"]


def _split(name: str, words: list[str], schema: type, multirun: bool,
           plain: bool) -> tuple[dict, list[tuple[str, str]], list[str]]:  # fmt: skip
    """Split arguments into flags, (key, value) overrides, and plain values if these are allowed. Raises UserError."""
    flags: dict[str, list[str]] = {}
    overrides, values = [], []
    rest = deque(words)
    short = {"-h": "--help", "-m": "--multirun"}
    while rest:
        word = rest.popleft()
        flag, given, value = short.get(word, word).partition("=")
        if flag in WITH_VALUE:
            what, needed = WITH_VALUE[flag]
            if not given and rest and what in _kind(rest[0]):
                value = rest.popleft()
            if needed and not value:
                raise UserError(f"{flag} requires {needed}")
            flags.setdefault(flag, []).append(value)
        elif flag in ("--print-config", "--version") or (flag == "--multirun" and multirun):
            flags[flag] = []
        elif word.startswith("-") and not (word == "-" and plain):
            from s2s.config import hints

            raise UserError(f"unknown flag '{word}'; {hints.for_flag(word, rest[0] if rest else '', schema)}")
        elif "=" not in word and plain:
            values.append(word)
        elif "=" not in word:
            from s2s.config import hints

            before = words[len(words) - len(rest) - 2] if len(words) - len(rest) > 1 else ""
            raise UserError(hints.for_word(word, before, list(rest), name, schema))
        else:
            key, _, value = word.partition("=")
            overrides.append((key, value))
    return flags, overrides, values


def _kind(word: str) -> tuple[str, ...]:
    """What an argument can be: a name, or a file; a flag or a key with a value is neither, except `-` as a file."""
    if word.startswith("-"):
        return ("file",) if word == "-" else ()
    return ("file",) if "=" in word else ("file", "name")


def _sweep_hint(message: str, overrides: list[tuple[str, str]]) -> str:
    """The message, or a better one if it is about a single value that looks like the values of a sweep."""
    for key, value in overrides:
        several = "," in value or value.startswith("range(")
        if several and message.startswith((f"{key}: {value!r} is not ", f"{key}={value}: no such preset")):
            bare = f" and write {key}={value[1:-1]}" if value.startswith("[") else ""
            return (f"{key}={value}: a single value is needed; to train once with each of these values, add "
                    f"--multirun{bare}")  # fmt: skip
    return message


def _plain_hint(message: str, overrides: list[tuple[str, str]], name: str) -> str:
    """The message, or a better one if it is about an unknown key whose value is what the command takes without a
    key."""
    for key, value in overrides:
        if message.startswith(f"unknown key '{key}'") and os.path.exists(value):
            return f"unknown key '{key}'; write {name} {value}, without a key"
    return message
