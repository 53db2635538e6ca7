from dataclasses import replace

import numpy as np
import pytest

from kalm.data.validation import require_data
from kalm.errors import KalmError
from kalm.rl.select import select_rollouts


@pytest.fixture(scope="module")
def sets(line):
    return line.rollouts(200), line.rollouts(100, "imagined", 1, "rephrase")


def test_real_rollouts_are_chosen_by_the_seed(sets, config):
    few = config.changed(real_rollouts=50)
    chosen = [select_rollouts(*sets, few, seed)[0] for seed in (0, 0, 1)]
    assert [len(part) for part in chosen] == [50, 50, 50]
    assert np.array_equal(chosen[0].states, chosen[1].states)
    assert not np.array_equal(chosen[0].first_states, chosen[2].first_states)
    alone, nothing = select_rollouts(sets[0], None, few, 0)
    assert nothing is None and np.array_equal(alone.states, chosen[0].states)
    assert select_rollouts(*sets, config, 0)[0] is sets[0]


def test_imagined_rollouts_are_chosen_by_success_and_level(line, sets, config):
    real, imagined = sets
    assert len(select_rollouts(real, imagined, config, 0)[1]) == imagined.success.sum() < len(imagined)
    everything = config.changed(imagined="all")
    assert len(select_rollouts(real, imagined, everything, 0)[1]) == len(imagined)
    assert set(select_rollouts(real, imagined, everything, 0, "rephrase")[1].levels) == {"rephrase"}
    with pytest.raises(KalmError, match="0 are of level hard"):
        select_rollouts(real, imagined, everything, 0, "hard")
    with pytest.raises(KalmError, match="unknown level 'hrad'"):
        select_rollouts(real, imagined, everything, 0, "hrad")
    with pytest.raises(KalmError, match="0 pass train.imagined=successful"):
        select_rollouts(real, imagined.take(~imagined.success), config, 0)


def test_what_does_not_fit_is_named(line, sets):
    real, imagined = sets
    wide = replace(line.spec, state_names=(*line.spec.state_names, "hole y"))
    smooth = replace(line.spec, action_kind="continuous")
    far = replace(line.spec, horizon=99)
    for spec, message in (
        (wide, "state width 4 instead of 3"),
        (smooth, "action kind 'continuous' instead of 'discrete'"),
        (far, "horizon"),
    ):
        with pytest.raises(KalmError, match=f"the imagined rollouts do not fit.*{message}"):
            require_data(line.spec, real, replace(imagined, spec=spec))
    rewards = np.where(np.arange(len(real.rewards)) == 3, np.inf, real.rewards).astype(np.float32)
    with pytest.raises(KalmError, match="real rollouts: .*'rewards'.*finite"):
        require_data(line.spec, replace(real, rewards=rewards), imagined)
    with pytest.raises(KalmError, match="imagined rollouts: .*'weights'.*above 0"):
        require_data(line.spec, real, replace(imagined, weights=0 * imagined.weights))
