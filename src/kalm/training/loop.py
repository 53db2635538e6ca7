"""The one training loop: steps, learning rates, and what is done between them.

A trainer brings a function that takes one step and returns its losses, still as tensors: reading a number off
a GPU waits for all its work, so that is left to the few steps whose numbers are written down. All else are
callbacks, called after every step in the order in which they are given. The order matters: first those that
fill the step's row of numbers (`LogLosses`, `Evaluate`, ...), then `WriteMetrics`, and last what is stored
(`Every`, `SaveCheckpoint`); a row that were written after its checkpoint could be lost to a kill.

::

    checkpoint = Checkpoint(folder / NAME, identity, trained(model), {"optimizer": optimizer})
    resumed = checkpoint.restore()
    done = resumed.step if resumed else 0
    fit(
        update,                                     # step counted from 0 -> {"loss": tensor, ...}
        steps,
        done,
        schedulers=[schedule(optimizer, "cosine", steps, warmup=100, done=done)],
        callbacks=[
            LogLosses(read_losses, 20),
            Evaluate(500, evaluate),
            WriteMetrics(metrics),
            SaveCheckpoint(checkpoint, 1000),
        ],
        advance=advance,
    )
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from kalm.runs.progress import Advance, silent

StepLosses = Mapping[str, Tensor | float]


@dataclass
class TrainingStep:
    """One step of a training, as callbacks see it.

    Attributes:
        number: steps that are done, this one included.
        last: whether it is the last one.
        losses: what the update returned; tensors may still be on the device.
        row: numbers of this step for the metrics; callbacks add to it.
        shown: numbers to show beside the progress; callbacks add to it.
        stop: set by a callback that wants no more steps.
    """

    number: int
    last: bool
    losses: StepLosses
    row: dict[str, float] = field(default_factory=dict)
    shown: dict[str, float] = field(default_factory=dict)
    stop: bool = False

    def due(self, every: int, at_end: bool = True) -> bool:
        """Whether what is done every so many steps is due now; 0: never.

        Args:
            every: period in steps.
            at_end: what the last step is: always due, or never.
        """
        if every <= 0:
            return False
        return at_end if self.last else self.number % every == 0


Callback = Callable[[TrainingStep], None]


def fit(
    update: Callable[[int], StepLosses],
    steps: int,
    done: int = 0,
    *,
    schedulers: Iterable[LRScheduler] = (),
    callbacks: Sequence[Callback] = (),
    advance: Advance = silent,
    advance_every: int = 1,
) -> int:
    """Take the steps of a training that are left.

    Args:
        update: takes the step of this number, counted from 0, and returns its losses.
        steps: of the whole training.
        done: steps that are done already (`kalm.training.checkpoint.Resumed.step`).
        schedulers: of the learning rates; each stands at step `done`.
        callbacks: called after every step, in this order.
        advance: told of finished steps.
        advance_every: tell it every so many steps only; for steps that take less time than telling.

    Returns:
        Steps that are done; fewer than `steps` where a callback stopped the training.
    """
    schedulers = list(schedulers)
    if done:
        advance(done, resumed=True)
    told = first = done
    for number in range(done + 1, steps + 1):
        step = TrainingStep(number, number == steps, update(number - 1))
        _follow(schedulers, quietly=number == first + 1)
        for callback in callbacks:
            callback(step)
        done = number
        if step.last or step.stop or number % advance_every == 0:
            advance(number - told, resumed=False, **step.shown)
            told = number
        if step.stop:
            break
    return done


def _follow(schedulers: Iterable[LRScheduler], quietly: bool) -> None:
    """Set the learning rates of the next step."""
    with warnings.catch_warnings() if quietly else nullcontext():
        if quietly:  # an algorithm may leave one of its optimizers out of a training's first step
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for scheduler in schedulers:
            scheduler.step()
