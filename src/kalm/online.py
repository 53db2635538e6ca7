"""A whole run: every stage once, then the rounds of the online loop, then the report.

In a round the trained policies play goals in the simulator, and what succeeded becomes real data under the
sentence that was asked for. Grounding goes on from the last model on all real data, rollouts are imagined
anew, training goes on from the last policies, and they are played as before. A round is a folder::

    rounds/1/  collected/    successful episodes of the round
               real/         all real rollouts so far: what grounding sees
               grounded/ imagined/ policies/ evaluation/     as in the run itself

Every stage has its marker, so a stopped loop goes on where it was, and more rounds can be asked for later.

Unusual: goals of novel levels are played too, in wordings that are not held back, for the loop is about
learning what the data never had. From round 1 on such goals are therefore practised, no longer unseen; the
held-back wordings remain so, and the report tells them apart. Evaluation plays the same episodes every round.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalm import envs, pipeline, registry
from kalm.config import Config
from kalm.data import storage
from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.pipeline import Keys
from kalm.policies import ENCODINGS, Inputs, evaluate, made_from, train
from kalm.run.folder import (
    COLLECTED,
    EVALUATION,
    GROUNDED,
    IMAGINED,
    POLICIES,
    REAL,
    REPORT,
    ROUNDS,
    PolicyJob,
    stage,
    trained_policies,
)
from kalm.run.io import read_json
from kalm.run.progress import track
from kalm.run.seeding import derive_seed
from kalm.session import device, only

if TYPE_CHECKING:
    import numpy as np


def run(config: Config, folder: Path, command: str = "") -> dict[str, Any]:
    """Do everything that is not done yet; return the summary of the report."""
    if config.online.rounds:
        collector(config)
    keys = first = pipeline.run(config, folder, command)
    for number in range(1, config.online.rounds + 1):
        keys = play_round(config, folder, number, keys, command)
    rounds = {} if keys is first else {"rounds": keys.evaluation}
    stage(
        folder / REPORT,
        {**only(config, "report"), "evaluation": first.evaluation, "inspection": first.inspection, **rounds},
        lambda: pipeline.report(folder, folder / REPORT),
    )
    return read_json(folder / REPORT / "done.json", "report")["result"]


def collector(config: Config) -> str:
    """Return the algorithm whose policies collect.

    Raises:
        KalmError: it is not trained in this run, or it does not learn.
    """
    fitting = [name for name in config.train.algorithms if registry.table()[name].trains]
    asked = config.online.algorithm or (fitting[0] if fitting else "none")
    if asked not in fitting:
        raise KalmError(
            f"online.algorithm={asked!r} cannot collect: of this run's algorithms (train.algorithms) these "
            f"learn: {', '.join(fitting) or 'none'}."
        )
    return asked


def play_round(config: Config, run: Path, number: int, keys: Keys, command: str) -> Keys:
    """Do the stages of a round that are not done yet.

    Args:
        config: settings of the run.
        run: its folder.
        number: of the round, from 1.
        keys: stages of the round before.
        command: noted with what is made.
    """
    before, here = _folder(run, number - 1), _folder(run, number)
    later = settings_of(config, number)
    own = config.online.model_dump(mode="json", exclude={"rounds"})
    model = here / GROUNDED / "model"
    collected = stage(
        here / COLLECTED,
        {**_general(config), "rounds": own, "policies": keys.policies},
        lambda: collect(config, number, before / POLICIES, here / COLLECTED, command),
    )
    real = stage(
        here / REAL,
        {"before": keys.real, "collected": collected},
        lambda: join(number, before / REAL, here / COLLECTED, here / REAL, command),
    )
    grounded = stage(
        here / GROUNDED,
        {**only(later, "ground"), "data": real, "before": keys.grounded},
        lambda: pipeline.ground(later, here / REAL, here / GROUNDED, before / GROUNDED / "model"),
        together=True,
    )
    imagined = stage(
        here / IMAGINED,
        {**only(later, "imagine"), **pipeline.refining(later), "model": grounded},
        lambda: pipeline.imagine(later, model, here / IMAGINED, real=here / REAL, command=command),
        together=True,
    )
    # Each seed keeps its choice of the first real rollouts, and sees all that policies collected.
    parts = tuple(_folder(run, earlier) / COLLECTED for earlier in range(1, number + 1))
    inputs = Inputs(run / REAL, here / IMAGINED, model, parts, before / POLICIES)
    training = later.changed(seed=config.seed)
    policies = stage(
        here / POLICIES,
        {**made_from(training), "real": real, "imagined": imagined, "before": keys.policies},
        lambda: train(training, inputs, here / POLICIES),
    )
    evaluation = stage(
        here / EVALUATION,
        {**only(config, "evaluate"), "policies": policies},
        lambda: evaluate(config, here / POLICIES, here / EVALUATION),
    )
    return replace(
        keys, real=real, grounded=grounded, imagined=imagined, policies=policies, evaluation=evaluation
    )


def settings_of(config: Config, number: int) -> Config:
    """Return the settings of a round: shorter grounding, longer training in all, a seed of its own."""
    share, ground = config.online.ground_lr, config.ground
    shorter = ground.changed(
        epochs=config.online.ground_epochs,
        body_lr=share * ground.body_lr,
        new_lr=share * ground.new_lr,
        network_steps=config.online.network_steps,
        language={"steps": 0},
    )
    steps = config.train.steps + number * config.online.train_steps
    decisions = max(
        1, round(config.decision_transformer.steps * config.online.train_steps / config.train.steps)
    )
    return config.changed(
        seed=derive_seed(config.seed, "round", number) % 2**31,
        ground=shorter,
        train={"steps": steps},
        decision_transformer={"steps": decisions},
    )


def collect(config: Config, number: int, policies: Path, folder: Path, command: str = "") -> dict[str, Any]:
    """Let the +KALM policies of one algorithm play; write the successful episodes as a dataset.

    They divide the episodes among themselves, so every training seed has a part in the data.
    """
    from kalm.evaluation.episodes import play, sample_episodes
    from kalm.rl.encoder import GoalEncoder

    world = envs.make(config.env)
    goals = [one for level in config.online.levels for one in world.suite(level) if not one.held_back]
    seed = derive_seed(config.seed, "round", number, "collect")
    chosen, seeds = sample_episodes(goals, config.online.episodes, seed)
    team = [(job, place) for job, place in trained_policies(policies) if _collects(job, collector(config))]
    encoder = GoalEncoder(config.train.encoder, device(config.device), policies / ENCODINGS)
    parts = []
    with track(f"round {number}: collect", len(chosen)) as advance:
        for turn, (job, place) in enumerate(team):
            share = [i for i in range(turn, len(chosen), len(team)) if job.level in (None, chosen[i].level)]
            policy = registry.load_policy(place, device(config.device), encoder)
            played = play(
                policy,
                world,
                [chosen[i] for i in share],
                seeds[share],
                config.evaluate.horizon,
                config.workers,
            )
            parts.append(played)
            advance(len(share), success=float(played.success.mean()) if len(played) else 0.0)
    episodes = RolloutSet.concat(parts)
    kept = episodes.take(episodes.success)
    facts = {"round": number, "policies": [job.name for job, _ in team], "episodes": _counts(episodes)}
    provenance = {"made_by": "round", "command": command, "world": config.env, "seed": config.seed, **facts}
    storage.write(kept, folder, provenance)
    return {"episodes": len(episodes), "kept": len(kept), "levels": _counts(kept)}


def join(number: int, before: Path, collected: Path, folder: Path, command: str = "") -> dict[str, Any]:
    """Write all real rollouts so far as a dataset, the collected ones behind the others."""
    parts = [storage.read(before), storage.read(collected)]
    rollouts = RolloutSet.concat(parts)
    facts = {"round": number, "before": len(parts[0]), "collected": len(parts[1])}
    storage.write(rollouts, folder, {"made_by": "round", "command": command, **facts})
    return {"rollouts": len(rollouts), "transitions": rollouts.transitions}


def _collects(job: PolicyJob, algorithm: str) -> bool:
    return job.algorithm == algorithm and job.kalm


def _counts(rollouts: RolloutSet) -> dict[str, int]:
    levels: np.ndarray = rollouts.levels
    return {level: int((levels == level).sum()) for level in sorted(set(levels))}


def _folder(run: Path, number: int) -> Path:
    return run / ROUNDS / str(number) if number else run


def _general(config: Config) -> dict[str, Any]:
    return {"env": config.env, "seed": config.seed, "horizon": config.evaluate.horizon}
