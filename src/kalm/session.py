"""What all stages of a run share, each resolved once, on first use: environment, device, encoder, seeds.

Unusual: a session that goes to a worker process takes its settings along and nothing that it has resolved;
the process resolves what it needs by itself, for neither a simulator nor a device can be sent.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kalm import envs
from kalm.errors import KalmError
from kalm.runs import processes
from kalm.runs.folder import MODEL, inside
from kalm.runs.seeding import derive_seed

if TYPE_CHECKING:
    from kalm.config import Config
    from kalm.data.rollouts import RolloutSet
    from kalm.envs.base import World
    from kalm.lm.model import GroundedLM
    from kalm.reader.reader import Reader
    from kalm.rl.encoder import GoalEncoder

ENCODINGS = "encodings"  # in a folder of policies: sentence vectors that all of them share


class Session:
    """One run's settings and what they name.

    Args:
        config: settings.
        command: what was typed, noted with the data that are made.
        preset: file that the settings were read from, if one was.
    """

    def __init__(self, config: Config, command: str = "", preset: Path | None = None) -> None:
        self.config = config
        self.command = command
        self.preset = preset
        self._resources = _Resources(config.env, config.device, config.train.encoder, config.reader)

    def __reduce__(self) -> tuple[object, ...]:
        return Session, (self.config, self.command, self.preset)

    def changed(self, config: Config) -> Session:
        """Return a session with other settings; environment, device and encoder are shared if the same."""
        other = Session(config, self.command, self.preset)
        if other._resources.names == self._resources.names:
            other._resources = self._resources
        return other

    @property
    def world(self) -> World:
        """The environment. Raises KalmError: no installed package registers that name."""
        return self._resources.world

    @property
    def device(self) -> str:
        """Torch device. Raises KalmError: there is none of that name here."""
        return self._resources.device

    def require_device(self) -> None:
        """Check the device, without loading a library for a name that cannot fail. Raises KalmError."""
        if self.config.device not in ("auto", "cpu"):
            torch_device(self.config.device)

    def encoder(self, folder: Path, known: Path | None = None) -> GoalEncoder:
        """Return the sentence encoder whose vectors are kept in ``folder/encodings``.

        Those in ``known/encodings`` are used too; nothing is written there.
        """
        return self._resources.encoder(folder / ENCODINGS, None if known is None else known / ENCODINGS)

    @property
    def reader(self) -> Reader:
        """What reads sentences to plans. Raises KalmError: it is not here, or its files are damaged."""
        return self._resources.reader

    def seed(self, *parts: int | str) -> int:
        """Return a seed of the run, e.g. ``session.seed("round", 1, "collect")``."""
        return derive_seed(self.config.seed, *parts)

    def require_world(self, name: str) -> None:
        """Check that data or a model of this environment fit the settings. Raises KalmError: they do not."""
        if name != self.config.env:
            raise KalmError(
                f"the input belongs to environment {name!r}, the settings to {self.config.env!r}. Use "
                f"--env {name}."
            )

    def read(self, data: Path | RolloutSet) -> RolloutSet:
        """Return a dataset of this environment, read if it is a folder.

        Raises:
            KalmError: no dataset there, a damaged one, or one of another environment.
        """
        from kalm.data import storage
        from kalm.data.rollouts import RolloutSet

        rollouts = data if isinstance(data, RolloutSet) else storage.read(data)
        self.require_world(rollouts.spec.name)
        return rollouts

    def load_model(self, folder: Path) -> GroundedLM:
        """Load a grounded model of this environment onto the device.

        Args:
            folder: of the model, or of the stage or run that made it.

        Raises:
            KalmError: no grounded model there, a damaged one, or one of another environment.
        """
        from kalm.lm.model import load_model

        model = load_model(inside(folder, MODEL), self.device)
        self.require_world(model.spec.name)
        return model

    def reads(self) -> list[Path]:
        """Return the files and folders that the settings were read from or name."""
        names = (self.config.ground.backbone, self.config.train.encoder, self.config.reader)
        places = [path for path in (Path(name).expanduser() for name in names) if path.exists()]
        return [*places, *([self.preset] if self.preset else [])]


class _Resources:
    """What is resolved once, for all sessions that share it."""

    def __init__(self, env: str, device: str, encoder: str, reader: str) -> None:
        self.names = (env, device, encoder, reader)
        self._encoders: dict[Path, GoalEncoder] = {}

    @cached_property
    def world(self) -> World:
        return envs.make(self.names[0])

    @cached_property
    def device(self) -> str:
        return torch_device(self.names[1])

    @cached_property
    def reader(self) -> Reader:
        from kalm.reader.reader import load_reader

        return load_reader(self.names[3], self.device)

    def encoder(self, cache: Path, known: Path | None) -> GoalEncoder:
        from kalm.rl.encoder import GoalEncoder

        if cache not in self._encoders:
            self._encoders[cache] = GoalEncoder(self.names[2], self.device, cache, known)
        return self._encoders[cache]


def torch_device(name: str) -> str:
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
