"""What a run resolves: the device, the world, the settings of a stage, the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalm import envs
from kalm.config import Config
from kalm.errors import KalmError
from kalm.run import processes
from kalm.run.folder import GROUNDED

if TYPE_CHECKING:
    from kalm.envs.base import World


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


def model_folders(config: Config) -> list[Path]:
    """Return the folders of language models that the settings name."""
    names = (config.ground.backbone, config.train.encoder)
    return [path for path in (Path(name).expanduser() for name in names) if path.is_dir()]
