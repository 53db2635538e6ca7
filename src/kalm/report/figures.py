"""Plots: success bars, quality of imagined rollouts, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.typing import ColorType

from kalm.evaluation.imagined import Quality
from kalm.evaluation.results import Label
from kalm.evaluation.statistics import Rate
from kalm.report.scores import MIX, TITLES, Score, columns_of
from kalm.report.style import (
    COLORS,
    INK,
    LEVEL_COLORS,
    OTHER,
    axes_of,
    color_of,
    legend,
    percent,
)

INTERNAL = ("_lr", "gradient_norm")  # metrics that say nothing about quality
PLAYED = "success/"  # metrics with a figure of their own (`kalm.report.curves`)
LOSSES = ("", "train", "held_out")  # families of the language model's metrics that are losses ...
GOAL_FIRST = "goal_first"  # a family with a line for who does not understand directions
SIZES = ("dynamics",)  # ... and those that are sizes, while the others are shares


@dataclass(frozen=True)
class Curve:
    """Metrics of one training: rows of ``{"step": ..., name: value}``."""

    label: Label
    rows: Sequence[Mapping[str, float]]


def success_bars(found: Sequence[Score]) -> Figure:
    """One group of bars per level and novel mean, one bar per policy, with 95 % intervals."""
    columns = [column for column in columns_of(found) if column != MIX]
    figure = Figure((max(6.0, 1.4 + 1.5 * len(columns)), 3.6), layout="constrained")
    axes = axes_of(figure.add_subplot())
    width = 0.82 / max(1, len(found))
    for place, score in enumerate(found):
        here = [(x, score.rates[column]) for x, column in enumerate(columns) if column in score.rates]
        _bars(
            axes,
            [x + (place - (len(found) - 1) / 2) * width for x, _ in here],
            [rate for _, rate in here],
            0.92 * width,
            color_of(score.algorithm, score.data),
            score.policy,
        )
    axes.set_xticks(range(len(columns)), [TITLES.get(column, column) for column in columns])
    percent(axes, "success")
    legend(figure, axes)
    return figure


def quality_bars(
    found: Mapping[str, Quality],
    match: Mapping[str, float] | None = None,
    violations: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Match rate and violations of imagined rollouts per level; diamonds mark the paper's figures.

    Args:
        found: level -> quality.
        match: level -> published match rate.
        violations: measure -> level -> published share of rollouts.
    """
    panels = {"goal reached": {level: quality.match for level, quality in found.items()}}
    marks: dict[str, Mapping[str, float]] = {"goal reached": match or {}}
    for name in dict.fromkeys(name for quality in found.values() for name in quality.violations):
        title = name.replace("_", " ")
        panels[title] = {
            level: quality.violations[name][0]
            for level, quality in found.items()
            if name in quality.violations
        }
        marks[title] = (violations or {}).get(name, {})
    figure = Figure((max(5.0, 3.1 * len(panels)), 3.2), layout="constrained")
    grid = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (title, rates) in zip(grid, panels.items(), strict=True):
        _quality_panel(axes_of(axes), title, rates, marks[title])
    percent(grid[0], "share of imagined rollouts")
    return figure


def first_bars(panels: Mapping[str, Mapping[str, tuple[Rate, Rate | None]]]) -> Figure:
    """Reached goals beside goal first, with the line of who does not understand directions.

    Args:
        panels: title -> level -> share that reaches the goal, and goal first, or None where unmeasured.
    """
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure = Figure((max(5.0, 3.1 * across), 2.9 * down + 0.3), layout="constrained")
    grid = np.atleast_1d(figure.subplots(down, across, sharey=True)).ravel()
    for axes, (title, levels) in zip(grid, panels.items(), strict=False):
        axes_of(axes)
        axes.axhline(0.5, color=INK, linewidth=0.9, linestyle="--")
        reached = {place: rate for place, (rate, _) in enumerate(levels.values())}
        first = {place: rate for place, (_, rate) in enumerate(levels.values()) if rate}
        for shift, color, label, rates in (
            (-0.2, OTHER, "goal reached", reached),
            (0.2, COLORS["bc"], "goal first (dashed: directions not understood)", first),
        ):
            _bars(axes, [place + shift for place in rates], list(rates.values()), 0.37, color, label)
        axes.set_xticks(range(len(levels)), list(levels))
        axes.set_title(title, color=INK, fontsize=10)
        percent(axes, "share" if axes is grid[0] else "")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    legend(figure, grid[0])
    return figure


