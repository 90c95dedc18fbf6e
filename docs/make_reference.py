"""The pages of the reference, made from the schema and the public names: python docs/make_reference.py FOLDER

`docs/hooks.py` makes them whenever the site is built, so none of them is kept in the project.
"""

import configparser
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from s2s import registry
from s2s.config import command, compose, schema

ROOT = Path(__file__).parents[1]
PUBLIC = (  # modules whose classes other programs use or derive from
    "s2s", "s2s.decoding.translator", "s2s.decoding.hypothesis", "s2s.errors", "s2s.config.schema",
    "s2s.models.contract", "s2s.models.encoder_decoder", "s2s.criterions.term", "s2s.criterions.forward",
    "s2s.decoding.search.searcher", "s2s.decoding.search.choice", "s2s.decoding.scorers.scorer",
    "s2s.decoding.rules.rule", "s2s.text.tokenizer", "s2s.text.vocabulary", "s2s.scoring.metric", "s2s.data.batch",
    "s2s.data.spec", "s2s.data.columns", "s2s.tasks.text",
)  # fmt: skip


def commands() -> Iterator[tuple[str, type, str]]:
    """Name, schema and description of each command."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    for line in setup["options.entry_points"]["console_scripts"].strip().splitlines():
        module = line.split("=")[1].strip().removesuffix(":main")
        with mock.patch.object(command, "run") as run:
            importlib.import_module(module).main()
        given = inspect.signature(command.run).bind(*run.call_args.args, **run.call_args.kwargs).arguments
        yield given["name"], given["schema"], given["about"]


def cell(text: Any) -> str:
    """Text in a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def written(value: Any) -> str:
    """A default as it is typed."""
    if isinstance(value, (list, bool)):
        return str(value).replace("'", "").replace(" ", "").replace("True", "true").replace("False", "false")
    return "null" if value is None else str(value)


def bounds(metadata: Any) -> str:
    """The limits of a number."""
    parts = [
        f"{sign} {metadata[name]:,}"
        for sign, name in (("&ge;", "at_least"), ("&lt;", "below"), ("&le;", "at_most"))
        if metadata.get(name) is not None
    ]
    return ", ".join(parts)


def rows(leaves: list[schema.Leaf], prefix: str = "") -> list[str]:
    """A table of keys; each is shown as it is typed, with its default."""
    lines = ["| key and default | type | bounds | meaning |", "|---|---|---|---|"]
    for leaf in leaves:
        typed = cell(f"{prefix}{leaf.key}={written(leaf.plain)}")
        lines.append(
            f"| `{typed}` | {cell(leaf.type_name)} | {bounds(leaf.metadata)} | {cell(leaf.metadata['help'])} |"
        )
    return [*lines, ""]


def plain_leaves(config: Any) -> list[schema.Leaf]:
    """The keys of a config object that do not choose a component."""
    chosen = {name for key, _, _ in schema.held(config) for name in (key, f"{key}.type")}
    return [leaf for leaf in schema.leaves(config) if leaf.key not in chosen and leaf.key.rpartition(".")[2] != "type"]


def command_page(name: str, root: type, about: str) -> str:
    """The keys of a command by section, with the default presets."""
    config = compose.compose(root, [])
    title, *examples = about.splitlines()
    lines = [f"# {name}", "", title, "", *(f"    {line}" for line in examples), ""]
    if groups := list(schema.held(config)):
        lines += ["## Components", "", "`key=NAME` chooses a preset or a component;"
                  " [Components and presets](components.md) lists their options.", "",
                  "| key | names | meaning |", "|---|---|---|"]  # fmt: skip
        for key, field, chosen in groups:
            names = ", ".join(f"`{preset}`" for preset in compose.presets(field.metadata["group"]))
            default = f"`{key}={chosen or written(field.metadata['preset'])}`"
            lines.append(f"| {default} | {names} | {cell(field.metadata['help'])} |")
        lines.append("")
    sections: dict[str, list[schema.Leaf]] = {}
    for leaf in plain_leaves(config):
        sections.setdefault(leaf.key.partition(".")[0] if "." in leaf.key else "", []).append(leaf)
    for section, leaves in sections.items():
        lines += [f"## {section or 'Keys of the command'}", "", *rows(leaves)]
    return "\n".join(lines)


def components_page() -> str:
    """The options of every component of every kind, and the presets."""
    lines = ["# Components and presets", "", "A preset sets options of its component. In the tables, `KEY` is the key "
             "that chooses the component, such as `model.frontend`.", ""]  # fmt: skip
    for kind in sorted(registry.COMPONENTS):
        lines += [f"## {kind}", ""]
        if presets := [preset for preset in compose.presets(kind) if preset not in registry.COMPONENTS[kind]]:
            lines += ["Presets: " + ", ".join(f"`{preset}`" for preset in presets), ""]
        for name in sorted(registry.COMPONENTS[kind]):
            found = registry.find(kind, name)
            config = getattr(found, "Config", found)
            if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
                continue
            title = (inspect.getdoc(found) or "").split("\n\n")[0]
            lines += [f"### {kind} `{name}`", "", cell(title), ""]
            if leaves := plain_leaves(config()):
                lines += rows(leaves, "KEY.")
    return "\n".join(lines)


def python_page() -> str:
    """The public modules, in the form that mkdocstrings fills with their docstrings."""
    head = [
        "# Python",
        "",
        "The names that [Extending s2s](../extending.md) uses, and what a program needs to decode.",
        "",
    ]
    return "\n".join([*head, *(f"::: {module}\n" for module in PUBLIC)])


def pages() -> dict[str, str]:
    """All pages by their path in docs/."""
    made = {f"reference/{name}.md": command_page(name, root, about) for name, root, about in commands()}
    return {**made, "reference/components.md": components_page(), "reference/python.md": python_page()}


if __name__ == "__main__":
    for path, text in pages().items():
        (Path(sys.argv[1]) / path).parent.mkdir(parents=True, exist_ok=True)
        (Path(sys.argv[1]) / path).write_text(text, encoding="utf-8")
