"""A learner's whole state in one file: tensors, and beside them in the file's header the JSON facts.

One file, because it is replaced in one rename: a kill leaves the state before or the state after, never half
of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kalm.errors import KalmError
from kalm.rl.algorithms.base import Learner
from kalm.run.io import atomic_write

RNG, OPTIMIZER = "torch_rng", "optimizer"


def save(path: Path, learner: Learner, facts: Mapping[str, Any]) -> None:
    """Write weights, optimizer state, torch's random state and the JSON-ready facts."""
    tensors = {RNG: torch.get_rng_state(), **learner.state_dict()}
    for name, optimizer in learner.optimizers.items():
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{OPTIMIZER}.{name}.{index}.{slot}": value for slot, value in slots.items()}
    device = _cuda(learner)
    if device is not None:
        tensors[f"{RNG}_cuda"] = torch.cuda.get_rng_state(device)
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {"facts": json.dumps(facts)})


def restore(path: Path, learner: Learner, made_from: str | None) -> dict[str, Any] | None:
    """Put the learner and torch's generator where `save` found them; return the facts, None without a file.

    Raises:
        KalmError: the file is damaged, or facts["made_from"] is not `made_from` (None: any will do).
    """
    if not path.exists():
        return None
    device = _cuda(learner)
    facts, tensors = _read(path, "cpu" if device is None else str(device))
    if made_from not in (None, facts["made_from"]):
        raise KalmError(
            f"{path} comes from a training with other settings or data. Use another folder, or delete it."
        )
    torch.set_rng_state(tensors.pop(RNG).cpu())
    if f"{RNG}_cuda" in tensors:
        torch.cuda.set_rng_state(tensors.pop(f"{RNG}_cuda").cpu(), device or "cuda")
    moments = {key: tensors.pop(key) for key in list(tensors) if key.startswith(f"{OPTIMIZER}.")}
    learner.load_state_dict(tensors)
    for name, optimizer in learner.optimizers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in moments.items():
            _, owner, index, slot = key.split(".")
            if owner == name:
                state.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return facts


def _cuda(learner: Learner) -> torch.device | None:
    device = next(learner.parameters()).device
    return device if device.type == "cuda" else None


def _read(path: Path, device: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt", device=device) as stored:
            facts = json.loads(stored.metadata()["facts"])
            return facts, {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise KalmError(
            f"checkpoint {path} is damaged ({error}). Delete it to train from the start."
        ) from None
