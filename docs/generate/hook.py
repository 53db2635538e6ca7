"""Fills pages with what the code says, while the site is built; nothing generated is committed.

A line ``<!-- kalm: NAME ARGUMENTS -->`` of a page is replaced by what `GENERATORS[NAME]` returns. Before the
build every public symbol has to stand in the reference, with a description of each of its parameters
(`symbols.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import commands
import formats
import scores
import settings
import symbols
from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"^<!-- kalm: (.+?) -->$", re.MULTILINE)


def included(name: str) -> str:
    """Return a file of the repository's root; its links to pages of the site become links between pages."""
    return (ROOT / name).read_text("utf-8").replace("](docs/", "](")


GENERATORS: dict[str, Callable[..., str]] = {
    "commands": commands.reference,
    "include": included,
    "manifest": formats.manifest,
    "schema": formats.columns,
    "settings": settings.reference,
    "table": scores.table,
}


def on_pre_build(config: MkDocsConfig) -> None:
    """Refuse to build while a public symbol is missing in the reference or lacks a description."""
    if found := symbols.undocumented(Path(config.docs_dir)):
        raise PluginError("public symbols without documentation:\n" + "\n".join(found))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the marks of a page."""
    return MARK.sub(lambda found: generated(found[1], page.file.src_uri), markdown)


def generated(words: str, page: str) -> str:
    """Return what a mark stands for. Raises PluginError: no generator of that name."""
    name, *arguments = words.split()
    if name not in GENERATORS:
        raise PluginError(f"{page}: no generator {name!r}; there are {', '.join(GENERATORS)}.")
    return GENERATORS[name](*arguments)
