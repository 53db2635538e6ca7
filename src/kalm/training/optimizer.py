"""Learning-rate schedules and one step down a loss.

A schedule is torch's `LambdaLR` on a function of the step alone. Chainable schedules (`CosineAnnealingLR`,
`SequentialLR`) compute each rate from the one before; a function of the step needs nothing of the past, so a
training that resumes only says how many steps are done.

::

    share of the learning rate
    constant    1 1 1 1 1 1 1 1 1 1
    linear      1 1 1 1 1 1 1 .75 .5 .25         decay=0.4: falls over the last share of the steps
    cosine      .5 1 1 .96 .85 .69 .5 .31 .15 .04   warmup=2: rises first, then half a cosine to zero
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["constant", "linear", "cosine"]


def schedule(
    optimizer: Optimizer,
    name: Schedule,
    steps: int,
    *,
    warmup: int = 0,
    decay: float = 1.0,
    done: int = 0,
) -> LambdaLR:
    """Put a schedule on all parameter groups of an optimizer, whose present rates are the largest ones.

    Args:
        optimizer: fresh, or one whose rates are the largest ones again.
        name: ``constant``, ``linear`` or ``cosine``.
        steps: of the whole training.
        warmup: first steps, over which the rate rises linearly to its largest value.
        decay: last share of the steps over which ``linear`` falls; 0: it stays constant.
        done: steps that are done already: the next one has the rate of step `done`, counted from 0.

    Returns:
        The schedule; `kalm.training.loop.fit` calls its `step()` after every step.
    """
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    share = partial(lr_share, name=name, steps=steps, warmup=warmup, decay=decay)
    return LambdaLR(optimizer, share, last_epoch=done - 1)


def lr_share(step: int, name: Schedule, steps: int, warmup: int = 0, decay: float = 1.0) -> float:
    """Return the share of the largest learning rate at a step, counted from 0."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    match name:
        case "constant":
            return rise
        case "linear":
            falling = decay * steps
            return rise * min(1.0, (steps - step) / falling) if falling else rise
        case "cosine":
            past = max(0.0, (step - warmup) / max(1, steps - warmup))
            return rise * (0.5 * (1 + math.cos(math.pi * past)))


def warmup_steps(share: float, steps: int) -> int:
    """Return how many steps a share of them is, at least one."""
    return max(1, round(share * steps))


def gradient_step(
    optimizer: Optimizer, loss: Tensor, clip: float, weights: Iterable[nn.Parameter] | None = None
) -> Tensor:
    """Take one step down a loss.

    Args:
        optimizer: its gradients are replaced.
        loss: a scalar.
        clip: largest norm of the gradient.
        weights: those whose gradient is clipped; None: all of the optimizer's.

    Returns:
        The norm of the gradient before clipping, still on the device.
    """
    if weights is None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(weights, clip)
    optimizer.step()
    return norm
