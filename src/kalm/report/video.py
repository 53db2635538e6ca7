"""Films of rollouts beside each other, and strips of pictures below each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kalm.errors import unknown
from kalm.report.films import Filmstrip, film, filmstrip
from kalm.report.style import FAINT, INK, PAPER
from kalm.runs.io import atomic_write

if TYPE_CHECKING:
    from kalm.report.watch import Watched

ENDINGS = (".mp4", ".gif", ".png")
FRAMES_PER_SECOND = 10
HOLD = 12  # frames that the end is shown
LINE = 22  # pixels of a line of text
GAP = 8


def save_film(watched: Watched, path: Path, size: int) -> Path:
    """Write what was watched as the file's ending says; see `Watched.save`."""
    ending = require_film(path)
    with atomic_write(path) as temporary:
        if ending == ".png":
            films = tuple(film(watched.world, view.rollout, view.title) for view in watched.views)
            instruction = watched.understood.instruction
            strip = filmstrip(Filmstrip(instruction.text, instruction.level, films))
            strip.suptitle(instruction.text)
            strip.savefig(temporary, dpi=150)
        elif ending == ".gif":
            first, *others = (Image.fromarray(frame) for frame in frames(watched, size))
            first.save(
                temporary,
                save_all=True,
                append_images=others,
                duration=1000 // FRAMES_PER_SECOND,
                loop=0,
            )
        else:
            import imageio.v3 as imageio

            pictures = np.stack(list(frames(watched, size)))
            imageio.imwrite(
                temporary, pictures, plugin="pyav", codec="libx264", fps=FRAMES_PER_SECOND, extension=".mp4"
            )
    return path


def require_film(path: Path) -> str:
    """Return the ending of a film's file. Raises KalmError: it is none that can be written."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise unknown("kind of film", ending or path.name, ENDINGS)
    return ending


def frames(watched: Watched, size: int) -> Iterator[np.ndarray]:
    """Draw the film, a frame per action: the sentence above, the rollouts beside each other, verdicts below.

    A rollout that is over stays as it ended. -> (height, width, 3) uint8 each, height and width even.
    """
    views = watched.views
    width = len(views) * (size + GAP) + GAP
    width += width % 2
    font = ImageFont.load_default(14)
    lines = wrapped(watched.understood.instruction.text, font, width - 2 * GAP)
    top = LINE * len(lines) + GAP
    height = top + LINE + size + LINE + GAP
    paper = Image.new("RGB", (width, height + height % 2), PAPER)
    pen = ImageDraw.Draw(paper)
    for row, line in enumerate(lines):
        pen.text((GAP, GAP + row * LINE), line, INK, font)
    corners = [GAP + column * (size + GAP) for column in range(len(views))]
    for view, left in zip(views, corners, strict=True):
        pen.text((left, top), view.title, INK, font)
        pen.rectangle((left - 1, top + LINE - 1, left + size, top + LINE + size), outline=FAINT)
    for step in range(max(len(view.rollout.actions) for view in views) + 1):
        for view, left in zip(views, corners, strict=True):
            own = len(view.rollout.actions)
            if step > own:
                continue
            picture = watched.world.render(view.rollout.states[step], size)
            paper.paste(Image.fromarray(picture), (left, top + LINE))
            below = top + LINE + size + 2
            pen.rectangle((left, below, left + size, below + LINE), fill=PAPER)
            pen.text((left, below), view.verdict if step == own else f"action {step + 1}", INK, font)
        yield np.array(paper)
    yield from [np.array(paper)] * HOLD


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a text into lines of at most this many pixels, where words allow it."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
