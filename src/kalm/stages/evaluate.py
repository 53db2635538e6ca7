"""The stage `evaluate`: policies play in the simulator; one row per episode.

Unusual: the score of a policy is the mean over its last `evaluate.checkpoints` checkpoints, as in the paper,
but they divide the episodes among themselves. Every episode is then another draw, so the number of episodes
under an interval is an honest one, and more checkpoints cost nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kalm import registry
from kalm.data.goal_files import read_goals
from kalm.envs.sentences import require_split
from kalm.errors import KalmError
from kalm.evaluation.results import Episode, label_of, read_rows, write_rows
from kalm.runs.folder import POLICIES, ROWS, PolicyJob, trained_policies
from kalm.runs.progress import track
from kalm.stages.base import Figures, StageSpec, settings_section
from kalm.stages.reading import Reading, planner
from kalm.types import LEVELS, Instruction, SplitChoice

if TYPE_CHECKING:
    from kalm.config import Config
    from kalm.envs.base import World
    from kalm.evaluation.guided import GuidedPolicy
    from kalm.registry import TrainedPolicy
    from kalm.rl.encoder import GoalEncoder
    from kalm.session import Session

EPISODES = 111  # per level, unless the settings say
PARTS = "parts"  # rows of the policies that have played, until all have
Goals = Path | tuple[Instruction, ...]


@dataclass(frozen=True)
class EvaluateInputs:
    """Who plays what.

    Attributes:
        policies: folder of policies, of one policy, or of the run that made them.
        goals: goal file, or instructions, instead of the levels' suites.
        levels: which suites, or which instructions of `goals`: those of the split `evaluate.split`.
    """

    policies: Path
    goals: Goals | None = None
    levels: tuple[str, ...] = LEVELS


def evaluate_policies(session: Session, inputs: EvaluateInputs, folder: Path) -> Figures:
    """Play every policy of a folder, or the one policy that it is; rows come to ``folder/rows.csv``.

    Raises:
        KalmError: no policy in the folder, unknown level, or a malformed goal file.
    """
    split = session.config.evaluate.played
    suite = instructions(session.world, inputs.goals, inputs.levels, split)
    found = trained_policies(inputs.policies)
    if not found:
        raise KalmError(f"no trained policy in {inputs.policies}. Train one with: kalm train --help.")
    encoder = session.encoder(folder, known=inputs.policies)
    rows: list[Episode] = []
    with track("evaluate", len(found)) as advance:
        for job, policy in found:
            part = folder / PARTS / f"{job.name}.csv"
            if resumed := part.exists():
                rows += read_rows(part)
            else:
                threads, each_once = session.config.workers, inputs.goals is not None
                played = play_policy(session, job, policy, suite, encoder, threads, each_once)
                write_rows(part, played)
                rows += played
            advance(resumed=resumed, policy=job.name)
    write_rows(folder / ROWS, rows)
    shutil.rmtree(folder / PARTS)
    return {"rows": len(rows), "success": sum(row.success for row in rows) / len(rows)}


def play_policy(
    session: Session,
    job: PolicyJob,
    place: Path,
    suite: Sequence[Instruction],
    encoder: GoalEncoder,
    threads: int = 1,
    each_once: bool = False,
) -> list[Episode]:
    """Play the last checkpoints of one policy, which divide its episodes among themselves.

    Args:
        session: settings, environment and device.
        job: what the policy is.
        place: its folder.
        suite: instructions, of which a policy of one level plays its own.
        encoder: sentence encoder.
        threads: of the simulator.
        each_once: where the settings give no number of episodes, every instruction is played once.
    """
    from kalm.evaluation.episodes import evaluate_policy, sample_episodes

    settings = session.config.evaluate
    mine = [instruction for instruction in suite if job.level in (None, instruction.level)]
    episodes = settings.episodes or (None if each_once else EPISODES)
    chosen, seeds = sample_episodes(mine, episodes, session.seed(job.seed))
    turns = registry.checkpoints(place, settings.checkpoints)
    rows: list[Episode] = []
    for turn, (step, checkpoint) in enumerate(turns):
        policy = registry.load_policy(checkpoint, session.device, encoder)
        for reading in settings.readings:
            rows += evaluate_policy(
                policy if reading == "off" else _guided(session, policy, chosen, reading),
                session.world,
                chosen[turn :: len(turns)],
                seeds[turn :: len(turns)],
                settings.horizon,
                threads,
                label_of(job, step, "" if reading == "off" else reading),
            )
    return rows


def _guided(
    session: Session, policy: TrainedPolicy, chosen: Sequence[Instruction], reading: Reading
) -> GuidedPolicy:
    """Return the policy behind the plans of these instructions."""
    from kalm.evaluation.guided import GuidedPolicy

    return GuidedPolicy(policy, session.world, planner(session, chosen, reading))


def instructions(
    world: World, goals: Goals | None, levels: Sequence[str], split: SplitChoice = "all"
) -> list[Instruction]:
    """Return the instructions of these levels and this split: of those given, a goal file, or the suites.

    Those that are not divided, as in most goal files, are of every split.

    Raises:
        KalmError: a malformed goal file, or nothing of these levels or of this split.
    """
    return require_split(_of_levels(world, goals, levels), split)


def _of_levels(world: World, goals: Goals | None, levels: Sequence[str]) -> list[Instruction]:
    if goals is None:
        return [instruction for level in levels for instruction in world.suite(level)]
    is_file = isinstance(goals, Path)
    given = read_goals(goals, world.parse_goal, world.spec.state_size) if is_file else goals
    found = [instruction for instruction in given if instruction.level in levels]
    if not found:
        there = ", ".join(sorted({instruction.level for instruction in given})) or "none"
        raise KalmError(
            f"{goals if is_file else 'the given goals'}: no goal of level {' or '.join(levels)}; the levels "
            f"there are: {there}."
        )
    return found


def _settings(config: Config) -> dict[str, object]:
    """Return what rows depend on: where sentences are read, the reader too."""
    reader = {"reader": config.reader} if "reader" in config.evaluate.readings else {}
    return {"evaluate": settings_section(config, "evaluate"), **reader}


EVALUATE = StageSpec("evaluate", _settings, evaluate_policies, parts={"policies": POLICIES})
