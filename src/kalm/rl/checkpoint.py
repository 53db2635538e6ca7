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
from d3rlpy.optimizers import OptimizerWrapper
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from kalm.errors import KalmError
from kalm.run.io import atomic_write

RNG = "torch_rng"


def save(path: Path, learner: Any, facts: Mapping[str, Any]) -> None:
    """Write weights, optimizer state, torch's random state and the JSON-ready facts."""
    tensors = {RNG: torch.get_rng_state()}
    if "cuda" in learner.impl.device:
        tensors[f"{RNG}_cuda"] = torch.cuda.get_rng_state(learner.impl.device)
    for name, part in _parts(learner):
        tensors |= {f"{name}.{key}": value for key, value in _tensors(part).items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {"facts": json.dumps(facts)})


def restore(path: Path, learner: Any, made_from: str | None) -> dict[str, Any] | None:
    """Put the learner and torch's generator where `save` found them; return the facts, None without a file.

    Raises:
        KalmError: the file is damaged, or facts["made_from"] is not `made_from` (None: any will do).
    """
    if not path.exists():
        return None
    facts, tensors = _read(path, learner.impl.device)
    if made_from not in (None, facts["made_from"]):
        raise KalmError(
            f"{path} comes from a training with other settings or data. Use another folder, or delete it."
        )
    for name, part in _parts(learner):
        prefix = f"{name}."
        _load(part, {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)})
    torch.set_rng_state(tensors[RNG].cpu())
    if f"{RNG}_cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{RNG}_cuda"].cpu(), learner.impl.device)
    return facts


def _read(path: Path, device: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt", device=device) as stored:
            facts = json.loads(stored.metadata()["facts"])
            return facts, {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise KalmError(
            f"checkpoint {path} is damaged ({error}). Delete it to train from the start."
        ) from None


def _parts(learner: Any) -> list[tuple[str, nn.Module | OptimizerWrapper]]:
    return [(name, part) for name, part in vars(learner.impl.modules).items() if part is not None]


def _tensors(part: nn.Module | OptimizerWrapper) -> dict[str, torch.Tensor]:
    if isinstance(part, nn.Module):
        return dict(part.state_dict())
    slots = part.optim.state_dict()["state"]
    return {f"{index}.{slot}": value for index, state in slots.items() for slot, value in state.items()}


def _load(part: nn.Module | OptimizerWrapper, tensors: Mapping[str, torch.Tensor]) -> None:
    if isinstance(part, nn.Module):
        part.load_state_dict(tensors)
        return
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, slot = key.split(".")
        state.setdefault(int(index), {})[slot] = value
    part.optim.load_state_dict({"state": state, "param_groups": part.optim.state_dict()["param_groups"]})
