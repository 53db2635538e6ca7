"""The stage `collect`: the expert acts, and what it did becomes the real rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kalm.runs.progress import track
from kalm.stages.base import Figures, NoInputs, StageSpec, whole_sections

if TYPE_CHECKING:
    from kalm.session import Session


def collect_real(session: Session, inputs: NoInputs, folder: Path) -> Figures:
    """Collect real rollouts into a dataset folder."""
    from kalm.data.collect import collect_rollouts
    from kalm.data.storage import read_manifest

    config = session.config
    with track("collect", config.collect.rollouts) as advance:
        rollouts = collect_rollouts(
            session.world, config.collect, config.seed, folder, config.workers, advance, session.command
        )
    made = read_manifest(folder)[0]["provenance"]
    told = {name: made[name] for name in ("episodes", "success_rate", "success_by_kind")}
    return {"rollouts": len(rollouts), "transitions": rollouts.transitions, **told}


COLLECT = StageSpec("collect", whole_sections("collect"), collect_real)
