"""What a grounded language model can do, measured in detail (paper, sections on grounding and imagination).

* imagining: match rate, one-step matches, hallucinations per level (`kalm.evaluation.imagined`), and how far
  imagined states are from what the simulator makes of the imagined actions (`kalm.evaluation.simulated`);
* explaining: whether the text that the model writes about a real rollout names object, direction and
  reference object of its goal, asked in the words of its training and in others; and whether that plain
  sentence of the data does under which it would have acted like this (`kalm.lm.inverse_planning`), chosen
  among all, and among those whose goal comes true at the rollout's end, beside the first of these;
* predicting: the error of the next state, on the expert's transitions and on random actions.

Nothing here is training data: goals are drawn from the suites, real rollouts are fresh ones of the expert
unless others are given, and random transitions are simulated on the spot. Each split (`inspect.split`) has
sentences, initial states and random numbers of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from kalm.data.collect import run_expert
from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import ends_with
from kalm.data.settings import CollectConfig
from kalm.envs.base import World
from kalm.envs.rollout import initial_states
from kalm.envs.sentences import plain_steps, require_split
from kalm.errors import KalmError
from kalm.evaluation.imagined import Quality, quality
from kalm.evaluation.settings import InspectConfig
from kalm.evaluation.simulated import Agreement, Error, agreement, error_of, random_transitions
from kalm.evaluation.statistics import Rate, rate
from kalm.lm.explain import explain, verdicts
from kalm.lm.generate import Sampling, imagine_rollouts
from kalm.lm.inverse_planning import action_surprise
from kalm.lm.model import GroundedLM
from kalm.lm.predict import squared_errors
from kalm.lm.prompts import explanation_prompts
from kalm.lm.settings import ImagineConfig
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng, derive_seed
from kalm.types import Instruction, JsonObject

REAL = "real"  # the column of real rollouts beside the levels


@dataclass(frozen=True)
class Inspection:
    """All that was measured.

    Attributes:
        levels: level -> quality of its imagined rollouts.
        agreement: level, or ``real`` -> agreement of the rollouts with the simulator.
        explanation: prompt, or other way -> slot (and ``all``) -> share of texts that name it.
        dynamics: kind of transitions -> error of the predicted next state.
        dropped: imagined rollouts that are in no figure, because a state of theirs is not finite.
        splits: those that the goals are of, see `kalm.types.SPLITS`.
    """

    levels: dict[str, Quality]
    agreement: dict[str, Agreement]
    explanation: dict[str, dict[str, Rate]]
    dynamics: dict[str, Error]
    dropped: int = 0
    splits: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            "levels": {level: found.to_json() for level, found in self.levels.items()},
            "agreement": {name: found.to_json() for name, found in self.agreement.items()},
            "explanation": {
                prompt: {slot: found.to_json() for slot, found in slots.items()}
                for prompt, slots in self.explanation.items()
            },
            "dynamics": {name: found.to_json() for name, found in self.dynamics.items()},
            "dropped": self.dropped,
            "splits": list(self.splits),
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> Inspection:
        """Inverse of `to_json`."""
        return cls(
            {level: Quality.from_json(found) for level, found in data["levels"].items()},
            {name: Agreement.from_json(found) for name, found in data["agreement"].items()},
            {
                prompt: {slot: Rate.from_json(found) for slot, found in slots.items()}
                for prompt, slots in data["explanation"].items()
            },
            {name: Error.from_json(found) for name, found in data["dynamics"].items()},
            data["dropped"],
            tuple(data.get("splits", ())),  # of inspections before 0.3: none
        )


@dataclass(frozen=True)
class Explained:
    """One explanation: what was asked, the sentence that the rollout was made for, and what came."""

    prompt: str
    label: str
    text: str


@dataclass(frozen=True)
class Evidence:
    """What an inspection was measured on."""

    imagined: RolloutSet
    explained: tuple[Explained, ...]

    def lines(self) -> list[dict[str, str]]:
        """Return the explanations as JSON-ready lines."""
        return [asdict(item) for item in self.explained]


def inspect(
    model: GroundedLM,
    world: World,
    goals: Sequence[Instruction],
    real: RolloutSet,
    config: InspectConfig,
    sampling: ImagineConfig,
    seed: int,
    threads: int = 1,
    advance: Advance = silent,
) -> tuple[Inspection, Evidence]:
    """Measure a model.

    Args:
        model: the grounded model, on any device.
        world: the one it was grounded in.
        goals: rollouts are imagined for instructions drawn from these, level by level.
        real: rollouts that the model has not learnt from (`fresh_rollouts`).
        config: how many of what.
        sampling: how to imagine.
        seed: root of all draws.
        threads: of the simulator.
        advance: told of finished imagined rollouts.

    Raises:
        KalmError: none of the imagined rollouts of a level is finite, or something does not fit the context.
    """
    imagined = _imagine(model, world, goals, config, sampling, seed, advance)
    levels = {
        level: imagined.take(imagined.levels == level) for level in dict.fromkeys(i.level for i in goals)
    }
    explained = real.take(np.arange(min(config.explanations, len(real))))
    rates, texts = _explanations(model, world, explained, sampling.precision)
    compared = {**levels, REAL: explained} if world.restorable else {}
    inspection = Inspection(
        levels=quality(imagined, world),
        agreement={name: agreement(part, world, threads) for name, part in compared.items()},
        explanation=rates,
        dynamics=_dynamics(model, world, real, config, sampling.precision, seed, threads),
        dropped=rollouts_needed(goals, config) - len(imagined),
        splits=tuple(sorted({goal.split for goal in goals} - {""})),
    )
    return inspection, Evidence(imagined, texts)


def fresh_rollouts(world: World, config: InspectConfig, collect: CollectConfig, seed: int) -> RolloutSet:
    """Let the expert make as many real rollouts as an inspection needs, none of them in any dataset."""
    rng = derive_rng(seed, "inspect", config.split, "expert")
    suite = require_split(world.suite("seen"), config.split)
    instructions = _deal(suite, max(config.explanations, config.transitions), rng)
    return run_expert(world, instructions, collect, rng)[0]


def rollouts_needed(goals: Sequence[Instruction], config: InspectConfig) -> int:
    """Return how many rollouts an inspection imagines."""
    return config.rollouts * len({instruction.level for instruction in goals})


def _deal(suite: Sequence[Instruction], count: int, rng: np.random.Generator) -> list[Instruction]:
    """Draw instructions so that none comes twice more often than another."""
    return [suite[int(row)] for row in np.resize(rng.permutation(len(suite)), count)]


def _imagine(
    model: GroundedLM,
    world: World,
    goals: Sequence[Instruction],
    config: InspectConfig,
    sampling: ImagineConfig,
    seed: int,
    advance: Advance,
) -> RolloutSet:
    """Imagine `config.rollouts` rollouts for each level that has goals."""
    rng = derive_rng(seed, "inspect", config.split, "goals")
    chosen: list[Instruction] = []
    for level in dict.fromkeys(instruction.level for instruction in goals):
        chosen += _deal([i for i in goals if i.level == level], config.rollouts, rng)
    seeds = [derive_seed(seed, "inspect", one.split, row) for row, one in enumerate(chosen)]
    result = imagine_rollouts(
        model,
        world,
        chosen,
        seeds,
        starts=initial_states(world, chosen, seeds, sampling.conditions),
        prompt=sampling.prompt,
        horizon=sampling.horizon,
        batch=sampling.batch,
        sampling=Sampling(sampling.temperature, sampling.state_noise),
        precision=sampling.precision,
        advance=advance,
    )
    if lost := {i.level for i in chosen} - set(result.rollouts.levels):
        raise KalmError(
            f"no imagined rollout of {', '.join(sorted(lost))} is finite: the model is not usable."
        )
    return result.rollouts


def _explanations(
    model: GroundedLM, world: World, rollouts: RolloutSet, precision: str
) -> tuple[dict[str, dict[str, Rate]], tuple[Explained, ...]]:
    labels = [rollouts.instructions[which].text for which in rollouts.which]
    prompts = explanation_prompts(world.scene).items()
    written = {name: explain(model, rollouts, prompt, precision=precision) for name, prompt in prompts}
    rates, found = {}, []
    for name, texts in {**written, **_chosen(model, world, rollouts, precision)}.items():
        slots = verdicts(texts, rollouts, world)
        rates[name] = {slot: rate(int(right.sum()), len(right)) for slot, right in slots.items()}
        found += [Explained(name, label, text) for label, text in zip(labels, texts, strict=True)]
    return rates, tuple(found)


def _chosen(model: GroundedLM, world: World, rollouts: RolloutSet, precision: str) -> dict[str, list[str]]:
    """Choose a plain sentence for each rollout, by what the model would have done and by what came of it."""
    plain = plain_steps(world)
    sentences = [instruction.text for instruction in plain.values()]
    surprised = action_surprise(model, rollouts, sentences, precision)  # (N, U)
    missed = ~ends_with(rollouts, world, list(plain))
    worst = np.ptp(surprised) + 1  # more than any difference
    ways = {
        "inverse_planning": surprised,
        "inverse_planning_and_success_test": surprised + worst * missed,
        "success_test_alone": missed,
    }
    return {name: [sentences[best] for best in values.argmin(axis=1)] for name, values in ways.items()}


def _dynamics(
    model: GroundedLM,
    world: World,
    real: RolloutSet,
    config: InspectConfig,
    precision: str,
    seed: int,
    threads: int,
) -> dict[str, Error]:
    rng = derive_rng(seed, "inspect", config.split, "transitions")
    expert = real.take(np.arange(min(config.transitions, len(real))))
    # One transition per rollout: those of the same rollout are alike.
    picked = expert.action_starts + rng.integers(expert.lengths)
    shaken = random_transitions(world, config.transitions, rng, threads)
    return {
        name: error_of(*squared_errors(model, rollouts, rows, precision), rollouts.owner[rows])
        for name, rollouts, rows in (
            ("expert's actions", expert, picked),
            ("random actions", shaken, np.arange(len(shaken))),
        )
    }
