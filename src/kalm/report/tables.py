"""Scores and qualities as tables: as Markdown, and as text for the terminal.

A `Table` holds finished text. A cell such as ``57.2 ± 6.5 (222)`` is the success in percent, the longer side
of its 95 % interval, and the number of episodes; nothing measured is ``–``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO

import rich.table
from rich.console import Console
from rich.text import Text

from kalm.envs.base import Published
from kalm.evaluation.imagined import Quality
from kalm.evaluation.results import Episode
from kalm.evaluation.statistics import Difference, Rate
from kalm.report.scores import (
    MIX,
    NOVEL,
    TITLES,
    Score,
    attributions,
    columns_of,
    gains,
    ordered,
    scores,
)
from kalm.runs.folder import REFINED
from kalm.types import NOVEL_LEVELS, JsonObject

MISSING = "–"


@dataclass(frozen=True)
class Table:
    """A table of finished text: first column left, the others right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def success_table(found: Sequence[Score]) -> Table:
    """One row per policy, and one of goal first where that was measured; one column per level and mean."""
    columns = columns_of(found)
    rows = []
    for score in found:
        cells = (cell(score.rates.get(column)) for column in columns)
        rows.append((score.policy, *cells, by_seed(score.rates.get(NOVEL))))
        rows += first_row(score, columns)
    return Table(
        "Success (%)",
        ("policy", *(TITLES.get(column, column) for column in columns), "novel mean by seed"),
        tuple(rows),
        noted(EXPLAINED, first_note(found), _seeds(found), _means(columns), of_scores(found)),
    )


