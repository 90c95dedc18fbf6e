"""What a folder or file is that one of the commands wrote: facts for programs, and the same as text for people.

A store, a run, a checkpoint or a shortlist is told by what is in it. Files are compared with the hashes that were
written with them; what is damaged is named, and everything else is told all the same.
"""

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open

from s2s.data.report import aligned
from s2s.data.store import SIDES, digest, file_hash
from s2s.errors import UserError
from s2s.training.metrics import read_metrics

Facts = dict[str, Any]
WEIGHTS, STATE, CONFIG, MANIFEST = "model.safetensors", "state.json", "config.yaml", "manifest.json"
ROLES = ("averaged_from", "initialised_from", "teachers")
UNTOLD = ("time", "seconds_validating")  # of an event
VALIDATIONS = 10  # of a run that the text shows


def inspect(path: str | Path, verify: bool = True) -> Facts:
    """The facts of a path.

    Args:
        path: A store, a run, a checkpoint (or a run's `best` or `last`) or a shortlist.
        verify: Read every file and compare it with its hash; otherwise only sizes are compared.

    Returns:
        `kind`, `path`, `bytes`, `damaged` (a line for each damaged file), and what there is to say of the kind.

    Raises:
        UserError: nothing that s2s wrote.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    damaged: list[str] = []
    if path.is_file():
        kind, look = "shortlist", _shortlist
    elif (path / "run.json").is_file():
        kind, look = "run", _run
    elif (path / WEIGHTS).exists():
        kind, look = "checkpoint", _checkpoint
    elif (path / MANIFEST).is_file():
        kind, look = "store", _store
    else:
        raise UserError(f"{path}: neither a store, a run, a checkpoint nor a shortlist")
    facts = look(path, verify, damaged)
    size = path.stat().st_size if path.is_file() else _bytes(path)
    return {"kind": kind, "path": str(path), "bytes": size, "damaged": damaged, **facts}


def text(facts: Facts) -> str:
    """Facts as lines for people."""
    show: Callable[[Facts], list[str]] = {
        "store": _store_text, "run": _run_text, "checkpoint": _checkpoint_text, "shortlist": _shortlist_text
    }[facts["kind"]]  # fmt: skip
    lines = [f"{facts['kind']} {facts['path']}: {_size(facts['bytes'])}", *show(facts)]
    return "\n".join([*lines, *(f"DAMAGED {complaint}" for complaint in facts["damaged"])])


# --- the facts ---------------------------------------------------------------------------------------------------


def _store(path: Path, verify: bool, damaged: list[str]) -> Facts:
    manifest = _json(path / MANIFEST, damaged)
    if manifest and digest(manifest) != manifest.get("digest"):
        damaged.append(f"{path / MANIFEST}: its digest does not fit its content")
    tokenizers = manifest.get("tokenizers", {})
    vocabularies = {
        side: {"type": tokenizers.get(side, {}).get("type"), **vocabulary}
        for side, vocabulary in manifest.get("vocabularies", {}).items()
    }
    told = {"vocabularies", "files", "task", "seed"}
    return {
        **{key: value for key, value in manifest.items() if key not in told},
        "vocabularies": vocabularies,
        "files": _files(path, manifest.get("files", {}), verify, damaged),
    }


def _checkpoint(path: Path, verify: bool, damaged: list[str]) -> Facts:
    manifest = _json(path / MANIFEST, damaged)
    files = _files(path, manifest.get("files", {}), verify, damaged)
    state, config = _json(path / STATE, damaged), _yaml(path / CONFIG, damaged)
    progress = state.get("progress", {})
    vocabularies = {}
    for side in SIDES:
        if f"{side}.vocabulary.txt" in files:
            kind = _json(path / f"{side}.tokenizer.json", damaged).get("type")
            symbols = (
                (path / f"{side}.vocabulary.txt").read_bytes() if files[f"{side}.vocabulary.txt"]["there"] else b""
            )
            vocabularies[side] = {"type": kind, "size": symbols.count(b"\n")}
    return {
        "format": manifest.get("format"),
        "s2s": manifest.get("s2s"),
        **{key: progress.get(key) for key in ("update", "best", "bad_validations", "skipped", "seconds")},
        "epoch": state.get("iterator", {}).get("epoch"),
        "validated": progress.get("last_metrics", {}),
        "parents": _parents(state),
        "origin": {key: value for key, value in state.get("origin", {}).items() if isinstance(value, str)},
        "weights": _weights(path / WEIGHTS, damaged),
        "vocabularies": vocabularies,
        "config": config,
        "files": files,
    }


def _run(path: Path, verify: bool, damaged: list[str]) -> Facts:
    origin = _json(path / "run.json", damaged)
    config = _yaml(path / CONFIG, damaged) if (path / CONFIG).is_file() else {}
    events = read_metrics(path / "metrics.jsonl", damaged)
    checkpoints = []
    for folder in sorted((path / "checkpoints").glob("*step_*")):
        links = [name for name in ("best", "last") if (path / name).is_symlink() and (path / name).samefile(folder)]
        facts = _checkpoint(folder, verify, damaged)
        keys = ("update", "validated")
        size = sum(file["bytes"] for file in facts["files"].values())
        checkpoints.append({"name": folder.name, "links": links, "bytes": size, **{key: facts[key] for key in keys}})
    for name in ("best", "last"):
        if (path / name).is_symlink() and not (path / name).exists():
            damaged.append(f"{path / name}: points to a checkpoint that is not there")
    train = [event for event in events if event["kind"] == "train"]
    return {
        "origin": {key: value for key, value in origin.items() if isinstance(value, str)},
        "parents": _parents({"origin": origin}),
        "resumed": sum(event["kind"] == "resume" for event in events),
        "checkpoints": checkpoints,
        "train": {key: value for key, value in train[-1].items() if key != "steps"} if train else {},
        "validations": [event for event in events if event["kind"] == "valid"],
        "config": config,
    }


def _shortlist(path: Path, verify: bool, damaged: list[str]) -> Facts:
    try:
        with safe_open(path, "np") as file:
            facts = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: neither a store, a run, a checkpoint nor a shortlist: {error}") from error
    if set(shapes) != {"translations", "frequent"}:
        raise UserError(f"{path}: a safetensors file, but not a shortlist; it holds {', '.join(shapes)}")
    (symbols, candidates), (frequent,) = shapes["translations"], shapes["frequent"]
    return {
        "format": facts.get("format"),
        "symbols": symbols,
        "candidates": candidates,
        "frequent": frequent,
        "vocabularies": {side: {"digest": facts.get(side)} for side in SIDES},
        "sha256": file_hash(path) if verify else None,
    }


def _parents(state: Facts) -> dict[str, dict[str, Facts]]:
    """Role -> path -> the hash of its weights when they were taken, and what has become of it."""
    origin = state.get("origin", {})
    found = {}
    for role in ROLES:
        for place in (state, origin, origin.get("parents", {})):
            parents = place.get(role) or {}
            parents = parents if isinstance(parents, dict) else dict.fromkeys(parents)
            if parents:
                found[role] = {
                    path: {"sha256": sha256, "now": _now(Path(path), sha256)} for path, sha256 in parents.items()
                }
    return found


def _now(folder: Path, sha256: str | None) -> str:
    """What has become of a parent, by its manifest."""
    files = _json(folder / MANIFEST, []).get("files", {})
    if WEIGHTS not in files:
        return "gone"
    return "there" if sha256 in (None, files[WEIGHTS].get("sha256")) else "other weights"


def _weights(path: Path, damaged: list[str]) -> Facts:
    """How many parameters a file of tensors has, by the first part of their names, and their types."""
    try:
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tensor.get_shape() for name, tensor in slices.items()}
            dtypes = sorted({tensor.get_dtype() for tensor in slices.values()})
    except (OSError, SafetensorError) as error:
        if not any(complaint.startswith(f"{path}:") for complaint in damaged):
            damaged.append(f"{path}: {error}")
        return {}
    parts: dict[str, int] = {}
    for name, shape in shapes.items():
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0) + math.prod(shape)
    return {"parameters": sum(parts.values()), "parts": parts, "tensors": len(shapes), "dtypes": dtypes}


def _files(folder: Path, entries: dict[str, Facts], verify: bool, damaged: list[str]) -> dict[str, Facts]:
    """The files of a manifest, and whether they are there and what was written."""
    files = {}
    for name, entry in entries.items():
        path, size = folder / name, entry.get("bytes", entry.get("size"))
        there = path.is_file()
        files[name] = {"bytes": size, "sha256": entry["sha256"], "there": there}
        if not there:
            damaged.append(f"{path}: missing")
        elif path.stat().st_size != size:
            damaged.append(f"{path}: {path.stat().st_size:,} bytes, {size:,} were written")
        elif verify and file_hash(path) != entry["sha256"]:
            damaged.append(f"{path}: its content is not what was written")
    return files


def _bytes(folder: Path) -> int:
    """Of all files in a folder; what links lead to lies elsewhere."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names)