def _quality_panel(axes: Axes, title: str, rates: Mapping[str, Rate], marks: Mapping[str, float]) -> None:
    for place, (level, rate) in enumerate(rates.items()):
        _bars(axes, [place], [rate], 0.62, to_rgb(LEVEL_COLORS.get(level, OTHER)), level)
        if level in marks:
            axes.plot(place + 0.38, marks[level], marker="D", color=INK, markersize=4, linestyle="none")
    axes.set_xticks(range(len(rates)), list(rates))
    axes.set_title(title, color=INK, fontsize=10)


def _bars(
    axes: Axes,
    places: Sequence[float],
    rates: Sequence[Rate],
    width: float,
    color: ColorType,
    label: str,
) -> None:
    means = [rate.mean for rate in rates]
    sides = [[rate.mean - rate.low for rate in rates], [rate.high - rate.mean for rate in rates]]
    axes.bar(places, means, width, color=color, label=label)
    axes.errorbar(places, means, sides, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2, capthick=0.9)
    for place, rate in zip(places, rates, strict=True):
        at = (place, rate.high)
        axes.annotate(
            f"{100 * rate.mean:.0f}",
            at,
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )


def loss_curves(rows: Sequence[Mapping[str, float]]) -> Figure | None:
    """Losses of the language model, in training and on held-out rollouts; None where there are none."""
    families = {name: lines for name, lines in _families(rows).items() if name in LOSSES}
    return _panels(rows, families)


def ability_curves(rows: Sequence[Mapping[str, float]]) -> Figure | None:
    """Whatever else was measured while the language model was grounded; None where nothing was."""
    families = {name: lines for name, lines in _families(rows).items() if name not in LOSSES}
    return _panels(rows, families)


def _families(rows: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    """Group metrics by the part of their name before ``/``."""
    families: dict[str, list[str]] = {}
    for name in _metrics(rows):
        families.setdefault(name.rpartition("/")[0], []).append(name)
    return families


def _panels(rows: Sequence[Mapping[str, float]], families: Mapping[str, Sequence[str]]) -> Figure | None:
    """One panel per family, one line per metric."""
    if not families:
        return None
    across = min(3, len(families))
    down = -(-len(families) // across)
    figure = Figure((max(5.0, 3.4 * across), 2.9 * down + 0.3), layout="constrained")
    grid = np.atleast_1d(figure.subplots(down, across)).ravel()
    for axes, (family, names) in zip(grid, families.items(), strict=False):
        axes_of(axes)
        for place, name in enumerate(names):
            short = name.rpartition("/")[2]
            color = LEVEL_COLORS.get(short, list(COLORS.values())[place % len(COLORS)])
            axes.plot(*_line(rows, name), color=color, linewidth=1.4, label=short.replace("_", " "))
        if family == GOAL_FIRST:
            axes.axhline(0.5, color=INK, linewidth=0.9, linestyle="--")
        _finish_curves(axes, family or "loss", names, [rows], family not in (*LOSSES, *SIZES))
        axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    for axes in grid[len(families) :]:
        axes.set_visible(False)
    return figure


def policy_curves(curves: Sequence[Curve]) -> Figure | None:
    """One panel per metric, one line per training; None where there is nothing to draw."""
    every = dict.fromkeys(name for curve in curves for name in _metrics(curve.rows))
    names = [name for name in every if not name.startswith(PLAYED)]
    if not names:
        return None
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = Figure((max(5.0, 3.4 * across), 2.7 * down + 0.4), layout="constrained")
    grid = np.atleast_1d(figure.subplots(down, across)).ravel()
    for axes, name in zip(grid, names, strict=False):
        axes_of(axes)
        told: set[str] = set()
        for curve in curves:
            label = curve.label
            color = color_of(label.algorithm, label.data)
            shown = "_" if label.policy in told else label.policy
            told.add(label.policy)
            if name in _metrics(curve.rows):
                axes.plot(*_line(curve.rows, name), color=color, linewidth=1.3, label=shown)
        _finish_curves(axes, name, [name], [curve.rows for curve in curves], "success" in name)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    legend(figure, grid[0])
    return figure


def _metrics(rows: Sequence[Mapping[str, float]]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    return [name for name in names if not name.endswith(INTERNAL)]


def _line(rows: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    there = [row for row in rows if name in row]
    return [row["step"] for row in there], [row[name] for row in there]


def _finish_curves(
    axes: Axes,
    title: str,
    names: Sequence[str],
    runs: Sequence[Sequence[Mapping[str, float]]],
    shares: bool,
) -> None:
    values = [value for rows in runs for name in names for value in _line(rows, name)[1]]
    if shares and max(values) <= 1:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    elif min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set_title(title.replace("_", " ").replace("/", ": "), color=INK, fontsize=10)
    axes.set_xlabel("gradient steps", color=INK, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
