"""How a stage is declared, and the two ways it is done: in a run, after others, or by itself.

A stage has a name, inputs (a frozen dataclass of folders, files and choices), the settings that its result
depends on, and a function from session, inputs and folder to figures. Its result is made from the settings
and from what stands for each input. In a run that is the key of the stage that made the input, so a run
folder may move; elsewhere it is the input's place and content (`kalm.runs.folder.trace`).

Unusual: what depends on what is nowhere written down. `StageRunner` sees it from the paths of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from kalm.runs.folder import alone, inside, stage, trace
from kalm.runs.progress import announce
from kalm.types import Instruction

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from kalm.config import Config
    from kalm.session import Session

I = TypeVar("I", bound="DataclassInstance")  # noqa: E741 - the inputs of a stage
Figures = Mapping[str, object]  # JSON-ready; what a stage tells


@dataclass(frozen=True)
class NoInputs:
    """What a stage needs that begins with the settings alone."""


@dataclass(frozen=True)
class StageSpec(Generic[I]):
    """One stage.

    Attributes:
        name: of the stage, which is that of its command.
        settings: what of the settings its result depends on, besides environment and seed; JSON-ready.
        work: does it; gets the session, the inputs and the folder for the result, and returns figures.
        together: all processes work on it; else the main one does while the others wait.
        parts: for inputs that may be given as a whole run folder, the part of it that is meant.
    """

    name: str
    settings: Callable[[Config], Mapping[str, object]]
    work: Callable[[Session, I, Path], Figures]
    together: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)

    def alone(self, session: Session, inputs: I, folder: Path, overwrite: bool = False) -> dict[str, object]:
        """Do it by itself, go on with what a stopped call left, or return what is done; give its figures.

        Raises:
            KalmError: the folder holds something else (unless `overwrite`), or what the work raises.
        """
        inputs = self.located(inputs)
        return alone(
            folder,
            self.name,
            self._settings(session.config),
            named_inputs(inputs),
            partial(self._work, session, inputs, folder),
            session.reads(),
            overwrite,
            self.together,
        )

    def located(self, inputs: I) -> I:
        """Return the inputs with the parts that are meant in the place of whole run folders."""
        given = {name: getattr(inputs, name) for name in self.parts}
        found = {name: inside(it, self.parts[name]) for name, it in given.items() if isinstance(it, Path)}
        return replace(inputs, **found)

    def _settings(self, config: Config) -> dict[str, object]:
        return {"env": config.env, "seed": config.seed, **self.settings(config)}

    def _work(self, session: Session, inputs: I, folder: Path) -> Figures:
        announce(f"{self.name}: into {folder}")
        return self.work(session, inputs, folder)


class StageRunner:
    """Does the stages of a run that are not done yet, and remembers what each was made from."""

    def __init__(self) -> None:
        self._keys: dict[Path, str] = {}  # folder of a stage: its key

    def do(self, spec: StageSpec[I], session: Session, inputs: I, folder: Path) -> Path:
        """Do a stage unless it is done; return its folder, for the stages after it."""
        stands = {name: self._stands_for(value) for name, value in named_inputs(inputs).items()}
        made_from = {**spec._settings(session.config), **stands}
        self._keys[folder] = stage(
            folder, made_from, partial(spec._work, session, inputs, folder), spec.together
        )
        return folder

    def _stands_for(self, value: object) -> object:
        if isinstance(value, tuple):
            return [self._stands_for(part) for part in value]
        if isinstance(value, Path):
            for place in (value, *value.parents):
                if place in self._keys:
                    return self._keys[place]
        return trace(value)


def whole_sections(*names: str) -> Callable[[Config], Mapping[str, object]]:
    """Return what reads these sections of the settings, whole."""
    return lambda config: {name: settings_section(config, name) for name in names}


def settings_section(config: Config, name: str) -> object:
    """Return one section of the settings, JSON-ready."""
    return getattr(config, name).model_dump(mode="json")


def named_inputs(inputs: DataclassInstance) -> dict[str, object]:
    """Return what identifies the inputs, by name: rollouts and instructions in memory by their content."""
    return {field.name: _content(getattr(inputs, field.name)) for field in fields(inputs) if field.compare}


def _content(value: object) -> object:
    from kalm.data.rollouts import RolloutSet

    if isinstance(value, RolloutSet):
        return value.digest()
    if isinstance(value, tuple):
        return tuple(part.to_json() if isinstance(part, Instruction) else part for part in value)
    return value
