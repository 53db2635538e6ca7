"""Imagining: batched decoding of rollouts for goals, with a key/value cache (paper section 4.2).

Each distinct goal is read once and its cache fanned out to all its rollouts. Then, per step, two tokens::

    cache:  goal prompt | s0      -> hidden -> action head -> a0
                          a0      -> hidden -> state head  -> s1
                          s1      -> hidden -> action head -> a1   ...

A rollout ends when the world's own success test holds on the imagined state, after one step for one-step
goals, or at the horizon; ended rows leave the batch. Rewards come from the world's reward on the imagined
states: no simulator. Every row depends on its own goal, initial state and seed alone, so the batch size
changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.envs.base import Judge, World
from kalm.envs.rollout import initial_states
from kalm.errors import KalmError
from kalm.lm.decoding import DecodeState, worth_leaving
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.prompts import PROMPTS
from kalm.types import Instruction


@dataclass(frozen=True)
class ImaginedRollouts:
    """What a decoding gave.

    Attributes:
        rollouts: the finite rollouts, in the order asked for.
        finite: which of those asked for they are; the others had a state that was not finite.
    """

    rollouts: RolloutSet
    finite: np.ndarray  # (N,) bool

    @property
    def dropped(self) -> int:
        """Number of rollouts that were left out."""
        return int((~self.finite).sum())


@dataclass(frozen=True)
class Sampling:
    """How a rollout is drawn; without temperature and noise every choice is the likeliest.

    Attributes:
        temperature: of discrete actions, deviation of continuous ones; 0 takes the best.
        state_noise: normal noise on what changes in a state, in units of its usual change.
    """

    temperature: float = 0.0
    state_noise: float = 0.0


GREEDY = Sampling()


@torch.inference_mode()
def imagine_rollouts(
    model: GroundedLM,
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    *,
    prompt: str = "goal-oriented",
    horizon: int | None = None,
    batch: int = 512,
    sampling: Sampling = GREEDY,
    precision: str = "auto",
    actor: GroundedLM | None = None,
    starts: np.ndarray | None = None,
    words: Sequence[str] | None = None,
    advance: Callable[[int], Any] | None = None,
) -> ImaginedRollouts:
    """Decode one rollout per instruction (repeat an instruction for more).

    Args:
        model: the grounded model, on any device.
        world: gives initial states, verdicts and rewards.
        instructions: N instructions; one with a state starts there, else the world draws from the row's seed.
        seeds: N seeds.
        prompt: ``goal-oriented`` or ``generation``.
        horizon: largest number of actions; None takes the world's.
        batch: rows decoded together.
        sampling: how actions and states are drawn.
        precision: see `GroundConfig.precision`.
        actor: a second model that chooses the actions while `model` gives the states; None: `model` both.
        starts: (N, S) initial states; None: as said at `instructions`.
        words: N sentences that are read instead of the instructions' own; the goals stay.
        advance: called with the number of finished rollouts.

    Raises:
        KalmError: the model was grounded in another world, or goal and horizon do not fit its context.
    """
    actor = actor or model
    for part in (model, actor):
        if part.spec != world.spec:
            raise KalmError(
                f"the model was grounded in {part.spec.name!r}, which is not this world {world.spec.name!r}."
            )
    horizon = horizon or world.spec.horizon
    seeds = np.asarray(seeds)
    states = initial_states(world, instructions, seeds) if starts is None else starts
    texts = [instruction.text for instruction in instructions] if words is None else words
    parts, broken = [], []
    for first in range(0, len(instructions), batch):
        rows = slice(first, min(first + batch, len(instructions)))
        decoding = _Decoding(
            model, world, instructions[rows], texts[rows], states[rows], seeds[rows], horizon, sampling, actor
        )
        with autocast(model.device, precision):
            decoding.run(PROMPTS[prompt])
        parts.append(decoding.rollouts())
        broken.append(decoding.broken)
        if advance:
            advance(rows.stop - rows.start)
    return ImaginedRollouts(RolloutSet.concat(parts), ~np.concatenate(broken))


class _Decoding:
    """The state of one batch while it is decoded."""

    def __init__(
        self,
        model: GroundedLM,
        world: World,
        instructions: Sequence[Instruction],
        texts: Sequence[str],
        states: np.ndarray,
        seeds: np.ndarray,
        horizon: int,
        sampling: Sampling,
        actor: GroundedLM,
    ) -> None:
        n, spec = len(instructions), world.spec
        self.model, self.actor, self.instructions, self.texts = model, actor, instructions, texts
        self.horizon, self.sampling = horizon, sampling
        self.judge: Judge = world.judge([instruction.goal for instruction in instructions])
        dtype = model.scales.mean.numpy(force=True).dtype
        self.spread = sampling.state_noise * model.scales.change.numpy(force=True)  # (S,)
        shape = (n, horizon) if spec.action_kind == "discrete" else (n, horizon, spec.action_size)
        self.states = np.zeros((n, horizon + 1, spec.state_size), dtype)  # (N, H + 1, S)
        self.states[:, 0] = states
        self.actions = np.zeros(shape, np.int64 if spec.action_kind == "discrete" else np.float32)
        self.rewards = np.zeros((n, horizon), np.float32)  # (N, H)
        self.lengths = np.zeros(n, np.int32)  # (N,)
        self.success = np.zeros(n, bool)  # (N,)
        self.broken = np.zeros(n, bool)  # (N,)
        of_actions = 0 if spec.action_kind == "discrete" else 2
        size = (horizon, spec.action_size)
        self.jitter = _noise(seeds, of_actions, size) if sampling.temperature else None
        self.normal = _noise(seeds, 1, (horizon, spec.state_size)) if sampling.state_noise else None

    def run(self, template: str) -> None:
        """Decode all rows to their ends."""
        readings = {id(model): self._open(model, template) for model in (self.model, self.actor)}
        actor, dreamer = readings[id(self.actor)], readings[id(self.model)]
        rows = np.arange(len(self.instructions))  # rows that are still read
        alive = np.ones(len(rows), bool)
        for step in range(self.horizon):
            now = torch.from_numpy(self.states[rows, step]).to(self.model.device)  # (n, S)
            seen = {name: r.read(r.model.state_tokens(now)) for name, r in readings.items()}
            actions = self._actions(self.actor.rate_actions(seen[id(actor.model)], now), rows, step)
            told = {
                name: reading.read(reading.model.embed_action(actions)[:, None])
                for name, reading in readings.items()
                if reading.model.reads_actions
            }
            after = self.model.next_states(told.get(id(dreamer.model)), now, actions)
            alive &= self._record(rows, step, actions, after, alive)
            if not alive.any():
                return
            for reading in readings.values():
                if not reading.model.design.memory:
                    reading.rewind()
            if worth_leaving(alive):
                for reading in readings.values():
                    reading.keep(np.flatnonzero(alive))
                rows, alive = rows[alive], np.ones(int(alive.sum()), bool)

    def _open(self, model: GroundedLM, template: str) -> DecodeState:
        """Read each distinct goal once."""
        prompt_builder = model.prompt_builder()
        distinct = {text: number for number, text in enumerate(dict.fromkeys(self.texts))}
        prompts = [prompt_builder.goal_prompt(text, template).value for text in distinct]
        longest = max(map(len, prompts))
        needed = longest + (model.entities + 2) * (self.horizon if model.design.memory else 1)
        if needed > prompt_builder.context:
            raise KalmError(
                f"a goal of {longest} tokens and {self.horizon} steps need {needed} positions, "
                f"the model has {prompt_builder.context}. Lower the horizon (imagine.horizon)."
            )
        return DecodeState(model, prompts, np.array([distinct[text] for text in self.texts]))

    def _actions(self, output: Tensor, rows: np.ndarray, step: int) -> Tensor:
        discrete, heat = self.model.spec.action_kind == "discrete", self.sampling.temperature
        if self.jitter is not None:
            jitter = torch.from_numpy(self.jitter[rows, step]).to(output)
            output = output / heat + jitter if discrete else output + heat * jitter
        return output.argmax(dim=-1) if discrete else output.clamp(-1, 1)

    def _record(
        self, rows: np.ndarray, step: int, actions: Tensor, after: Tensor, alive: np.ndarray
    ) -> np.ndarray:
        """Store one step of the rows that are alive and return which of all rows go on."""
        mine = rows[alive]
        before = self.states[mine, step]
        self.actions[mine, step] = actions.numpy(force=True)[alive]
        new = after.to(self.model.scales.mean.dtype).numpy(force=True)[alive]
        if self.normal is not None:
            # What stands still is not shaken: the model is sure of that.
            new += (new != before) * self.spread * self.normal[mine, step]
        broken = ~np.isfinite(new).all(axis=1)
        new[broken] = before[broken]
        self.states[mine, step + 1] = new
        judge = self.judge.take(mine)
        success = judge.success(before, self.actions[mine, step], new) & ~broken
        self.rewards[mine, step] = judge.reward(before, self.actions[mine, step], new)
        self.lengths[mine] = step + 1
        self.success[mine], self.broken[mine] = success, broken
        goes_on = np.zeros(len(rows), bool)
        goes_on[alive] = ~(success | broken | judge.one_step)
        return goes_on

    def rollouts(self) -> RolloutSet:
        """Return the finite rollouts as a set."""
        return RolloutSet.from_grid(
            self.model.spec,
            self.instructions,
            self.lengths,
            self.states,
            self.actions,
            self.rewards,
            self.success,
            "imagined",
        ).take(~self.broken)


def _noise(seeds: np.ndarray, kind: int, shape: tuple[int, int]) -> np.ndarray:
    """Noise from each row's own seed: (N, *shape) float32; kind 0 turns argmax into sampling."""
    draws = [np.random.default_rng([kind, seed]) for seed in seeds.tolist()]
    return np.stack([rng.normal(size=shape) if kind else rng.gumbel(size=shape) for rng in draws]).astype(
        np.float32
    )
