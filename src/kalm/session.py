"""Stages as folders: which work is done, which goes on, which starts anew, and who does it.

Every stage leaves a marker (``done.json``) that says what it was made from: settings of its own section and
the marker of the stages before. A stage whose marker still fits is skipped, one that was stopped goes on, all
others start anew. The same holds for a stage that is run by itself, and its inputs.

Started as several processes (`kalm.run.processes`), the main one decides and marks; the others wait for it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalm import envs
from kalm.config import Config
from kalm.errors import KalmError
from kalm.run import processes
from kalm.run.folder import GROUNDED, JOB, SETTINGS, Stage
from kalm.run.io import file_sha256, read_json, versions, write_json

if TYPE_CHECKING:
    from kalm.envs.base import World

TOGETHER = ("ground", "imagine")  # stages that all processes work on
# Files that tell one input folder from another.
CONTENTS = ("dataset.json", "grounded.json", "modules.safetensors", JOB, "done.json")


def claim(folder: Path, config: Config, command: str, resume: bool = False, overwrite: bool = False) -> None:
    """Make a run folder, or enter the one that an earlier call of the same run left.

    Raises:
        KalmError: the folder holds another run (unless `resume` or `overwrite`), or no run at all.
    """
    if processes.main():
        _claim(folder, config, command, resume, overwrite)
    processes.wait()


def _claim(folder: Path, config: Config, command: str, resume: bool, overwrite: bool) -> None:
    settings = config.model_dump(mode="json")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / SETTINGS).exists():
            raise KalmError(f"{folder} is not empty and holds no run. Give another --out.")
        if overwrite:
            shutil.rmtree(folder)
        elif not resume and read_json(folder / SETTINGS, "run")["settings"] != settings:
            raise KalmError(
                f"{folder} holds a run with other settings. Give another --out, or --resume to continue it "
                "with these settings (stages that they change start anew), or --overwrite to delete it first."
            )
    write_json(folder / SETTINGS, {"settings": settings, "command": command, "versions": versions()})


def alone(
    folder: Path,
    section: str,
    config: Config,
    inputs: Mapping[str, object],
    overwrite: bool,
    work: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    """Do one stage outside a run; what a stopped call with the same inputs left is continued.

    Args:
        folder: for the result.
        section: name of the stage's settings.
        config: settings.
        inputs: what else the result depends on: folders, files, choices.
        overwrite: delete what the folder holds first.
        work: does it and returns figures.

    Raises:
        KalmError: the folder holds something else.
    """
    made_from = {**only(config, section), **{name: trace(value) for name, value in inputs.items()}}
    place = Stage(folder, made_from)
    if processes.main():
        _enter(place, section, overwrite)
    stage(folder, made_from, work, together=section in TOGETHER)
    return read_json(place.marker, "stage marker")["result"]


def _enter(stage: Stage, section: str, overwrite: bool) -> None:
    """Refuse a folder that holds something else, or empty it."""
    folder = stage.folder
    if folder.exists() and any(folder.iterdir()):
        if not stage.started.exists():
            raise KalmError(f"{folder} is not empty and was not made by kalm {section}. Give another --out.")
        if overwrite:
            shutil.rmtree(folder)
        elif not stage.begun():
            raise KalmError(
                f"{folder} holds the result of other settings or inputs. Give another --out, or --overwrite "
                "to delete it first."
            )


def trace(value: object) -> object:
    """Return what stands for an input: place and content of files and folders, else the value itself."""
    if not isinstance(value, Path):
        return value
    contents = [value] if value.is_file() else [value / name for name in CONTENTS]
    return [str(value.resolve()), *(file_sha256(path) for path in contents if path.is_file())]


def stage(
    folder: Path,
    made_from: Mapping[str, Any],
    work: Callable[[], Mapping[str, Any]],
    together: bool = False,
) -> str:
    """Do a stage unless its marker says that it is done; return its key.

    Only the main process decides and marks; `together` says that all processes have to do the work.
    """
    place = Stage(folder, made_from)
    todo = not place.done()
    processes.wait()  # nobody begins, let alone finishes, before all have looked
    if todo and processes.main():
        place.begin()
    processes.wait()
    if todo and (together or processes.main()):
        began = time.monotonic()
        result = work()
        if processes.main():
            place.finish(result, time.monotonic() - began)
    processes.wait()
    return place.key


def device(name: str) -> str:
    """Return the torch device of a name; ``auto`` is a GPU or the CPU. Each of several processes has its GPU.

    Raises:
        KalmError: no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.count() > 1:
        name = f"cuda:{processes.local_index()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise KalmError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]} Known here: cpu, auto."
        ) from None
    return name


def world_of(name: str, config: Config) -> World:
    """Return the world that data or a model came from; the settings must not speak of another."""
    if name != config.env:
        raise KalmError(
            f"the input belongs to world {name!r}, the settings to {config.env!r}. Use --env {name}."
        )
    return envs.make(name)


def only(config: Config, section: str) -> dict[str, Any]:
    """Return what a stage's result depends on besides its inputs."""
    settings = config.model_dump(mode="json")
    return {"env": config.env, "seed": config.seed, section: settings[section]}


def model_folder(place: Path) -> Path:
    """Return the folder of the grounded model in a run folder, a folder of `kalm ground`, or itself."""
    inner = (place / GROUNDED / "model", place / "model")
    return next((path for path in inner if (path / "grounded.json").exists()), place)
