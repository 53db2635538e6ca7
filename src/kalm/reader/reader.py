"""The reader: instructions in, plans in plain sentences of the data out.

Two kinds: a small model that was taught (adapters, `kalm.reader.adapter`), and any instruct model by name,
which is shown examples in its chat template and learns nothing (`kalm.reader.few_shot`). Both write under
the same constraint, so neither can name a thing that is not there or a deed that the data lack. A sentence
that is plain already is its own plan, and no model is asked.

What is read: a text with letters, of at most `LONGEST_REQUEST` tokens. Special tokens of the model in it
(``<|im_end|>``) are the letters that they are spelt with. A text in another language, or about things that
the scene does not hold, is meant to stay in its own words; where the model finds a plan for it all the
same, its confidence decides.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import compress
from pathlib import Path
from typing import Protocol

import numpy as np

from kalm.envs import make
from kalm.envs.base import World
from kalm.envs.follow import fits_scene
from kalm.envs.sentences import plain_steps
from kalm.errors import KalmError
from kalm.reader.adapter import PACKAGED, is_adapter_folder, load_adapter
from kalm.reader.decode import BATCH, ReadingModel, write_plans
from kalm.reader.model import WordScores, spelling
from kalm.reader.plans import Calibration, Plan
from kalm.reader.prompts import Menu, make_menu
from kalm.reader.tree import PlanTree
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_seed
from kalm.types import Instruction, WorldSpec

TAUGHT = "smollm2"  # the reader that comes with the package
LONGEST_REQUEST = 400  # tokens; the longest request of any suite has 90
FEW = 16  # plain sentences that are all rated; of more, only the likeliest plans are known

_world = cache(make)  # a policy that is asked through a reader needs its world at every step

_How = tuple[tuple[str, ...], int, int, float]  # plain sentences, samples, seed, temperature


class Spells(Protocol):
    """How a model is shown scenes and requests, and writes plans."""

    def prompt(self, menu: Menu) -> list[int]:
        """Tokens of what all requests about a scene share."""
        ...

    def request(self, request: str) -> list[int]:
        """Tokens of one request, up to where its plan begins."""
        ...

    def tree(self, menu: Menu) -> PlanTree:
        """Return the tree of plans."""
        ...


@dataclass(frozen=True)
class Reader:
    """Reads instructions.

    Attributes:
        name: what it was loaded by.
        model: its language model.
        spelled: how that is asked.
        calibration: from a plan's probability to its confidence.
        known: what was read so far, by how and request; nothing is read twice.
    """

    name: str
    model: ReadingModel
    spelled: Spells
    calibration: Calibration
    known: dict[_How, dict[str, tuple[Plan, ...]]] = field(default_factory=dict, repr=False)

    def read(
        self,
        requests: Sequence[str],
        world: World,
        states: np.ndarray | None = None,
        advance: Advance = silent,
    ) -> list[Plan]:
        """Return the best plan of each request.

        Args:
            requests: N instructions.
            world: whose plain sentences plans are made of.
            states: (N, S) the scenes that they are about: no plan names a thing that is not there; None: any.
            advance: told of finished requests.

        Raises:
            KalmError: a request is empty or too long, or the world's plain sentences cannot be told apart.
        """
        found = self.n_best(requests, world, advance=advance)
        if states is not None:
            found = self._in_scenes(found, world, states)
        return [plans[0] for plans in found]

    def ask(self, texts: Sequence[str], states: np.ndarray, spec: WorldSpec) -> list[str]:
        """Return what a policy is to be asked for now: the first step of each plan that does not hold.

        Where all hold, it is the last. A sentence without a plan that this reader is sure of is returned as
        it is. Whole episodes, in which no step is insisted on for ever, are
        `kalm.evaluation.guided.GuidedPolicy`.

        Args:
            texts: N instructions.
            states: (N, S).
            spec: the world they are states of.

        Raises:
            KalmError: as `read`.
        """
        world = _world(spec.name)
        plans = [plan.usable for plan in self.read(texts, world, states)]
        steps = [(row, step) for row, plan in enumerate(plans) for step in plan]
        judge = world.judge([step.goal for _, step in steps])
        holding = iter(world.holds(judge, states[[row for row, _ in steps]]) if steps else ())
        asked = []
        for text, plan in zip(texts, plans, strict=True):
            undone = [step.text for step in plan if not next(holding)]
            asked.append((undone or [step.text for step in plan[-1:]] or [text])[0])
        return asked

    def n_best(
        self,
        requests: Sequence[str],
        world: World,
        samples: int = 0,
        seed: int = 0,
        temperature: float = 1.0,
        batch: int = BATCH,
        advance: Advance = silent,
    ) -> list[tuple[Plan, ...]]:
        """Return different plans of each request, own words among them, the most probable first.

        Args:
            requests: N instructions.
            world: whose plain sentences plans are made of.
            samples: plans drawn per request, besides the likeliest plain sentences; many will be the same.
            seed: root of the draws; those of a request depend on it and on the request alone.
            temperature: of the draws; above 1 they differ more.
            batch: rows that are read together; it changes nothing else.
            advance: told of requests that are read, each once and none that was read before.

        Raises:
            KalmError: as `read`.
        """
        known = self._known(world, samples, seed, temperature)
        if not (new := _missing(requests, known)):
            return [known[request] for request in requests]
        steps = tuple(plain_steps(world).values())
        plain = {step.text: step for step in steps}
        if said := [request for request in new if request in plain]:
            known.update({request: (Plan(request, (plain[request],), 1.0, 1.0, True),) for request in said})
            advance(len(said))
        if not (new := _missing(new, known)):
            return [known[request] for request in requests]
        menu = make_menu([step.text for step in steps], [entity.name for entity in world.spec.entities])
        written = write_plans(
            self.model,
            self.spelled.prompt(menu),
            [self._checked(request) for request in new],
            self.spelled.tree(menu),
            rated=[(number,) for number in range(len(steps))] if len(steps) <= FEW else (),
            samples=samples,
            seeds=[derive_seed(seed, "read", request) for request in new],
            temperature=temperature,
            batch=batch,
            advance=advance,
        )
        for request, plans in zip(new, written, strict=True):
            known[request] = tuple(
                self._plan(
                    request, tuple(steps[number] for number in plan.steps), math.exp(plan.log_probability)
                )
                for plan in plans
            )
        return [known[request] for request in requests]

    def unread(
        self,
        requests: Sequence[str],
        world: World,
        samples: int = 0,
        seed: int = 0,
        temperature: float = 1.0,
    ) -> list[str]:
        """Return which of these requests `n_best` has not read yet, each once."""
        return _missing(requests, self._known(world, samples, seed, temperature))

    def _known(
        self, world: World, samples: int, seed: int, temperature: float
    ) -> dict[str, tuple[Plan, ...]]:
        sentences = tuple(step.text for step in plain_steps(world).values())
        if not samples:
            seed, temperature = 0, 1.0  # of no draws
        return self.known.setdefault((sentences, samples, seed, temperature), {})

    def _in_scenes(
        self, found: Sequence[Sequence[Plan]], world: World, states: np.ndarray
    ) -> list[list[Plan]]:
        """Leave out plans that name things which are not there; the others share their probability."""
        fits = fits_scene(world, [[plan.goals for plan in plans] for plans in found], states)
        return [self._left(plans, of) for plans, of in zip(found, fits, strict=True)]

    def _left(self, plans: Sequence[Plan], fits: Sequence[bool]) -> list[Plan]:
        """Return the plans that fit, with their probability among all that may, own words where none does."""
        if all(fits):
            return list(plans)
        fitting = list(compress(plans, fits))
        if not fitting:
            return [self._plan(plans[0].request, (), 0.0)]
        others = sum(plan.probability for plan, there in zip(plans, fits, strict=True) if not there)
        rest = max(1 - others, sum(plan.probability for plan in fitting)) or 1.0
        return [self._plan(plan.request, plan.steps, plan.probability / rest) for plan in fitting]

    def _plan(self, request: str, steps: tuple[Instruction, ...], probability: float) -> Plan:
        confidence = self.calibration.confidence(probability)
        return Plan(request, steps, probability, confidence, confidence >= self.calibration.threshold)

    def _checked(self, request: str) -> list[int]:
        """Return the tokens of a request. Raises KalmError: nothing is said, or too much."""
        text = " ".join(request.split())
        if not any(map(str.isalpha, text)):
            raise KalmError(f"an instruction must be a sentence, with letters in it, got {request!r}.")
        ids = self.spelled.request(text)
        if len(ids) > LONGEST_REQUEST:
            raise KalmError(
                f"an instruction of {len(text.split())} words ({len(ids)} tokens) is longer than the "
                f"{LONGEST_REQUEST} tokens that the reader takes: {text[:60]!r}... Say it in fewer words."
            )
        return ids


def load_reader(name: str | Path = TAUGHT, device: str = "cpu") -> Reader:
    """Load a reader.

    Args:
        name: ``smollm2``, the taught reader of the package; the folder of another taught one (``kalm reader
            teach``); or an instruct model with a chat template, by hub name, folder or GGUF file.
        device: torch device to compute on.

    Raises:
        KalmError: there is no such model, its files are damaged, it is not the one that was taught, or it has
            no chat template.
    """
    folder = PACKAGED if name == TAUGHT else Path(name).expanduser()
    if name == TAUGHT or is_adapter_folder(folder):
        backbone, facts = load_adapter(folder, device)
        return Reader(
            str(name), ReadingModel(backbone, WordScores(backbone)), spelling(backbone), facts.calibration
        )
    from kalm.reader.few_shot import load_instruct

    model, spelled = load_instruct(str(name), device)
    return Reader(str(name), model, spelled, Calibration())


def _missing(requests: Sequence[str], known: Container[str]) -> list[str]:
    return [request for request in dict.fromkeys(requests) if request not in known]
