"""The two ways a command can end badly. Neither is ever shown to a user with a traceback."""


class UserError(Exception):
    """Bad usage or bad input: one line saying what was wrong, where, and what would be right. Exit code 2."""


class Failure(Exception):
    """The input was fine and the work failed all the same (a diverged run, say). Exit code 1."""
