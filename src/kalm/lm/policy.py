"""The grounded language model as a policy: it reads what truly happens and says what to do next.

The model is asked as for imagining, but each state that it reads is the world's own::

    cache:  goal prompt | s0            -> hidden -> action head -> a0      the world makes s1 of it
                          a0 s1         -> hidden -> action head -> a1      the world makes s2 of it   ...

Each distinct goal is read once and its cache fanned out to all its episodes; then an episode costs one state
and one action per step, read in one pass. Episodes that ended leave the cache in bulk. An episode depends on
its own sentence and states alone: how many are played side by side changes nothing.

Unusual: sampled actions come from numbers that are hashed from sentence, first state, step and action, not
from a generator, so that a thousand episodes draw in one array operation and each draws the same whoever is
played beside it. Two episodes with the same sentence and first state are therefore the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kalm.errors import KalmError, unknown
from kalm.lm.decoding import DecodeState, prefill_goals
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.prompts import PROMPTS
from kalm.types import WorldSpec


@dataclass(frozen=True)
class LMPolicy:
    """A grounded model that acts, without any training of its own.

    Attributes:
        model: the grounded model, on any device.
        temperature: of discrete actions; 0 takes the best.
        prompt: ``goal-oriented`` or ``generation``.
        precision: see `GroundConfig.precision`.
        side_by_side: largest number of episodes in memory; MiniLM takes about 3 MB for one of 50 steps.
        seed: of the sampled actions.

    Raises:
        KalmError: an unknown prompt, or a number out of range.
    """

    model: GroundedLM
    temperature: float = 0.0
    prompt: str = "goal-oriented"
    precision: str = "auto"
    side_by_side: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise unknown("prompt", self.prompt, PROMPTS)
        if not self.temperature >= 0 or self.side_by_side < 1:
            raise KalmError(
                f"temperature={self.temperature} and side_by_side={self.side_by_side}: "
                "the temperature must be at least 0, the number of episodes at least 1."
            )

    @property
    def spec(self) -> WorldSpec:
        """The world it acts in."""
        return self.model.spec

    def begin(self, texts: Sequence[str], states: np.ndarray) -> LMEpisodes:
        """Read the goals of N episodes.

        Raises:
            KalmError: states of another world, or a goal that is longer than the context.
        """
        seeds = _seeds(self.seed, texts, states) if self.temperature else None
        return LMEpisodes(
            self.model, texts, states, PROMPTS[self.prompt], self.precision, self.temperature, seeds
        )


class LMEpisodes:
    """N episodes that a model has read up to their present states (`kalm.evaluation.episodes.Playing`).

    Args:
        model: the model that reads and acts.
        texts: N sentences.
        states: (N, S) initial states, not read yet.
        template: prompt with a slot for the goal.
        precision: see `GroundConfig.precision`.
        temperature: of discrete actions; 0 takes the best.
        seeds: (N,) uint64 of the sampled actions; None where nothing is sampled.

    Raises:
        KalmError: states of another world, or a goal that is longer than the context.
    """

    def __init__(
        self,
        model: GroundedLM,
        texts: Sequence[str],
        states: np.ndarray,
        template: str,
        precision: str,
        temperature: float = 0.0,
        seeds: np.ndarray | None = None,
    ) -> None:
        if np.shape(states) != (len(texts), model.spec.state_size):
            raise KalmError(
                f"states of shape {np.shape(states)} and {len(texts)} sentences: environment "
                f"{model.spec.name!r} needs one row of {model.spec.state_size} numbers per sentence."
            )
        self.model = model
        self.precision = precision
        self.count: int = len(texts)
        self.temperature = temperature
        self.seeds = seeds
        self.last: np.ndarray | None = None  # (N,) or (N, A) the last actions
        self.steps: int = 0
        self.memory: bool = model.design.memory
        self.context: int = model.prompt_builder().context
        with torch.inference_mode(), autocast(model.device, precision):
            self.decode_state: DecodeState = prefill_goals(model, texts, template)

    @torch.inference_mode()
    def act(self, rows: np.ndarray, states: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Choose the next actions of the episodes that still run: -> (n,) int64 or (n, A) float32.

        Args:
            rows: (n,) which they are, rising.
            states: (n, S) their present states.
            rewards: (n,) what their last actions earned.

        Raises:
            KalmError: the model's context is used up.
        """
        state = self.decode_state
        place = state.leave(rows)
        if not self.memory:
            state.rewind()
            self.last = None
        with autocast(self.model.device, self.precision):
            now = torch.from_numpy(state.spread(states, place)).to(self.model.scales.mean)  # (h, S)
            hidden = None
            if not self.model.acts_by_network:
                tokens = self._tokens(now, state.spread(rewards, place))
                self._require_room(tokens.shape[1])
                hidden = state.read(tokens)
            output = state.rate_actions(hidden, now)  # (h, A)
        chosen = self._choose(output).numpy(force=True)  # (h,) or (h, A)
        if self.last is None:
            self.last = np.zeros((self.count, *chosen.shape[1:]), chosen.dtype)
        self.last[state.rows] = chosen
        self.steps += 1
        return chosen[place]

    def _tokens(self, states: Tensor, rewards: np.ndarray) -> Tensor:
        """Embed what is new since the last step: (h, S), (h,) -> (h, k, D)."""
        model = self.model
        parts = []
        if self.last is not None:
            last = torch.from_numpy(self.last[self.decode_state.rows]).to(model.device)  # (h,) or (h, A)
            parts.append(model.embed_action(last)[:, None])
        parts += self._ahead(rewards)
        parts += [model.state_tokens(states)]
        return torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1)

    def _ahead(self, rewards: np.ndarray) -> list[Tensor]:
        """Embed what stands in front of the present states: (h,) -> tokens (h, k, D)."""
        return []

    def _require_room(self, new: int) -> None:
        if (needed := self.decode_state.longest + new) > self.context:
            raise KalmError(
                f"after {self.steps} steps an episode and its goal need {needed} positions, the model has "
                f"{self.context}. Lower the horizon (evaluate.horizon), or use a backbone with a longer "
                "context."
            )

    def _choose(self, output: Tensor) -> Tensor:
        if self.model.spec.action_kind == "continuous":
            return output.clamp(-1, 1)
        if self.seeds is not None:
            gumbel = _gumbel(self.seeds[self.decode_state.rows], self.steps, output.shape[1])  # (h, A)
            output = output / self.temperature + torch.from_numpy(gumbel).to(output)
        return output.argmax(dim=-1)


def _seeds(seed: int, texts: Sequence[str], states: np.ndarray) -> np.ndarray:
    """Return one number per episode, from its sentence and first state: (N,) uint64."""
    rows = np.ascontiguousarray(states, dtype=np.float32)
    digests = [
        hashlib.sha256(f"{seed}/{text}/".encode() + row.tobytes()).digest()[:8]
        for text, row in zip(texts, rows, strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _gumbel(seeds: np.ndarray, step: int, size: int) -> np.ndarray:
    """Noise that turns argmax into sampling: (h,) uint64 -> (h, size), each number hashed by splitmix64."""
    with np.errstate(over="ignore"):
        counter = np.uint64(step * size) + np.arange(1, size + 1, dtype=np.uint64)
        x = seeds[:, None] + counter * np.uint64(0x9E3779B97F4A7C15)  # (h, size)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    uniform = ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(-np.log(uniform))
