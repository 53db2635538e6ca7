"""Gymnasium face of any world: one table, one instruction, the usual reset and step.

The observation is the world's state alone; what to do is a sentence in ``info["instruction"]``. Unusual:
Gymnasium 1 no longer looks for plug-ins, a module registers its environments when it is imported. So
importing this one does: ``gymnasium.make("kalm.envs.gym:kalm/ClevrRobot-v0")`` works at once, the short id
afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import gymnasium
import numpy as np
from gymnasium import spaces

from kalm.envs.base import World
from kalm.envs.registry import make, register_gymnasium
from kalm.envs.rollout import begin, judged, simulated
from kalm.errors import KalmError, unknown
from kalm.types import LEVELS, Conditions, Goal, Instruction, JsonObject

Action = np.ndarray | np.integer | int
OPTIONS = ("instruction", "goal", "state")


class GoalEnv(gymnasium.Env[np.ndarray, Action]):
    """Episodes of one instruction each, in any world.

    ``reset(options=...)`` takes ``"instruction"``, an `Instruction` or a sentence of the world's suites; or
    ``"goal"``, a `Goal` or its JSON object; and ``"state"``, an initial state. What is left out is drawn: the
    instruction from `level`, the state from the world's distribution (unless the instruction has its own).

    An episode terminates on success and after the first step of a one-step goal; it is truncated at the
    horizon (`kalm.envs.rollout.judged`). The initial state is never judged.

    Args:
        world: a world, or the name of one.
        level: where instructions are drawn from.
        render_mode: ``"rgb_array"`` or None.
        render_size: side of a picture, pixels.
        conditions: of the episodes: ``"plain"``, ``"tested"`` (as policies are measured) or ``"varied"``.
        options: of the world, where it is given by name, e.g. ``physics="mujoco3"``.
    """

    metadata: JsonObject = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self,
        world: World | str = "clevr",
        level: str = "seen",
        render_mode: str | None = None,
        render_size: int = 256,
        conditions: Conditions = "plain",
        **options: object,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise unknown("render mode", render_mode, self.metadata["render_modes"])
        if not isinstance(world, str) and options:
            raise KalmError(
                f"options {sorted(options)} need the environment's name; this one is already made."
            )
        self.world: World = make(world, **options) if isinstance(world, str) else world
        self.level = level
        self.render_mode: str | None = render_mode
        self.render_size = render_size
        self.suite: tuple[Instruction, ...] = self.world.suite(level)
        spec = self.world.spec
        self.observation_space: spaces.Space[np.ndarray] = spaces.Box(
            -np.inf, np.inf, (spec.state_size,), np.float64
        )
        self.action_space: spaces.Space[Action] = (
            spaces.Discrete(spec.action_size)
            if spec.action_kind == "discrete"
            else spaces.Box(-1.0, 1.0, (spec.action_size,), np.float32)
        )
        self._simulator = self.world.simulator(1, conditions=conditions)
        self._transition, self._row = simulated(self.world, self._simulator), np.arange(1)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, object] | None = None
    ) -> tuple[np.ndarray, JsonObject]:
        """Begin an episode; returns the state (S,) and ``{"instruction": sentence}``.

        Raises:
            KalmError: an option is unknown, or does not fit the world.
        """
        super().reset(seed=seed)
        options = {} if options is None else dict(options)
        for name in options:
            if name not in OPTIONS:
                raise unknown("reset option", name, OPTIONS)
        self.instruction: Instruction = self._instruction(options)
        self._judge = self.world.judge([self.instruction.goal])
        start = self.instruction
        if options.get("state") is not None:
            state, needed = np.asarray(options["state"], dtype=np.float64), self.observation_space.shape
            if state.shape != needed:
                raise KalmError(
                    f"reset option 'state' has shape {state.shape}, this environment needs {needed}."
                )
            start = replace(start, state=tuple(state.tolist()))
        seed = int(self.np_random.integers(2**62)) if start.state is None else 0
        self._state = begin(self._simulator, self.world, [start], [seed])[0]
        self._steps = 0
        return self._state.copy(), {"instruction": self.instruction.text}

    def step(self, action: Action) -> tuple[np.ndarray, float, bool, bool, JsonObject]:
        """Take one action; the last entry is ``{"instruction": sentence, "success": verdict}``."""
        actions, before = np.asarray(action, dtype=self.world.spec.action_dtype)[None], self._state[None]
        after = self._transition(self._row, before, actions)
        found = judged(self._judge, before, actions, after)
        self._state, self._steps = found.states[0], self._steps + 1
        terminated = bool(found.terminated[0])
        truncated = not terminated and self._steps >= self.world.spec.horizon
        info = {"instruction": self.instruction.text, "success": bool(found.success[0])}
        return self._state.copy(), float(found.rewards[0]), terminated, truncated, info

    def render(self) -> np.ndarray | None:  # type: ignore[override]  # narrower than Gymnasium's
        """Draw the present state: -> (size, size, 3) uint8, or None without a render mode."""
        return None if self.render_mode is None else self.world.render(self._state, self.render_size)

    def close(self) -> None:
        """Stop the simulator."""
        self._simulator.close()

    def _instruction(self, options: JsonObject) -> Instruction:
        came, goal = options.get("instruction"), options.get("goal")
        if came is not None and goal is not None:
            raise KalmError("give reset an 'instruction' or a 'goal', not both.")
        if isinstance(came, Instruction):
            return came
        if came is not None:
            return self._find(came)
        if goal is not None:
            return self._of_goal(self.world.parse_goal(goal.to_json() if isinstance(goal, Goal) else goal))
        return self.suite[int(self.np_random.integers(len(self.suite)))]

    def _find(self, text: str) -> Instruction:
        """Return the instruction with this sentence, from any level."""
        for level in LEVELS:
            for instruction in self.world.suite(level):
                if instruction.text == text:
                    return instruction
        raise KalmError(
            f"no suite of environment {self.world.spec.name!r} has the sentence {text!r}. Give its 'goal'."
        )

    def _of_goal(self, goal: Goal) -> Instruction:
        """Return the first instruction that asks for this goal, or one without a sentence."""
        for level in LEVELS:
            for instruction in self.world.suite(level):
                if instruction.goal == goal:
                    return instruction
        return Instruction(text="", level=self.level, goal=goal)


register_gymnasium()
