"""Hooks of mkdocs: pages that are not in docs/, and links to them.

The reference is made from the code. The examples' pages, the changelog and others lie elsewhere in the project, where
links such as `../examples/multi30k/README.md` find them; in the site they are below docs/.
"""

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
TOP = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#\s]+)([^)\s]*)\)")


def on_files(files, config):
    """Add the pages."""
    sys.path.insert(0, str(ROOT / "docs"))
    from make_reference import pages

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for path in [*(ROOT / name for name in TOP), *sorted(ROOT.glob("examples/*/README.md"))]:
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links of a page to pages of the site. What the site does not have is named without a link."""
    here = page.file.src_uri
    # Where the page lies in the project.
    source = here if here in TOP or here.startswith("examples/") else f"docs/{here}"

    def link(match: re.Match) -> str:
        text, target, rest = match.groups()
        if "://" in target:
            return match.group()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if (ROOT / place).is_dir():
            place = f"{place}/README.md"
        if place == "README.md":
            place = "docs/index.md"
        name = place.removeprefix("docs/")
        if files.get_file_from_path(name) is None and (ROOT / place).exists():
            return text  # a file of the project, not of the site
        return f"[{text}]({posixpath.relpath(name, posixpath.dirname(here))}{rest})"

    return LINK.sub(link, markdown)
