import json

import numpy as np
import pytest
import torch

from kalm.errors import KalmError
from kalm.rl.buffer import MixedBuffer
from kalm.rl.losses import by_source
from kalm.rl.table import ALGORITHMS, create_learner, learner_class
from kalm.training.running_mean import RunningMean


def test_means_count_each_term_by_itself():
    window = RunningMean()
    window.add({"critic": torch.tensor(1.0), "actor": 4.0})
    window.add({"critic": torch.tensor(2.0)})
    later = RunningMean(json.loads(json.dumps(window.state(2))))
    later.add({"critic": torch.tensor(6.0)})
    assert later.close(3) == {"critic": 3.0, "actor": 4.0} and later.close(4) == {}


def test_one_loss_that_is_not_finite_is_noticed_when_read():
    window = RunningMean()
    for value in (1.0, float("nan"), 2.0):
        window.add({"loss": torch.tensor(value)})
    with pytest.raises(KalmError, match="no longer finite by step 7"):
        window.close(7)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"combo"}))
def test_sources_are_reported_apart_and_learning_takes_no_notice(name, line, config, encoder):
    sets = line.rollouts(20), line.rollouts(20, "imagined", 1)
    buffer = MixedBuffer(
        *sets, encoder, 0.25, np.random.default_rng(0), vectors=learner_class(name, line.spec).vectors
    )
    torch.manual_seed(0)
    learner = create_learner(name, line.spec, buffer.observation_size, config, "cpu")
    batch = buffer.sample(32)
    before = [weight.clone() for weight in learner.parameters()]
    state = torch.get_rng_state()
    report = by_source(learner, buffer, batch)
    assert torch.equal(torch.get_rng_state(), state)
    weights = list(learner.parameters())
    assert all(map(torch.equal, before, weights)) and all(weight.grad is None for weight in weights)
    terms = learner.losses(batch)
    assert report.keys() == {f"{term}_{source}" for term in terms for source in ("real", "imagined")}
    if name in ("bc", "cql"):  # no random draws, and means over rows: the parts make up the whole
        for term, value in terms.items():
            parts = 0.75 * report[f"{term}_real"] + 0.25 * report[f"{term}_imagined"]
            assert parts == pytest.approx(value.item(), rel=1e-5)
    alone = MixedBuffer(sets[0], None, encoder, 0.25, np.random.default_rng(0))
    assert by_source(learner, alone, batch) == {}
