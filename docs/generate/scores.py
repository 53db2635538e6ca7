"""Tables of results, computed from the rows of episodes in results/*.csv as `kalm report` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kalm.envs import published
from kalm.envs.base import Published
from kalm.evaluation.results import Episode, read_rows
from kalm.report import tables
from kalm.report.scores import scores
from kalm.report.tables import Table

ROOT = Path(__file__).parents[2]


def table(kind: str, file: str) -> str:
    """Return a table as Markdown.

    Args:
        kind: ``success``, ``gain``, ``kinds`` (success per kind of goal) or ``held-back``.
        file: rows of episodes, as a path from the root; the name begins with that of the environment.
    """
    rows = read_rows(ROOT / file)
    found = _table(kind, rows, published(Path(file).name.partition("-")[0]))
    assert found is not None, (kind, file)
    return tables.markdown(found)


def _table(kind: str, rows: Sequence[Episode], others: Published | None) -> Table | None:
    if kind == "success":
        return tables.success_table(scores(rows, others))
    if kind == "gain":
        return tables.gain_table(scores(rows, others))
    return {"kinds": tables.kind_table, "held-back": tables.held_back_table}[kind](rows)
