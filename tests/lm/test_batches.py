"""Batches that worker processes make ahead are those that the training itself would make."""

import pytest
import torch

from kalm.lm import sft
from kalm.lm.batches import StepBatches, load_batches
from kalm.lm.dataset import GroundingDataset


@pytest.fixture
def steps(single, world, rollouts):
    config = single.changed(rollouts=60, rows=2, accumulate=2, epochs=2.5)
    model = sft.fresh(config, world, 0, "cpu")
    curriculum = GroundingDataset(sft.divide(rollouts, config, 0)[0], model.prompt_builder(), config, 0)
    return StepBatches(curriculum, model.backbone.two_way_prompt, config)


@pytest.mark.parametrize("done", [0, 3])
def test_workers_make_the_same_batches_in_the_same_order(steps, done):
    own = list(load_batches(steps, torch.device("cpu"), done))
    made = list(load_batches(steps, torch.device("cpu"), done, workers=2))
    assert len(own) == len(made) == len(steps) - done
    for one, other in zip(own, made, strict=True):
        assert len(one) == len(other) == 2  # ground.accumulate
        for name in ("visible", "text", "states", "want_states", "want_actions"):
            for mine, theirs in zip(one, other, strict=True):
                assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
        assert [part.tokens for part in one] == [part.tokens for part in other]


def test_each_of_several_processes_has_its_part(steps):
    alone = [len(part.position) for part in steps[0]]
    shared = StepBatches(steps.curriculum, steps.two_way_prompt, steps.config.changed(accumulate=1), among=2)
    assert alone == [1, 1] and [len(part.position) for part in shared[0]] == [1]