def first_row(score: Score, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the row of goal first that stands below a policy's success; none where it was not measured."""
    if not score.first:
        return []
    return [(f"{score.policy}, goal first", *(cell(score.first.get(column)) for column in columns), "")]


def first_note(found: Iterable[Score]) -> str:
    """Explain goal first where a score has it."""
    return FIRST_EXPLAINED if any(score.first for score in found) else ""


def _means(columns: Sequence[str]) -> str:
    mix = ", the paper's mix 800 rephrase : 400 easy : 200 hard" if MIX in columns else ""
    return f"The novel mean weighs the three novel levels equally{mix}."


EXPLAINED = (
    "Percent of episodes that reached their goal, ± the longer side of the 95 % interval, and the number of "
    "episodes. Intervals are Wilson's, widened where training seeds differ by more than chance (roughly, "
    "with few seeds)."
)

FIRST_EXPLAINED = (
    "Goal first: of the rollouts or episodes in which the goal or a counterfactual (left for right, behind "
    "for in front) comes true, the percentage in which the goal is first, ± the longer side of the 95 % "
    "interval, and how many those are. Whoever does not understand directions is at 50."
)


def measured_on(splits: Iterable[str]) -> str:
    """Say which split the sentences and initial states are of; nothing where they are not divided."""
    return {
        frozenset({"test"}): "Sentences and initial states are of `test`, on which no setting was chosen.",
        frozenset(
            {"tune"}
        ): "Sentences and initial states are of `tune`, on which settings are chosen: figures "
        "to report are of `test`.",
        frozenset(
            {"tune", "test"}
        ): "Sentences and initial states are of `tune`, on which settings are chosen, and of `test`.",
    }.get(frozenset(splits), "")


def noted(*parts: str) -> str:
    """Return a note of these parts."""
    return " ".join(part for part in parts if part)


def of_scores(found: Iterable[Score]) -> str:
    """Say which split these scores are of."""
    return measured_on(split for score in found for split in score.splits)


def of_rows(rows: Iterable[Episode]) -> str:
    """Say which split these episodes are of."""
    return measured_on({row.split for row in rows} - {""})


def _seeds(found: Sequence[Score]) -> str:
    counts = sorted({len(score.seeds) for score in found})
    if not counts:
        return ""
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Training seeds per policy: {span}."


def gain_table(found: Sequence[Score]) -> Table | None:
    """Differences made by imagined rollouts, and to controls; None where nothing is to be compared."""
    compared = [*gains(found), *attributions(found)]
    if not compared:
        return None
    columns = [column for column in columns_of([gain.base for gain in compared]) if column != MIX]
    rows = tuple(
        (gain.name, *(points(gain.differences.get(column)) for column in columns)) for gain in compared
    )
    return Table(
        "What imagined rollouts add (percentage points)",
        ("difference", *(TITLES.get(column, column) for column in columns)),
        rows,
        noted(
            "In brackets the 95 % interval of the difference; * where it leaves out zero.",
            *attribution_lines(found),
            of_scores(found),
        ),
    )


def attribution_lines(found: Sequence[Score]) -> list[str]:
    """Say, a sentence per algorithm, what the language model adds over the filter; none without controls."""
    return [
        f"What the language model adds to {gain.algorithm.upper()} over the filter alone ({gain.name}, novel "
        f"mean): {_told(gain.differences[NOVEL])}."
        for gain in gains(found, "kalm", "shuffled")
        if NOVEL in gain.differences
    ]


def _told(found: Difference) -> str:
    told = f"{100 * found.mean:+.1f} points (95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return told if found.clear else f"{told}, which is no clear difference"


def held_back_table(rows: Sequence[Episode]) -> Table | None:
    """Novel levels split by whether the wording was imagined for; None where no wording was held back."""
    novel = [row for row in rows if row.level in NOVEL_LEVELS]
    if not any(row.held_back for row in novel):
        return None
    parts = {held: scores(row for row in novel if row.held_back == held) for held in (False, True)}
    lookup = {
        (score.policy, level, held): found
        for held, part in parts.items()
        for score in part
        for level, found in score.rates.items()
    }
    levels = ordered({row.level for row in novel if row.held_back})
    policies = [score.policy for score in scores(novel)]
    return Table(
        "Wordings that were imagined for, and wordings held back (%)",
        ("policy", *(f"{level}, {what}" for level in levels for what in ("imagined for", "held back"))),
        tuple(
            (policy, *(cell(lookup.get((policy, level, held))) for level in levels for held in (False, True)))
            for policy in policies
        ),
        noted("No rollout was imagined for the held-back wordings.", EXPLAINED, of_rows(rows)),
    )


def kind_table(rows: Sequence[Episode]) -> Table | None:
    """Success per kind of goal and policy, in levels of several kinds; None where no level has."""
    by_place: dict[tuple[str, str], list[Episode]] = {}
    for row in rows:
        if row.kind:
            by_place.setdefault((row.level, row.kind), []).append(row)
    kinds = {level: [kind for other, kind in by_place if other == level] for level, _ in by_place}
    places = [(level, kind) for level in ordered(kinds) if len(kinds[level]) > 1 for kind in kinds[level]]
    if not places:
        return None
    policies = [score.policy for score in scores(rows)]
    lines = []
    for level, kind in places:
        rates = {score.policy: score.rates[level] for score in scores(by_place[level, kind])}
        lines.append((level, kind, *(cell(rates.get(policy)) for policy in policies)))
    return Table(
        "Success per kind of goal (%)",
        ("level", "kind", *policies),
        tuple(lines),
        noted(EXPLAINED, of_rows(rows)),
    )


def quality_table(
    imagined: Mapping[str, Quality],
    real: Mapping[str, Quality] | None = None,
    published: Mapping[str, str] | None = None,
) -> Table:
    """One row per measure; columns: levels of imagined rollouts, of real ones, and the paper's sample."""
    columns = {level: _quality(found) for level, found in imagined.items()}
    columns |= {f"real, {level}": _quality(found) for level, found in (real or {}).items()}
    measures = list(dict.fromkeys(name for column in columns.values() for name in column))
    if published:
        columns["paper's sample, rephrase"] = dict(published)
    return Table(
        "Quality of imagined rollouts",
        ("measure", *columns),
        tuple((name, *(column.get(name, MISSING) for column in columns.values())) for name in measures),
        "± is the longer side of Wilson's 95 % interval. Given initial states are not counted."
        + (f" {FIRST_EXPLAINED}" if any(found.goal_first for found in imagined.values()) else ""),
    )


CHOSEN = "Of goal first only raw rollouts tell: the others went through a success test that knows the goal."


def refined_table(figures: JsonObject) -> Table | None:
    """Raw, chosen and kept rollouts side by side, from the figures of `imagine`; None if nothing was refined.

    Raw is the first sample of each wanted rollout, chosen the best of its samples, kept what training sees.
    """
    columns = {
        f"{name}, {level}": Quality.from_json(found)
        for name in REFINED
        for level, found in figures.get(name, {}).items()
    }
    if not columns:
        return None
    table = quality_table(columns)
    return replace(table, title="Raw, chosen and kept rollouts", note=noted(table.note, CHOSEN))


def control_table(figures: JsonObject, shuffled: JsonObject) -> Table | None:
    """Return what imagination gives with its sentences and with permuted ones; None without the latter."""
    if not figures or not shuffled:
        return None
    levels = ordered(figures["match_rate_by_level"])
    rows = tuple(
        (
            name,
            *(f"{100 * found['match_rate_by_level'][level]:.1f}" for level in levels),
            str(found["rollouts_asked"]),
            str(found["rollouts_kept"]),
        )
        for name, found in (("their own", figures), ("permuted among goals", shuffled))
    )
    return Table(
        "What the filter keeps of rollouts imagined without knowing what is asked",
        ("sentences", *(f"{level}, first try reaches its goal, %" for level in levels), "asked for", "kept"),
        rows,
        "Permuted: every try reads the sentence of another goal of its level, drawn at random.",
    )


def _quality(found: Quality) -> dict[str, str]:
    cells = {"rollouts": str(found.rollouts), "mean length": f"{found.length:.1f}"}
    cells["goal reached, % of rollouts"] = share(found.match)
    for kind, part in found.kinds.items():
        cells[f"goal reached, {kind}, %"] = share(part)
    if found.goal_first:
        cells["goal first, % (of so many)"] = cell(found.goal_first)
    if found.action_match and found.change_match:
        cells["right action, % of one-step rollouts"] = share(found.action_match)
        cells["right state change, % of one-step rollouts"] = share(found.change_match)
    for name, (some, states) in found.violations.items():
        cells[f"{spoken(name)}, % of rollouts"] = share(some)
        cells[f"{spoken(name)}, % of states"] = f"{100 * states:.1f}"
    for name, value in found.motion.items():
        cells[f"{spoken(name)}, mean per step"] = f"{value:.3g}"
    return cells


def spoken(name: str) -> str:
    """Return a measure's name as prose."""
    return name.replace("_", " ")


def cell(found: Rate | None) -> str:
    """Return e.g. ``57.2 ± 6.5 (222)``."""
    return MISSING if found is None else f"{share(found)} ({found.n})"


def share(found: Rate) -> str:
    """Return e.g. ``57.2 ± 6.5``."""
    half = max(found.mean - found.low, found.high - found.mean)
    return f"{100 * found.mean:.1f} ± {100 * half:.1f}"


def points(found: Difference | None) -> str:
    """Return e.g. ``+12.3 [+8.1, +16.4] *``."""
    if found is None:
        return MISSING
    star = " *" if found.clear else ""
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{star}"


def by_seed(found: Rate | None) -> str:
    """Return e.g. ``26.1, 28.4``."""
    return MISSING if found is None else ", ".join(f"{100 * value:.1f}" for value in found.by_seed)


def markdown(table: Table) -> str:
    """Return a Markdown table with its title and note."""
    escaped = [[_pipe(text) for text in row] for row in (table.header, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    rule = "|".join(["---", *["---:"] * (len(table.header) - 1)])
    body = "\n".join([lines[0], f"|{rule}|", *lines[1:]])
    return "\n\n".join(part for part in (f"**{_pipe(table.title)}**", body, _pipe(table.note)) if part) + "\n"


def _pipe(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def terminal(table: Table) -> rich.table.Table:
    """Return the table for a rich console."""
    shown = rich.table.Table(title=Text(table.title), caption=Text(table.note), title_justify="left")
    for place, name in enumerate(table.header):
        shown.add_column(Text(name), justify="right" if place else "left", no_wrap=not place)
    for row in table.rows:
        shown.add_row(*(Text(text) for text in row))
    return shown


def plain(table: Table, width: int = 160) -> str:
    """Return the terminal's table as text without colours."""
    stream = StringIO()
    Console(file=stream, width=width, color_system=None).print(terminal(table))
    return stream.getvalue()


def show(rows: Sequence[Episode], published: Published | None) -> None:
    """Print the result tables of these episodes on standard output."""
    found = scores(rows, published)
    tables = (success_table(found), gain_table(found), kind_table(rows), held_back_table(rows))
    show_all([table for table in tables if table is not None])


def show_all(tables: Sequence[Table]) -> None:
    """Print tables on standard output."""
    console = Console()
    if not console.is_terminal:  # a file or a program, which has no width to keep to
        console = Console(width=160)
    for table in tables:
        console.print(terminal(table))
