"""Reads RUN/metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

SAVES = ("checkpoint", "save_failed")  # written when a save ends, perhaps some updates later


def read_metrics(path: Path, damaged: list[str]) -> list[dict[str, Any]]:
    """The events of a run, each update once. If an update was repeated, after a resume from an older checkpoint or
    after a rollback, the last repetition counts.

    Args:
        path: A metrics.jsonl; a missing file counts as empty.
        damaged: A message is added for each line that is not an event, except an incomplete last line.

    Returns:
        The content of each line, with `kind` and `update`.
    """
    events: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    highest = -1
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            update, kind = event["update"] + 0, event["kind"]
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                damaged.append(f"{path}:{number}: not an event")
            continue
        if kind not in SAVES:
            if update <= highest:
                events = [e for e in events if e["update"] < update or (e["update"] == update and e["kind"] != kind)]
            highest = update
        events.append(event)
    return events
