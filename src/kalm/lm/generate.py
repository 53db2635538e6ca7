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
from kalm.errors import KalmError
from kalm.lm.grounded import GroundedLM, autocast
from kalm.lm.sequence import PROMPTS, Speller
from kalm.types import SOURCES, Instruction

# Rows leave the cache in bulk: selecting rows copies it, so it must pay.
DROP_SHARE = 0.2


@dataclass(frozen=True)
class Imagined:
    """What a decoding gave.

    Attributes:
        rollouts: the finite rollouts, in the order asked for.
        dropped: number of rollouts left out because a state was not finite.
    """

    rollouts: RolloutSet
    dropped: int


@torch.inference_mode()
def imagine(
    model: GroundedLM,
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    *,
    prompt: str = "goal-oriented",
    horizon: int | None = None,
    batch: int = 512,
    temperature: float = 0.0,
    precision: str = "auto",
    advance: Callable[[int], Any] | None = None,
) -> Imagined:
    """Decode one rollout per instruction (repeat an instruction for more).

    Args:
        model: the grounded model, on any device.
        world: gives initial states, verdicts and rewards.
        instructions: N instructions; one with a state starts there, else the world draws from the row's seed.
        seeds: N seeds.
        prompt: ``goal-oriented`` or ``generation``.
        horizon: largest number of actions; None takes the world's.
        batch: rows decoded together.
        temperature: of discrete actions; 0 takes the best.
        precision: see `GroundConfig.precision`.
        advance: called with the number of finished rollouts.

    Raises:
        KalmError: the model was grounded in another world, or goal and horizon do not fit its context.
    """
    if model.spec != world.spec:
        raise KalmError(
            f"the model was grounded in {model.spec.name!r}, which is not this world {world.spec.name!r}."
        )
    speller = Speller(model.backbone.tokenizer, model.backbone.context)
    horizon = horizon or world.spec.horizon
    seeds = np.asarray(seeds)
    states = _initial_states(world, instructions, seeds)
    parts, dropped = [], 0
    for first in range(0, len(instructions), batch):
        rows = slice(first, min(first + batch, len(instructions)))
        decoding = _Decoding(
            model, world, instructions[rows], states[rows], seeds[rows], horizon, temperature
        )
        with autocast(model.device, precision):
            decoding.run(speller, PROMPTS[prompt])
        parts.append(decoding.rollouts())
        dropped += int(decoding.broken.sum())
        if advance:
            advance(rows.stop - rows.start)
    return Imagined(RolloutSet.concat(parts), dropped)


