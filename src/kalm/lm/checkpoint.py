"""Checkpoints of a grounding that goes on: all that the next step depends on, as safetensors and JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from kalm.config import GroundConfig
from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.lm.grounded import GroundedLM
from kalm.runs import atomic_folder, fingerprint, read_json, write_json


class Checkpoint:
    """Weights, optimizer moments, generator state and step of a training that goes on."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity

    def write(self, model: GroundedLM, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Save everything that the next step depends on."""
        with atomic_folder(self.folder) as place:
            save_file(self._tensors(model, optimizer), place / "state.safetensors")
            write_json(place / "checkpoint.json", {"step": step, "identity": self.identity})

    def restore(self, model: GroundedLM, optimizer: torch.optim.Optimizer) -> int:
        """Load the checkpoint if there is one; return the number of steps done."""
        if not self.folder.exists():
            return 0
        about = read_json(self.folder / "checkpoint.json", "grounding checkpoint")
        if about["identity"] != self.identity:
            raise KalmError(
                f"{self.folder} was made from other data, settings or seed. "
                "Use another folder, or remove it to start over."
            )
        tensors = load_file(self.folder / "state.safetensors", device=str(model.device))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(tensors[f"weight/{name}"])
                    moments = ("exp_avg", "exp_avg_sq", "step")
                    # `step` is a CPU tensor unless fused on a device;
                    # AdamW moves nothing, so keep it as saved.
                    optimizer.state[parameter] = {m: tensors[f"{m}/{name}"] for m in moments}
        torch.set_rng_state(tensors["rng"].cpu())
        return int(about["step"])

    def _tensors(self, model: GroundedLM, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        tensors = {"rng": torch.get_rng_state()}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                tensors[f"weight/{name}"] = parameter.detach().clone()
                for moment, value in optimizer.state[parameter].items():
                    tensors[f"{moment}/{name}"] = value.clone()
        return tensors


def identity_of(rollouts: RolloutSet, config: GroundConfig, seed: int) -> str:
    """Name what a training is made of, so that a checkpoint is never continued with something else."""
    data = [len(rollouts), rollouts.transitions, float(rollouts.states.sum(dtype=np.float64))]
    return fingerprint([data, config.model_dump(), seed])
