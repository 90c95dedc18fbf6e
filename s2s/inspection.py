"""Facts about the stores, runs, checkpoints and shortlists that commands have written, as a dict and as text.

The kind is recognised by the contents. Files are compared with the hashes that were written with them. Damaged files
are named, and all other facts are still reported.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from s2s.checkpoint import runs, shapes
from s2s.checkpoint.runs import CONFIG, STATE, WEIGHTS, misnamed, unlisted
from s2s.config.documents import read_json, read_yaml
from s2s.data.report import aligned
from s2s.data.store import AGAIN, declared_columns, digest, task_facts
from s2s.data.store import FORMATS as STORE_FORMATS
from s2s.data.store import SHAPE as STORE
from s2s.errors import UserError
from s2s.files import file_hash
from s2s.manifests import MANIFEST, read_manifest
from s2s.training.metrics import read_metrics

Facts = dict[str, Any]
UNTOLD = ("time", "seconds_validating")  # keys of events that are not shown
ENDING = ".vocabulary.txt"  # ending of a file of each tokenizer
VALIDATIONS = 10  # maximum number of validations in the text about a run


def inspect(path: str | Path, verify: bool = True) -> Facts:
    """The facts about a path.

    Args:
        path: A store, a run, a checkpoint (also a run's `best` or `last`) or a shortlist.
        verify: Whether to read every file and compare it with its hash; otherwise only sizes are compared.

    Returns:
        `kind`, `path`, `bytes`, `damaged` (a line for each damaged file), and further facts depending on the kind.

    Raises:
        UserError: the path is none of these.
    """
    path = Path(path)
    for _ in range(10):
        target = path.resolve() if path.is_symlink() else path  # a run's `last` may point elsewhere meanwhile
        if not target.exists():
            raise UserError(f"{path}: no such file or folder")
        damaged: list[str] = []
        kind, look = _kind(path, target)
        try:
            facts = look(target, verify, damaged)
            size = target.stat().st_size if target.is_file() else _bytes(target)
            break
        except FileNotFoundError as error:
            missing = error
    else:
        raise missing
    return {"kind": kind, "path": str(path), "bytes": size, "damaged": damaged, **facts}


def _kind(path: Path, target: Path) -> tuple[str, Callable[[Path, bool, list[str]], Facts]]:
    """The kind of a path, and the function that reads it."""
    if target.is_file():
        return "shortlist", _shortlist
    if (target / "run.json").is_file():
        return "run", _run
    if (target / WEIGHTS).exists():
        return "checkpoint", _checkpoint
    if (target / MANIFEST).is_file():
        return "store", _store
    raise UserError(f"{path}: neither a store, a run, a checkpoint nor a shortlist{runs.inside(target)}")


def text(facts: Facts) -> str:
    """Format facts as lines of text."""
    show: Callable[[Facts], list[str]] = {
        "store": _store_text, "run": _run_text, "checkpoint": _checkpoint_text, "shortlist": _shortlist_text
    }[facts["kind"]]  # fmt: skip
    lines = [f"{facts['kind']} {facts['path']}: {_size(facts['bytes'])}", *show(facts)]
    return "\n".join([*lines, *(f"DAMAGED {complaint}" for complaint in facts["damaged"])])


# --- the facts ---------------------------------------------------------------------------------------------------


def _store(path: Path, verify: bool, damaged: list[str]) -> Facts:
    manifest = _read(path / MANIFEST, lambda: read_manifest(path, STORE, STORE_FORMATS, AGAIN), damaged)
    if manifest and digest(manifest) != manifest["digest"]:
        damaged.append(f"{path / MANIFEST}: its digest does not fit its content")
    tokenizers = manifest.get("tokenizers", {})
    vocabularies = {
        side: {"type": tokenizers.get(side, {}).get("type"), **vocabulary}
        for side, vocabulary in manifest.get("vocabularies", {}).items()
    }
    left_out = {"vocabularies", "files", "other_files", "block_size", "task", "seed"}
    columns: dict[str, dict[str, list]] = {}
    for split in manifest.get("splits", {}):
        with contextlib.suppress(KeyError):  # the manifest may be damaged
            declared = declared_columns(manifest, split)
            columns[split] = {
                name: [column["kind"], column["values"] // column["width"]] for name, column in declared.items()
            }
    return {
        **{key: value for key, value in manifest.items() if key not in left_out},
        "facts": task_facts(manifest),
        "columns": columns,
        "vocabularies": vocabularies,
        "files": _files(path, manifest.get("files", {}) | manifest.get("other_files", {}), verify, damaged),
    }


def _checkpoint(path: Path, verify: bool, damaged: list[str]) -> Facts:
    manifest = _read(path / MANIFEST, lambda: read_manifest(path, shapes.MANIFEST, shapes.FORMATS, ""), damaged)
    files = _files(path, manifest.get("files", {}), verify, damaged)
    state, config = _json(path / STATE, shapes.STATE, damaged), _yaml(path / CONFIG, damaged)
    damaged += filter(None, [manifest and unlisted(path, files), misnamed(path, state)])
    progress = state.get("progress", {})
    vocabularies = {}
    for file in filter(lambda name: name.endswith(ENDING), files):
        side = file.removesuffix(ENDING)
        kind = _json(path / f"{side}.tokenizer.json", {"type": str, ...: object}, damaged).get("type")
        symbols = (path / file).read_bytes() if files[file]["there"] else b""
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
    origin = _json(path / "run.json", shapes.RUN, damaged)
    config = _yaml(path / CONFIG, damaged) if (path / CONFIG).is_file() else {}
    events = read_metrics(path / "metrics.jsonl", damaged)
    checkpoints = []
    for folder in sorted([*runs.steps(path), *(path / "checkpoints").glob("aside_step_*")]):
        links = [name for name in ("best", "last") if (path / name).is_symlink() and (path / name).samefile(folder)]
        complaints: list[str] = []
        try:
            facts = _checkpoint(folder, verify, complaints)
        except FileNotFoundError:
            facts = {}
        if not folder.exists():  # the run has deleted it meanwhile
            continue
        damaged += complaints
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
            sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            if {name: len(size) for name, size in sizes.items()} != {"translations": 2, "frequent": 1}:
                raise UserError(f"{path}: a safetensors file, but not a shortlist; it holds {', '.join(sizes)}")
            content = b"".join(file.get_tensor(name).tobytes() for name in ("translations", "frequent") if verify)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: neither a store, a run, a checkpoint nor a shortlist: {error}") from error
    if verify and "sha256" in facts and facts["sha256"] != hashlib.sha256(content).hexdigest():
        damaged.append(f"{path}: its content differs from what was written")
    (symbols, candidates), (frequent,) = sizes["translations"], sizes["frequent"]
    return {
        "format": facts.get("format"),
        "symbols": symbols,
        "candidates": candidates,
        "frequent": frequent,
        "vocabularies": {side: {"digest": facts.get(side)} for side in ("source", "target")},
        "sha256": file_hash(path) if verify else None,
    }


def _parents(state: Facts) -> dict[str, dict[str, Facts]]:
    """Role -> path -> the hash of its weights when they were used, and whether they are still there."""
    origin = state.get("origin", {})
    parents_by_role = {}
    for role in shapes.ROLES:
        for place in (state, origin, origin.get("parents", {})):
            parents = place.get(role) or {}
            parents = parents if isinstance(parents, dict) else dict.fromkeys(parents)
            if parents:
                parents_by_role[role] = {
                    path: {"sha256": sha256, "now": _now(Path(path), sha256)} for path, sha256 in parents.items()
                }
    return parents_by_role


def _now(folder: Path, sha256: str | None) -> str:
    """The present state of a parent, from its manifest."""
    files = _json(folder / MANIFEST, shapes.MANIFEST, []).get("files", {})
    if WEIGHTS not in files:
        return "gone"
    return "there" if sha256 in (None, files[WEIGHTS].get("sha256")) else "other weights"


def _weights(path: Path, damaged: list[str]) -> Facts:
    """The numbers of parameters in a file of tensors, in all and by the first part of their names; and their types."""
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
    """The files of a manifest, and whether they exist and are undamaged."""
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
            damaged.append(f"{path}: its content differs from what was written")
    return files


def _bytes(folder: Path) -> int:
    """The size of all files in a folder, in bytes; targets of links are not counted."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a run in training deletes files
                size += os.lstat(os.path.join(place, name)).st_size
    return size


def _json(path: Path, shape: Any, damaged: list[str]) -> Facts:
    return _read(path, lambda: read_json(path, shape, finite=False), damaged)


def _yaml(path: Path, damaged: list[str]) -> Facts:
    return _read(path, lambda: read_yaml(path, shapes.CONFIG), damaged)


def _read(path: Path, read: Callable[[], Any], damaged: list[str]) -> Facts:
    """The content of a file; if it is damaged, an empty dict, and a line in `damaged`."""
    try:
        content = read()
        if isinstance(content, dict):
            return content
        error = "no object in it"
    except Exception as problem:  # readers may raise anything for wrong content
        error = str(problem).split("\n")[0]
    if not any(complaint.startswith(f"{path}:") for complaint in damaged):
        damaged.append(error if error.startswith(f"{path.parent}{os.sep}") else f"{path}: {error}")
    return {}


# --- the text ----------------------------------------------------------------------------------------------------


def _store_text(facts: Facts) -> list[str]:
    splits = facts.get("splits", {})
    kinds = {name: kind for columns in facts["columns"].values() for name, kind in columns.items()}
    names = [name for name, (kind, _) in kinds.items() if kind in ("tokens", "array", "number")]
    timed = any("seconds" in split for split in splits.values())
    rows = [("split", "pairs", "dropped", *["hours"] * timed, *names, "shards", "text")]
    for name, split in splits.items():
        columns = facts["columns"].get(name, {})
        kept = "kept" if any(kind == "text" for kind, _ in columns.values()) else "-"
        dropped = sum(split.get("dropped", {}).values()) + sum(split.get("broken", {}).values())
        counts = [f"{columns[column][1]:,}" if column in columns else "-" for column in names]
        hours = [f"{split.get('seconds', 0) / 3600:.2f}"] * timed
        rows.append((name, f"{split['pairs']:,}", f"{dropped:,}", *hours, *counts, f"{len(split['shards']):,}", kept))
    made = f"format {facts.get('format')}, s2s {facts.get('s2s')}"
    return [
        f"{facts.get('source_language')} to {facts.get('target_language')}, {made}, digest {facts.get('digest')}",
        *_task_facts(facts["facts"]),
        *_vocabularies(facts),
        *aligned(rows, right=range(1, len(rows[0]) - 1)),
        *_file_lines(facts),
    ]


def _task_facts(facts: Facts) -> Iterable[str]:
    """The facts that a task has declared about a store, without long lists."""
    for key, section in facts.items():
        if isinstance(section, dict):
            short = {name: value for name, value in section.items() if not isinstance(value, list)}
            yield from (f"{key}:{line[1:]}" for line in _config(short))


def _checkpoint_text(facts: Facts) -> list[str]:
    lines = [f"format {facts['format']}, s2s {facts['s2s']}"]
    if facts["update"] is not None:
        seconds = facts["seconds"]
        lines.append(f"update {facts['update']:,}, epoch {facts['epoch']}, {(seconds or 0) / 3600:.2f} hours of "
                     f"training, {facts['skipped'] or 0} updates skipped")  # fmt: skip
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
        speed, seconds = train.get("target_tokens_per_second"), train.get("seconds")
        lines.append(
            f"update {_number(train['update'])}, epoch {_number(train.get('epoch'))}: "
            f"loss {_number(train.get('loss'))}, {_number(speed, 0)} target tokens/s, "
            f"{_number(seconds / 3600 if isinstance(seconds, (int, float)) else None, 2)} hours of training"
        )
    shown = facts["validations"][-VALIDATIONS:]
    if shown:
        lines.append(f"the last {len(shown)} of {len(facts['validations'])} validations")
        names = dict.fromkeys(
            key for event in shown for key, value in event.items() if isinstance(value, float) and key not in UNTOLD
        )
        rows = [("update", *names)]
        rows += [(_number(event["update"]), *(_number(event.get(name)) for name in names)) for event in shown]
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
        *(f"{side} vocabulary: digest {entry['digest']}" for side, entry in facts["vocabularies"].items()),
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
    """The config as `key=value` words, one line per section."""

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


def _number(value: Any, digits: int = 3) -> str:
    if isinstance(value, (int, float)):
        return f"{value:,.{digits}f}" if isinstance(value, float) else f"{value:,}"
    return "-" if value is None else str(value)


def _size(size: int) -> str:
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "bytes"))
    unit, name = next(pair for pair in units if size >= pair[0])
    return f"{size / unit:,.1f} {name}" if unit else f"{size} bytes"
