"""The online loop's own stages: trained policies collect, and what succeeded becomes real data.

In a round the trained policies play goals in the simulator, and what succeeded becomes real data under the
sentence that was asked for. Grounding goes on from the last model on all real data, rollouts are imagined
anew, training goes on from the last policies, and they are played as before (`kalm.pipeline`). A round is a
folder::

    rounds/1/  collected/    successful episodes of the round
               real/         all real rollouts so far: what grounding sees
               grounded/ imagined/ policies/ evaluation/     as in the run itself

Every stage has its marker, so a stopped loop goes on where it was, and more rounds can be asked for later.

Unusual: goals of novel levels are played too, in wordings that are not held back, for the loop is about
learning what the data never had. From round 1 on such goals are therefore practised, no longer unseen; the
held-back wordings remain so, and the report tells them apart. Evaluation plays the same episodes every round.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kalm import registry
from kalm.errors import KalmError
from kalm.runs.folder import ROUNDS, PolicyJob, trained_policies
from kalm.runs.progress import track
from kalm.runs.seeding import derive_seed
from kalm.stages.base import Figures, StageSpec, whole_sections

if TYPE_CHECKING:
    from kalm.config import Config
    from kalm.data.rollouts import RolloutSet
    from kalm.session import Session


@dataclass(frozen=True)
class PlayInputs:
    """What a round collects with.

    Attributes:
        number: of the round, from 1.
        policies: folder of the policies of the round before.
    """

    number: int
    policies: Path


@dataclass(frozen=True)
class JoinInputs:
    """Real rollouts that become one dataset.

    Attributes:
        number: of the round, from 1.
        before: real rollouts of the round before.
        collected: those of this round.
    """

    number: int
    before: Path
    collected: Path


def play_goals(session: Session, inputs: PlayInputs, folder: Path) -> Figures:
    """Let the +KALM policies of one algorithm play; write the successful episodes as a dataset.

    They divide the episodes among themselves, so every training seed has a part in the data.
    """
    from kalm.data import storage
    from kalm.data.rollouts import RolloutSet
    from kalm.evaluation.episodes import play, sample_episodes

    config, world = session.config, session.world
    goals = [one for level in config.online.levels for one in world.suite(level) if not one.held_back]
    seed = session.seed("round", inputs.number, "collect")
    chosen, seeds = sample_episodes(goals, config.online.episodes, seed)
    algorithm = collector(config)
    found = [(job, place) for job, place in trained_policies(inputs.policies) if _collects(job, algorithm)]
    encoder = session.encoder(inputs.policies)
    parts = []
    with track(f"round {inputs.number}: collect", len(chosen)) as advance:
        for turn, (job, place) in enumerate(found):
            share = [i for i in range(turn, len(chosen), len(found)) if job.level in (None, chosen[i].level)]
            policy = registry.load_policy(place, session.device, encoder)
            mine = [chosen[i] for i in share]
            played = play(policy, world, mine, seeds[share], config.evaluate.horizon, config.workers)
            parts.append(played)
            advance(len(share), success=float(played.success.mean()) if len(played) else 0.0)
    episodes = RolloutSet.concat(parts)
    kept = episodes.take(episodes.success)
    facts = {
        "round": inputs.number,
        "policies": [job.name for job, _ in found],
        "episodes": _counts(episodes),
    }
    provenance = {"made_by": "round", "command": session.command, "world": config.env, "seed": config.seed}
    storage.write(kept, folder, {**provenance, **facts})
    return {"episodes": len(episodes), "kept": len(kept), "levels": _counts(kept)}


def join_rollouts(session: Session, inputs: JoinInputs, folder: Path) -> Figures:
    """Write all real rollouts so far as a dataset, the collected ones behind the others."""
    from kalm.data import storage
    from kalm.data.rollouts import RolloutSet

    parts = [storage.read(inputs.before), storage.read(inputs.collected)]
    rollouts = RolloutSet.concat(parts)
    facts = {"round": inputs.number, "before": len(parts[0]), "collected": len(parts[1])}
    storage.write(rollouts, folder, {"made_by": "round", "command": session.command, **facts})
    return {"rollouts": len(rollouts), "transitions": rollouts.transitions}


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


def settings_of(config: Config, number: int) -> Config:
    """Return the settings of a round: shorter grounding, longer training in all, own seed, no controls."""
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
        train={"steps": steps, "controls": ()},
        decision_transformer={"steps": decisions},
    )


def round_folder(run: Path, number: int) -> Path:
    """Return the folder of a round; 0 is the run itself."""
    return run / ROUNDS / str(number) if number else run


def _collects(job: PolicyJob, algorithm: str) -> bool:
    return job.algorithm == algorithm and job.data == "kalm"


def _counts(rollouts: RolloutSet) -> dict[str, int]:
    levels = rollouts.levels  # (rollouts,) str
    return {level: int((levels == level).sum()) for level in sorted(set(levels))}


def _settings(config: Config) -> dict[str, object]:
    """Return what is collected with; not how many rounds there are, for more can be asked for later."""
    own = config.online.model_dump(mode="json", exclude={"rounds"})
    return {"online": own, "horizon": config.evaluate.horizon}


PLAY = StageSpec("play", _settings, play_goals)
JOIN = StageSpec("join", whole_sections(), join_rollouts)
