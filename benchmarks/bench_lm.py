"""The language model: cached against uncached decoding, packed against padded fine-tuning.

Both references do the same arithmetic in the plain way, on the same model and examples, in the same run. Each
pair is timed in turn, several times, and the median ratio is what counts: the machines are shared and noisy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from kalm import envs
from kalm.config import GroundConfig
from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.lm import collate, sft
from kalm.lm.curriculum import Curriculum
from kalm.lm.generate import imagine
from kalm.lm.grounded import GroundedLM
from kalm.lm.sequence import ACTION, GOAL_ORIENTED, STATE, Speller, Tokens
from kalm.types import Rollout

STEPS = 50
ROLLOUTS = 32
ROUNDS = 3


def main() -> None:
    """Print one line per measurement."""
    world = envs.make("clevr")
    model = sft.fresh(GroundConfig(), world, seed=0, device="cpu").eval()
    _decoding(model, world)
    _packing(model, world)


def _decoding(model: GroundedLM, world: World) -> None:
    # Lines are practically never reached by an untrained model, so every rollout has all its steps.
    instructions = [i for i in world.suite("hard") if i.goal.kind == "line"]
    rows = [instructions[i % len(instructions)] for i in range(ROLLOUTS)]
    cached = lambda: imagine(model, world, rows, range(ROLLOUTS), horizon=STEPS)  # noqa: E731
    ratio, fast, slow = _compare(cached, lambda: _uncached(model, world, [r.text for r in rows]), rounds=1)
    print(
        f"decoding, {STEPS} steps: cached {ROLLOUTS / fast:.1f} rollouts/s, "
        f"uncached batched {ROLLOUTS / slow:.1f}, ratio {ratio:.1f}"
    )


@torch.inference_mode()
def _uncached(model: GroundedLM, world: World, texts: list[str]) -> None:
    """Recompute the whole sequence for every token, as the released research code does."""
    speller = Speller(model.backbone.tokenizer, model.backbone.context)
    prompts = [speller.goal_prompt(text, GOAL_ORIENTED) for text in texts]
    states = [world.initial_states([i]).astype(np.float32) for i in range(len(texts))]
    actions = [np.zeros(0, np.int64) for _ in texts]
    for step in range(STEPS):
        for kind in (ACTION, STATE):
            hidden = _last_hidden(model, prompts, states, actions, step, kind)
            if kind == ACTION:
                chosen = model.action_head(hidden).argmax(-1).numpy()
                actions = [np.append(a, c) for a, c in zip(actions, chosen, strict=True)]
            else:
                now = torch.from_numpy(np.stack([s[-1] for s in states]))
                after = model.next_states(hidden, now).numpy()
                states = [np.concatenate([s, a[None]]) for s, a in zip(states, after, strict=True)]


def _last_hidden(
    model: GroundedLM,
    prompts: list[Tokens],
    states: list[np.ndarray],
    actions: list[np.ndarray],
    step: int,
    kind: int,
) -> torch.Tensor:
    """Hidden state of the last token of each row after reading everything again: -> (N, D)."""
    length = step if kind == ACTION else step + 1
    rollouts = RolloutSet(
        spec=model.spec,
        instructions=(),
        which=np.zeros(len(prompts), np.int32),
        lengths=np.full(len(prompts), length, np.int32),
        states=np.concatenate([np.concatenate([s, s[-1:]])[: length + 1] for s in states]),
        actions=np.concatenate([a[:length] for a in actions]),
        rewards=np.zeros(length * len(prompts), np.float32),
        success=np.zeros(len(prompts), bool),
        source=np.zeros(len(prompts), np.int8),
    )
    bodies = [
        Tokens.rollout(int(rollouts.state_starts[i]), int(rollouts.action_starts[i]), length, learn=False)
        for i in range(len(prompts))
    ]
    if kind == STATE:  # the sequence ends with the action whose next state is asked for
        bodies = [Tokens(b.kind[:-1], b.value[:-1], b.learn[:-1]) for b in bodies]
    rows = [[collate.Group(p, (b,))] for p, b in zip(prompts, bodies, strict=True)]
    batch = collate.batch(rows, rollouts, model.backbone.two_way_prompt)
    hidden = model.body(model.embed(batch), batch.visible, batch.position)
    last = torch.tensor([len(p) + len(b) - 1 for p, b in zip(prompts, bodies, strict=True)])
    return hidden[torch.arange(len(prompts)), last]


def _packing(model: GroundedLM, world: World) -> None:
    config = GroundConfig(rows=8)
    rollouts = _random_rollouts(world)
    speller = Speller(model.backbone.tokenizer, model.backbone.context)
    groups = Curriculum(rollouts, speller, config, seed=0).groups(0)
    examples = [collate.Group(g.prompt, (body,)) for row in groups for g in row for body in g.bodies]
    order = np.random.default_rng(0).permutation(len(examples))
    optimizer, _ = sft.optimizer_and_schedule(model, config, steps=100)

    def packed() -> None:
        sft.step(model, collate.batch(groups, rollouts, model.backbone.two_way_prompt), optimizer, config)

    def padded() -> None:
        for part in np.array_split(order, max(1, len(order) // 24)):  # the paper's batch size
            rows = [[examples[i]] for i in part]
            sft.step(model, collate.batch(rows, rollouts, model.backbone.two_way_prompt), optimizer, config)

    ratio, fast, slow = _compare(packed, padded, ROUNDS)
    print(
        f"fine-tuning: packed {len(examples) / fast:.0f} sequences/s, padded {len(examples) / slow:.0f}, "
        f"ratio {ratio:.2f}"
    )


def _random_rollouts(world: World) -> RolloutSet:
    """Random rollouts of the lengths that the expert's have; what they show does not matter for speed."""
    rng = np.random.default_rng(0)
    suite = world.suite("seen")
    rollouts = []
    for i in range(1200):
        length = 1 + int(rng.geometric(0.25))
        states = rng.normal(0, 0.3, (length + 1, world.spec.state_size))
        actions = rng.integers(world.spec.action_size, size=length)
        rollouts.append(Rollout(suite[i % 300], states, actions, np.zeros(length), True, "real"))
    return RolloutSet.from_rollouts(world.spec, rollouts)


def _compare(
    fast: Callable[[], object], slow: Callable[[], object], rounds: int
) -> tuple[float, float, float]:
    """Time both in turn: median ratio slow / fast, and the median seconds of each."""
    fast()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for record, work in zip(times, (fast, slow), strict=True):
            began = time.perf_counter()
            work()
            record.append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return statistics.median(ratios), statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
