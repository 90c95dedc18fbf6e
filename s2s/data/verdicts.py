"""A filter of training pairs by a command of the user, such as one that identifies languages.

The command runs once for each corpus. It reads all pairs of the corpus, as lines of tab-separated fields, and writes a
line for each: one that begins with 1 keeps it, with 0 drops it. The verdicts wait in a file, so the command may read
everything before it writes.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np

from s2s.data.corpus import Chunk, Corpus
from s2s.errors import UserError

KEEP = {b"1": True, b"0": False}


@dataclass(frozen=True)
class JudgedCorpus:
    """A corpus whose chunks have verdicts; otherwise as the corpus itself."""

    corpus: Corpus
    verdicts: IO[bytes] = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.corpus, name)

    def chunks(self) -> Iterator[Chunk]:
        """As in Corpus."""
        self.verdicts.seek(0)
        for chunk in self.corpus.chunks():
            yield replace(chunk, keep=np.frombuffer(self.verdicts.read(chunk.count), np.uint8).astype(bool))


def judge(corpus: Corpus, command: str, bar: Callable[[int], Any]) -> JudgedCorpus:
    """Run the command on a corpus.

    Args:
        corpus: The corpus.
        command: A command line for the shell.
        bar: Called with the bytes read.

    Raises:
        UserError: the command fails, or its output is not one verdict for each pair; the corpus is a stream.
    """
    if corpus.is_stream:
        raise UserError(f"train={corpus.name}: a stream can be read only once, and filter.command reads it first")
    with tempfile.TemporaryFile() as written:
        pairs = _fed(corpus, command, written, bar)
        written.seek(0)
        verdicts, read = tempfile.TemporaryFile(), 0  # noqa: SIM115
        for line in written:
            read += 1
            keep = KEEP.get(line.lstrip()[:1])
            if keep is None:
                shown = line[:40].decode(errors="replace")
                raise UserError(
                    f"filter.command={command}: line {read} of its output is {shown!r};"
                    " it must begin with 1 (keep) or 0 (drop)"
                )
            verdicts.write(bytes([keep]))
    if read != pairs:
        raise UserError(f"filter.command={command}: wrote {read:,} lines for {pairs:,} pairs of {corpus.name}; one "
                        "for each is needed")  # fmt: skip
    return JudgedCorpus(corpus, verdicts)


def _fed(corpus: Corpus, command: str, written: IO[bytes], bar: Callable[[int], Any]) -> int:
    """Feed a command with a corpus; its output is written into a file. Returns the number of pairs."""
    pairs = 0
    with subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, stdout=written) as process:
        assert process.stdin is not None
        try:
            for chunk in corpus.chunks():
                columns = [text.replace("\t", " ").split("\n") for text in chunk.texts()]
                process.stdin.write("".join("\t".join(row) + "\n" for row in zip(*columns, strict=True)).encode())
                pairs += len(columns[0])
                bar(chunk.read)
            process.stdin.close()
        except BrokenPipeError:
            process.wait()
            raise UserError(f"filter.command={command}: it ended with exit code {process.returncode} before it had "
                            "read all pairs") from None  # fmt: skip
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise UserError(f"filter.command={command}: it failed with exit code {process.returncode}")
    return pairs
