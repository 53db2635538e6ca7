"""Grounding: supervised fine-tuning on the three tasks, with checkpoints and exact resume (paper section 4.1).

Which example stands where in which batch follows from (seed, epoch) alone, so a resumed training continues with the
very batch that was next. A checkpoint holds weights, optimizer moments and the step, as safetensors and JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from kalm.config import GroundConfig
from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.lm import collate, grounded
from kalm.lm.collate import Batch, Group
from kalm.lm.generate import imagine
from kalm.lm.grounded import GroundedLM, Losses, autocast
from kalm.lm.sequence import GOAL_ORIENTED, PROMPTS, Speller
from kalm.progress import Advance, silent
from kalm.runs import Metrics, atomic_folder, derive_rng, derive_seed, fingerprint, read_json, write_json
from kalm.types import LEVELS

# Rollouts that share one reading of the same goal. More saves tokens, fewer puts more different goals in a batch.
SHARED_GOAL = 4
LOG_EVERY = 20
MATCH_HORIZON = 25


@dataclass(frozen=True)
class _Planned:
    """A group before it is spelled: its task, its rollouts, and how many tokens it will have."""

    task: str
    rollouts: tuple[int, ...]
    variant: tuple[Any, ...]  # prompt template, or the step of each rollout
    tokens: int


class Curriculum:
    """What is learnt in which order: packed rows for every epoch, from (seed, epoch) alone."""

    def __init__(self, rollouts: RolloutSet, speller: Speller, config: GroundConfig, seed: int) -> None:
        self.rollouts, self.speller, self.config, self.seed = rollouts, speller, config, seed
        self._epoch: tuple[int, list[list[_Planned]]] = (-1, [])
        self.steps_per_epoch = max(1, len(self._rows(0)) // config.rows)
        self.steps = max(1, round(config.epochs * self.steps_per_epoch))

    def groups(self, step: int) -> list[list[Group]]:
        """Return the rows of one step's batch, spelled."""
        epoch, at = divmod(step, self.steps_per_epoch)
        rows = self._rows(epoch)[at * self.config.rows : (at + 1) * self.config.rows]
        return [[self._spell(planned) for planned in row] for row in rows]

    def tokens(self) -> int:
        """Tokens of the first epoch, without padding."""
        return sum(planned.tokens for row in self._rows(0) for planned in row)

    def examples(self) -> int:
        """Examples of the first epoch."""
        return sum(len(planned.rollouts) for row in self._rows(0) for planned in row)

    def _rows(self, epoch: int) -> list[list[_Planned]]:
        if self._epoch[0] != epoch:
            rng = derive_rng(self.seed, "ground", epoch)
            groups = [*self._generation(rng), *self._explanation(rng), *self._dynamics(rng)]
            groups = [groups[i] for i in rng.permutation(len(groups))]
            packed = collate.pack([group.tokens for group in groups], self.config.row_tokens)
            order = rng.permutation(len(packed))
            self._epoch = (epoch, [[groups[i] for i in packed[row]] for row in order])
        return self._epoch[1]

    def _generation(self, rng: np.random.Generator) -> list[_Planned]:
        chosen = self._choose(self.config.generation, rng)
        chosen = chosen[np.argsort(self.rollouts.which[chosen], kind="stable")]
        starts = np.flatnonzero(np.diff(self.rollouts.which[chosen], prepend=-1))
        groups = []
        for same in np.split(chosen, starts[1:]):
            for first in range(0, len(same), SHARED_GOAL):
                part = same[first : first + SHARED_GOAL]
                template = list(PROMPTS.values())[int(rng.integers(len(PROMPTS)))]
                text = self.rollouts.instructions[self.rollouts.which[part[0]]].text
                tokens = len(self.speller.goal_prompt(text, template)) + int(
                    (2 * self.rollouts.lengths[part] + 1).sum()
                )
                groups.append(_Planned("generation", tuple(part.tolist()), (template,), tokens))
        return groups

    def _explanation(self, rng: np.random.Generator) -> list[_Planned]:
        chosen = self._choose(self.config.explanation, rng)
        if not len(chosen):
            return []
        prompt = len(self.speller.explanation(self.rollouts, int(chosen[0])).prompt)
        bodies = [len(self.speller.explanation(self.rollouts, int(index)).body) for index in chosen]
        return self._share("explanation", chosen, bodies, prompt, [()] * len(chosen))

    def _dynamics(self, rng: np.random.Generator) -> list[_Planned]:
        chosen = self._choose(self.config.dynamics, rng)
        if not len(chosen):
            return []
        example = self.speller.dynamics(self.rollouts, 0, 0)
        steps = rng.integers(self.rollouts.lengths[chosen])
        return self._share(
            "dynamics",
            chosen,
            [len(example.body)] * len(chosen),
            len(example.prompt),
            [(int(s),) for s in steps],
        )

    def _share(
        self,
        task: str,
        chosen: np.ndarray,
        bodies: Sequence[int],
        prompt: int,
        variants: Sequence[tuple[Any, ...]],
    ) -> list[_Planned]:
        """Put bodies behind copies of a prompt that is the same for all, at most half a row each."""
        places = collate.pack(bodies, max(1, self.config.row_tokens // 2 - prompt), open_rows=1)
        return [
            _Planned(
                task,
                tuple(int(chosen[i]) for i in place),
                tuple(item for i in place for item in variants[i]),
                prompt + sum(bodies[i] for i in place),
            )
            for place in places
        ]

    def _choose(self, share: float, rng: np.random.Generator) -> np.ndarray:
        count = round(share * len(self.rollouts))
        order = [rng.permutation(len(self.rollouts)) for _ in range(math.ceil(share))]
        return np.concatenate([*order, np.zeros(0, np.int64)])[:count].astype(np.int64)

    def _spell(self, planned: _Planned) -> Group:
        if planned.task == "generation":
            examples = [
                self.speller.generation(self.rollouts, i, planned.variant[0]) for i in planned.rollouts
            ]
        elif planned.task == "explanation":
            examples = [self.speller.explanation(self.rollouts, i) for i in planned.rollouts]
        else:
            pairs = zip(planned.rollouts, planned.variant, strict=True)
            examples = [self.speller.dynamics(self.rollouts, i, step) for i, step in pairs]
        return collate.group(examples)


Watch = Callable[[int], AbstractContextManager[Advance]]


def _unwatched(steps: int) -> AbstractContextManager[Advance]:
    return nullcontext(silent)


def train(
    model: GroundedLM,
    rollouts: RolloutSet,
    world: World,
    config: GroundConfig,
    seed: int,
    folder: Path,
    watch: Watch = _unwatched,
) -> GroundedLM:
    """Fine-tune a model in place, continuing from the folder's checkpoint if there is one, and save it.

    Args:
        model: on the device to train on.
        rollouts: real rollouts.
        world: for quick match rates.
        config: settings.
        seed: root of the order of examples.
        folder: gets ``checkpoint/``, ``metrics.jsonl`` and, at the end, ``model/``.
        watch: given the number of steps, opens what shows progress.

    Raises:
        KalmError: too few rollouts, or the folder's checkpoint belongs to other settings or data.
    """
    if config.rollouts is not None:
        rollouts = rollouts.take(np.arange(min(config.rollouts, len(rollouts))))
    if len(rollouts) <= config.held_out:
        raise KalmError(f"{len(rollouts)} rollouts are too few to keep {config.held_out} out of training.")
    data, held_out = rollouts.split(config.held_out / len(rollouts), derive_rng(seed, "ground", "split"))
    speller = Speller(model.backbone.tokenizer, model.backbone.context)
    curriculum = Curriculum(data, speller, config, seed)
    model.fit_scales(data)
    optimizer, schedule = optimizer_and_schedule(model, config, curriculum.steps)
    checkpoint = _Checkpoint(folder / "checkpoint", _identity(rollouts, config, seed))
    start = checkpoint.restore(model, optimizer)
    metrics = Metrics(folder, start)
    monitor = _Monitor(model, world, held_out, speller, config, seed)
    with watch(curriculum.steps) as advance:
        advance(start, resumed=True)
        for number in range(start, curriculum.steps):
            for group, rate in zip(optimizer.param_groups, schedule(number), strict=True):
                group["lr"] = rate
            batch = collate.batch(curriculum.groups(number), data, model.backbone.two_way_prompt).to(model.device)
            losses, norm = step(model, batch, optimizer, config)
            done = number + 1
            if done % LOG_EVERY == 0 or done == curriculum.steps:
                values = {f"train/{name}": float(value.detach()) for name, value in vars(losses).items()}
                metrics.log(done, {**values, "train/gradient_norm": norm, "train/body_lr": schedule(number)[0]})
            if done % config.evaluate_every == 0 or done == curriculum.steps:
                metrics.log(done, monitor.look())
            if done % config.checkpoint_every == 0 and done < curriculum.steps:
                checkpoint.write(model, optimizer, done)
            advance(1, loss=float(losses.weighted(*_weights(config)).detach()))
    model.eval().save(folder / "model")
    metrics.close()
    return model


def step(
    model: GroundedLM, batch: Batch, optimizer: torch.optim.Optimizer, config: GroundConfig
) -> tuple[Losses, float]:
    model.train()
    with autocast(model.device, config.precision):
        losses = model(batch)
    loss = losses.weighted(*_weights(config))
    if not torch.isfinite(loss):
        raise KalmError(
            f"the loss is {float(loss)}: text {float(losses.text)}, state {float(losses.state)}, "
            f"action {float(losses.action)}. Lower ground.body_lr or ground.new_lr, or use ground.precision=float32."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(trainable, config.clip))
    optimizer.step()
    return losses, norm


def _weights(config: GroundConfig) -> tuple[float, float, float]:
    return config.text_weight, config.state_weight, config.action_weight


def optimizer_and_schedule(
    model: GroundedLM, config: GroundConfig, steps: int
) -> tuple[torch.optim.AdamW, Callable[[int], list[float]]]:
    """AdamW over body and new modules at their own rates, and the schedule of those rates."""
    words = {id(p) for p in model.lm.get_input_embeddings().parameters()}
    words |= {id(p) for p in model.lm.get_output_embeddings().parameters()}
    body = {id(p) for p in model.backbone.body.parameters()}
    groups: tuple[list[Any], list[Any]] = ([], [])
    for parameter in model.parameters():
        frozen = (id(parameter) in words and not config.train_embeddings) or (
            id(parameter) in body and config.body_lr == 0
        )
        parameter.requires_grad_(not frozen)
        if not frozen:
            groups[0 if id(parameter) in body | words else 1].append(parameter)
    rates = (config.body_lr, config.new_lr)
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)],
        weight_decay=config.weight_decay,
        fused=True,
    )
    warm = max(1, round(config.warmup * steps))

    def schedule(step: int) -> list[float]:
        rise = min(1.0, (step + 1) / warm)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, (step - warm) / max(1, steps - warm))))
        return [rate * rise * fall for rate in rates]

    return optimizer, schedule


