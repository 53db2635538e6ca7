"""Colours and axes that all figures share.

An algorithm keeps one colour everywhere: pale without imagined rollouts, full with them, in between for the
controls of those. The colours are
those of Okabe and Ito, and two of Tol's, which colour-blind readers tell apart too. Figures are drawn for
white paper; `for_dark_screens` gives an SVG file its other colours, which is far faster than to draw again.

Unusual: figures are `Figure` objects styled one by one; `pyplot` and matplotlib's global settings are not
touched, so that a server may draw from several threads.
"""

from __future__ import annotations

import re
from io import BytesIO
from itertools import product
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kalm.runs.folder import DataKind

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
# How much of an algorithm's colour is left, by what its policy learned from.
STRENGTH: dict[DataKind, float] = {"plain": 0.45, "kalm": 1.0, "shuffled": 0.6, "unfiltered": 0.75}
INK, FAINT, PAPER = "#1f2933", "#d9dee5", "#ffffff"  # text, faint lines, background
DARK_INK, DARK_FAINT, DARK_PAPER = "#e4e8ee", "#3d4653", "#161b22"
EITHER = "#808a96"  # text readable on white and on black


def color_of(algorithm: str, data: DataKind, paper: str = PAPER) -> tuple[float, float, float]:
    """Return the colour of a policy, as RGB in [0, 1]."""
    full = np.array(to_rgb(COLORS.get(algorithm, OTHER)))
    ground = np.array(to_rgb(paper))
    red, green, blue = STRENGTH[data] * full + (1 - STRENGTH[data]) * ground
    return float(red), float(green), float(blue)


def axes_of(axes: Axes) -> Axes:
    """Give axes our style: no box, faint horizontal lines behind the data."""
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(which="both", colors=INK, labelsize=8, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def percent(axes: Axes, name: str) -> None:
    """Make the y axis run from 0 to 100 %."""
    axes.set_ylim(0, 1.06)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    axes.set_ylabel(name, color=INK, fontsize=8)


def legend(figure: Figure, axes: Axes) -> None:
    """Put the labels of these axes in one line above the figure."""
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "outside upper left", "ncols": max(1, len(labels))}
    figure.legend(handles, labels, frameon=False, fontsize=8, labelcolor=INK, **place)


def to_bytes(figure: Figure, fmt: Format, paper: str = "none") -> bytes:
    """Return the file; a paper of "none" leaves the background open. Later calls keep the first's layout."""
    FigureCanvasAgg(figure)
    stream = BytesIO()
    metadata = {"Date": None} if fmt == "svg" else {"Software": None}
    figure.savefig(stream, format=fmt, dpi=160, facecolor=paper, metadata=metadata)
    figure.set_layout_engine("none")
    return stream.getvalue()


def for_dark_screens(svg: bytes) -> bytes:
    """Return the SVG file in the colours for a dark background."""
    changes = {INK: DARK_INK, FAINT: DARK_FAINT}
    for algorithm, data in product((*COLORS, ""), STRENGTH):
        changes[to_hex(color_of(algorithm, data))] = to_hex(color_of(algorithm, data, DARK_PAPER))
    return re.sub(r"#[0-9a-f]{6}\b", lambda old: changes.get(old[0], old[0]), svg.decode()).encode()
