"""The loop and its callbacks: what happens at which step."""

import pytest
import torch
from torch import nn
from trainee import Trainee

from kalm.errors import KalmError
from kalm.runs.metrics import Metrics, read_metrics
from kalm.training.callbacks import EarlyStopping, Evaluate, Every, LogLosses, WriteMetrics
from kalm.training.loop import TrainingStep, fit
from kalm.training.running_mean import RunningMean


def test_rows_hold_means_since_the_last_row_and_what_was_measured(tmp_path):
    trainee = Trainee(tmp_path)
    seen = []
    update = trainee.update

    def recorded(step):
        losses = update(step)
        seen.append({name: float(value) for name, value in losses.items()})
        return losses

    trainee.update = recorded
    trainee.run()
    rows = read_metrics(tmp_path)
    # every 3 steps and at the end the means; every 5 steps and at the end the measurement
    assert [row["step"] for row in rows] == [3, 5, 6, 9, 10, 12, 15, 18, 20]
    assert ["weight" in row for row in rows] == [row["step"] % 5 == 0 for row in rows]
    assert rows[0]["loss"] == pytest.approx(sum(row["loss"] for row in seen[:3]) / 3)
    assert rows[0]["second"] == pytest.approx((seen[0]["second"] + seen[2]["second"]) / 2)  # every other step
    assert rows[-1]["loss"] == pytest.approx((seen[18]["loss"] + seen[19]["loss"]) / 2)
    assert trainee.kept == [4, 8, 12, 16, 20]


def test_steps_are_numbered_from_zero_and_told_in_portions():
    updates, told, kept = [], [], []

    def advance(n=1, *, resumed=False, **fields):
        told.append((n, resumed, fields))

    def update(step):
        updates.append(step)
        return {"loss": float(step)}

    log = LogLosses(dict, 3, 5)
    callbacks = [log, Every(2, kept.append, at_end=False)]
    assert fit(update, 10, 2, callbacks=callbacks, advance=advance, advance_every=4) == 10
    assert updates == list(range(2, 10)) and kept == [4, 6, 8]
    assert told[0] == (2, True, {})
    assert [n for n, _, _ in told] == [2, 2, 4, 2]
    assert told[-1][2] == {"loss": 9.0}


def test_losses_are_read_only_where_they_are_written():
    read = []
    log = LogLosses(
        lambda losses: read.append(losses["loss"]) or {"loss": losses["loss"]}, 4, 6, prefix="train/"
    )
    rows = {}
    fit(lambda step: {"loss": step}, 13, callbacks=[log, lambda step: rows.update({step.number: step.row})])
    assert read == [3, 5, 7, 11, 12]
    assert rows[4] == {"train/loss": 3} and rows[5] == {}


def test_nothing_is_measured_with_a_period_of_zero(tmp_path):
    metrics = Metrics(tmp_path)
    never = Evaluate(0, lambda step: pytest.fail("measured"))
    fit(lambda step: {}, 3, callbacks=[never, WriteMetrics(metrics), WriteMetrics(None)])
    metrics.close()
    assert read_metrics(tmp_path) == []


def test_early_stopping_keeps_the_best_state():
    module = nn.Linear(1, 1, bias=False)
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    stopping = EarlyStopping(module, lambda: torch.tensor(next(losses)), 2, 1, "Lower the rate.")

    def update(step):
        module.weight.data.fill_(step + 1)
        return {}

    # looks at 2, 4 (best), 6, 8: two in a row without a smaller loss
    assert fit(update, 20, callbacks=[stopping]) == 8
    assert stopping.best == 1.0
    stopping.restore_best()
    assert float(module.weight.detach()) == 4.0


def test_early_stopping_says_what_to_do_about_a_loss_that_is_not_finite():
    stopping = EarlyStopping(nn.Linear(1, 1), lambda: torch.tensor(float("nan")), 2, 1, "Lower the rate.")
    with pytest.raises(KalmError, match="nan at step 2. Lower the rate."):
        fit(lambda step: {}, 5, callbacks=[stopping])


def test_a_running_mean_notices_numbers_that_are_not_finite():
    mean = RunningMean(remedy="Lower train.lr.")
    mean.add({"td": torch.tensor(1.0), "actor": 2.0})
    mean.add({"td": torch.tensor(3.0)})
    again = RunningMean(mean.state(2))
    assert mean.close(2) == again.close(2) == {"td": 2.0, "actor": 2.0}
    mean.add({"td": torch.tensor(float("inf"))})
    with pytest.raises(KalmError, match=r"no longer finite by step 7: \{'td': inf\}. Lower train.lr."):
        mean.close(7)


def test_due():
    assert [TrainingStep(n, n == 7, {}).due(3) for n in (2, 3, 6, 7)] == [False, True, True, True]
    assert not TrainingStep(6, True, {}).due(3, at_end=False)
