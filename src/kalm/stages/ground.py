"""The stage `ground`: a language model learns from real rollouts what actions do; ``model/`` at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kalm.runs.folder import REAL
from kalm.runs.progress import track
from kalm.stages.base import Figures, StageSpec, whole_sections

if TYPE_CHECKING:
    from kalm.data.rollouts import RolloutSet
    from kalm.session import Session


@dataclass(frozen=True)
class GroundInputs:
    """What grounding starts from.

    Attributes:
        data: real rollouts.
        start: grounded model of the same settings from whose weights it goes on; None: the backbone's.
    """

    data: Path | RolloutSet
    start: Path | None = None


def ground_model(session: Session, inputs: GroundInputs, folder: Path) -> Figures:
    """Ground the language model in a dataset; the model comes to ``folder/model``."""
    from kalm.lm import sft

    config = session.config
    rollouts = session.read(inputs.data)
    model = sft.fresh(config.ground, session.world, config.seed, session.device)
    if inputs.start is not None:
        model.load_state_dict(session.load_model(inputs.start).state_dict())
    conditions = config.imagine.conditions
    sft.finetune(model, rollouts, session.world, config.ground, config.seed, folder, track, conditions)
    used = min(config.ground.rollouts or len(rollouts), len(rollouts))
    return {"rollouts": used, "held_out": config.ground.held_out, "rollouts_in_data": len(rollouts)}


def grounding_cost(session: Session, data: Path | RolloutSet, count: int) -> Figures:
    """Return what grounding would cost on `count` devices: size, memory, steps, their time on this one."""
    from kalm.lm.budget import estimate
    from kalm.lm.trial import expected_time

    config, rollouts = session.config, session.read(data)
    given = (config.ground, rollouts, session.world, config.seed, session.device, count)
    cost = estimate(*given)
    return {**cost, **expected_time(*given, cost["gb_per_device"]["total"])}


GROUND = StageSpec("ground", whole_sections("ground"), ground_model, together=True, parts={"data": REAL})
