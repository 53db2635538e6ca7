"""The stage `inspect`: what a grounded model can do, measured: imagine, explain, predict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kalm.runs.folder import INSPECTED, MODEL, REAL
from kalm.runs.io import atomic_write, write_json
from kalm.runs.progress import track
from kalm.stages.base import Figures, StageSpec, whole_sections
from kalm.stages.evaluate import Goals, instructions
from kalm.types import LEVELS

if TYPE_CHECKING:
    from kalm.data.rollouts import RolloutSet
    from kalm.evaluation.grounding import Evidence, Inspection
    from kalm.session import Session


@dataclass(frozen=True)
class InspectInputs:
    """What a grounded model is measured on.

    Attributes:
        model: its folder, or that of the stage or run that made it.
        goals: goal file, or instructions, instead of the levels' suites.
        levels: which suites.
        data: real rollouts that the model has not learnt from; None: fresh ones of the expert.
    """

    model: Path
    goals: Goals | None = None
    levels: tuple[str, ...] = LEVELS
    data: Path | RolloutSet | None = None


def inspect_model(session: Session, inputs: InspectInputs, folder: Path) -> Figures:
    """Measure a model; ``inspect.json``, ``rollouts/`` and ``explanations.jsonl`` come to the folder."""
    from kalm.data import storage

    found, evidence = measure_model(session, inputs)
    provenance = {
        "made_by": "inspect",
        "command": session.command,
        "world": session.config.env,
        "seed": session.config.seed,
    }
    storage.write(evidence.imagined, folder / "rollouts", provenance)
    with atomic_write(folder / "explanations.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in evidence.lines()))
    write_json(folder / INSPECTED, found.to_json())
    return found.to_json()


def measure_model(session: Session, inputs: InspectInputs) -> tuple[Inspection, Evidence]:
    """Measure a model and write nothing; return the figures, and the rollouts and texts behind them."""
    from kalm.evaluation import grounding

    config, world = session.config, session.world
    model = session.load_model(inputs.model)
    chosen = instructions(world, inputs.goals, inputs.levels, config.inspect.split)
    if inputs.data is not None:
        real = session.read(inputs.data)
    else:
        real = grounding.fresh_rollouts(world, config.inspect, config.collect, config.seed)
    with track("inspect", grounding.rollouts_needed(chosen, config.inspect)) as advance:
        return grounding.inspect(
            model, world, chosen, real, config.inspect, config.imagine, config.seed, config.workers, advance
        )


INSPECT = StageSpec(
    "inspect",
    whole_sections("inspect", "imagine", "collect"),
    inspect_model,
    parts={"model": MODEL, "data": REAL},
)
