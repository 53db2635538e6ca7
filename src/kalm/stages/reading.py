"""What stages need of plans: sentences read to plain sentences of the data, once for all who ask in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from kalm.envs.sentences import plain_steps
from kalm.types import Instruction

if TYPE_CHECKING:
    from kalm.lm.imagine import PlainSteps
    from kalm.session import Session

Reading = Literal["parts"]


def plans_for(
    session: Session, instructions: Iterable[Instruction], reading: Reading
) -> dict[Instruction, list[PlainSteps]]:
    """Return the plans of each instruction that has any, the likeliest first.

    Args:
        session: environment.
        instructions: what is asked.
        reading: ``parts`` takes the structure of their goals, as a reader without fault would.
    """
    world, steps = session.world, plain_steps(session.world)
    goals = {instruction: world.plan_of(instruction.goal) for instruction in dict.fromkeys(instructions)}
    return {instruction: [tuple(steps[goal] for goal in plan)] for instruction, plan in goals.items() if plan}