class _Monitor:
    """Held-out losses and quick match rates while training goes."""

    def __init__(
        self,
        model: GroundedLM,
        world: World,
        held_out: RolloutSet,
        speller: Speller,
        config: GroundConfig,
        seed: int,
    ) -> None:
        self.model, self.world, self.held_out, self.config = model, world, held_out, config
        every = np.arange(len(held_out))
        tasks = {
            "generation": [speller.generation(held_out, int(i), GOAL_ORIENTED) for i in every],
            "explanation": [speller.explanation(held_out, int(i)) for i in every],
            "dynamics": [speller.dynamics(held_out, int(i), 0) for i in every],
        }
        self.rows = {
            task: [[collate.group([example])] for example in examples] for task, examples in tasks.items()
        }
        rng = derive_rng(seed, "ground", "watch")
        self.instructions = {}
        for level in LEVELS:
            suite = world.suite(level)
            self.instructions[level] = [
                suite[i] for i in rng.integers(len(suite), size=config.match_rollouts)
            ]
        self.seeds = [derive_seed(seed, "ground", "watch", i) for i in range(config.match_rollouts)]

    @torch.inference_mode()
    def look(self) -> dict[str, float]:
        """Return the numbers of this moment."""
        self.model.eval()
        values: dict[str, float] = {}
        for task, rows in self.rows.items():
            batch = collate.batch(rows, self.held_out, self.model.backbone.two_way_prompt).to(
                self.model.device
            )
            with autocast(self.model.device, self.config.precision):
                losses = self.model(batch)
            answers = {"text": batch.learn_text, "state": batch.learn_state, "action": batch.learn_action}
            for name, learn in answers.items():
                if learn.any():
                    values[f"held_out/{task}_{name}"] = float(getattr(losses, name))
        if self.config.match_rollouts:
            for level, instructions in self.instructions.items():
                result = imagine(
                    self.model,
                    self.world,
                    instructions,
                    self.seeds,
                    horizon=min(MATCH_HORIZON, self.world.spec.horizon),
                    precision=self.config.precision,
                )
                values[f"match/{level}"] = float(result.rollouts.success.sum() / len(instructions))
        return values


