"""The table of a sweep: algorithms by levels, plain beside +KALM and its controls, and what data add.

The same numbers as CSV, one line per algorithm and level, for programs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from kalm.evaluation.statistics import Difference, Rate
from kalm.report.scores import TITLES, Gain, Score, attributions, columns_of, gains
from kalm.report.tables import (
    EXPLAINED,
    Table,
    attribution_lines,
    cell,
    first_note,
    first_row,
    noted,
    of_scores,
    points,
)
from kalm.runs.folder import DATA_KINDS
from kalm.runs.io import atomic_write

RATE = ("success", "low", "high", "seeds", "episodes")
FIRST = ("goal_first", "goal_first_low", "goal_first_high", "goal_first_episodes")
ENDS = ("", "_low", "_high")
# What +KALM adds, by what it is compared with.
CHANGES = {"plain": "difference", "shuffled": "over_shuffled", "unfiltered": "over_unfiltered"}
CSV_HEADER = (
    "algorithm",
    "level",
    *(f"{data}_{name}" for data in ("plain", "kalm") for name in RATE),
    *(f"difference{end}" for end in ENDS),
    *(f"{data}_{name}" for data in ("shuffled", "unfiltered") for name in RATE),
    *(f"over_{data}{end}" for data in ("shuffled", "unfiltered") for end in ENDS),
    *(f"{data}_{name}" for data in DATA_KINDS for name in FIRST),
)


def grid_table(found: Sequence[Score]) -> Table:
    """Per algorithm: plain, +KALM, controls, below each goal first where it was measured; differences."""
    columns = columns_of(found)
    compared = [*gains(found), *attributions(found)]
    rows: list[tuple[str, ...]] = []
    for place, score in enumerate(found):
        cells = (cell(score.rates.get(column)) for column in columns)
        rows.append((score.policy, *cells, str(len(score.seeds))))
        rows += first_row(score, columns)
        last = place + 1 == len(found) or found[place + 1].algorithm != score.algorithm
        if last:
            rows += [_difference(gain, columns) for gain in compared if gain.algorithm == score.algorithm]
    return Table(
        "All algorithms (success in %, differences in points)",
        ("policy", *(TITLES.get(column, column) for column in columns), "seeds"),
        tuple(rows),
        noted(
            EXPLAINED,
            first_note(found),
            "Differences have their 95 % interval in brackets; * where it leaves out zero.",
            *attribution_lines(found),
            of_scores(found),
        ),
    )


def _difference(gain: Gain, columns: Sequence[str]) -> tuple[str, ...]:
    cells = (points(gain.differences.get(column)) for column in columns)
    return (gain.name, *cells, "")


def write_grid(path: Path, found: Sequence[Score]) -> None:
    """Write the table as CSV, shares in [0, 1]; a field is empty where nothing was measured."""
    compared = [gain for gain in (*gains(found), *attributions(found)) if gain.score.data == "kalm"]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, CSV_HEADER, restval="")
        writer.writeheader()
        for algorithm in dict.fromkeys(score.algorithm for score in found):
            mine = [score for score in found if score.algorithm == algorithm]
            changes = [gain for gain in compared if gain.algorithm == algorithm]
            for column in columns_of(mine):
                fields = {"algorithm": algorithm, "level": column}
                for score in mine:
                    fields |= _rate(score.data, score.rates.get(column))
                    fields |= _first(score.data, score.first.get(column))
                for gain in changes:
                    fields |= _change(CHANGES[gain.base.data], gain.differences.get(column))
                writer.writerow(fields)


def _rate(data: str, rate: Rate | None) -> dict[str, str]:
    if rate is None:
        return {}
    numbers = [*map(_number, (rate.mean, rate.low, rate.high)), str(len(rate.by_seed)), str(rate.n)]
    return {f"{data}_{name}": number for name, number in zip(RATE, numbers, strict=True)}


def _first(data: str, rate: Rate | None) -> dict[str, str]:
    if rate is None:
        return {}
    numbers = [*map(_number, (rate.mean, rate.low, rate.high)), str(rate.n)]
    return {f"{data}_{name}": number for name, number in zip(FIRST, numbers, strict=True)}


def _change(name: str, change: Difference | None) -> dict[str, str]:
    if change is None:
        return {}
    numbers = map(_number, (change.mean, change.low, change.high))
    return {f"{name}{end}": number for end, number in zip(ENDS, numbers, strict=True)}


def _number(value: float) -> str:
    return f"{value:.5f}"
