"""The errors that end a command. None of them is shown with a traceback."""

from pathlib import Path

ROOT = Path(__file__).parents[1]  # a source checkout, or the folder of installed packages


class UserError(Exception):
    """Bad usage or bad input. The message is one line: what is wrong, where, and what would be right. Exit code 2."""


class Failure(Exception):
    """The input was fine, but the work failed (for example, a run diverged). Exit code 1."""


class ReaderGone(Exception):
    """The reader of the results has closed the pipe (`| head`), so no more results are needed. Exit code 141, as for
    SIGPIPE."""


def install(extra: str) -> str:
    """The command that installs the packages of an extra of `setup.cfg`, for an error that misses one of them."""
    return f"pip install -e '.[{extra}]'" if (ROOT / "setup.cfg").is_file() else f"pip install 's2s-toolkit[{extra}]'"