def _json(path: Path, damaged: list[str]) -> Facts:
    return _read(path, lambda: json.loads(path.read_text(encoding="utf-8")), damaged)


def _yaml(path: Path, damaged: list[str]) -> Facts:
    return _read(path, lambda: OmegaConf.to_container(OmegaConf.load(path)), damaged)


def _read(path: Path, read: Callable[[], Any], damaged: list[str]) -> Facts:
    """What a file holds; nothing where it is damaged, which is then named."""
    try:
        content = read()
        if isinstance(content, dict):
            return content
        error: Any = "no object in it"
    except Exception as wrong:  # whatever the readers raise of content that is not theirs
        error = str(wrong).split("\n")[0]
    if not any(complaint.startswith(f"{path}:") for complaint in damaged):
        damaged.append(f"{path}: {error}")
    return {}


# --- the text ----------------------------------------------------------------------------------------------------


def _store_text(facts: Facts) -> list[str]:
    speech = "features" in facts
    rows = [("split", "pairs", "dropped", "hours" if speech else "source tokens", "target tokens", "shards", "text")]
    for name, split in facts.get("splits", {}).items():
        source = f"{split['seconds'] / 3600:.2f}" if speech else f"{split['source']['tokens']:,}"
        kept = "kept" if split["text"] else "-"
        dropped = sum(split["dropped"].values()) + sum(split.get("broken", {}).values())
        rows.append((name, f"{split['pairs']:,}", f"{dropped:,}", source, f"{split['target']['tokens']:,}",
                     f"{len(split['shards']):,}", kept))  # fmt: skip
    made = f"format {facts.get('format')}, s2s {facts.get('s2s')}"
    return [
        f"{facts.get('source_language')} to {facts.get('target_language')}, {made}, digest {facts.get('digest')}",
        *(f"features:{line[1:]}" for line in _config(facts.get("features", {}))),
        *_vocabularies(facts),
        *aligned(rows, right=range(1, 6)),
        *_file_lines(facts),
    ]


