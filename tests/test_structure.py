"""The structure that docs/architecture.md promises: the order of imports, and the size of what has to be read."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULE_LINES, FUNCTION_LINES = 500, 80

# Imports inside functions that the order does not allow, each with its reason.
EXCEPTIONS = {
    ("s2s", "s2s.decoding.translator"): "s2s.load is the door of the library; it imports PyTorch when it is called",
    ("s2s.config.schema", "s2s.config.compose"): "a field's default is a preset, which is composed from a schema",
}


@cache
def trees():
    """The syntax tree of every module by its name."""
    paths = [path for top in ("s2s", "s2s_cli") for path in sorted((ROOT / top).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(names, paths, strict=True)}


@cache
def imports():
    """Pairs of modules, importer and imported: those in functions and under TYPE_CHECKING too."""
    pairs = set()
    for importer, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [(alias.name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{importer}: a relative import"
                names = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
            else:
                continue
            pairs |= {(importer, name if name in trees() else module) for name, module in names if module in trees()}
    return pairs


def rooms():
    """The row of each room in the page's table, counted from the top."""
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    found = [(room.removesuffix("/").removesuffix(".py"), row)
             for row, cell in enumerate(rows) for room in re.findall(r"`(.*?)`", cell)]  # fmt: skip
    assert len(dict(found)) == len(found), "a room is in the table twice"
    return dict(found)


def room(module):
    """The room of a module: `s2s_cli`, or what lies in `s2s/`."""
    top, *below = module.split(".")
    return top if top != "s2s" else below[0] if below else "__init__"


def test_every_room_is_in_the_table():
    assert set(rooms()) == {room(module) for module in trees()}


def test_imports_run_downwards():
    row = rooms()
    upwards = [
        f"{importer} imports {imported}"
        for importer, imported in sorted(imports() - EXCEPTIONS.keys())
        if room(importer) != room(imported) and row[room(imported)] <= row[room(importer)]
    ]
    assert not upwards, "the table in docs/architecture.md does not allow: " + "; ".join(upwards)


def test_every_exception_is_an_import():
    assert set(EXCEPTIONS) <= imports(), "remove the exceptions that are gone"


def test_modules_do_not_import_each_other_in_a_circle():
    below = {module: {imported for importer, imported in imports() - EXCEPTIONS.keys() if importer == module}
             for module in trees()}  # fmt: skip
    while free := [module for module, needs in below.items() if not needs & below.keys()]:
        for module in free:
            del below[module]
    assert not below, "in a circle, or importing from one"


def test_a_module_has_few_lines():
    lengths = {path: path.read_text(encoding="utf-8").count("\n")
               for top in ("s2s", "s2s_cli") for path in (ROOT / top).rglob("*.py")}  # fmt: skip
    long = {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MODULE_LINES}
    assert not long, f"more than {MODULE_LINES} lines"


def test_a_function_has_few_lines():
    long = {}
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if (lines := node.end_lineno - first + 1) > FUNCTION_LINES:
                    long[f"{module}.{node.name}"] = lines
    assert not long, f"more than {FUNCTION_LINES} lines"


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_pages_name_files_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:s2s|s2s_cli|tests|docs|examples)/[\w./]*)`", text)
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
