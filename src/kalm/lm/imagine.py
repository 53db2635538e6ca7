"""A whole imagined dataset: which rollouts for which instructions, decoded shard by shard, resumable.

Unusual: held-back wordings are never imagined for, so that policies can be measured on sentences that neither
the real nor the imagined data had. All rollouts are kept, also those that miss their goal, because the match
rate is measured on all of them; which of them a policy learns from is decided in training (`train.imagined`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from kalm.data import storage
from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import fulfilled, possible
from kalm.data.validation import require_valid
from kalm.envs.base import World
from kalm.envs.follow import fits_scene
from kalm.envs.rollout import initial_states
from kalm.errors import KalmError
from kalm.lm.analogies import analogies
from kalm.lm.decoding import Readings
from kalm.lm.generate import Sampling, imagine_rollouts
from kalm.lm.model import GroundedLM
from kalm.lm.prompts import PROMPTS
from kalm.lm.settings import ImagineConfig
from kalm.runs import processes
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng, derive_seed
from kalm.types import LEVELS, Instruction, JsonObject

PlainSteps = Sequence[Instruction]
"""Plain sentences of the data, with their goals, to be done one after another."""


class Kind(NamedTuple):
    """What rollouts that are decoded together have in common."""

    way: Literal["own words", "analogy", "plan"]
    steps: int  # of the plan; else 1
    hotter: int  # times that the temperature has grown


@dataclass(frozen=True)
class Ask:
    """What a rollout is asked for in: the instruction's own words, a sentence of the data, or a plan."""

    kind: Kind
    words: str = ""
    plan: PlainSteps = ()

    @classmethod
    def of(
        cls, sample: int, config: ImagineConfig, plans: Sequence[PlainSteps], known: Sequence[str] = ()
    ) -> Ask:
        """Return what a sample of a row is asked for in, given its plans and the alike words of the data.

        The likeliest plan comes first, then `config.analogies` samples in words of the data
        (`kalm.lm.analogies`), then one in the instruction's own, then plans in turn, over and over. Where own
        words (an empty plan) are the likeliest, or there are no plans, they take every other of those tries,
        or all.
        """
        first = plans[0] if plans else ()
        at = sample - bool(first)
        if at < 0:
            return cls(Kind("plan", len(first), 0), plan=first)
        if at < config.analogies:
            return cls(Kind("analogy", 1, 0), words=known[at])
        at -= config.analogies
        said = [plan for plan in plans if plan]
        if not said or (at == 0 if first else at % 2 == 0):
            return cls(Kind("own words", 1, at))
        plan = said[(at if first else at // 2) % len(said)]
        return cls(Kind("plan", len(plan), at), plan=plan)


def imagination_plan(world: World, config: ImagineConfig) -> list[Instruction]:
    """Return one instruction per rollout of the levels' suites, repeats side by side."""
    return [
        instruction
        for level in LEVELS
        for instruction in world.suite(level)
        if not instruction.held_back
        for _ in range(getattr(config, level))
    ]


def repeated(instructions: Sequence[Instruction], config: ImagineConfig) -> list[Instruction]:
    """Return the plan for the instructions of a goal file."""
    return [instruction for instruction in instructions for _ in range(config.per_file_instruction)]


def imagine_dataset(
    model: GroundedLM,
    world: World,
    rows: Sequence[Instruction],
    config: ImagineConfig,
    seed: int,
    folder: Path,
    provenance: Mapping[str, object],
    actor: GroundedLM | None = None,
    advance: Advance = silent,
    plans: Mapping[Instruction, Sequence[PlainSteps]] = MappingProxyType({}),
) -> RolloutSet:
    """Decode one rollout per row into `folder`, or go on where a stopped imagination ended, and return them.

    Several processes divide the shards among themselves. Row i depends on (seed, i) and the model alone, not
    on batches, shards, processes, or where a stop fell. Rollouts with a number that is not finite are
    dropped; the dataset's provenance counts them. With `config.samples` above 1, a row whose rollout misses
    its goal, or could not have happened, is decoded again from the same initial state, each time at a higher
    temperature (`config.temperature_growth`), until one is right or there are that many. `origins` tells
    them apart. What they are asked for in, `Ask.of` says; they carry their row's sentence even where another
    row's is read (`asked_rows`).

    Raises:
        KalmError: nothing to imagine, or nothing finite came out.
    """
    if not rows:
        raise KalmError(
            "nothing to imagine: every level has 0 rollouts per instruction (imagine.rephrase, ...)."
        )
    reads = [asked_rows(rows, config, seed, sample) for sample in range(config.samples)]
    shards = [range(at, min(at + config.shard, len(rows))) for at in range(0, len(rows), config.shard)]
    told = storage.finished_shards(folder)
    if told:
        advance(sum(len(shards[index]) for index in told), resumed=True)
    processes.wait()  # until all have seen the same shards
    left = [index for index in range(len(shards)) if index not in told]
    known: dict[str, list[str]] = {}
    if config.analogies and left:
        texts = list(dict.fromkeys(row.text for row in rows))
        known = analogies(actor or model, texts, world.suite("seen"), config.analogies, config.precision)
    readings = _readings({model, actor or model}, _words(rows, plans, known), config) if left else {}
    for index in left[processes.index() :: processes.count()]:
        ask = partial(_asks, world, config, plans, known)
        decoded, facts = _decode(
            model, world, rows, shards[index], config, seed, reads, ask, actor, readings, advance
        )
        storage.write_shard(folder, index, decoded, facts)
        told.add(index)
        told |= _tell(storage.finished_shards(folder) - told, shards, advance)
    processes.wait()
    _tell(set(range(len(shards))) - told, shards, advance)
    if processes.is_main() and not storage.sealed(folder):
        dropped = sum(facts["dropped"] for facts in _facts(folder))
        storage.seal(folder, model.spec, {**provenance, "asked": len(rows), "dropped_not_finite": dropped})
    processes.wait()
    rollouts = storage.read(folder)
    if not len(rollouts):
        raise KalmError(f"none of {len(rows)} imagined rollouts is finite: the model is not usable.")
    return rollouts


def _words(
    rows: Sequence[Instruction],
    plans: Mapping[Instruction, Sequence[PlainSteps]],
    known: Mapping[str, Sequence[str]],
) -> set[str]:
    """Return all sentences that rollouts may be asked for in."""
    planned = {step.text for row in rows for plan in plans.get(row, ()) for step in plan}
    return planned | {row.text for row in rows} | {text for alike in known.values() for text in alike}


def _readings(
    models: Iterable[GroundedLM], words: set[str], config: ImagineConfig
) -> dict[GroundedLM, Readings]:
    """Return where models that read nothing but sentences keep what they read."""
    return {one: Readings(one, words, PROMPTS[config.prompt]) for one in models if not one.reads_states}


def asked_rows(
    rows: Sequence[Instruction], config: ImagineConfig, seed: int, sample: int
) -> Sequence[Instruction]:
    """Return the instruction that each row reads in its `sample`-th try: its own, but in a control.

    Where sentences are shuffled, those of a level are permuted among its rows, anew for every try: the model
    knows nothing of what is asked, and its tries are as independent as they are with the right sentence.
    """
    if config.control == "none":
        return rows
    rng, levels = derive_rng(seed, "imagine", config.control, sample), np.array([row.level for row in rows])
    order = np.arange(len(rows))
    for level in dict.fromkeys(levels.tolist()):
        places = np.flatnonzero(levels == level)
        order[places] = rng.permutation(places)
    return [rows[place] for place in order.tolist()]


def _asks(
    world: World,
    config: ImagineConfig,
    plans: Mapping[Instruction, Sequence[PlainSteps]],
    known: Mapping[str, Sequence[str]],
    rows: Sequence[Instruction],
    states: np.ndarray,
    sample: int,
) -> list[Ask]:
    """Return what rows are asked for in from their first states (N, S): plans whose things are there."""
    mine = [plans.get(row, ()) for row in rows]
    fits = fits_scene(world, [[[step.goal for step in plan] for plan in of] for of in mine], states)
    return [
        Ask.of(sample, config, list(compress(of, there)), known.get(row.text, ()))
        for row, of, there in zip(rows, mine, fits, strict=True)
    ]


def _decode(
    model: GroundedLM,
    world: World,
    rows: Sequence[Instruction],
    shard: range,
    config: ImagineConfig,
    seed: int,
    reads: Sequence[Sequence[Instruction]],
    ask: Callable[[Sequence[Instruction], np.ndarray, int], list[Ask]],
    actor: GroundedLM | None,
    readings: Mapping[GroundedLM, Readings],
    advance: Advance,
) -> tuple[RolloutSet, JsonObject]:
    """Decode the rows of a shard, those that fail again: -> rollouts, and which row and sample each is."""
    left = np.array(shard)
    seeds = [_seed(seed, row, 0) for row in left]
    states = initial_states(world, [rows[row] for row in left], seeds, config.conditions)
    parts, row_of, sample_of, way_of, dropped = [], [], [], [], 0
    for sample in range(config.samples):
        told = [reads[sample][row] for row in left]
        asks = ask(told, states, sample)
        right = np.zeros(len(left), bool)
        for kind in dict.fromkeys(asked.kind for asked in asks):
            mine = np.flatnonzero([asked.kind == kind for asked in asks])
            done = imagine_rollouts(
                model,
                world,
                [rows[row] for row in left[mine]],
                [_seed(seed, row, sample) for row in left[mine]],
                starts=states[mine],
                words=[asks[i].words or told[i].text for i in mine],
                plans=[asks[i].plan for i in mine] if kind.way == "plan" else None,
                prompt=config.prompt,
                horizon=plan_horizon(config, world, kind.steps),
                batch=config.batch,
                sampling=Sampling(
                    config.temperature * config.temperature_growth**kind.hotter, config.state_noise
                ),
                precision=config.precision,
                actor=actor,
                readings=readings,
            )
            require_valid(done.rollouts)
            right[mine[done.finite]] = fulfilled(done.rollouts, world) & possible(done.rollouts, world)
            parts.append(done.rollouts)
            row_of += left[mine[done.finite]].tolist()
            sample_of += [sample] * len(done.rollouts)
            way_of += [kind.way] * len(done.rollouts)
            dropped += done.dropped
        advance(len(left) if sample + 1 == config.samples else int(right.sum()))
        left, states = left[~right], states[~right]
        if not len(left):
            break
    facts = {"rows": row_of, "samples": sample_of, "ways": way_of, "dropped": dropped}
    return RolloutSet.concat(parts), facts


def plan_horizon(config: ImagineConfig, world: World, steps: int) -> int:
    """Return the largest number of actions for a plan of so many steps."""
    return min(world.spec.horizon, steps * (config.horizon or world.spec.horizon))


def origins(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return row and sample that each rollout of an imagined dataset was decoded for: -> (N,), (N,) int64."""
    facts = _facts(folder)
    rows = [number for part in facts for number in part["rows"]]
    samples = [number for part in facts for number in part["samples"]]
    return np.array(rows, dtype=np.int64), np.array(samples, dtype=np.int64)


def ways(folder: Path) -> np.ndarray:
    """Return what each rollout of an imagined dataset was asked for in: -> (N,) str."""
    # Earlier versions knew no plans, and did not tell the others apart.
    return np.array([way for part in _facts(folder) for way in part.get("ways", [""] * len(part["rows"]))])


def _facts(folder: Path) -> list[JsonObject]:
    return [storage.shard_facts(folder, index) for index in sorted(storage.finished_shards(folder))]


def _seed(seed: int, row: int, sample: int) -> int:
    return derive_seed(seed, "imagine", row, *([sample] if sample else []))


def _tell(others: set[int], shards: Sequence[range], advance: Advance) -> set[int]:
    """Count what other processes have finished."""
    if others:
        advance(sum(len(shards[index]) for index in others))
    return others
