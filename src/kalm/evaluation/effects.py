"""Effects of design choices: a table of measurements of several variants, each repeated over seeds, as CSV.

::

    variant,seed,measure,value,count
    default,0,match/rephrase,0.8125,800
    without entity tokens,0,match/rephrase,0.7412,800
    default,0,relative_error/dynamics,0.312,512

`count` is the number of rollouts or episodes behind the value. Measures of the families in `SHARES` (the part
before the slash) are shares of that number: seeds are pooled, with intervals that are widened where seeds
differ by more than chance (`kalm.evaluation.statistics`). Of all others the mean over seeds is told, with the
standard deviation between seeds.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kalm.errors import KalmError
from kalm.evaluation.statistics import Rate, pooled
from kalm.runs.io import atomic_write
from kalm.types import JsonObject

COLUMNS = ("variant", "seed", "measure", "value", "count")
SHARES = (
    "match", "one_step_easy", "explanation", "seen_prompt", "unseen_prompt", "off_table", "interpenetrating",
    "success", "goal_first",
)  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """One measurement: a line of the file."""

    variant: str
    seed: int
    measure: str
    value: float
    count: int


@dataclass(frozen=True)
class EffectSpread:
    """A size over seeds: mean, standard deviation (None for one seed) and number of seeds."""

    mean: float
    deviation: float | None
    seeds: int


def read_effects(path: Path) -> list[Effect]:
    """Read a table of effects.

    Raises:
        KalmError: the file is missing or empty, or a line is malformed; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise KalmError(f"{path}: the columns must be {','.join(COLUMNS)}, got {reader.fieldnames}.")
            found = [_effect(row, f"{path}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise KalmError(f"table of effects {path} cannot be read: {error}.") from None
    if not found:
        raise KalmError(f"{path} holds no measurements.")
    return found


def write_effects(path: Path, effects: Sequence[Effect]) -> None:
    """Write a table of effects."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(tuple(asdict(effect).values()) for effect in effects)


def summarize(effects: Sequence[Effect]) -> dict[str, dict[str, Rate | EffectSpread]]:
    """Sum up over seeds: variant -> measure -> share or size, both in order of appearance."""
    cells: dict[str, dict[str, list[Effect]]] = {}
    for effect in effects:
        cells.setdefault(effect.variant, {}).setdefault(effect.measure, []).append(effect)
    return {
        variant: {measure: _summary(found) for measure, found in measures.items()}
        for variant, measures in cells.items()
    }


def effects_to_json(effects: Sequence[Effect]) -> JsonObject:
    """Return the summary as JSON-ready values."""
    return {
        variant: {measure: asdict(cell) for measure, cell in measures.items()}
        for variant, measures in summarize(effects).items()
    }


def is_share(measure: str) -> bool:
    """Whether a measure is a share of rollouts or episodes."""
    return measure.split("/")[0] in SHARES


def _summary(found: Sequence[Effect]) -> Rate | EffectSpread:
    values = np.array([effect.value for effect in found])
    if is_share(found[0].measure):
        counts = np.array([effect.count for effect in found])
        return pooled(np.rint(values * counts).astype(np.int64), counts)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return EffectSpread(float(values.mean()), deviation, len(values))


def _effect(row: dict[str, str], place: str) -> Effect:
    try:
        effect = Effect(
            row["variant"], int(row["seed"]), row["measure"], float(row["value"]), int(row["count"])
        )
    except (TypeError, ValueError) as error:
        raise KalmError(f"{place}: {error}. A line is {','.join(COLUMNS)}.") from None
    if not math.isfinite(effect.value) or effect.count < 1:
        raise KalmError(f"{place}: 'value' must be finite and 'count' at least 1, got {row}.")
    if is_share(effect.measure) and not 0 <= effect.value <= 1:
        raise KalmError(f"{place}: {effect.measure!r} is a share and must be in [0, 1], got {effect.value}.")
    return effect
