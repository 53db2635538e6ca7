"""The stage `evaluate`: policies play in the simulator; one row per episode.

Unusual: the score of a policy is the mean over its last `evaluate.checkpoints` checkpoints, as in the paper,
but they divide the episodes among themselves. Every episode is then another draw, so the number of episodes
under an interval is an honest one, and more checkpoints cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kalm import registry
from kalm.data.goal_files import read_goals
from kalm.errors import KalmError
from kalm.evaluation.results import Episode, label_of, write_rows
from kalm.run.folder import POLICIES, ROWS, PolicyJob, trained_policies
from kalm.run.progress import track
from kalm.session import ENCODINGS
from kalm.stages.base import Figures, StageSpec, whole_sections
from kalm.types import LEVELS, Instruction

if TYPE_CHECKING:
    from kalm.envs.base import World
    from kalm.rl.encoder import GoalEncoder
    from kalm.session import Session

Goals = Path | tuple[Instruction, ...]


@dataclass(frozen=True)
class EvaluateInputs:
    """Who plays what.

    Attributes:
        policies: folder of policies, of one policy, or of the run that made them.
        goals: goal file, or instructions, instead of the levels' suites.
        levels: which suites.
    """

    policies: Path
    goals: Goals | None = None
    levels: tuple[str, ...] = LEVELS


def evaluate_policies(session: Session, inputs: EvaluateInputs, folder: Path) -> Figures:
    """Play every policy of a folder, or the one policy that it is; rows come to ``folder/rows.csv``.

    Raises:
        KalmError: no policy in the folder, unknown level, or a malformed goal file.
    """
    suite = instructions(session.world, inputs.goals, inputs.levels)
    place = inputs.policies
    found = trained_policies(place)
    if not found:
        raise KalmError(f"no trained policy in {inputs.policies}. Train one with: kalm train --help.")
    # A run's encodings are shared; beside a policy from elsewhere nothing is written.
    encoder = session.encoder(place if (place / ENCODINGS).exists() else folder)
    rows: list[Episode] = []
    with track("evaluate", len(found)) as advance:
        for job, policy in found:
            rows += play_policy(session, job, policy, suite, encoder, session.config.workers)
            advance(policy=job.name)
    write_rows(folder / ROWS, rows)
    return {"rows": len(rows), "success": sum(row.success for row in rows) / len(rows)}


def play_policy(
    session: Session,
    job: PolicyJob,
    place: Path,
    suite: Sequence[Instruction],
    encoder: GoalEncoder,
    threads: int = 1,
) -> list[Episode]:
    """Play the last checkpoints of one policy, which divide its episodes among themselves.

    Args:
        session: settings, environment and device.
        job: what the policy is.
        place: its folder.
        suite: instructions, of which a policy of one level plays its own.
        encoder: sentence encoder.
        threads: of the simulator.
    """
    from kalm.evaluation.episodes import evaluate_policy, sample_episodes

    settings = session.config.evaluate
    mine = [instruction for instruction in suite if job.level in (None, instruction.level)]
    chosen, seeds = sample_episodes(mine, settings.episodes, session.seed(job.seed))
    turns = registry.checkpoints(place, settings.checkpoints)
    rows: list[Episode] = []
    for turn, (step, checkpoint) in enumerate(turns):
        policy = registry.load_policy(checkpoint, session.device, encoder)
        rows += evaluate_policy(
            policy,
            session.world,
            chosen[turn :: len(turns)],
            seeds[turn :: len(turns)],
            settings.horizon,
            threads,
            label_of(job, step),
        )
    return rows


def instructions(world: World, goals: Goals | None, levels: Sequence[str]) -> list[Instruction]:
    """Return the instructions given, those of a goal file, or those of the levels' suites."""
    if isinstance(goals, Path):
        return list(read_goals(goals, world.parse_goal, world.spec.state_size))
    if goals is not None:
        return list(goals)
    return [instruction for level in levels for instruction in world.suite(level)]


EVALUATE = StageSpec("evaluate", whole_sections("evaluate"), evaluate_policies, parts={"policies": POLICIES})
