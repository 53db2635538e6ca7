"""Schedules by hand and against torch's own; one step down a loss."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from kalm.training.optimizer import gradient_step, lr_share, schedule, warmup_steps


def rates(name, steps, **settings):
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    groups = [{"params": first.parameters(), "lr": 0.5}, {"params": second.parameters(), "lr": 2.0}]
    optimizer = torch.optim.SGD(groups)
    scheduler = schedule(optimizer, name, steps, **settings)
    found = []
    for _ in range(steps - settings.get("done", 0)):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


def test_by_hand():
    assert [lr_share(step, "constant", 4) for step in range(4)] == [1, 1, 1, 1]
    assert [lr_share(step, "constant", 4, warmup=2) for step in range(4)] == [0.5, 1, 1, 1]
    assert [lr_share(step, "linear", 10, decay=0.4) for step in range(10)] == [*[1] * 7, 0.75, 0.5, 0.25]
    assert [lr_share(step, "linear", 4, decay=0) for step in range(4)] == [1, 1, 1, 1]
    cosine = [lr_share(step, "cosine", 6, warmup=2) for step in range(7)]
    expected = [0.5, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    assert cosine == pytest.approx(expected)
    assert [warmup_steps(share, 50) for share in (0, 0.1, 1)] == [1, 5, 50]


def test_without_warmup_the_cosine_is_torchs():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
    reference, found = CosineAnnealingLR(optimizer, 30), []
    for _ in range(30):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert [one for one, _ in rates("cosine", 30)] == pytest.approx(found)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("done", [0, 1, 7, 11])
def test_groups_keep_their_proportion_and_a_resumed_schedule_goes_on(name, done):
    settings = {"warmup": 3, "decay": 0.5}
    whole = rates(name, 12, **settings)
    assert all(second == 4 * first for first, second in whole)
    assert max(first for first, _ in whole) == 0.5
    assert rates(name, 12, done=done, **settings) == whole[done:]


def test_a_gradient_step_is_clipped_and_returns_the_norm_before():
    weight, other = nn.Parameter(torch.tensor([1.0, 1.0])), nn.Parameter(torch.tensor(2.0))
    optimizer = torch.optim.SGD([weight, other], lr=1.0)
    weight.grad = torch.tensor([100.0, 100.0])  # of an earlier step
    norm = gradient_step(optimizer, 3 * weight[0] + 4 * weight[1] + 0 * other, clip=1.0)
    assert float(norm) == pytest.approx(5.0)
    assert weight.tolist() == pytest.approx([1 - 3 / 5, 1 - 4 / 5], abs=1e-5)
    assert float(other.detach()) == 2.0