def _checkpoint_text(facts: Facts) -> list[str]:
    lines = [f"format {facts['format']}, s2s {facts['s2s']}"]
    if facts["update"] is not None:
        seconds = facts["seconds"]
        lines.append(f"update {facts['update']:,}, epoch {facts['epoch']}, {seconds / 3600:.2f} hours of training, "
                     f"{facts['skipped']} updates skipped")  # fmt: skip
    lines += _parent_lines(facts)
    if facts["validated"]:
        lines.append(f"validated at {_metrics(facts['validated'])}")
    if facts["weights"]:
        weights = facts["weights"]
        parts = ", ".join(f"{part} {count:,}" for part, count in weights["parts"].items())
        lines.append(f"{weights['parameters']:,} parameters in {', '.join(weights['dtypes'])} ({parts})")
    return [*lines, *_vocabularies(facts), *_origin(facts), *_config(facts["config"]), *_file_lines(facts)]


def _run_text(facts: Facts) -> list[str]:
    lines = [*_origin(facts), f"resumed {facts['resumed']} times", *_parent_lines(facts)]
    if train := facts["train"]:
        lines.append(
            f"update {train['update']:,}, epoch {train['epoch']}: loss {train['loss']:.3f}, "
            f"{train['target_tokens_per_second']:,.0f} target tokens/s, {train['seconds'] / 3600:.2f} hours of training"
        )
    shown = facts["validations"][-VALIDATIONS:]
    if shown:
        lines.append(f"the last {len(shown)} of {len(facts['validations'])} validations")
        names = dict.fromkeys(
            key for event in shown for key, value in event.items() if isinstance(value, float) and key not in UNTOLD
        )
        rows = [("update", *names)]
        rows += [(f"{event['update']:,}", *(_number(event.get(name)) for name in names)) for event in shown]
        lines += [f"  {line}" for line in aligned(rows, right=range(len(names) + 1))]
    for checkpoint in facts["checkpoints"]:
        links = f" ({', '.join(checkpoint['links'])})" if checkpoint["links"] else ""
        metrics = f": {_metrics(checkpoint['validated'])}" if checkpoint["validated"] else ""
        lines.append(f"checkpoint {checkpoint['name']}{links}, {_size(checkpoint['bytes'])}{metrics}")
    return [*lines, *_config(facts["config"])]


