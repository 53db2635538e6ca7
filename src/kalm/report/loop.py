"""What the online loop brought: success per round and policy, and what was collected on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kalm.evaluation.results import Episode
from kalm.evaluation.statistics import difference
from kalm.report.scores import NOVEL, TITLES, columns_of, scores
from kalm.report.tables import EXPLAINED, Table, cell, noted, of_rows, points
from kalm.types import JsonObject

PRACTISED = (
    "From round 1 on, policies have practised goals of novel levels in the simulator, in the wordings that "
    "are not held back: their success there is no longer that of unseen goals. Every round plays the same "
    "episodes."
)


@dataclass(frozen=True)
class Round:
    """One round of the online loop; round 0 is the run before it.

    Attributes:
        rows: episodes of its evaluation.
        collected: figures of what it collected: ``episodes``, ``kept``, and ``levels`` of those; empty for 0.
    """

    rows: Sequence[Episode]
    collected: JsonObject = field(default_factory=dict)


def rounds_table(rounds: Sequence[Round]) -> Table:
    """One row per policy and round; the last column is the gain on novel levels since round 0."""
    by_round = [{score.policy: score for score in scores(one.rows)} for one in rounds]
    columns = columns_of([score for found in by_round for score in found.values()])
    rows = []
    for policy, first in by_round[0].items():
        for number, found in enumerate(by_round):
            rates = found[policy].rates if policy in found else {}
            both = number and NOVEL in rates and NOVEL in first.rates
            gain = difference(rates[NOVEL], first.rates[NOVEL]) if both else None
            rows.append(
                (f"{policy}, round {number}", *(cell(rates.get(column)) for column in columns), points(gain))
            )
    return Table(
        "Success per round (%)",
        ("policy", *(TITLES.get(column, column) for column in columns), "novel mean, gain since round 0"),
        tuple(rows),
        noted(
            EXPLAINED,
            PRACTISED,
            "The gain's interval takes the rounds as independent samples, which is cautious; * where it "
            "leaves out zero.",
            of_rows(row for one in rounds for row in one.rows),
        ),
    )


def collected_table(rounds: Sequence[Round]) -> Table | None:
    """Count what every round added to the real data; None without rounds."""
    later = list(enumerate(rounds))[1:]
    if not later:
        return None
    levels = list(dict.fromkeys(level for _, one in later for level in one.collected.get("levels", {})))
    return Table(
        "Episodes that joined the real data",
        ("round", "played", "successful", *levels),
        tuple(
            (
                str(number),
                str(one.collected.get("episodes", "")),
                str(one.collected.get("kept", "")),
                *(str(one.collected.get("levels", {}).get(level, 0)) for level in levels),
            )
            for number, one in later
        ),
    )
