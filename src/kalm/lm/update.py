"""One step of training: a batch in parts, divided over processes and over time, to one gradient of the whole.

Losses are means over the answers of the whole batch. Each part is therefore weighed by its share of those
answers, so that the gradient does not depend on how a batch was divided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kalm.errors import KalmError
from kalm.lm.distributed import DistributedTrainer
from kalm.lm.model import GroundingLosses, autocast
from kalm.lm.packing import PackedBatch
from kalm.lm.settings import GroundConfig
from kalm.runs import processes
from kalm.training.shards import gather, trained


def update(
    team: DistributedTrainer, parts: Sequence[PackedBatch], config: GroundConfig
) -> dict[str, Tensor | float]:
    """Take one optimizer step on this process's parts of a batch, one after the other.

    Returns:
        What these parts add to the batch's losses (``text``, ``state``, ``action``), the norm of the whole
        gradient before clipping, and the body's learning rate; losses and norm are still on the device (see
        `measured`).
    """
    rate = team.optimizer.param_groups[0]["lr"]
    team.model.train()
    team.optimizer.zero_grad(set_to_none=True)
    answers = [part.answers for part in parts]
    totals = processes.total([sum(counts) for counts in zip(*answers, strict=True)])
    sums = GroundingLosses(*torch.zeros(3, device=team.model.device))
    for number, (part, counts) in enumerate(zip(parts, answers, strict=True), 1):
        with team.passing(last=number == len(parts)):
            with autocast(team.model.device, config.precision):
                means = team.runner(part)
            shares = [count / max(total, 1) for count, total in zip(counts, totals, strict=True)]
            losses = GroundingLosses(*(mean * share for mean, share in zip(means, shares, strict=True)))
            # Exchanging takes the mean over processes; the sum is wanted.
            (weighted(losses, config) * processes.count()).backward()
        sums = GroundingLosses(*(done + loss.detach() for done, loss in zip(sums, losses, strict=True)))
    norm = torch.nn.utils.clip_grad_norm_(list(trained(team.model).values()), config.clip)
    team.optimizer.step()
    return {**sums._asdict(), "gradient_norm": norm, "body_lr": rate}


def weighted(losses: GroundingLosses, config: GroundConfig) -> Tensor:
    """Return the training loss."""
    return losses.weighted(config.loss.text, config.loss.state, config.loss.action)


def measured(losses: Mapping[str, Tensor | float], config: GroundConfig) -> dict[str, float]:
    """Return what `update` did as numbers, losses summed over processes; every process has to ask.

    Raises:
        KalmError: the loss is not finite.
    """
    names = GroundingLosses._fields
    terms = processes.total([float(losses[name]) for name in names])
    loss = float(weighted(GroundingLosses(*map(torch.tensor, terms)), config))
    values = dict(zip(names, terms, strict=True))
    if not math.isfinite(loss):
        raise KalmError(
            f"the loss is {loss}: text {values['text']}, state {values['state']}, action {values['action']}. "
            "Lower ground.body_lr or ground.new_lr, or use ground.precision=float32."
        )
    norm = float(gather(torch.as_tensor(losses["gradient_norm"])))
    return {"loss": loss, **values, "gradient_norm": norm, "body_lr": float(losses["body_lr"])}
