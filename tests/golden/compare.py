"""Runs the cases at two revisions, and says which results differ by any bit: python -m tests.golden.compare OLD NEW

The cases are those of this checkout, with this Python. NEW may be `.`, the files as they are.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def recorded(revision: str, folder: Path) -> dict:
    """What the cases give at a revision."""
    tree, output = folder / "tree", folder / "values.json"
    if revision == ".":
        tree = HERE
    else:
        tree.mkdir(parents=True)
        archive = subprocess.run(["git", "-C", HERE, "archive", revision], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    folder.mkdir(exist_ok=True)
    # The product is of the revision, the cases are of this checkout.
    script = (f"import sys; sys.path[:0] = [{str(tree)!r}]; import s2s, s2s_cli; sys.path[:1] = [{str(HERE)!r}]; "
              f"sys.modules.pop('tests', None); sys.argv = ['record', {str(output)!r}]; "
              "import runpy; runpy.run_module('tests.golden.record', run_name='__main__')")  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=folder, env=environment,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    return json.loads(output.read_text())


def main(old: str, new: str) -> int:
    """Returns how many cases differ."""
    with tempfile.TemporaryDirectory() as folder:
        values = [recorded(revision, Path(folder) / side) for side, revision in (("old", old), ("new", new))]
    count = 0
    for kind in ("trainings", "decodings"):
        for name, before in values[0][kind].items():
            after = values[1][kind].get(name)
            if before != after:
                count += 1
                print(f"{kind[:-1]} '{name}' differs")
    print(f"{count} of {sum(len(values[0][kind]) for kind in ('trainings', 'decodings'))} cases differ")
    return count


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:3])))
