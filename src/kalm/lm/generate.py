"""Imagining: batched decoding of rollouts for goals, with a key/value cache (paper section 4.2).

Each distinct goal is read once and its cache fanned out to all its rollouts. Then, per step, two tokens::

    cache:  goal prompt | s0      -> hidden -> action head -> a0
                          a0      -> hidden -> state head  -> s1
                          s1      -> hidden -> action head -> a1   ...

The two are actor and transition of the one episode loop (`kalm.envs.rollout`): verdicts and rewards are the
world's own, on imagined states, without a simulator, and ended rows leave the batch. Every row depends on its
own goal, initial state and seed alone, so the batch size changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.envs.base import Judge, World
from kalm.envs.follow import PlanFollower
from kalm.envs.rollout import EpisodeRecorder, Transition, initial_states, step_until_done
from kalm.errors import KalmError
from kalm.lm.decoding import DecodeState, Readings, prefill_goals
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
    plans: Sequence[Sequence[Instruction]] | None = None,
    readings: Mapping[GroundedLM, Readings] = MappingProxyType({}),
    advance: Callable[[int], object] | None = None,
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
        plans: N sequences of plain steps that are asked for one after another, again where they do not hold
            any more (`kalm.envs.follow`), instead of the instructions' own sentences; the goals stay.
        readings: what the models make of these sentences in this prompt, where they were read before.
        advance: called with the number of finished rollouts.

    Raises:
        KalmError: the model was grounded in another world, or goal and horizon do not fit its context.
    """
    actor = actor or model
    _require_environment(world, model, actor)
    horizon = horizon or world.spec.horizon
    seeds = np.asarray(seeds)
    states = initial_states(world, instructions, seeds) if starts is None else starts
    texts = [instruction.text for instruction in instructions] if words is None else words
    asked = [(text,) for text in texts] if plans is None else [_texts(plan) for plan in plans]
    parts, finite = [], []
    for first in range(0, len(instructions), batch):
        rows = slice(first, min(first + batch, len(instructions)))
        record = EpisodeRecorder(world.spec, rows.stop - rows.start, horizon)
        judge = world.judge([instruction.goal for instruction in instructions[rows]])
        with autocast(model.device, precision):
            episodes = _ImaginedEpisodes(
                model, actor, asked[rows], PROMPTS[prompt], seeds[rows], horizon, sampling, readings
            )
            if plans is not None:
                steps = [[step.goal for step in plan] for plan in plans[rows]]
                episodes.follower = PlanFollower(world, steps)
            begun = states[rows].astype(episodes.dtype)
            step_until_done(episodes.act, _staged(world, judge, episodes.transition), judge, begun, record)
        rollouts = RolloutSet.from_recorder(instructions[rows], record, "imagined")
        parts.append(rollouts.take(record.finite))
        finite.append(record.finite)
        if advance:
            advance(rows.stop - rows.start)
    return ImaginedRollouts(RolloutSet.concat(parts), np.concatenate(finite))


def _texts(plan: Sequence[Instruction]) -> tuple[str, ...]:
    return tuple(step.text for step in plan)


