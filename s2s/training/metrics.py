"""RUN/metrics.jsonl read back."""

import json
from pathlib import Path
from typing import Any

SAVES = ("checkpoint", "save_failed")  # written whenever a save ends, perhaps some updates later


def read_metrics(path: Path, damaged: list[str]) -> list[dict[str, Any]]:
    """The events of a run, each update once: what was done over again, after a resume from an older checkpoint or when
    the run went back, counts as it was done last.

    Args:
        path: A metrics.jsonl; none is as an empty one.
        damaged: A complaint is added for each line that is no event, save one that is cut short at the end.

    Returns:
        What each line holds, `kind` and `update` among it.
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
