"""The text of `--help`: what is changed most and the names of the sections, or one section, or everything."""

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from s2s import registry
from s2s.config import compose
from s2s.config import schema as schemas
from s2s.errors import UserError

WIDTH = 100  # characters of a line
ALL, OWN = "all", "command"  # sections: everything, and the keys without a dot
COMMAND = "[--config FILE] [--print-config] [--version] [--completion SHELL] [--help [SECTION]]"


@dataclasses.dataclass
class Entry:
    """A key in the help.

    Attributes:
        key: Its name.
        head: The line that is shown first, such as `seed: int = 1`.
        text: Its help.
        reads: The kind of sources that it is for; empty: any.
        chooses: Whether its value is the name of a component.
    """

    key: str
    head: str
    text: str
    reads: str = ""
    chooses: bool = False

    def lines(self) -> Iterator[str]:
        """The lines of the entry."""
        yield from textwrap.wrap(self.head.replace(",", ", ") if len(self.head) > WIDTH - 2 else self.head, WIDTH,
                                 initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)  # fmt: skip
        yield from textwrap.wrap(
            self.text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
        )


def text(name: str, config: Any, about: str, wanted: str | None, chosen: Iterable[str] = (),
         flags: str = "") -> str:  # fmt: skip
    """The help of a command.

    Args:
        name: The command's name.
        config: Its composed config. `COMMON` of its class are the keys that are changed most.
        about: What the command does, and examples.
        wanted: A section, a key, or `all`; None: the keys that are changed most, and the names of the sections.
        chosen: Keys of the components that the user has chosen, whose options are shown too.
        flags: Further arguments of the usage line.

    Raises:
        UserError: there is no such section.
    """
    entries = list(_entries(config))
    usage = textwrap.wrap(f"{name} key=value ... {flags}{COMMAND} [plugins=[FOLDER]]", WIDTH, initial_indent="usage: ",
                          subsequent_indent=" " * 7, break_on_hyphens=False)  # fmt: skip
    about = "\n".join(row for line in about.splitlines() for row in textwrap.wrap(line, WIDTH, break_on_hyphens=False))
    sections = _sections(config, entries)
    if wanted is None and not sections:  # a small command
        wanted = ALL
    reads = getattr(_task(config), "reads", "")
    if wanted is not None:
        shown = _of_section(name, wanted, entries, sections)
        if wanted == ALL:
            return "\n".join([*usage, "", about, "", "keys (key: type = default):", *_written(shown, gaps=True)])
        return "\n".join(_written(_for(reads, shown) or shown))
    common = getattr(type(config), "COMMON", ())
    named = {entry.key: entry for entry in entries}
    first = [named[key] for key in common if key in named] or [entry for entry in entries if "." not in entry.key]
    lines = [*usage, "", about, "", "changed most (key: type = default):", *_written(first)]
    for key in chosen:
        options = [entry for entry in _below(key, entries) if entry.key != key]
        if options:
            lines += ["", f"options of the chosen {key}:", *_written(_for(reads, options))]
    lines += ["", f"sections (all keys of one: {name} --help SECTION):"]
    wide = max(map(len, sections))
    for section, help_ in sections.items():
        keys = _for(reads, _below(section, entries))
        count = f"{len(keys)} key{'s' * (len(keys) != 1)}"
        lines += textwrap.wrap(f"{section:{wide}}  {help_} ({count})", WIDTH, initial_indent="  ",
                               subsequent_indent=" " * (wide + 4), break_on_hyphens=False)  # fmt: skip
    lines += ["", f"{name} --help KEY shows one key, {name} --help {ALL} shows all {len(entries)}."]
    if others := len(entries) - len(_for(reads, entries)):
        lines.append(f"{others} keys for other tasks are left out above; task=NAME --help shows those of a task.")
    return "\n".join(lines)


def topics(config: Any) -> list[str]:
    """The sections that `--help` takes."""
    return [*_sections(config, list(_entries(config))), ALL]


