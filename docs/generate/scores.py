"""Tables of results, computed from the rows of episodes in results/*.csv as `kalm report` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from kalm.envs import published
from kalm.envs.base import Published
from kalm.evaluation.results import Episode, read_rows
from kalm.report import tables
from kalm.report.scores import NOVEL, TITLES, scores
from kalm.report.tables import Table
from kalm.types import NOVEL_LEVELS

ROOT = Path(__file__).parents[2]


def table(kind: str, file: str) -> str:
    """Return a table as Markdown.

    Args:
        kind: ``success``, ``gain``, ``kinds`` (success per kind of goal), ``held-back``, or ``readings``
            (asked in the sentence itself and in what a reader makes of it, side by side).
        file: rows of episodes, as a path from the root; the name begins with that of the environment.
    """
    rows = _rows(file)
    found = _table(kind, rows, published(Path(file).name.partition("-")[0]))
    assert found is not None, (kind, file)
    return tables.markdown(found)


@cache
def _rows(file: str) -> list[Episode]:
    """Read a file once for all of its tables."""
    return read_rows(ROOT / file)


def _table(kind: str, rows: Sequence[Episode], others: Published | None) -> Table | None:
    if kind == "success":
        return tables.success_table(scores(rows, others))
    if kind == "gain":
        return tables.gain_table(scores(rows, others))
    if kind == "readings":
        return _readings(rows)
    return {"kinds": tables.kind_table, "held-back": tables.held_back_table}[kind](rows)


def _readings(rows: Sequence[Episode]) -> Table:
    """One row per policy: its success asked in the sentence itself, then in a reader's plain words."""
    columns = (*NOVEL_LEVELS, NOVEL)
    titles = [TITLES.get(column, column) for column in columns]
    found = scores(rows)
    read = {(score.algorithm, score.data): score for score in found if score.reading}
    lines = []
    for score in found:
        if not score.reading and (other := read.get((score.algorithm, score.data))):
            cells = [tables.share(each.rates[column]) for each in (score, other) for column in columns]
            lines.append((score.policy, *cells))
    episodes = ", ".join(sorted({f"{score.rates[level].n:,}" for score in found for level in NOVEL_LEVELS}))
    return Table(
        "Success (%), asked in the sentence itself and through the reader",
        ("policy", *titles, *(f"{title}, read" for title in titles)),
        tuple(lines),
        f"{tables.EXPLAINED} Here that is {episodes} of every level, over "
        f"{len(found[0].seeds)} training seeds. {tables.of_scores(found)}",
    )
