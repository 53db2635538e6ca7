"""A small training with everything in it that a checkpoint has to carry."""

import numpy as np
import torch
from torch import nn

from kalm.runs.metrics import Metrics
from kalm.training.callbacks import Evaluate, Every, LogMeanLosses, SaveCheckpoint, WriteMetrics
from kalm.training.checkpoint import NAME, Checkpoint
from kalm.training.loop import fit
from kalm.training.optimizer import gradient_step, schedule
from kalm.training.running_mean import RunningMean


class Killed(Exception):
    pass


class Trainee:
    """Two networks with an optimizer each (one is moved every other step), dropout, a NumPy data stream."""

    def __init__(self, folder, steps=20, every=4, identity="trainee", width=5):
        torch.manual_seed(7)
        self.first = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.3))
        self.second = nn.Linear(width, 1)
        self.optimizers = {
            "first": torch.optim.AdamW(self.first.parameters(), 0.01, fused=True),
            "second": torch.optim.Adam(self.second.parameters(), 0.02),
        }
        self.rng = np.random.default_rng(3)
        self.folder, self.steps, self.every = folder, steps, every
        weights = {
            f"{name}.{key}": tensor
            for name, part in (("first", self.first), ("second", self.second))
            for key, tensor in part.state_dict().items()
        }
        self.checkpoint = Checkpoint(folder / NAME, identity, weights, self.optimizers)
        self.kept, self.rates = [], []

    def update(self, step):
        batch = torch.from_numpy(self.rng.standard_normal((8, 3), dtype=np.float32))
        self.rates.append([o.param_groups[0]["lr"] for o in self.optimizers.values()])
        loss = (self.second(self.first(batch)) - batch.sum(1, keepdim=True)).square().mean()
        losses = {"loss": loss.detach()}
        gradient_step(self.optimizers["first"], loss, 1.0)
        if step % 2 == 0:
            second = self.second(self.first(batch).detach()).square().mean()
            gradient_step(self.optimizers["second"], second, 1.0)
            losses["second"] = second.detach()
        return losses

    def run(self, kill_at=None):
        resumed = self.checkpoint.restore()
        done, facts = (resumed.step, resumed.facts) if resumed else (0, {})
        if facts:
            self.rng.bit_generator.state = facts["rng"]
        mean = RunningMean(facts.get("mean"), "Lower the rate.")
        metrics = Metrics(self.folder, done)

        def kill(step):
            if step.number == kill_at:
                raise Killed

        fit(
            self.update,
            self.steps,
            done,
            schedulers=[
                schedule(self.optimizers["first"], "cosine", self.steps, warmup=5, done=done),
                schedule(self.optimizers["second"], "linear", self.steps, decay=0.5, done=done),
            ],
            callbacks=[
                LogMeanLosses(mean, 3),
                Evaluate(5, lambda step: {"weight": float(self.second.weight.detach().sum())}),
                WriteMetrics(metrics),
                Every(self.every, self.kept.append),
                SaveCheckpoint(
                    self.checkpoint,
                    self.every,
                    lambda step: {"rng": self.rng.bit_generator.state, "mean": mean.state(step)},
                    at_end=True,
                ),
                kill,
            ],
        )
        metrics.close()
        return {**self.checkpoint.weights}