class _Decoding:
    """The state of one batch while it is decoded."""

    def __init__(
        self,
        model: GroundedLM,
        world: World,
        instructions: Sequence[Instruction],
        states: np.ndarray,
        seeds: np.ndarray,
        horizon: int,
        temperature: float,
    ) -> None:
        n, spec = len(instructions), world.spec
        self.model, self.instructions, self.temperature = model, instructions, temperature
        self.judge: Judge = world.judge([instruction.goal for instruction in instructions])
        dtype = model.mean.numpy(force=True).dtype
        shape = (n, horizon) if spec.action_kind == "discrete" else (n, horizon, spec.action_size)
        self.states = np.zeros((n, horizon + 1, spec.state_size), dtype)  # (N, H + 1, S)
        self.states[:, 0] = states
        self.actions = np.zeros(shape, np.int64 if spec.action_kind == "discrete" else np.float32)
        self.rewards = np.zeros((n, horizon), np.float32)  # (N, H)
        self.lengths = np.zeros(n, np.int32)  # (N,)
        self.success = np.zeros(n, bool)  # (N,)
        self.broken = np.zeros(n, bool)  # (N,)
        self.noise = _gumbel(seeds, horizon, spec.action_size) if temperature > 0 else None

    def run(self, speller: Speller, template: str) -> None:
        """Decode all rows to their ends."""
        rows = np.arange(len(self.instructions))  # rows still in the cache
        alive = np.ones(len(rows), bool)
        cache, visible, position = self._prefill(speller, template)
        for step in range(self.states.shape[1] - 1):
            now = torch.from_numpy(self.states[rows, step]).to(self.model.device)  # (n, S)
            hidden, visible = self._append(self.model.state_vectors(now), cache, visible, position + 2 * step)
            actions = self._actions(self.model.action_head(hidden), rows, step)
            hidden, visible = self._append(
                self.model.embed_action(actions), cache, visible, position + 2 * step + 1
            )
            alive &= self._record(rows, step, actions, self.model.next_states(hidden, now), alive)
            if not alive.any():
                return
            if alive.mean() <= 1 - DROP_SHARE:
                keep = torch.from_numpy(np.flatnonzero(alive)).to(self.model.device)
                cache.batch_select_indices(keep)
                visible, position, rows = visible[keep], position[keep], rows[alive]
                alive = np.ones(len(rows), bool)

    def _prefill(self, speller: Speller, template: str) -> tuple[Any, Tensor, Tensor]:
        """Read each distinct goal once: cache, the columns that each row sees (N, P), and lengths (N, 1)."""
        from transformers import DynamicCache

        model = self.model
        texts = {instruction.text: None for instruction in self.instructions}
        prompts = [speller.goal_prompt(text, template).value for text in texts]
        longest = max(map(len, prompts))
        needed = longest + 2 * (self.states.shape[1] - 1) + 1
        if needed > speller.context:
            raise KalmError(
                f"a goal of {longest} tokens and {self.states.shape[1] - 1} steps need {needed} positions, "
                f"the model has {speller.context}. Lower the horizon."
            )
        ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])  # (U, P)
        lengths = torch.tensor([len(prompt) for prompt in prompts])  # (U,)
        column = torch.arange(longest)
        real = column < lengths[:, None]  # (U, P)
        seen = real[:, None, :].expand(-1, longest, -1)  # (U, P, P)
        if not model.backbone.two_way_prompt:
            seen = seen & (column[None, :] <= column[:, None])
        cache = DynamicCache(config=model.lm.config)
        embedded = model.lm.get_input_embeddings()(ids.to(model.device))
        position = column.expand(len(prompts), -1).to(model.device)
        model.body(embedded, seen[:, None].to(model.device), position, cache)
        number = {text: row for row, text in enumerate(texts)}
        owner = torch.tensor([number[instruction.text] for instruction in self.instructions])
        cache.batch_select_indices(owner.to(model.device))
        return cache, real[owner].to(model.device), lengths[owner, None].to(model.device)

    def _append(
        self, vectors: Tensor, cache: Any, visible: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Feed one token per row: (n, D) -> hidden states (n, D) and the grown visibility (n, K)."""
        visible = torch.cat([visible, visible.new_ones(len(visible), 1)], dim=1)
        hidden = self.model.body(vectors[:, None], visible[:, None, None, :], position, cache)
        return hidden[:, 0], visible

    def _actions(self, output: Tensor, rows: np.ndarray, step: int) -> Tensor:
        if self.model.spec.action_kind == "continuous":
            return output.clamp(-1, 1)
        if self.noise is not None:
            output = output / self.temperature + torch.from_numpy(self.noise[rows, step]).to(output)
        return output.argmax(dim=-1)

    def _record(
        self, rows: np.ndarray, step: int, actions: Tensor, after: Tensor, alive: np.ndarray
    ) -> np.ndarray:
        """Store one step of the rows that are alive and return which of all rows go on."""
        mine = rows[alive]
        before = self.states[mine, step]
        self.actions[mine, step] = actions.numpy(force=True)[alive]
        new = after.to(self.model.mean.dtype).numpy(force=True)[alive]
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
        kept = ~self.broken
        lengths = self.lengths[kept]
        step = np.arange(self.states.shape[1])
        used = step[None, :-1] < lengths[:, None]  # (n, H)
        table: dict[Instruction, int] = {}
        which = [table.setdefault(instruction, len(table)) for instruction in self.instructions]
        all_kept = RolloutSet(
            spec=self.model.spec,
            instructions=tuple(table),
            which=np.array(which, np.int32)[kept],
            lengths=lengths,
            states=self.states[kept][step[None] <= lengths[:, None]].astype(np.float32),
            actions=self.actions[kept][used],
            rewards=self.rewards[kept][used],
            success=self.success[kept],
            source=np.full(len(lengths), SOURCES.index("imagined"), np.int8),
        )
        return all_kept


def _initial_states(world: World, instructions: Sequence[Instruction], seeds: np.ndarray) -> np.ndarray:
    """Return initial states (N, S): the instruction's own, or drawn by the world from the row's seed."""
    states = np.zeros((len(instructions), world.spec.state_size))
    drawn = np.array([instruction.state is None for instruction in instructions])
    if drawn.any():
        states[drawn] = world.initial_states(seeds[drawn])
    for row, instruction in enumerate(instructions):
        if instruction.state is not None:
            states[row] = instruction.state
    return states


def _gumbel(seeds: np.ndarray, horizon: int, size: int) -> np.ndarray:
    """Noise that turns argmax into sampling, from each row's own seed: (N, H, actions) float32."""
    return np.stack([np.random.default_rng(seed).gumbel(size=(horizon, size)) for seed in seeds]).astype(
        np.float32
    )
