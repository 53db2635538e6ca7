"""The policies of a run: which ones there are, trained side by side, played in the simulator.

Policies are small, so each is made by one process of one thread, and `config.workers` of them work at a time.
A finished policy is kept, and a stopped one goes on from its checkpoint.

Unusual: the score of a policy is the mean over its last `evaluate.checkpoints` checkpoints, as in the paper,
but they divide the episodes among themselves. Every episode is then another draw, so the number of episodes
under an interval is an honest one, and more checkpoints cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kalm import envs, registry
from kalm.config import Config
from kalm.data.goal_files import read_goals
from kalm.errors import KalmError
from kalm.run import processes
from kalm.run.folder import EVALUATIONS, JOB, ROWS, PolicyJob, trained_policies
from kalm.run.io import write_json
from kalm.run.progress import track
from kalm.run.seeding import derive_seed
from kalm.session import device, only
from kalm.types import LEVELS, NOVEL_LEVELS, Instruction

if TYPE_CHECKING:
    from kalm.data.rollouts import RolloutSet
    from kalm.envs.base import World
    from kalm.evaluation.results import Episode
    from kalm.rl.encoder import GoalEncoder

ENCODINGS = "encodings"


@dataclass(frozen=True)
class Inputs:
    """Folders that policies are made from.

    Attributes:
        real: real rollouts, of which each policy sees `train.real_rollouts`.
        imagined: imagined rollouts; None: plain policies only.
        model: the grounded language model, for learners that need it.
        collected: real rollouts that earlier policies collected; every policy sees all of them.
        before: the policies that these go on from, under the same names.
    """

    real: Path
    imagined: Path | None = None
    model: Path | None = None
    collected: tuple[Path, ...] = ()
    before: Path | None = None

    def paths(self) -> list[Path]:
        """Return the folders that there are."""
        given = (self.real, self.imagined, self.model, *self.collected, self.before)
        return [path for path in given if path is not None]


def jobs(config: Config, imagined: bool = True) -> list[PolicyJob]:
    """Return the policies asked for, cheapest information first: all of one seed, then the next."""
    per_level: tuple[str | None, ...] = NOVEL_LEVELS if config.train.per_level else (None,)
    return [
        PolicyJob(algorithm, kalm, seed, level)
        for seed in config.train.seeds
        for algorithm in config.train.algorithms
        for kalm in ((False, True) if imagined and registry.table()[algorithm].trains else (False,))
        for level in (per_level if kalm else (None,))
    ]


def train(config: Config, inputs: Inputs, folder: Path) -> dict[str, Any]:
    """Train every policy of `jobs`, several at a time; finished ones are kept.

    Raises:
        KalmError: before anything starts, if an algorithm is unknown or does not fit, or the data do not.
    """
    require_learners(config, inputs.model)
    todo = jobs(config, inputs.imagined is not None)
    left = [job for job in todo if not (folder / job.name / JOB).exists()]
    with track("train", len(todo)) as advance:
        advance(len(todo) - len(left), resumed=True)
        if left:  # else there is nothing to encode for, and no process to start
            prepare(config, left, inputs, folder)
            work = partial(train_one, config, inputs=inputs, folder=folder)
            for job, _ in processes.each(work, left, config.workers):
                advance(policy=job.name)
    return {"policies": [job.name for job in todo]}


def made_from(config: Config) -> dict[str, Any]:
    """Return all settings that the policies asked for depend on."""
    known = registry.table()
    sections = {name for algorithm in config.train.algorithms for name in known[algorithm].sections}
    settings = config.model_dump(mode="json")
    return {**only(config, "train"), **{name: settings[name] for name in sorted(sections)}}


def require_learners(config: Config, model: Path | None, comes: bool = False) -> None:
    """Raise KalmError unless every algorithm is known and fits the world.

    Args:
        config: settings.
        model: the grounded model at hand.
        comes: the model is yet to be made.
    """
    spec = envs.make(config.env).spec
    for algorithm in config.train.algorithms:
        registry.require(algorithm, spec, model, comes)


def prepare(config: Config, todo: Sequence[PolicyJob], inputs: Inputs, folder: Path) -> None:
    """Check what the jobs learn from, and encode all sentences once, before several processes ask for them.

    Raises:
        KalmError: the data cannot be learnt from.
    """
    from kalm.data.validation import require_data

    real, imagined = _read(inputs.real), _read(inputs.imagined)
    spec = envs.make(config.env).spec
    for job in {(job.kalm, job.level): job for job in todo}.values():
        require_data(spec, real, imagined if job.kalm else None)
        _chosen(config, job, real, imagined, ())
    sentences = [*real.instructions, *(imagined.instructions if imagined else ())]
    _encoder(config, folder).encode([instruction.text for instruction in sentences])


def train_one(config: Config, job: PolicyJob, inputs: Inputs, folder: Path) -> None:
    """Train one policy into ``folder/NAME``, or go on where a stopped training ended."""
    collected = [_read(folder) for folder in inputs.collected]
    real, imagined = _chosen(config, job, _read(inputs.real), _read(inputs.imagined), collected)
    place = folder / job.name
    task = registry.TrainingTask(
        job=job,
        train=config.train,
        dynamics=config.dynamics,
        decision_transformer=config.decision_transformer,
        ground=config.ground,
        real=real,
        imagined=imagined,
        model=inputs.model,
        encoder=_encoder(config, folder),
        folder=place,
        device=device(config.device),
        look=_look(config, job, place),
        start=inputs.before / job.name if inputs.before else None,
    )
    registry.table()[job.algorithm].fit(task)
    write_json(place / JOB, asdict(job))


def _read(folder: Path | None) -> Any:
    from kalm.data import storage

    return None if folder is None else storage.read(folder)


def _chosen(
    config: Config,
    job: PolicyJob,
    real: RolloutSet,
    imagined: RolloutSet | None,
    collected: Sequence[RolloutSet],
) -> tuple[RolloutSet, RolloutSet | None]:
    """Return what this policy learns from."""
    from kalm.data.rollouts import RolloutSet
    from kalm.rl.select import select_rollouts

    real, imagined = select_rollouts(real, imagined if job.kalm else None, config.train, job.seed, job.level)
    return (RolloutSet.concat([real, *collected]) if collected else real), imagined


def _encoder(config: Config, folder: Path) -> GoalEncoder:
    from kalm.rl.encoder import GoalEncoder

    return GoalEncoder(config.train.encoder, device(config.device), folder / ENCODINGS)


def _look(config: Config, job: PolicyJob, place: Path) -> Callable[[Any, int], Mapping[str, float]]:
    """Return what plays a policy while it is trained: rows to ``looks.csv``, success per level as metrics.

    Every look plays the same episodes, which are not those of the evaluation.
    """
    from kalm.evaluation.episodes import evaluate_policy, sample_episodes
    from kalm.evaluation.results import read_rows, write_rows

    world, file = envs.make(config.env), place / EVALUATIONS
    suite = [instruction for level in LEVELS for instruction in world.suite(level)]
    seed = derive_seed(config.seed, "looks", job.seed)
    chosen, seeds = sample_episodes(suite, config.train.evaluate_episodes, seed)

    def look(policy: Any, step: int) -> Mapping[str, float]:
        rows = evaluate_policy(policy, world, chosen, seeds, config.evaluate.horizon, 1, _label(job, step))
        # What a stopped training looked at after its last checkpoint is looked at again.
        earlier = [row for row in read_rows(file) if row.checkpoint_step < step] if file.exists() else []
        write_rows(file, [*earlier, *rows])
        return {f"success/{level}": _share(rows, level) for level in LEVELS}

    return look


def _share(rows: Sequence[Episode], level: str) -> float:
    return float(np.mean([row.success for row in rows if row.level == level]))


def _label(job: PolicyJob, step: int) -> Any:
    from kalm.evaluation.results import Label

    return Label(job.policy, job.algorithm, job.kalm, job.seed, step)


def evaluate(
    config: Config,
    policies: Path,
    folder: Path,
    goals: Path | None = None,
    levels: Sequence[str] = LEVELS,
) -> dict[str, Any]:
    """Play every policy of a folder, or the one policy that it is, and write one row per episode.

    Raises:
        KalmError: no policy in the folder, unknown level, or a malformed goal file.
    """
    from kalm.evaluation.results import write_rows

    suite = instructions(envs.make(config.env), goals, levels)
    found = trained_policies(policies)
    if not found:
        raise KalmError(f"no trained policy in {policies}. Train one with: kalm train --help.")
    # A run's encodings are shared; beside a policy from elsewhere nothing is written.
    encoder = _encoder(config, policies if (policies / ENCODINGS).exists() else folder)
    rows = []
    with track("evaluate", len(found)) as advance:
        for job, place in found:
            rows += play_one(config, job, place, suite, encoder, config.workers)
            advance(policy=job.name)
    write_rows(folder / ROWS, rows)
    return {"rows": len(rows), "success": sum(row.success for row in rows) / len(rows)}


def play_one(
    config: Config,
    job: PolicyJob,
    place: Path,
    suite: Sequence[Instruction],
    encoder: GoalEncoder,
    threads: int = 1,
) -> list[Episode]:
    """Play the last checkpoints of one policy, which divide its episodes among themselves."""
    from kalm.evaluation.episodes import evaluate_policy, sample_episodes

    world = envs.make(config.env)
    mine = [instruction for instruction in suite if job.level in (None, instruction.level)]
    chosen, seeds = sample_episodes(mine, config.evaluate.episodes, derive_seed(config.seed, job.seed))
    turns = registry.checkpoints(place, config.evaluate.checkpoints)
    rows = []
    for turn, (step, checkpoint) in enumerate(turns):
        policy = registry.load_policy(checkpoint, device(config.device), encoder)
        share = range(turn, len(chosen), len(turns))
        rows += evaluate_policy(
            policy,
            world,
            [chosen[i] for i in share],
            seeds[turn :: len(turns)],
            config.evaluate.horizon,
            threads,
            _label(job, step),
        )
    return rows


def instructions(world: World, goals: Path | None, levels: Sequence[str]) -> list[Instruction]:
    """Return the instructions of a goal file, or of the levels' suites."""
    if goals is not None:
        return list(read_goals(goals, world.parse_goal, world.spec.state_size))
    return [instruction for level in levels for instruction in world.suite(level)]