def _shortlist_text(facts: Facts) -> list[str]:
    return [
        f"format {facts['format']}, SHA-256 {facts['sha256']}",
        f"{facts['candidates']} candidates for each of {facts['symbols']:,} source symbols, and {facts['frequent']:,} "
        "frequent ones for every sentence",
        *(f"{side} vocabulary: digest {facts['vocabularies'][side]['digest']}" for side in SIDES),
    ]


def _vocabularies(facts: Facts) -> list[str]:
    return [
        f"{side} vocabulary: {vocabulary['size']:,} symbols, {vocabulary['type']}"
        + (f", digest {vocabulary['digest']}" if "digest" in vocabulary else "")
        for side, vocabulary in facts["vocabularies"].items()
    ]


def _parent_lines(facts: Facts) -> list[str]:
    return [
        f"{role.replace('_', ' ')} {path}, SHA-256 {parent['sha256'] or 'not noted'} ({parent['now']})"
        for role, parents in facts["parents"].items()
        for path, parent in parents.items()
    ]


def _origin(facts: Facts) -> list[str]:
    return (
        ["made by " + ", ".join(f"{key} {value}" for key, value in facts["origin"].items())] if facts["origin"] else []
    )


def _config(config: Facts) -> list[str]:
    """The config as the words that make it, a line for each section."""

    def words(mapping: Facts, prefix: str) -> Iterable[str]:
        for key, value in mapping.items():
            if isinstance(value, dict):
                yield from words(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}={_word(value)}"

    sections = {key: value for key, value in config.items() if isinstance(value, dict)}
    rest = {key: value for key, value in config.items() if key not in sections}
    lines = [" ".join(words(rest, ""))] + [" ".join(words(value, f"{key}.")) for key, value in sections.items()]
    return [f"  {line}" for line in lines if line]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "")


def _file_lines(facts: Facts) -> list[str]:
    rows = [(name, f"{file['bytes']:,}", file["sha256"]) for name, file in facts["files"].items()]
    return aligned([("file", "bytes", "SHA-256"), *rows], right=(1,))


def _metrics(values: Facts) -> str:
    numbers = " | ".join(f"{name} {_number(value)}" for name, value in values.items() if name != "update")
    return f"update {values.get('update')} | {numbers}"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)


def _size(size: int) -> str:
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "bytes"))
    unit, name = next(pair for pair in units if size >= pair[0])
    return f"{size / unit:,.1f} {name}" if unit else f"{size} bytes"