def _staged(world: World, judge: Judge, transition: Transition) -> Transition:
    """Let what is imagined show what the environment would once a stage of a goal is done."""

    def staged(rows: np.ndarray, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return world.next_stage(judge.take(rows), transition(rows, states, actions))

    return staged


def _require_environment(world: World, *models: GroundedLM) -> None:
    for model in models:
        if model.spec != world.spec:
            raise KalmError(
                f"the model was grounded in {model.spec.name!r}, which is not this environment, "
                f"{world.spec.name!r}."
            )


class _ImaginedEpisodes:
    """A batch of N episodes in which one model chooses the actions and one makes the next states.

    Each row is asked in its first sentence; with a `follower`, in that of the step which that says.
    """

    follower: PlanFollower | None = None

    def __init__(
        self,
        model: GroundedLM,
        actor: GroundedLM,
        texts: Sequence[Sequence[str]],
        template: str,
        seeds: np.ndarray,
        horizon: int,
        sampling: Sampling,
        readings: Mapping[GroundedLM, Readings],
    ) -> None:
        spec = model.spec
        self.model, self.actor, self.sampling = model, actor, sampling
        self.dtype = model.scales.mean.numpy(force=True).dtype
        self.decode_states = {
            name: _read_goals(reader, texts, template, horizon, readings.get(reader))
            for name, reader in {id(model): model, id(actor): actor}.items()
        }
        number = {text: i for i, text in enumerate(dict.fromkeys(text for row in texts for text in row))}
        self.sentence = [[number[text] for text in row] for row in texts]  # of each row's steps
        self.step = np.zeros(len(texts), dtype=np.int64)  # (N,) that each row is asked for
        self.own, self.acting = self.decode_states[id(model)], self.decode_states[id(actor)]
        self.spread = sampling.state_noise * model.changes.std.numpy(force=True)  # (S,)
        of_actions = 0 if spec.action_kind == "discrete" else 2
        size = (horizon, spec.action_size)
        self.jitter = _noise(seeds, of_actions, size) if sampling.temperature else None
        self.normal = _noise(seeds, 1, (horizon, spec.state_size)) if sampling.state_noise else None
        self.steps = 0

    def act(self, rows: np.ndarray, states: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Let the models read the present states: -> (n,) int64 or (n, A) float32."""
        for state in self.decode_states.values():
            if not state.model.design.memory:
                state.rewind()
            self.place = state.leave(rows)  # the same for all
        if self.follower is not None:
            self._follow(self.follower, rows, states)
        self.now = torch.from_numpy(self.own.spread(states, self.place)).to(self.model.device)  # (h, S)
        hidden = {
            name: state.read(state.model.state_tokens(self.now))
            for name, state in self.decode_states.items()
            if state.model.reads_states
        }  # (h, D) each
        output = self.acting.rate_actions(hidden.get(id(self.actor)), self.now)  # (h, A)
        return self._choose(output).numpy(force=True)[self.place]

    def _follow(self, follower: PlanFollower, rows: np.ndarray, states: np.ndarray) -> None:
        """Let rows whose step is another one now begin anew behind its sentence."""
        step = follower.now(rows, states)
        other = step != self.step[rows]
        self.step[rows] = step
        if other.any():
            owner = np.array(
                [self.sentence[row][at] for row, at in zip(rows[other], step[other], strict=True)]
            )
            for state in self.decode_states.values():
                state.restart(self.place[other], owner)

    def transition(self, rows: np.ndarray, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Let the models read the actions, and imagine: -> next states (n, S)."""
        taken = torch.from_numpy(self.own.spread(actions, self.place)).to(self.model.device)  # (h[, A])
        hidden = {
            name: state.read(state.model.embed_action(taken)[:, None])
            for name, state in self.decode_states.items()
            if state.model.reads_actions
        }
        after = self.model.next_states(hidden.get(id(self.model)), self.now, taken)  # (h, S)
        found = after.to(self.model.scales.mean.dtype).numpy(force=True)[self.place]
        if self.normal is not None:
            # What stands still is not shaken: the model is sure of that.
            found += (found != states) * self.spread * self.normal[rows, self.steps]
        self.steps += 1
        return found

    def _choose(self, output: Tensor) -> Tensor:
        discrete, heat = self.model.spec.action_kind == "discrete", self.sampling.temperature
        if self.jitter is not None:
            jitter = torch.from_numpy(self.jitter[self.acting.rows, self.steps]).to(output)
            output = output / heat + jitter if discrete else output + heat * jitter
        return output.argmax(dim=-1) if discrete else output.clamp(-1, 1)


def _read_goals(
    model: GroundedLM,
    texts: Sequence[Sequence[str]],
    template: str,
    horizon: int,
    readings: Readings | None,
) -> DecodeState:
    """Read the sentences of N rows, if they and the steps to come fit the model's context."""
    every = [text for row in texts for text in row]
    others = every if len(every) > len(texts) else ()
    state = prefill_goals(model, [row[0] for row in texts], template, others, model.reads_states, readings)
    context = model.prompt_builder().context
    steps = (horizon if model.design.memory else 1) if model.reads_states else 0
    needed = state.longest + (model.entities + 2) * steps
    if needed > context:
        raise KalmError(
            f"a goal of {state.longest} tokens and {horizon} steps need {needed} positions, "
            f"the model has {context}. Lower the horizon (imagine.horizon)."
        )
    return state


def _noise(seeds: np.ndarray, kind: int, shape: tuple[int, int]) -> np.ndarray:
    """Noise from each row's own seed: (N, *shape) float32; kind 0 turns argmax into sampling."""
    draws = [np.random.default_rng([kind, seed]) for seed in seeds.tolist()]
    return np.stack([rng.normal(size=shape) if kind else rng.gumbel(size=shape) for rng in draws]).astype(
        np.float32
    )
