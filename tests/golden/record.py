"""Writes what the cases give now: python -m tests.golden.record tests/golden/recorded.json"""

import json
import sys
import tempfile
from pathlib import Path

from tests.golden.cases import record

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        values = record(Path(folder))
    Path(sys.argv[1]).write_text(json.dumps(values, ensure_ascii=False, indent=None, separators=(",", ":")) + "\n")
