"""What stages need of plans: sentences read to plain sentences of the data, once for all who ask in them.

Whoever acts uses no plan that the reader is not sure of: its sentence stays in its own words, and is counted.
In imagination all plans are tried, because the success test decides what is kept of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from kalm.envs.sentences import plain_steps
from kalm.runs.progress import track
from kalm.types import Instruction

if TYPE_CHECKING:
    from kalm.config import Config
    from kalm.lm.imagine import PlainSteps
    from kalm.reader.plans import Plan
    from kalm.session import Session

Reading = Literal["reader", "parts"]


def plans_for(
    session: Session,
    instructions: Iterable[Instruction],
    reading: Reading,
    samples: int = 0,
    every: bool = False,
) -> dict[Instruction, list[PlainSteps]]:
    """Return the plans of each instruction that has any, the likeliest first; an empty one is its own words.

    Args:
        session: environment and reader.
        instructions: what is asked.
        reading: ``parts`` takes the structure of their goals, as a reader without fault would.
        samples: plans that a reader draws besides the likeliest.
        every: all plans, own words among them; else the likeliest alone, where the reader is sure of it.

    Raises:
        KalmError: the reader is not here, or an instruction cannot be read.
    """
    distinct = list(dict.fromkeys(instructions))
    found = _parts(session, distinct) if reading == "parts" else _read(session, distinct, samples, every)
    return {instruction: plans for instruction, plans in zip(distinct, found, strict=True) if plans}


def require_reader(session: Session, config: Config) -> None:
    """Raise KalmError where the settings ask for a reader that is not here: before an hour of other work."""
    if config.imagine.reading == "reader" or "reader" in config.evaluate.readings:
        _ = session.reader


def _parts(session: Session, instructions: Sequence[Instruction]) -> list[list[PlainSteps]]:
    world, steps = session.world, plain_steps(session.world)
    plans = [world.plan_of(instruction.goal) for instruction in instructions]
    return [[tuple(steps[goal] for goal in plan)] if plan else [] for plan in plans]


def _read(
    session: Session, instructions: Sequence[Instruction], samples: int, every: bool
) -> list[list[PlainSteps]]:
    texts = list(dict.fromkeys(instruction.text for instruction in instructions))
    reader, world, seed = session.reader, session.world, session.seed("read")
    if new := reader.unread(texts, world, samples, seed):
        with track("read", len(new)) as advance:
            reader.n_best(new, world, samples, seed, advance=advance)
    found = reader.n_best(texts, world, samples, seed)
    chosen = {
        text: [plan.steps for plan in plans] if every else _best(plans)
        for text, plans in zip(texts, found, strict=True)
    }
    return [list(chosen[instruction.text]) for instruction in instructions]


def _best(plans: Sequence[Plan]) -> list[PlainSteps]:
    return [plans[0].usable] if plans[0].usable else []
