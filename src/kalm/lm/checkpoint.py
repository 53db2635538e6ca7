"""Checkpoints of a training that goes on: all that the next step depends on, as safetensors and JSON."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.lm.distributed import gather, scatter, trained
from kalm.lm.settings import GroundConfig
from kalm.run import processes
from kalm.run.io import atomic_folder, fingerprint, read_json, recover_folder, write_json

MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW keeps of every weight


class Checkpoint:
    """Weights, optimizer moments, generator state and step of a training that goes on.

    Every process has to call its methods; the main one writes, all read. A checkpoint does not know how many
    processes there were or how they shared the weights, so any number of them continues it.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity

    def write(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Save everything that the next step depends on."""
        tensors = self._tensors(model, optimizer)
        if processes.main():
            with atomic_folder(self.folder) as place:
                save_file(tensors, place / "state.safetensors")
                write_json(place / "checkpoint.json", {"step": step, "identity": self.identity})
        processes.wait()

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the checkpoint if there is one; return the number of steps done."""
        if processes.main():
            recover_folder(self.folder)
        processes.wait()
        if not self.folder.exists():
            return 0
        about = read_json(self.folder / "checkpoint.json", "grounding checkpoint")
        if about["identity"] != self.identity:
            raise KalmError(
                f"{self.folder} was made from other data, settings or seed. "
                "Use another folder, or remove it to start over."
            )
        with torch.no_grad(), safe_open(self.folder / "state.safetensors", "pt") as tensors:
            for name, weight in trained(model):
                weight.copy_(scatter(tensors.get_tensor(f"weight/{name}"), weight))
                optimizer.state[weight] = {
                    moment: _moment(tensors.get_tensor(f"{moment}/{name}"), weight) for moment in MOMENTS
                }
            torch.set_rng_state(tensors.get_tensor("rng"))
        return int(about["step"])

    def _tensors(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """Gather what is saved; other processes than the main one only take part in that."""
        tensors = {"rng": torch.get_rng_state()}
        for name, weight in trained(model):
            parts = {f"{moment}/{name}": optimizer.state[weight][moment] for moment in MOMENTS}
            for key, part in {f"weight/{name}": weight, **parts}.items():
                whole = gather(part)
                if processes.main():
                    tensors[key] = whole.contiguous()
        return tensors


def _moment(saved: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Place a moment as its weight is placed; the count of steps is a number of its own."""
    return scatter(saved, weight) if saved.shape == weight.shape else saved.to(weight.device)


def identity_of(rollouts: RolloutSet, config: GroundConfig, seed: int) -> str:
    """Name what a training is made of, so that a checkpoint is never continued with something else."""
    return fingerprint([rollouts.digest(), config.model_dump(), seed])
