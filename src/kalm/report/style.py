"""Colours and axes that all figures share.

An algorithm keeps one colour everywhere: pale without imagined rollouts, full with them. The colours are
those of Okabe and Ito, and two of Tol's, which colour-blind readers tell apart too.

Unusual: figures are `Figure` objects styled one by one; `pyplot` and matplotlib's global settings are not
touched, so that a server may draw from several threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

Format = Literal["png", "svg"]

COLORS = {
    "bc": "#0072b2",
    "cql": "#d55e00",
    "iql": "#009e73",
    "awac": "#cc79a7",
    "td3bc": "#e69f00",
    "combo": "#56b4e9",
    "lm": "#332288",
    "dt": "#117733",
}
OTHER = "#7f7f7f"
LEVEL_COLORS = {"seen": "#7f7f7f", "rephrase": "#009e73", "easy": "#e69f00", "hard": "#cc79a7"}
PALE = 0.45  # how much of an algorithm's colour remains without imagined rollouts


@dataclass(frozen=True)
class Theme:
    """Colours of text, faint lines and background; a paper of None leaves the background open."""

    ink: str
    faint: str
    ground: str
    paper: str | None


LIGHT = Theme("#1f2933", "#d9dee5", "#ffffff", None)
DARK = Theme("#e4e8ee", "#3d4653", "#161b22", None)
PRINT = Theme("#1f2933", "#d9dee5", "#ffffff", "#ffffff")
EITHER = Theme("#808a96", "#808a96", "#808a96", None)  # readable on white and on black


def color_of(algorithm: str, kalm: bool, theme: Theme = LIGHT) -> tuple[float, float, float]:
    """Return the colour of a policy, as RGB in [0, 1]."""
    full = np.array(to_rgb(COLORS.get(algorithm, OTHER)))
    ground = np.array(to_rgb(theme.ground))
    red, green, blue = full if kalm else PALE * full + (1 - PALE) * ground
    return float(red), float(green), float(blue)


def axes_of(axes: Axes, theme: Theme) -> Axes:
    """Give axes the theme: no box, faint horizontal lines behind the data."""
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)
    axes.tick_params(which="both", colors=theme.ink, labelsize=8, length=0)
    axes.grid(axis="y", color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def percent(axes: Axes, name: str, theme: Theme) -> None:
    """Make the y axis run from 0 to 100 %."""
    axes.set_ylim(0, 1.06)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    axes.set_ylabel(name, color=theme.ink, fontsize=8)


def legend(figure: Figure, axes: Axes, theme: Theme) -> None:
    """Put the labels of these axes in one line above the figure."""
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "outside upper left", "ncols": max(1, len(labels))}
    figure.legend(handles, labels, frameon=False, fontsize=8, labelcolor=theme.ink, **place)


def to_bytes(figure: Figure, fmt: Format, theme: Theme) -> bytes:
    """Return the file."""
    FigureCanvasAgg(figure)
    stream = BytesIO()
    metadata = {"Date": None} if fmt == "svg" else {"Software": None}
    figure.savefig(stream, format=fmt, dpi=160, facecolor=theme.paper or "none", metadata=metadata)
    return stream.getvalue()