def _entries(config: Any) -> Iterator[Entry]:
    """All keys of a config object: those of the command itself, then each section, its components first."""
    found = [_component(key, field, chosen) for key, field, chosen in schemas.held(config)]
    hidden = {name for entry in found for name in (entry.key, f"{entry.key}.type")}
    reads = _readers(config)
    for leaf in schemas.leaves(config):
        if leaf.key in hidden:
            continue
        whose = next((kind for prefix, kind in reads.items() if f"{leaf.key}.".startswith(prefix)), "")
        found.append(Entry(leaf.key, f"{leaf.key}: {leaf.type_name} = {value(leaf.default)}", leaf.metadata["help"],
                           whose))  # fmt: skip
    order = {name: place for place, name in enumerate(_fields(config))}
    own = {entry.key for entry in found if "." not in entry.key and not entry.chooses}
    yield from sorted(found, key=lambda entry: -1 if entry.key in own else order.get(entry.key.partition(".")[0], 0))


def _component(key: str, field: Any, chosen: str | None) -> Entry:
    """A key that chooses a component, or several."""
    names = ",".join(compose.presets(field.metadata["group"]))
    default = value(field.metadata["preset"] or "none")
    now = "" if chosen in (None, default) or "." not in key else f"; now {chosen}"
    head = f"{key}=[{names}]" if schemas.is_list(field) else f"{key}={{{names}}}"
    return Entry(key, head, f"{field.metadata['help']}; default {default}{now}", chooses=True)


def _readers(config: Any, prefix: str = "") -> dict[str, str]:
    """Beginnings of keys -> the kind of sources for which they are."""
    kinds = {}
    for name, field in _fields(config).items():
        if reads := field.metadata.get("reads"):
            kinds[f"{prefix}{name}."] = reads
        if dataclasses.is_dataclass(getattr(config, name)):
            kinds |= _readers(getattr(config, name), f"{prefix}{name}.")
    return kinds


def _fields(config: Any) -> dict[str, Any]:
    return type(config).__dataclass_fields__


def _task(config: Any) -> Any:
    """The class of the chosen task, if the command has that choice."""
    task = getattr(config, "task", None)
    return registry.find("task", task.type) if hasattr(task, "type") else None


def _sections(config: Any, entries: list[Entry]) -> dict[str, str]:
    """Name of each section -> its help; empty if all keys are the command's own."""
    used = {entry.key.partition(".")[0] for entry in entries if "." in entry.key or entry.chooses}
    sections = {name: field.metadata["help"] for name, field in _fields(config).items() if name in used}
    return {OWN: "the command's own keys", **sections} if sections else {}


def _below(section: str, entries: list[Entry]) -> list[Entry]:
    """The entries of a section, at any depth, or of one key."""
    if section == OWN:
        return [entry for entry in entries if "." not in entry.key and not entry.chooses]
    return [entry for entry in entries if f"{entry.key}.".startswith(f"{section}.")]


def _for(reads: str, entries: list[Entry]) -> list[Entry]:
    """The entries that a task can use whose sources are `reads`; empty: any."""
    return [entry for entry in entries if not reads or entry.reads in ("", reads)]


def _of_section(name: str, wanted: str, entries: list[Entry], sections: Iterable[str]) -> list[Entry]:
    """The entries of a section, or of all. Raises UserError."""
    found = entries if wanted == ALL else _below(wanted.rstrip("="), entries)
    if not found:
        hint = registry.nearest(wanted, [*sections, ALL])
        if hint.startswith("choose"):
            hint = f"the sections are {', '.join([*sections, ALL])}"
        raise UserError(f"--help {wanted}: no such section or key; {hint}")
    return found


def _written(entries: list[Entry], gaps: bool = False) -> Iterator[str]:
    """The lines of entries; `gaps`: with an empty line before each section."""
    for before, entry in zip([None, *entries], entries, strict=False):
        if gaps and before and before.key.partition(".")[0] != entry.key.partition(".")[0] and "." in entry.key:
            yield ""
        yield from entry.lines()


def value(given: Any) -> str:
    """A default value as a user would type it."""
    if isinstance(given, (list, bool)):
        return str(given).replace("'", "").replace(" ", "").replace("True", "true").replace("False", "false")
    return "null" if given is None else str(given)
