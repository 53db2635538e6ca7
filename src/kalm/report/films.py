"""Filmstrips: an imagined rollout above the policy's real one, same instruction and initial state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from kalm.envs.base import World
from kalm.report.style import EITHER
from kalm.types import Rollout


@dataclass(frozen=True)
class Film:
    """One rollout as pictures: K frames of (H, W, 3) uint8 and the number of actions taken before each."""

    title: str
    frames: tuple[np.ndarray, ...]
    steps: tuple[int, ...]
    success: bool


@dataclass(frozen=True)
class Filmstrip:
    """Rollouts of the same instruction from the same initial state, one below the other."""

    text: str
    level: str
    films: tuple[Film, ...]


def film(world: World, rollout: Rollout, title: str, frames: int = 8, size: int = 160) -> Film:
    """Draw at most `frames` states of a rollout, evenly spaced, the first and the last among them."""
    last = len(rollout.actions)
    steps = np.unique(np.linspace(0, last, min(frames, last + 1)).round().astype(int))
    drawn = tuple(world.render(rollout.states[step], size) for step in steps)
    return Film(title, drawn, tuple(steps.tolist()), rollout.success)


def verdict_of(success: bool) -> str:
    """Say whether a rollout reached its goal."""
    return "goal reached" if success else "goal not reached"


def across(strip: Filmstrip) -> int:
    """Return the number of frames beside each other; at least 4, which leaves room for the titles."""
    return max(4, *(len(one.frames) for one in strip.films))


def filmstrip(strip: Filmstrip) -> Figure:
    """Draw films below each other; below each frame stands the number of actions taken before it."""
    columns = across(strip)
    figure = Figure((1.25 * columns, 1.65 * len(strip.films)), layout="constrained")
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(strip.films), 1)))
    for part, one in zip(parts, strip.films, strict=True):
        part.suptitle(f"{one.title}: {verdict_of(one.success)}", fontsize=8, color=EITHER, x=0.005, ha="left")
        grid = np.atleast_1d(part.subplots(1, columns))
        for axes in grid:
            axes.set_axis_off()
        for axes, frame, step in zip(grid, one.frames, one.steps, strict=False):
            axes.imshow(frame)
            axes.set_title(str(step), fontsize=7, color=EITHER, y=-0.14, pad=0)
    return figure
