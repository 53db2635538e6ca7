"""Reads the documents' snippets: fenced blocks with the mark in front of them.

A Python block and every line of a shell block are run, in the order of the page and in one folder per page,
unless a comment right above says why not: ``<!-- not run: needs a GPU -->``. Numbers may be made small for
the test: ``<!-- tested with: steps=20 for steps=5000; 2 for 20 -->`` replaces what stands on the page.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*.md"))
    if path.name not in ("log.md", "CHANGELOG.md")  # of other days: they name what was
)
BLOCK = re.compile(r"(?:^<!-- (?P<mark>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
LANGUAGES = {"python", "sh", "text", "toml", "yaml", "json", "bibtex"}


@dataclass(frozen=True)
class Snippet:
    """A fenced block: where it stands, its language, its text, and as it is tested."""

    place: str
    language: str
    text: str
    tested: str
    why_not: str

    @property
    def runs(self) -> bool:
        """Whether the test runs it."""
        return not self.why_not


def snippets(document: Path) -> list[Snippet]:
    """Return the blocks of a document in order. Raises AssertionError: an unknown mark or replacement."""
    return list(_snippets(document, document.read_text("utf-8")))


def _snippets(document: Path, page: str) -> Iterator[Snippet]:
    for found in BLOCK.finditer(page):
        place = f"{document.relative_to(ROOT)}:{page[: found.start()].count(chr(10)) + 1}"
        mark, text = found["mark"] or "", found["text"]
        name, _, words = mark.partition(": ")
        tested = text
        if name == "tested with":
            for change in words.split("; "):
                new, _, old = change.partition(" for ")
                assert old and old in tested, f"{place}: {old!r} is not in the block"
                tested = tested.replace(old, new)
        else:
            assert not mark or (name == "not run" and words), (
                f"{place}: {mark!r} says neither how nor why not"
            )
        yield Snippet(place, found["language"], text, tested, words if name == "not run" else "")


def lines(text: str) -> list[list[str]]:
    """Return the words of every command of a shell block; comments and continuations are undone."""
    joined = text.replace("\\\n", " ")
    parts = [part for line in joined.splitlines() for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def kalm_words(words: list[str]) -> list[str] | None:
    """Return what follows ``kalm`` in a command, also behind torchrun and its like; None: no call of kalm."""
    if words[0] == "kalm":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "kalm":
        return words[words.index("-m") + 2 :]
    return None
