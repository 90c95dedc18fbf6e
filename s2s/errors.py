"""The ways a command can end badly. None is ever shown to a user with a traceback."""


class UserError(Exception):
    """Bad usage or bad input: one line saying what was wrong, where, and what would be right. Exit code 2."""


class Failure(Exception):
    """The input was fine and the work failed all the same (a diverged run, say). Exit code 1."""


class ReaderGone(Exception):
    """Whoever read the results has gone away (`| head`): there is nobody to work for. Exit code 141, as of SIGPIPE."""
