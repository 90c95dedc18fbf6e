"""What `test_kill` runs: a process that has imported everything, and in whose children s2s-train begins at once.

    python -m tests.faults.nursery SAID

A line of standard input holds the words of a training, as JSON. Answers: the child's number when it has begun, and its
exit code, or the signal that ended it as a negative number, when it has ended. What it says goes to the file SAID.

Disks are slow here, and updates take their time, so that whatever happens can be in the midst of either.
"""

import json
import os
import sys
import time

import torch
import torch.utils.tensorboard

from s2s import files
from s2s.tasks import speech, translation  # noqa: F401
from s2s.training import run, trainer  # noqa: F401
from s2s_cli import train

FLUSH, UPDATE = 0.005, 0.03  # seconds that these take longer


def slowed(function, seconds: float):
    def slow(*args):
        time.sleep(seconds)
        return function(*args)

    return slow


def main() -> None:
    said = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    files.flush = slowed(files.flush, FLUSH)
    trainer.Trainer._update = slowed(trainer.Trainer._update, UPDATE)
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.argv = ["s2s-train", *json.loads(line)]
            code = 1
            try:
                train.main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
