"""The models that a refinement needs, fitted once into a folder and read from there afterwards.

::

    folder/  forward/  inverse/     what was asked for
             fitted.json            what they were fitted from
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from kalm.data.rollouts import RolloutSet
from kalm.dynamics import inverse
from kalm.dynamics.ensemble import KIND, ForwardEnsemble, fit_ensemble, load_ensemble
from kalm.dynamics.inverse import InverseModel
from kalm.dynamics.settings import DynamicsConfig, RefineConfig
from kalm.runs.io import fingerprint, read_json, recover_folder, write_json
from kalm.runs.output import clear
from kalm.runs.progress import Advance

FITTED = "fitted.json"

Track = Callable[[str, int], AbstractContextManager[Advance]]
M = TypeVar("M", ForwardEnsemble, InverseModel)
Fit = Callable[[RolloutSet, DynamicsConfig, int, str, Advance], M]


@dataclass(frozen=True)
class Models:
    """What is known of a world's dynamics; None: not asked for."""

    ensemble: ForwardEnsemble | None = None
    inverse: InverseModel | None = None

    def to_json(self) -> dict[str, object]:
        """Return how good they are on held-out real rollouts, JSON-ready."""
        found: dict[str, object] = {}
        if self.ensemble is not None and self.ensemble.errors is not None:
            found["forward"] = asdict(self.ensemble.errors)
        if self.inverse is not None and self.inverse.hits is not None:
            found["inverse"] = asdict(self.inverse.hits)
        return found


def needed(config: RefineConfig, dynamics: DynamicsConfig, samples: int = 1) -> tuple[str, ...]:
    """Return the kinds of models that the refinement of imagined rollouts asks for."""
    judged = dynamics.members > 0 and (samples > 1 or config.plausibility != "keep")
    return ((KIND,) if judged else ()) + ((inverse.KIND,) if config.relabel else ())


def fitted(
    folder: Path,
    real: RolloutSet,
    config: DynamicsConfig,
    kinds: Iterable[str],
    seed: int,
    device: str,
    track: Track,
) -> Models:
    """Read the models of these kinds from the folder; those that it lacks are fitted into it first.

    Args:
        folder: becomes theirs; models of other data, settings or seeds in it are deleted.
        real: real rollouts to learn from.
        config: settings.
        kinds: `forward`, `inverse` or both.
        seed: root of all random numbers.
        device: torch device.
        track: shows progress (`kalm.runs.progress.track`).

    Raises:
        KalmError: too few rollouts, a fitting that diverged, or a damaged file.
    """
    _claim(folder, fingerprint([real.digest(), config.model_dump(mode="json"), seed]))
    kinds = tuple(kinds)

    def model(kind: str, steps: int, fit: Fit[M], load: Callable[[Path, str], M]) -> M | None:
        if kind not in kinds:
            return None
        place = folder / kind
        recover_folder(place)
        if not place.exists():
            with track(f"fit {kind} model", steps) as advance:
                fit(real, config, seed, device, advance).save(place)
        return load(place, device)

    return Models(
        model(KIND, config.forward_steps, fit_ensemble, load_ensemble),
        model(inverse.KIND, config.inverse_steps, inverse.fit_inverse, inverse.load_inverse),
    )


def _claim(folder: Path, identity: str) -> None:
    """Make the folder this fitting's: what was made from something else is deleted."""
    path = folder / FITTED
    if path.exists() and read_json(path, "fitted models")["identity"] == identity:
        return
    if folder.exists():
        clear(folder)
    write_json(path, {"identity": identity})
