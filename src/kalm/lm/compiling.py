"""Compiling the layers of a backbone, where a trial at the beginning shows that it pays.

Compiled layers add up in another order, so a training that is resumed has to go on as it began: what the
trial found is written beside its checkpoint.
"""

from __future__ import annotations

import copy
import logging
import time
from pathlib import Path

import torch

from kalm.lm.batches import StepBatches
from kalm.lm.dataset import GroundingDataset
from kalm.lm.distributed import compile_layers, shards_weights
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.packing import PackedBatch
from kalm.lm.settings import GroundConfig
from kalm.lm.update import weighted
from kalm.runs import processes
from kalm.runs.io import read_json, write_json
from kalm.training.random_state import own_random_stream
from kalm.types import JsonObject

log: logging.Logger = logging.getLogger(__name__)

NAME = "compiled.json"
WORTH_TRYING = 300.0  # seconds that the training takes without: compiling alone takes up to a minute
PAYS = 0.9  # of the time without
TURNS = 3  # of a pass, of which the fastest counts; the first one compiles


def decide(
    model: GroundedLM,
    curriculum: GroundingDataset,
    config: GroundConfig,
    place: Path | None = None,
    among: int | None = None,
) -> GroundConfig:
    """Return the settings with `ground.compile` decided, by a trial unless they say it.

    Args:
        model: on the device to train on, before processes share it.
        curriculum: gives the first batch.
        config: settings.
        place: file that holds, or gets, what the trial found; None: it is found anew.
        among: processes that share each batch; None: those that there are.
    """
    if config.compile is not None:
        return config
    if place and place.exists():
        return config.changed(compile=read_json(place, "what a trial of compiling found")["compiled"])
    found = trial(model, curriculum, config, among)
    if place and processes.is_main():
        write_json(place, found)
    return config.changed(compile=found["compiled"])


def trial(
    model: GroundedLM, curriculum: GroundingDataset, config: GroundConfig, among: int | None = None
) -> JsonObject:
    """Pass over the first batch with and without compiled layers; the model stays as it is.

    For the arguments see `decide`.

    Returns:
        ``compiled``: whether it pays; ``seconds`` of a pass of either kind, as far as tried; ``why_not``,
        where they cannot be compiled.
    """
    if shards_weights():
        return {"compiled": False, "why_not": "weights are sharded"}
    # Compiling changes layers, not weights: with these shared, the twin takes no memory.
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared).train()
    without = _seconds(twin, curriculum, config.changed(compile=False), among)
    if without * curriculum.steps < WORTH_TRYING:
        return {"compiled": False, "seconds": {"plain": without}}
    compile_layers(twin.backbone.body)
    try:
        within = _seconds(twin, curriculum, config.changed(compile=True), among)
    except RuntimeError as error:  # no compiler, or one that fails
        reason = " ".join(str(error).partition("\n\n")[0].split())
        log.warning("Layers cannot be compiled, so grounding goes on without: %s", reason)
        return {"compiled": False, "seconds": {"plain": without}, "why_not": reason}
    return {"compiled": within < PAYS * without, "seconds": {"plain": without, "compiled": within}}


def _seconds(
    model: GroundedLM, curriculum: GroundingDataset, config: GroundConfig, among: int | None
) -> float:
    """Return the seconds of the fastest pass forward and back over the first batch; the mean of processes."""
    first = StepBatches(curriculum, model.backbone.two_way_prompt, config, among)[0]
    parts = [part.to(model.device) for part in first]
    taken = []
    with own_random_stream(model.device, 0):
        for _ in range(TURNS):
            begun = time.perf_counter()
            for part in parts:
                _pass(model, part, config)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            taken.append(time.perf_counter() - begun)
    return processes.total([min(taken)])[0] / processes.count()


def _pass(model: GroundedLM, part: PackedBatch, config: GroundConfig) -> None:
    """Compute the gradients of a part, and forget them."""
    try:
        with autocast(model.device, config.precision):
            losses = model(part)
        weighted(losses, config).backward()
    finally:
        model.zero_grad(set_to_none=True)
