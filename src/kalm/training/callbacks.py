"""What is done between the steps of a training; see `kalm.training.loop` for their order."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from kalm.errors import KalmError
from kalm.runs.metrics import Metrics
from kalm.training.checkpoint import Checkpoint
from kalm.training.loop import StepLosses, TrainingStep
from kalm.training.running_mean import RunningMean


class LogLosses:
    """Writes the losses of the last step into the row.

    Args:
        read: turns what the update returned into numbers; of several processes all are asked. It raises where
            a loss is not finite.
        every: periods in steps; due when any of them is, and at the end. Those of evaluation and checkpoints
            belong here, so that nothing is stored of a training whose loss is not finite.
        prefix: of the names in the row.
    """

    def __init__(
        self, read: Callable[[StepLosses], Mapping[str, float]], *every: int, prefix: str = ""
    ) -> None:
        self.read = read
        self.every = every
        self.prefix = prefix

    def __call__(self, step: TrainingStep) -> None:
        """Read and write them where that is due."""
        if any(step.due(every) for every in self.every):
            _write(step, self.read(step.losses), self.prefix)


class LogMeanLosses:
    """Writes the mean of each loss since its last row into the row.

    Args:
        mean: continues from a checkpoint; give its `state` to `SaveCheckpoint`.
        every: period in steps.
        prefix: of the names in the row.
    """

    def __init__(self, mean: RunningMean, every: int, prefix: str = "") -> None:
        self.mean = mean
        self.every = every
        self.prefix = prefix

    def __call__(self, step: TrainingStep) -> None:
        """Count this step; write the means where that is due."""
        self.mean.add(step.losses)
        if step.due(self.every):
            _write(step, self.mean.close(step.number), self.prefix)


class Evaluate:
    """Adds to the row what a function measures, now and then and at the end.

    Args:
        every: period in steps; 0: never.
        measure: given the number of steps done.
    """

    def __init__(self, every: int, measure: Callable[[int], Mapping[str, float]]) -> None:
        self.every = every
        self.measure = measure

    def __call__(self, step: TrainingStep) -> None:
        """Measure where that is due."""
        if step.due(self.every):
            step.row |= self.measure(step.number)


class WriteMetrics:
    """Writes the row, if there is anything in it.

    Args:
        metrics: of the main process; None elsewhere.
    """

    def __init__(self, metrics: Metrics | None) -> None:
        self.metrics = metrics

    def __call__(self, step: TrainingStep) -> None:
        """Write it."""
        if step.row and self.metrics is not None:
            self.metrics.log(step.number, step.row)


class Every:
    """Does something now and then: keeps a policy, say.

    Args:
        every: period in steps; 0: never.
        action: given the number of steps done.
        at_end: whether it is done after the last step, too.
    """

    def __init__(self, every: int, action: Callable[[int], None], at_end: bool = True) -> None:
        self.every = every
        self.action = action
        self.at_end = at_end

    def __call__(self, step: TrainingStep) -> None:
        """Do it where it is due."""
        if step.due(self.every, self.at_end):
            self.action(step.number)


class SaveCheckpoint(Every):
    """Saves a checkpoint now and then.

    Args:
        checkpoint: what is saved.
        every: period in steps.
        facts: given the number of steps done, returns what else the trainer continues from, JSON-ready.
        at_end: whether the end of a training is a checkpoint too, so that a longer one can go on from it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        every: int,
        facts: Callable[[int], Mapping[str, object]] | None = None,
        at_end: bool = False,
    ) -> None:
        super().__init__(every, lambda step: checkpoint.save(step, facts(step) if facts else None), at_end)


class EarlyStopping:
    """Evaluates a model now and then, keeps its best state, and stops when that stays the best.

    Args:
        module: what is trained.
        measure: a loss on held-out data.
        every: period in steps; the last step counts too.
        patience: evaluations without a smaller loss that are put up with; one more ends the training.
        remedy: what to do when the loss is not finite, a sentence.

    Attributes:
        best: smallest loss so far.
    """

    def __init__(
        self, module: nn.Module, measure: Callable[[], torch.Tensor], every: int, patience: int, remedy: str
    ) -> None:
        self.module = module
        self.measure = measure
        self.every = every
        self.patience = patience
        self.remedy = remedy
        self.best: float = math.inf
        self._kept = module.state_dict()
        self._missed = 0

    def __call__(self, step: TrainingStep) -> None:
        """Evaluate where that is due.

        Raises:
            KalmError: the loss is not finite.
        """
        if not step.due(self.every):
            return
        with torch.no_grad():
            loss = float(self.measure())
        if not math.isfinite(loss):
            raise KalmError(f"the held-out loss is {loss} at step {step.number}. {self.remedy}")
        step.shown["held_out"] = loss
        self._missed += 1
        if loss < self.best:
            self.best, self._missed = loss, 0
            self._kept = copy.deepcopy(self.module.state_dict())
        step.stop = self._missed > self.patience

    def restore_best(self) -> None:
        """Give the module its best state back."""
        self.module.load_state_dict(self._kept)


def _write(step: TrainingStep, values: Mapping[str, float], prefix: str) -> None:
    """Add losses to the row; the first of them is shown."""
    step.row |= {f"{prefix}{name}": value for name, value in values.items()}
    step.shown |= {name: values[name] for name in list(values)[:1]}
