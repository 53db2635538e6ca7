"""One sentence, watched: what a grounded model imagines for it, the simulator's answer, what a policy does.

All begin in the same state, drawn from a seed. The answer is what comes of the imagined actions in the
simulator; where it stays away from what was imagined, the model was wrong about the physics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kalm.envs.base import World
from kalm.envs.rollout import initial_states
from kalm.errors import KalmError
from kalm.evaluation.episodes import play
from kalm.evaluation.guided import GuidedPolicy
from kalm.lm.generate import Sampling, imagine_rollouts
from kalm.lm.imagine import plan_horizon
from kalm.lm.model import GroundedLM
from kalm.lm.settings import ImagineConfig
from kalm.reader.reader import Reader
from kalm.registry import load_policy
from kalm.report.video import Understood, Watched, WatchedRollout
from kalm.types import LEVELS, Instruction, Rollout, WorldSpec

if TYPE_CHECKING:
    from kalm.session import Session


def understand(text: str, world: World, reader: Reader) -> Understood:
    """Find the goal of a sentence: that of its suite, where a level has it, else that of its plan.

    Raises:
        KalmError: the sentence cannot be read, or the reader is not sure of its plan, or that is no goal.
    """
    plan = reader.read([text], world)[0]
    for level in LEVELS:
        for instruction in world.suite(level):
            if instruction.text == text:
                return Understood(instruction, plan)
    goal = world.goal_of([step.goal for step in plan.usable]) if plan.usable else None
    if goal is None:
        guess = "no plain sentences say it"
        if plan.steps:
            fault = "together they are no goal" if plan.sure else "it is not sure enough"
            guess = f"its guess is {plan.text!r} ({plan.confidence:.0%}), but {fault}"
        raise KalmError(
            f"the reader does not understand {text!r}: {guess}. Say it in other words: `kalm read` shows how "
            "sentences are read."
        )
    return Understood(Instruction(text, "rephrase" if len(plan.steps) == 1 else "hard", goal), plan)


def watch_sentence(
    session: Session, text: str, model: Path | None = None, policy: Path | None = None, read: bool = True
) -> Watched:
    """Let a grounded model imagine, the simulator answer, and a policy act, from one initial state.

    Args:
        session: environment, reader, `imagine` settings (one try is made), and the seed of the initial state.
        text: the sentence.
        model: folder of the grounded model; None: nothing is imagined.
        policy: folder of the policy; None: none acts.
        read: both are asked in the plain words of the plan, where the reader is sure of it.

    Raises:
        KalmError: neither model nor policy, none there, or the sentence is not understood.
    """
    if model is None and policy is None:
        raise KalmError("nothing to watch. Give a grounded model, a policy, or both.")
    world, seed, views = session.world, session.config.seed, []
    imagines = None if model is None else session.load_model(model)
    acts = None if policy is None else load_policy(policy, session.device, world=world.spec)
    understood = understand(text, world, session.reader)
    asked, steps = understood.instruction, understood.plan.usable if read else ()
    if imagines is not None:
        config = session.config.imagine
        dream = _timed("imagined", lambda: _imagined(asked, steps, world, imagines, config, seed))
        views += [dream, _timed("answer of the simulator", lambda: _answer(dream.rollout, world, seed))]
    if acts is not None:
        actor = GuidedPolicy(acts, world, lambda texts, _: [steps] * len(texts)) if steps else acts
        views.append(_timed("policy", lambda: play(actor, world, [asked], [seed])[0]))
    return Watched(world, understood, tuple(views))


def _timed(title: str, make: Callable[[], Rollout]) -> WatchedRollout:
    begun = time.perf_counter()
    rollout = make()
    return WatchedRollout(title, rollout, time.perf_counter() - begun)


def _imagined(
    asked: Instruction,
    steps: tuple[Instruction, ...],
    world: World,
    model: GroundedLM,
    config: ImagineConfig,
    seed: int,
) -> Rollout:
    done = imagine_rollouts(
        model,
        world,
        [asked],
        [seed],
        starts=initial_states(world, [asked], [seed], "tested"),
        plans=[steps] if steps else None,
        prompt=config.prompt,
        horizon=plan_horizon(config, world, max(1, len(steps))),
        sampling=Sampling(config.temperature, config.state_noise),
        precision=config.precision,
    )
    if not done.finite.all():
        raise KalmError("the imagined rollout is not finite: the model is not usable.")
    return done.rollouts[0]


@dataclass
class _Repeating:
    """Acts as it did before."""

    actions: np.ndarray
    spec: WorldSpec
    done: int = 0

    def act(self, states: np.ndarray, texts: object) -> np.ndarray:
        self.done += 1
        return self.actions[self.done - 1 : self.done]


def _answer(dream: Rollout, world: World, seed: int) -> Rollout:
    same = tuple(dream.states[0].tolist()) if world.restorable else None
    asked = replace(dream.instruction, state=same)
    repeating = _Repeating(dream.actions, world.spec)
    return play(repeating, world, [asked], [seed], len(dream.actions))[0]
