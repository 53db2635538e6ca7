"""Success over gradient steps and over rounds: one panel per level, one line per policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kalm.evaluation.results import Episode
from kalm.evaluation.statistics import Rate, pooled
from kalm.report.scores import ordered
from kalm.report.style import INK, axes_of, color_of, legend, percent

Points = Mapping[int, Sequence[Episode]]  # gradient steps, or round -> episodes


def learning_curves(evaluations: Sequence[Episode]) -> Figure | None:
    """Draw success over gradient steps, from the evaluations of training; None where nothing was played.

    A band is the 95 % interval over training seeds. A step that only some seeds have reached is left out.
    """
    seeds = {
        policy: {row.seed for row in evaluations if row.policy == policy} for policy in _policies(evaluations)
    }
    points: dict[int, list[Episode]] = {}
    for row in evaluations:
        points.setdefault(row.checkpoint_step, []).append(row)
    whole = {
        step: [row for row in rows if _seeds(rows, row.policy) == seeds[row.policy]]
        for step, rows in sorted(points.items())
    }
    return _panels(whole, "gradient steps")


def round_curves(rounds: Points) -> Figure | None:
    """Draw success over the rounds of the online loop; None with fewer than two rounds."""
    return _panels(rounds, "round") if len(rounds) > 1 else None


def _panels(points: Points, across: str) -> Figure | None:
    rows = [row for episodes in points.values() for row in episodes]
    levels = ordered({row.level for row in rows})
    if not levels:
        return None
    figure = Figure((max(5.0, 2.8 * len(levels)), 3.1), layout="constrained")
    grid = np.atleast_1d(figure.subplots(1, len(levels), sharey=True))
    for axes, level in zip(grid, levels, strict=True):
        axes_of(axes)
        for policy in _policies(rows):
            _line(axes, points, policy, level)
        axes.set_title(level, color=INK, fontsize=10)
        axes.set_xlabel(across, color=INK, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    percent(grid[0], "success")
    legend(figure, grid[0])
    return figure


def _line(axes: Axes, points: Points, policy: str, level: str) -> None:
    mine = {
        at: [row for row in rows if row.policy == policy and row.level == level]
        for at, rows in points.items()
    }
    rates = {at: _rate(rows) for at, rows in mine.items() if rows}
    if not rates:
        return
    label = next(row for rows in mine.values() for row in rows)
    color = color_of(label.algorithm, label.data)
    places = list(rates)
    axes.plot(places, [rate.mean for rate in rates.values()], color=color, linewidth=1.4, label=policy)
    low, high = [rate.low for rate in rates.values()], [rate.high for rate in rates.values()]
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)


def _rate(rows: Sequence[Episode]) -> Rate:
    seeds = sorted({row.seed for row in rows})
    won = [sum(row.success for row in rows if row.seed == seed) for seed in seeds]
    return pooled(won, [sum(row.seed == seed for row in rows) for seed in seeds])


def _policies(rows: Sequence[Episode]) -> list[str]:
    return list(dict.fromkeys(row.policy for row in rows))


def _seeds(rows: Sequence[Episode], policy: str) -> set[int]:
    return {row.seed for row in rows if row.policy == policy}
