"""Whether directions are understood: goal first, broken down by direction and family of wordings.

The same for imagined rollouts and for policies; `kalm.data.scoring.first_true` says what is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kalm.evaluation.imagined import Quality
from kalm.evaluation.results import Episode
from kalm.report.scores import goal_first_of, ordered, scores
from kalm.report.tables import FIRST_EXPLAINED, MISSING, Table, cell, noted, of_rows

OTHERS = "Compositions and gatherings have no single direction and other chances."


def quality_directions(found: Mapping[str, Quality]) -> Table | None:
    """One column per level of rollouts; None where goal first was not measured."""
    columns = {level: _cells(part) for level, part in found.items() if part.goal_first}
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    if not columns:
        return None
    return Table(
        "Goal first by direction and family of wordings (%)",
        ("asked for", *columns),
        tuple((name, *(cells.get(name, MISSING) for cells in columns.values())) for name in names),
        noted(FIRST_EXPLAINED, OTHERS),
    )


def _cells(found: Quality) -> dict[str, str]:
    return {
        "all": cell(found.goal_first),
        **{f"direction: {name}": cell(part) for name, part in found.first_by_direction.items()},
        **{f"words: {name}": cell(part) for name, part in found.first_by_family.items()},
    }


def policy_directions(rows: Sequence[Episode]) -> Table | None:
    """One column per policy; None where goal first was not measured."""
    decided = [row for row in rows if row.first]
    if not decided:
        return None
    policies = [score.policy for score in scores(decided)]
    places = [
        (level, f"{what}: {name}", part)
        for level in ordered({row.level for row in decided})
        for what, field in (("direction", "direction"), ("words", "family"))
        for name, part in _parts([row for row in decided if row.level == level], field)
    ]
    return Table(
        "Goal first by direction and family of wordings (%)",
        ("level", "asked for", *policies),
        tuple(
            (level, name, *(cell(goal_first_of(_of(part, policy))) for policy in policies))
            for level, name, part in places
        ),
        noted(FIRST_EXPLAINED, OTHERS, of_rows(decided)),
    )


def _parts(rows: Sequence[Episode], field: str) -> list[tuple[str, list[Episode]]]:
    """Return the rows of each direction or family, those without one left out."""
    names = sorted({getattr(row, field) for row in rows} - {""})
    return [(name, [row for row in rows if getattr(row, field) == name]) for name in names]


def _of(rows: Iterable[Episode], policy: str) -> list[Episode]:
    return [row for row in rows if row.policy == policy]
