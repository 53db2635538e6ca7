"""One sentence that was watched: its rollouts beside each other, as a film or as strips of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kalm.envs.base import World
from kalm.errors import unknown
from kalm.reader.plans import Plan
from kalm.report.films import Filmstrip, film, filmstrip, verdict_of
from kalm.report.style import FAINT, INK, PAPER
from kalm.runs.io import atomic_write
from kalm.types import Instruction, JsonObject, Rollout

ENDINGS = (".mp4", ".gif", ".png")
FRAMES_PER_SECOND = 10
HOLD = 12  # frames that the end is shown
LINE = 22  # pixels of a line of text
GAP = 8


@dataclass(frozen=True)
class Understood:
    """A sentence with its goal.

    Attributes:
        instruction: the sentence, with the goal by which all is judged.
        plan: what the reader made of it.
    """

    instruction: Instruction
    plan: Plan


@dataclass(frozen=True)
class WatchedRollout:
    """One rollout, and what it took."""

    title: str
    rollout: Rollout
    seconds: float

    @property
    def verdict(self) -> str:
        """Whether the goal was reached, and after how many actions."""
        return f"{verdict_of(self.rollout.success)}, {len(self.rollout.actions)} actions"


@dataclass(frozen=True)
class Watched:
    """One sentence and its rollouts.

    Attributes:
        world: where.
        understood: the sentence.
        views: its rollouts, all from one state.
    """

    world: World
    understood: Understood
    views: tuple[WatchedRollout, ...]

    def save(self, path: str | Path, size: int = 256) -> Path:
        """Draw the rollouts beside each other: a film (``.mp4``, ``.gif``) or a strip of pictures (``.png``).

        Args:
            path: file to write.
            size: of each rollout, in pixels.

        Raises:
            KalmError: another ending, or the file cannot be written.
        """
        place = Path(path)
        ending = require_film(place)
        with atomic_write(place) as temporary:
            if ending == ".png":
                _save_strip(self, temporary)
            elif ending == ".gif":
                _save_gif(self, temporary, size)
            else:
                _save_mp4(self, temporary, size)
        return place

    def to_json(self) -> JsonObject:
        """Return JSON-ready figures."""
        return {
            "text": self.understood.instruction.text,
            "goal": self.understood.instruction.goal.to_json(),
            "reading": self.understood.plan.to_json(),
            "rollouts": {
                view.title: {
                    "success": view.rollout.success,
                    "actions": len(view.rollout.actions),
                    "seconds": view.seconds,
                }
                for view in self.views
            },
        }

    def __str__(self) -> str:
        plan = self.understood.plan
        doubt = "" if plan.sure else ", not sure enough to be used"
        lines = [f"read as: {plan.text}  ({plan.confidence:.0%}{doubt})"]
        lines += [f"{view.title}: {view.verdict}, {view.seconds:.1f} s" for view in self.views]
        return "\n".join(lines)


def _save_strip(watched: Watched, path: Path) -> None:
    films = tuple(film(watched.world, view.rollout, view.title) for view in watched.views)
    instruction = watched.understood.instruction
    strip = filmstrip(Filmstrip(instruction.text, instruction.level, films))
    lines = textwrap.wrap(instruction.text, int(13 * strip.get_figwidth()))
    strip.set_figheight(strip.get_figheight() + 0.2 * len(lines))
    strip.suptitle("\n".join(lines), fontsize=9)
    strip.savefig(path, dpi=150)


def _save_gif(watched: Watched, path: Path, size: int) -> None:
    first, *others = (Image.fromarray(frame) for frame in frames(watched, size))
    milliseconds = 1000 // FRAMES_PER_SECOND
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)


def _save_mp4(watched: Watched, path: Path, size: int) -> None:
    from imageio import v3

    pictures = np.stack(list(frames(watched, size)))
    v3.imwrite(path, pictures, plugin="pyav", codec="libx264", fps=FRAMES_PER_SECOND, extension=".mp4")


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