class _Checkpoint:
    """Weights, optimizer moments, generator state and step of a training that goes on."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity

    def write(self, model: GroundedLM, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Save everything that the next step depends on."""
        with atomic_folder(self.folder) as place:
            save_file(self._tensors(model, optimizer), place / "state.safetensors")
            write_json(place / "checkpoint.json", {"step": step, "identity": self.identity})

    def restore(self, model: GroundedLM, optimizer: torch.optim.Optimizer) -> int:
        """Load the checkpoint if there is one; return the number of steps done."""
        if not self.folder.exists():
            return 0
        about = read_json(self.folder / "checkpoint.json", "grounding checkpoint")
        if about["identity"] != self.identity:
            raise KalmError(
                f"{self.folder} was made from other data, settings or seed. Use another folder, or remove it to start over."
            )
        tensors = load_file(self.folder / "state.safetensors", device=str(model.device))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(tensors[f"weight/{name}"])
                    moments = ("exp_avg", "exp_avg_sq", "step")
                    # `step` is a CPU tensor unless fused on a device; AdamW moves nothing, so keep it as saved.
                    optimizer.state[parameter] = {m: tensors[f"{m}/{name}"] for m in moments}
        torch.set_rng_state(tensors["rng"].cpu())
        return int(about["step"])

    def _tensors(self, model: GroundedLM, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        tensors = {"rng": torch.get_rng_state()}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                tensors[f"weight/{name}"] = parameter.detach().clone()
                for moment, value in optimizer.state[parameter].items():
                    tensors[f"{moment}/{name}"] = value.clone()
        return tensors


def _identity(rollouts: RolloutSet, config: GroundConfig, seed: int) -> str:
    """Name what a training is made of, so that a checkpoint is never continued with something else."""
    data = [len(rollouts), rollouts.transitions, float(rollouts.states.sum(dtype=np.float64))]
    return fingerprint([data, config.model_dump(), seed])


def fresh(config: GroundConfig, world: World, seed: int, device: str) -> GroundedLM:
    """Return a model about to be grounded: pre-trained backbone, new modules initialised from the seed."""
    torch.manual_seed(derive_seed(seed, "ground", "init"))
    backbone = grounded.backbones.load(config.backbone, config.attention)
    return GroundedLM(backbone, world.spec, config.state_target).to(device)
