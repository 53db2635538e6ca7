"""Checkpoints of a training that goes on: all that its next step depends on, in one safetensors file.

The file's header holds the JSON facts: format, what the training is made of (`identity`), steps done, and
whatever else the trainer continues from (state of a data stream, running means). One file, because it is
replaced in one rename: a kill leaves the state before or the state after, never half of each.

::

    weight/NAME              weights and buffers
    OPTIMIZER/INDEX/SLOT     e.g. optimizer/3/exp_avg; INDEX counts the weights over all parameter groups
    rng/cpu, rng/cuda        torch's generators

Learning rates are not stored: a schedule is a function of the step (`kalm.training.optimizer.schedule`). A
checkpoint does not know how many processes there were or how they shared the weights, so any number of them
continues it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from kalm.errors import KalmError
from kalm.runs import processes
from kalm.runs.io import atomic_write
from kalm.training.random_state import CPU, CUDA, random_state, set_random_state
from kalm.training.shards import gather, scatter
from kalm.types import JsonObject

NAME = "checkpoint.safetensors"
FORMAT = "kalm-training-1"


@dataclass(frozen=True)
class Resumed:
    """Where a training goes on.

    Attributes:
        step: steps that are done.
        facts: what the trainer gave to `Checkpoint.save`.
    """

    step: int
    facts: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A file, and the live state that it holds a copy of.

    Attributes:
        path: of the file.
        identity: names what the training is made of (`kalm.runs.io.fingerprint`): data, settings, seed.
        weights: live tensors by name; `restore` fills them in place.
        optimizers: by name.
        device: whose random numbers the training draws.
        shared: all processes of the command train together (`kalm.runs.processes`). Each of them then has to
            call `save` and `restore`; the main one writes, all read.
    """

    path: Path
    identity: str
    weights: Mapping[str, Tensor]
    optimizers: Mapping[str, Optimizer]
    device: str | torch.device = "cpu"
    shared: bool = False

    def save(self, step: int, facts: Mapping[str, object] | None = None) -> None:
        """Save everything that the step after `step` depends on; `facts` are JSON-ready."""
        live = {f"weight/{name}": weight for name, weight in self.weights.items()}
        for name, _, slots, _ in self._slots():
            live |= {f"{name}/{slot}": value for slot, value in slots.items()}
        writes = processes.is_main() or not self.shared
        tensors = random_state(self.device)
        for name, tensor in live.items():
            whole = gather(tensor)  # other processes than the main one only take part in this
            if writes:
                tensors[name] = whole.contiguous()
        if writes:
            about = {"format": FORMAT, "identity": self.identity, "step": step, "facts": dict(facts or {})}
            with atomic_write(self.path) as temporary:
                save_file(tensors, temporary, {"about": json.dumps(about)})
        if self.shared:
            processes.wait()

    def restore(self) -> Resumed | None:
        """Put everything where the file's training left it; None without a file.

        Raises:
            KalmError: the file is damaged, or another training's.
        """
        exists = self.path.exists()
        if self.shared:
            processes.wait()  # nobody writes before all have looked
        return self.restore_from(self.path, self.identity) if exists else None

    def restore_from(self, path: Path, identity: str | None = None) -> Resumed:
        """Put everything where another file's training left it.

        Args:
            path: of the file.
            identity: what its training has to be made of; None: whatever has the same weights.

        Raises:
            KalmError: the file is missing, damaged, or does not fit.
        """
        if not path.exists():
            raise KalmError(f"{path} does not exist, so there is no training to go on with.")
        try:
            with safe_open(path, "pt") as stored:
                about = json.loads(stored.metadata()["about"])
                if about["format"] != FORMAT:
                    raise ValueError(f"its format is {about['format']!r}, known is {FORMAT!r}")
                if identity not in (None, about["identity"]):
                    raise KalmError(
                        f"{path} was made from other data, settings or seed. Use another folder, or delete "
                        "the file to start over."
                    )
                names = stored.keys()  # a method of a file, which is no dict
                shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in names}
                self._load(path, shapes, stored.get_tensor)
                return Resumed(int(about["step"]), about["facts"])
        except KalmError:
            raise
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise KalmError(
                f"checkpoint {path} is damaged ({error}). Delete the file to train from the start."
            ) from None

    @torch.no_grad()
    def _load(self, path: Path, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor]) -> None:
        """Read tensor by tensor: the whole file at once would take the memory of the model thrice."""
        for name, weight in self.weights.items():
            key = f"weight/{name}"
            found = shapes.get(key)
            if found != tuple(weight.shape):
                raise KalmError(
                    f"checkpoint {path} has {'no' if found is None else found} {name}, needed is "
                    f"{tuple(weight.shape)}: it was made with other settings. Use those, or another file."
                )
            weight.copy_(scatter(read(key), weight))
        for name, weight, slots, on_device in self._slots():
            prefix = f"{name}/"
            slots.clear()
            for key in filter(lambda key, start=prefix: key.startswith(start), shapes):
                slots[key.removeprefix(prefix)] = _placed(read(key), weight, on_device)
        set_random_state({name: read(name) for name in (CPU, CUDA) if name in shapes}, self.device)

    def _slots(self) -> Iterator[tuple[str, Tensor, dict[str, Tensor], bool]]:
        """Yield a name, the weight and the optimizer's live state of it, for every weight that one moves.

        The last part says whether the count of steps is kept on the weight's device.
        """
        for name, optimizer in self.optimizers.items():
            index = 0
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    on_device = bool(group.get("fused") or group.get("capturable"))
                    yield f"{name}/{index}", weight, optimizer.state[weight], on_device
                    index += 1


def _placed(saved: Tensor, weight: Tensor, on_device: bool) -> Tensor:
    """Place a moment as its weight is placed; the count of steps is a number of its own."""
    if saved.shape == weight.shape and saved.ndim:
        return scatter(saved, weight)
    return saved.to(weight.device) if on_device or saved.ndim else saved
