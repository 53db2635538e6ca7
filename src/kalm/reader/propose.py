"""Goals proposed by a language model, as in the paper, which asks ChatGPT for novel ones (section 4.2).

A model writes instructions; the reader turns each into plain sentences of the data, whose goals make up the
goal of the instruction. What the reader is not sure of, what is no goal of the environment, and what the
data or the file have already is left out, and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kalm.envs.base import World
from kalm.envs.sentences import plain_steps
from kalm.errors import KalmError
from kalm.reader.phrasing import texts
from kalm.reader.plans import Plan
from kalm.reader.reader import Reader
from kalm.reader.writers import ChatWriter
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng, derive_seed
from kalm.types import Instruction, JsonObject

SHOWN = 6  # plain sentences per question
LINES = 8  # instructions that a question asks for
WORDS = 60  # of the longest line that is taken for an instruction
IDLE = 8  # questions in a row without a new goal, after which the model is given up
BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s*")
QUOTES = "\"'“”‘’`* "


@dataclass(frozen=True)
class Proposal:
    """Goals that a language model proposed.

    Attributes:
        instructions: those that were kept, of level ``rephrase`` (the data have the goal) or ``hard``.
        counts: what became of all sentences that it wrote.
        expected_right: mean confidence of the plans that were kept: the share that is right, as the reader
            was measured.
    """

    instructions: tuple[Instruction, ...]
    counts: dict[str, int]
    expected_right: float

    def to_json(self) -> JsonObject:
        """Return the counts, JSON-ready."""
        return {**self.counts, "expected_right": self.expected_right}


def propose_goals(
    writer: ChatWriter, reader: Reader, world: World, count: int, seed: int, advance: Advance = silent
) -> Proposal:
    """Ask for instructions until there are enough, or nothing new comes any more.

    Args:
        writer: writes them.
        reader: says what they ask for.
        world: whose goals they are.
        count: how many to keep.
        seed: root of questions and replies.
        advance: told of goals that are kept.

    Raises:
        KalmError: nothing that the model wrote could be used.
    """
    steps, styles = plain_steps(world), list(texts("proposals")["styles"])
    told = {_plainly(instruction.text) for instruction in world.suite("seen")}
    kept: dict[str, tuple[Instruction, float]] = {}
    counts = Counter(
        {name: 0 for name in ("written", "repeated", "in_training", "not_read", "unsure", "no_goal")}
    )
    idle = asked = 0
    while len(kept) < count and idle < IDLE:
        rng = derive_rng(seed, "propose", asked)
        shown = [step.text for step in steps.values()]
        shown = [shown[i] for i in rng.permutation(len(shown))[:SHOWN]]
        style = styles[asked % len(styles)]
        lines = sentences(writer.reply(_question(world, shown, style), derive_seed(seed, "reply", asked)))
        fresh = []
        for line in lines:
            counts["written"] += 1
            if (key := _plainly(line)) in told:
                counts["in_training"] += 1
            elif key in kept or key in map(_plainly, fresh):
                counts["repeated"] += 1
            else:
                fresh.append(line)
        before = len(kept)
        for plan in reader.read(fresh, world) if fresh else []:
            goal = _judged(plan, world, counts)
            if goal is not None and len(kept) < count:
                kept[_plainly(plan.request)] = (goal, plan.confidence)
        advance(len(kept) - before)
        idle, asked = (0 if len(kept) > before else idle + 1), asked + 1
    if not kept:
        raise KalmError(
            f"none of {counts['written']} sentences that the language model wrote could be used: "
            f"{counts['not_read'] + counts['unsure']} could not be read. Ask a larger instruct model (--lm)."
        )
    confidence = float(np.mean([sure for _, sure in kept.values()]))
    counts["kept"] = len(kept)
    return Proposal(tuple(instruction for instruction, _ in kept.values()), dict(counts), confidence)


def sentences(reply: str) -> list[str]:
    """Return the instructions of a reply: lines without numbers, bullets and quotes; no headings or tales."""
    lines = (BULLET.sub("", line).strip(QUOTES) for line in reply.splitlines())
    return [line for line in lines if 2 < len(line.split()) <= WORDS and not line.endswith(":")]


def _judged(plan: Plan, world: World, counts: Counter[str]) -> Instruction | None:
    """Return the instruction of a plan that can be used; else count why not."""
    if not plan.steps:
        counts["not_read"] += 1
        return None
    if not plan.sure:
        counts["unsure"] += 1
        return None
    goal = world.goal_of(plan.goals)
    if goal is None:
        counts["no_goal"] += 1
        return None
    return Instruction(plan.request, "rephrase" if len(plan.steps) == 1 else "hard", goal)


def _question(world: World, shown: Sequence[str], style: str) -> list[dict[str, str]]:
    """Ask for instructions in a style, after a reply in it about other things: small models imitate."""
    example = texts("proposals")
    things = [entity.name for entity in world.spec.entities]
    told = example["styles"][style]
    return [
        {"role": "system", "content": "You write instructions for robots."},
        {
            "role": "user",
            "content": _asked(example["scene"], example["things"], example["known"], style, len(told)),
        },
        {"role": "assistant", "content": "\n".join(told)},
        {"role": "user", "content": _asked(world.scene, things, shown, style, LINES)},
    ]


def _asked(scene: str, things: Sequence[str], known: Sequence[str], style: str, count: int) -> str:
    return (
        f"There are {scene}: {', '.join(things)}. These are instructions that the robot knows:\n"
        + "\n".join(f"- {text}" for text in known)
        + f"\nWrite {count} new instructions about the same things, {style}, one per line."
    )


def _plainly(text: str) -> str:
    """Return what two sentences that say the same in the same words share."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))
