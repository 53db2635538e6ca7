"""The stage `train`: the policies of a run, made side by side.

Policies are small, so each is made by one process of one thread, and `config.workers` of them work at a time.
A finished policy is kept, and a stopped one goes on from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kalm import registry
from kalm.envs.sentences import of_split
from kalm.errors import KalmError
from kalm.evaluation.results import Episode, label_of, read_rows, write_rows
from kalm.runs import processes
from kalm.runs.folder import (
    DATA_KINDS,
    EVALUATIONS,
    IMAGINED,
    JOB,
    MODEL,
    REAL,
    SHUFFLED,
    DataKind,
    PolicyJob,
)
from kalm.runs.io import write_json
from kalm.runs.progress import track
from kalm.stages.base import Figures, StageSpec, settings_section
from kalm.stages.evaluate import instructions
from kalm.stages.imagine import control_of, first_tries
from kalm.types import LEVELS, NOVEL_LEVELS

if TYPE_CHECKING:
    from kalm.config import Config
    from kalm.data.rollouts import RolloutSet
    from kalm.registry import TrainedPolicy
    from kalm.session import Session


@dataclass(frozen=True)
class TrainInputs:
    """What policies are made from.

    Attributes:
        real: real rollouts, of which each policy sees `train.real_rollouts`.
        imagined: imagined rollouts; None: plain policies only.
        model: folder of the grounded language model, for learners that need it.
        collected: real rollouts that earlier policies collected; every policy sees all of them.
        before: folder of the policies that these go on from, under the same names.
        shuffled: rollouts imagined with `imagine.control=shuffled`, where `train.controls` asks for them.
    """

    real: Path | RolloutSet
    imagined: Path | RolloutSet | None = None
    model: Path | None = None
    collected: tuple[Path, ...] = ()
    before: Path | None = None
    shuffled: Path | RolloutSet | None = None


def train_policies(session: Session, inputs: TrainInputs, folder: Path) -> Figures:
    """Train every policy of `policy_jobs`, several at a time; finished ones are kept.

    Raises:
        KalmError: before anything starts, if an algorithm is unknown or does not fit, or the data do not.
    """
    require_learners(session, inputs.model)
    todo = policy_jobs(session.config, inputs.imagined is not None)
    left = [job for job in todo if not (folder / job.name / JOB).exists()]
    with track("train", len(todo)) as advance:
        advance(len(todo) - len(left), resumed=True)
        if left:  # else there is nothing to encode for, and no process to start
            require_controls(session, inputs)
            prepare_data(session, left, inputs, folder)
            work = partial(train_policy, session, inputs=inputs, folder=folder)
            for job, _ in processes.each(work, left, session.config.workers):
                advance(policy=job.name)
    return {"policies": [job.name for job in todo]}


def policy_jobs(config: Config, imagined: bool = True) -> list[PolicyJob]:
    """Return the policies asked for, cheapest information first: all of one seed, then the next.

    Args:
        config: settings.
        imagined: there are imagined rollouts.

    Raises:
        KalmError: none, for plain policies are not wanted and no others can be made.
    """
    per_level: tuple[str | None, ...] = NOVEL_LEVELS if config.train.per_level else (None,)
    found = [
        PolicyJob(algorithm, data, seed, level)
        for seed in config.train.seeds
        for algorithm in config.train.algorithms
        for data in _variants(config, algorithm, imagined)
        for level in ((None,) if data == "plain" else per_level)
    ]
    if not found:
        raise KalmError("train.plain=false leaves no policy to train without imagined rollouts. Give some.")
    return found


def _variants(config: Config, algorithm: str, imagined: bool) -> tuple[DataKind, ...]:
    """Return what an algorithm learns from, one policy each."""
    if not registry.table()[algorithm].trains:
        return ("plain",)
    return (
        *(("plain",) if config.train.plain else ()),
        *(("kalm", *config.train.controls) if imagined else ()),
    )


def require_learners(session: Session, model: Path | None, comes: bool = False) -> None:
    """Raise KalmError unless every algorithm is known and fits the environment.

    Args:
        session: settings and environment.
        model: the grounded model at hand.
        comes: the model is yet to be made.
    """
    for algorithm in session.config.train.algorithms:
        registry.require_algorithm(algorithm, session.world.spec, model, comes)


def require_controls(session: Session, inputs: TrainInputs) -> None:
    """Check that the rollouts are what policies will be named after: +KALM, or a control of it.

    Raises:
        KalmError: a control is asked for and its rollouts are not given, or they were imagined otherwise.
    """
    controls = session.config.train.controls if inputs.imagined is not None else ()
    if "shuffled" in controls and inputs.shuffled is None:
        raise KalmError(
            "train.controls=shuffled needs rollouts that were imagined with the sentences permuted. Imagine "
            "them (kalm imagine --set imagine.control=shuffled) and give them with --shuffled FOLDER."
        )
    for given, wanted in ((inputs.imagined, "none"), (inputs.shuffled, "shuffled")):
        if isinstance(given, Path) and (came := control_of(given)) != wanted:
            raise KalmError(
                f"{given} was imagined with imagine.control={came}, {wanted} is needed here. Give the "
                "rollouts of a control with --shuffled and all others with --imagined."
            )
    if "unfiltered" in controls and inputs.imagined is not None:
        first_tries(inputs.imagined)


def prepare_data(session: Session, todo: Sequence[PolicyJob], inputs: TrainInputs, folder: Path) -> None:
    """Check what the jobs learn from, and encode all sentences once, before several processes ask for them.

    Raises:
        KalmError: the data cannot be learnt from.
    """
    from kalm.data.validation import require_data

    real = _read(inputs.real)
    kinds: set[DataKind] = {job.data for job in todo}
    imagined = {data: _imagined(inputs, data) for data in DATA_KINDS if data in kinds}
    for job in {(job.data, job.level): job for job in todo}.values():
        require_data(session.world.spec, real, imagined[job.data])
        _chosen(session.config, job, real, imagined[job.data], ())
    learnt = [real, *(rollouts for rollouts in imagined.values() if rollouts is not None)]
    sentences = dict.fromkeys(
        instruction.text for rollouts in learnt for instruction in rollouts.instructions
    )
    session.encoder(folder).encode(list(sentences))


def train_policy(session: Session, job: PolicyJob, inputs: TrainInputs, folder: Path) -> None:
    """Train one policy into ``folder/NAME``, or go on where a stopped training ended."""
    config = session.config
    collected = [_read(part) for part in inputs.collected]
    real, imagined = _chosen(config, job, _read(inputs.real), _imagined(inputs, job.data), collected)
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
        encoder=session.encoder(folder),
        folder=place,
        device=session.device,
        eval_callback=_eval_callback(session, job, place),
        start=inputs.before / job.name if inputs.before else None,
    )
    registry.table()[job.algorithm].fit(task)
    write_json(place / JOB, asdict(job))


def _read(data: Path | RolloutSet) -> RolloutSet:
    from kalm.data import storage

    return storage.read(data) if isinstance(data, Path) else data


def _imagined(inputs: TrainInputs, data: DataKind) -> RolloutSet | None:
    """Return the imagined rollouts that there are for policies of this kind."""
    given = inputs.shuffled if data == "shuffled" else inputs.imagined
    if data == "plain" or given is None:
        return None
    return first_tries(given) if data == "unfiltered" else _read(given)


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

    settings = config.train.changed(imagined="all") if job.data == "unfiltered" else config.train
    real, imagined = select_rollouts(real, imagined, settings, job.seed, job.level)
    return (RolloutSet.concat([real, *collected]) if collected else real), imagined


def _eval_callback(
    session: Session, job: PolicyJob, place: Path
) -> Callable[[TrainedPolicy, int], Mapping[str, float]]:
    """Return what plays a policy while it is trained: rows to a file, success per level as metrics.

    It plays the same episodes every time, of the split `tune`, for this is what one looks at while choosing
    settings. A level without a sentence of that split is left out.
    """
    from kalm.evaluation.episodes import evaluate_policy, sample_episodes

    config, world, file = session.config, session.world, place / EVALUATIONS
    seed = session.seed("looks", job.seed)
    suite = of_split(instructions(world, None, LEVELS), "tune")
    chosen, seeds = sample_episodes(suite, config.train.evaluate_episodes, seed)

    def evaluate(policy: TrainedPolicy, step: int) -> Mapping[str, float]:
        rows = evaluate_policy(policy, world, chosen, seeds, config.evaluate.horizon, 1, label_of(job, step))
        # What a stopped training played after its last checkpoint is played again.
        earlier = [row for row in read_rows(file) if row.checkpoint_step < step] if file.exists() else []
        write_rows(file, [*earlier, *rows])
        return {f"success/{level}": _share(rows, level) for level in dict.fromkeys(row.level for row in rows)}

    return evaluate


def _share(rows: Sequence[Episode], level: str) -> float:
    return float(np.mean([row.success for row in rows if row.level == level]))


def _settings(config: Config) -> dict[str, object]:
    """Return all settings that the policies asked for depend on."""
    known = registry.table()
    names = {name for algorithm in config.train.algorithms for name in known[algorithm].sections}
    return {name: settings_section(config, name) for name in ("train", *sorted(names))}


TRAIN = StageSpec(
    "train",
    _settings,
    train_policies,
    parts={"real": REAL, "imagined": IMAGINED, "model": MODEL, "shuffled": SHUFFLED},
)
