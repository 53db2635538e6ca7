"""What a grounded model can do, and what design choices change in it, as tables.

A cell such as ``3.21 ± 0.4`` is a size in the units of states (metres in CLEVR-Robot) and the longer side of
its 95 % interval; shares are told as in `kalm.report.tables`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kalm.evaluation.effects import Effect, EffectSpread, summarize
from kalm.evaluation.grounding import Inspection
from kalm.evaluation.simulated import Agreement, Error
from kalm.evaluation.statistics import Estimate, Rate
from kalm.report.directions import quality_directions
from kalm.report.tables import (
    MISSING,
    Table,
    cell,
    measured_on,
    noted,
    quality_table,
    spoken,
)


def inspection_tables(found: Inspection) -> list[Table]:
    """Return the tables of an inspection: imagining, agreement with the simulator, explaining, predicting.

    Where the world cannot be put into states there is no agreement to tell of.
    """
    compared = [_agreement(found)] if found.agreement else []
    first = quality_directions(found.levels)
    imagined = [_quality(found), *([first] if first else [])]
    return [*imagined, *compared, _explanation(found), _dynamics(found)]


def effects_table(effects: Sequence[Effect]) -> Table:
    """One row per variant, one column per measure."""
    found = summarize(effects)
    measures = list(dict.fromkeys(effect.measure for effect in effects))
    seeds = {name: len({e.seed for e in effects if e.variant == name}) for name in found}
    return Table(
        "Effects of design choices",
        ("variant", "seeds", *(_named(measure) for measure in measures)),
        tuple(
            (variant, str(seeds[variant]), *(_effect(cells.get(measure)) for measure in measures))
            for variant, cells in found.items()
        ),
        "Shares in percent, ± the longer side of the 95 % interval (widened where seeds differ by more than "
        "chance), and the number of rollouts. Other sizes: mean over seeds ± the standard deviation between "
        "them.",
    )


def _quality(found: Inspection) -> Table:
    table = quality_table(found.levels)
    lost = f" {found.dropped} more rollouts were not finite and are in no figure." if found.dropped else ""
    note = noted(table.note + lost, measured_on(found.splits))
    return replace(table, title="Imagined rollouts by level", note=note)


def _agreement(found: Inspection) -> Table:
    columns = {name: _agreement_cells(part) for name, part in found.agreement.items()}
    measures = list(dict.fromkeys(name for cells in columns.values() for name in cells))
    return Table(
        "Rollouts against the simulator",
        ("measure", *columns),
        tuple((name, *(cells.get(name, MISSING) for cells in columns.values())) for name in measures),
        "Root mean square errors per state number. Next state: the simulator takes each action from the "
        "rollout's own state, at rest (steps from impossible states are left out). Drift: it takes all "
        "actions from the first state on; in brackets the rollouts that are as long.",
    )


def _agreement_cells(found: Agreement) -> dict[str, str]:
    cells = {f"next state, {name}": text for name, text in _error(found.step).items()} if found.step else {}
    drift = {f"drift after {actions}": f"{size(d)} ({d.n})" for actions, d in found.drift.items()}
    return {**cells, **drift}


def _explanation(found: Inspection) -> Table:
    slots = list(dict.fromkeys(slot for rates in found.explanation.values() for slot in rates))
    return Table(
        "Explanations of real rollouts (%)",
        ("by", *slots),
        tuple(
            (spoken(prompt), *(cell(rates.get(slot)) for slot in slots))
            for prompt, rates in found.explanation.items()
        ),
        "Share of texts with the right keywords, ± the longer side of Wilson's 95 % interval, and the number "
        "of texts. Prompts: what the model writes. Inverse planning: the plain sentence under which it would "
        "have acted most like this; with the success test, of those that are true at the end.",
    )


def _dynamics(found: Inspection) -> Table:
    rows = {name: _error(error) for name, error in found.dynamics.items()}
    header = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    return Table(
        "Prediction of the next state",
        ("transitions of", *header),
        tuple((name, *(cells.get(column, MISSING) for column in header)) for name, cells in rows.items()),
        "Root mean square errors per state number, and relative to the prediction that nothing moves.",
    )


def _error(found: Error) -> dict[str, str]:
    return {
        "transitions": str(found.transitions),
        "error": size(found.model),
        "error of nothing moves": size(found.nothing_moves),
        "relative error": MISSING if found.ratio is None else size(found.ratio),
    }


def _effect(found: Rate | EffectSpread | None) -> str:
    if found is None or isinstance(found, Rate):
        return cell(found)
    return f"{found.mean:.3g}" + ("" if found.deviation is None else f" ± {found.deviation:.2g}")


def _named(measure: str) -> str:
    return spoken(measure).replace("/", ", ")


def size(found: Estimate) -> str:
    """Return e.g. ``0.0321 ± 0.004``."""
    half = max(found.value - found.low, found.high - found.value)
    return f"{found.value:.3g} ± {half:.1g}"
