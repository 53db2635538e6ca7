"""A small document: sections of paragraphs, tables, pictures and code, as one HTML file or as Markdown.

The HTML file stands alone: pictures are data URIs, there are no scripts and no outside requests. Every text
is escaped here and nowhere else. Plots come in two versions, for light and for dark screens.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from html import escape

from kalm.report.tables import Table, markdown

CSS = """
:root { --ink: #1f2933; --soft: #5b6673; --line: #d9dee5; --paper: #ffffff; --tint: #f4f6f9;
  --link: #0072b2; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #9aa5b1; --line: #303843; --paper: #161b22; --tint: #1d242d;
    --link: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .6rem 0; max-width: 48rem; }
nav { margin: 1rem 0; font-size: .9rem; }
nav a { color: var(--link); margin-right: .9rem; white-space: nowrap; }
figure { margin: 1.2rem 0; }
h3 { font-size: .95rem; margin: 1.6rem 0 .3rem; }
.scroll { overflow-x: auto; }
img { max-width: 100%; min-width: 34rem; height: auto; display: block; }
img[width] { max-width: none; min-width: 0; }
figcaption, .note { color: var(--soft); font-size: .85rem; max-width: 48rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
thead th { color: var(--soft); font-weight: 500; white-space: normal; vertical-align: bottom; }
pre { background: var(--tint); padding: .8rem 1rem; border-radius: .4rem; overflow-x: auto; font-size: .82rem;
  line-height: 1.45; }
summary { cursor: pointer; color: var(--link); }
"""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: file name without ending, for the Markdown version.
        alt: what it shows, for readers who cannot see it.
        caption: the line below it.
        png: for the Markdown version, and for the page where there is no `svg`.
        svg: (light, dark) versions for the page.
        width: shown this wide, in pixels, and scrolled on narrow screens; None: as the page allows.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    svg: tuple[bytes, bytes] | None = None
    width: int | None = None


@dataclass(frozen=True)
class Code:
    """Preformatted text; folded behind its title where it has one."""

    text: str
    title: str = ""


Block = str | Table | Picture | Code  # a str is a paragraph


@dataclass(frozen=True)
class DocumentSection:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A title, opening paragraphs and sections."""

    title: str
    opening: tuple[Block, ...]
    sections: tuple[DocumentSection, ...]

    def pictures(self) -> list[Picture]:
        """Return all pictures in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]


def html(document: Document) -> str:
    """Return the whole page."""
    links = "".join(f'<a href="#{_anchor(s)}">{escape(s.title)}</a>' for s in document.sections)
    sections = "\n".join(
        f'<section id="{_anchor(s)}">\n<h2>{escape(s.title)}</h2>\n{_join(s.blocks)}\n</section>'
        for s in document.sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(document.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(document.title)}</h1>\n{_join(document.opening)}\n</header>\n"
        f"<nav>{links}</nav>\n<main>\n{sections}\n</main>\n</body>\n</html>\n"
    )


def _anchor(section: DocumentSection) -> str:
    return escape("".join(c if c.isalnum() else "-" for c in section.title.lower()))


def _join(blocks: tuple[Block, ...]) -> str:
    return "\n".join(_block(block) for block in blocks)


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return _picture(block)
    if isinstance(block, Code):
        pre = f"<pre>{escape(block.text)}</pre>"
        return f"<details><summary>{escape(block.title)}</summary>{pre}</details>" if block.title else pre
    return f"<p>{escape(block)}</p>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in table.rows
    )
    note = f'\n<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>{note}"
    )


def _picture(picture: Picture) -> str:
    light, kind = (picture.svg[0], "svg+xml") if picture.svg else (picture.png, "png")
    width = f' width="{picture.width}"' if picture.width else ""
    image = f'<img src="{_uri(light, kind)}" alt="{escape(picture.alt)}"{width}>'
    if picture.svg:
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_uri(picture.svg[1], kind)}">'
        image = f"<picture>{dark}{image}</picture>"
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>"
    return f'<figure><div class="scroll">{image}</div>{caption}</figure>'


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"


def to_markdown(document: Document, pictures: str) -> str:
    """Return the Markdown version; `pictures` is the folder of the PNG files, relative to it."""
    parts = [f"# {_plain(document.title)}", *(_markdown(block, pictures) for block in document.opening)]
    for section in document.sections:
        parts += [f"## {_plain(section.title)}", *(_markdown(block, pictures) for block in section.blocks)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _markdown(block: Block, pictures: str) -> str:
    if isinstance(block, Table):
        return markdown(block)
    if isinstance(block, Picture):
        return f"![{_plain(block.alt)}]({pictures}/{block.name}.png)\n\n{_plain(block.caption)}"
    if isinstance(block, Code):
        fence = "`" * max(3, 1 + _longest(block.text))
        return f"{_plain(block.title)}\n\n{fence}\n{block.text.strip()}\n{fence}"
    return _plain(block)


def _longest(text: str) -> int:
    """Length of the longest run of backticks: a fence must be longer than any inside."""
    runs = "".join(c if c == "`" else " " for c in text).split()
    return max(map(len, runs), default=0)


def _plain(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in " ".join(text.split()))
