"""The table of a sweep: algorithms by levels, plain beside +KALM, and what imagined rollouts add.

The same numbers as CSV, one line per algorithm and level, for programs.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from kalm.evaluation.statistics import Difference, Rate
from kalm.report.scores import TITLES, Gain, Score, columns_of, gains
from kalm.report.tables import EXPLAINED, Table, cell, first_note, first_row, noted, of_scores, points
from kalm.runs.io import atomic_write

RATE = ("success", "low", "high", "seeds", "episodes")
CSV_HEADER = (
    "algorithm",
    "level",
    *(f"{variant}_{name}" for variant in ("plain", "kalm") for name in RATE),
    *("difference", "difference_low", "difference_high"),
)


def grid_table(found: Sequence[Score]) -> Table:
    """Per algorithm: plain, +KALM, below each goal first where it was measured, and their difference."""
    columns = columns_of(found)
    compared = {gain.algorithm: gain for gain in gains(found)}
    rows: list[tuple[str, ...]] = []
    for place, score in enumerate(found):
        cells = (cell(score.rates.get(column)) for column in columns)
        rows.append((score.policy, *cells, str(len(score.seeds))))
        rows += first_row(score, columns)
        last = place + 1 == len(found) or found[place + 1].algorithm != score.algorithm
        if last and score.algorithm in compared:
            rows.append(_difference(compared[score.algorithm], columns))
    return Table(
        "All algorithms (success in %, differences in points)",
        ("policy", *(TITLES.get(column, column) for column in columns), "seeds"),
        tuple(rows),
        noted(
            EXPLAINED,
            first_note(found),
            "Differences have their 95 % interval in brackets; * where it leaves out zero.",
            of_scores(found),
        ),
    )


def _difference(gain: Gain, columns: Sequence[str]) -> tuple[str, ...]:
    cells = (points(gain.differences.get(column)) for column in columns)
    return (f"{gain.kalm.policy} − {gain.plain.policy}", *cells, "")


def write_grid(path: Path, found: Sequence[Score]) -> None:
    """Write the table as CSV, shares in [0, 1]; a field is empty where nothing was measured."""
    compared = {gain.algorithm: gain for gain in gains(found)}
    variants: dict[str, dict[bool, Score]] = {}
    for score in found:
        variants.setdefault(score.algorithm, {})[score.kalm] = score
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(CSV_HEADER)
        for algorithm, both in variants.items():
            for column in columns_of(list(both.values())):
                rates = [both[kalm].rates.get(column) if kalm in both else None for kalm in (False, True)]
                gain = compared.get(algorithm)
                change = gain.differences.get(column) if gain else None
                writer.writerow([algorithm, column, *_fields(rates[0]), *_fields(rates[1]), *_ends(change)])


def _fields(rate: Rate | None) -> list[str]:
    if rate is None:
        return [""] * len(RATE)
    return [*map(_number, (rate.mean, rate.low, rate.high)), str(len(rate.by_seed)), str(rate.n)]


def _ends(change: Difference | None) -> list[str]:
    if change is None:
        return [""] * 3
    return [_number(value) for value in (change.mean, change.low, change.high)]


def _number(value: float) -> str:
    return f"{value:.5f}"
