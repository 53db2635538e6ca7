"""Meta-World's goals in sentences: a list per task and level (``sentences/*.yaml``), without slots."""

from __future__ import annotations

from functools import cache

from kalm.envs.metaworld.spec import SPEC, TASKS
from kalm.envs.sentences import held_back, read_bank, split_of
from kalm.errors import unknown
from kalm.types import LEVELS, Goal, Instruction


@cache
def suite(level: str) -> tuple[Instruction, ...]:
    """Return all instructions of a level, task by task, in a fixed order.

    Raises:
        KalmError: unknown level.
    """
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    sentences = read_bank(SPEC.name, level)["wordings"]
    return tuple(
        Instruction(
            text=text,
            level=level,
            goal=Goal.of(task.name),
            wording=f"{level}/{task.name}/{index:02d}",
            held_back=held_back(level, index),
            split=split_of(index),
        )
        for task in TASKS.values()
        if level in task.levels
        for index, text in enumerate(sentences[task.name])
    )
