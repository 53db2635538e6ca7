"""What stages need of plans: sentences read to plain sentences of the data, once for all who ask in them.

Whoever acts uses no plan that the reader is not sure of: its sentence stays in its own words, and is counted.
In imagination all plans are tried, because the success test decides what is kept of it. Either way no plan is
used where a thing that it names is not in the scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from kalm.envs.sentences import plain_steps
from kalm.runs.progress import track
from kalm.types import Instruction

if TYPE_CHECKING:
    import numpy as np

    from kalm.config import Config
    from kalm.envs.base import World
    from kalm.evaluation.guided import PlanOf
    from kalm.lm.imagine import PlainSteps
    from kalm.reader.plans import Plan
    from kalm.session import Session

Reading = Literal["reader", "parts"]


def plans_for(
    session: Session, instructions: Iterable[Instruction], reading: Reading, samples: int
) -> dict[Instruction, list[PlainSteps]]:
    """Return all plans of each instruction, the likeliest first; an empty one is its own words.

    Args:
        session: environment and reader.
        instructions: what is asked.
        reading: ``parts`` takes the structure of their goals, as a reader without fault would; goals that are
            not made of the data's are left out.
        samples: plans that a reader draws besides the likeliest.

    Raises:
        KalmError: the reader is not here, or an instruction cannot be read.
    """
    distinct = list(dict.fromkeys(instructions))
    if reading == "parts":
        return {one: [steps] for one, steps in _parts(session.world, distinct).items() if steps}
    found = _read(session, [one.text for one in distinct], samples)
    return {one: [plan.steps for plan in plans] for one, plans in zip(distinct, found, strict=True)}


def planner(session: Session, instructions: Sequence[Instruction], reading: Reading) -> PlanOf:
    """Return what gives the steps of these instructions in the scenes where they are asked.

    Raises:
        KalmError: as `plans_for`.
    """
    if reading == "parts":
        parts = {one.text: steps for one, steps in _parts(session.world, instructions).items()}
        return lambda texts, _: [parts[text] for text in texts]
    _read(session, [one.text for one in instructions], 0)
    reader, world = session.reader, session.world

    def plan_of(texts: Sequence[str], states: np.ndarray) -> list[PlainSteps]:
        return [plan.usable for plan in reader.read(texts, world, states)]

    return plan_of


def require_reader(session: Session, config: Config) -> None:
    """Raise KalmError where the settings ask for a reader that is not here: before an hour of other work."""
    if config.imagine.reading == "reader" or "reader" in config.evaluate.readings:
        _ = session.reader


def _parts(world: World, instructions: Iterable[Instruction]) -> dict[Instruction, PlainSteps]:
    steps = plain_steps(world)
    return {one: tuple(steps[goal] for goal in world.plan_of(one.goal)) for one in instructions}


def _read(session: Session, texts: Sequence[str], samples: int) -> list[tuple[Plan, ...]]:
    """Return all plans of each text; who reads for long shows it."""
    reader, world, seed = session.reader, session.world, session.seed("read")
    if new := reader.unread(texts, world, samples, seed):
        with track("read", len(new)) as advance:
            reader.n_best(new, world, samples, seed, advance=advance)
    return reader.n_best(texts, world, samples, seed)
