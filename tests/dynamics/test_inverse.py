"""The inverse model: known systems, real CLEVR-Robot transitions, new labels."""

from dataclasses import replace

import numpy as np
import pytest
from pushed import POINT, THINGS, rollouts

from kalm import envs
from kalm.data.collect import collect_rollouts
from kalm.data.scoring import score
from kalm.data.settings import CollectConfig
from kalm.dynamics import inverse
from kalm.dynamics.inverse import fit_inverse, measure_inverse, relabel
from kalm.dynamics.settings import DynamicsConfig
from kalm.errors import KalmError

CONFIG = DynamicsConfig(hidden=(64, 64), inverse_steps=600, evaluate_every=200, lr=5e-3)


@pytest.fixture(scope="module")
def clevr():
    return envs.make("clevr")


@pytest.fixture(scope="module")
def real(clevr, tmp_path_factory):
    return collect_rollouts(
        clevr, CollectConfig(rollouts=1200, shard=1200), 0, tmp_path_factory.mktemp("real")
    )


@pytest.fixture(scope="module")
def labeller(real):
    return fit_inverse(real, CONFIG, 0)


def test_it_tells_discrete_actions():
    model = fit_inverse(rollouts(THINGS, 4000), CONFIG, 0)
    assert measure_inverse(model, rollouts(THINGS, 500, seed=5)).accuracy > 0.97
    assert model.hits.transitions == 200 and model.hits.error is None


def test_it_tells_continuous_actions():
    model = fit_inverse(rollouts(POINT, 4000), CONFIG, 0)
    found = measure_inverse(model, rollouts(POINT, 500, seed=5))
    assert found.accuracy is None and found.error < 0.05
    assert np.abs(model.actions(*[np.full((3, 2), x, np.float32) for x in (0, 9)])).max() <= 1


def test_real_pushes_of_clevr(labeller):
    assert labeller.hits.accuracy > 0.75  # from 3,800 transitions; 0.965 from 156,000


def test_wrong_labels_are_put_right_and_judged_anew(labeller, clevr, real):
    wrong = replace(real, actions=(real.actions + 11) % 40)
    right = relabel(wrong, labeller, clevr)
    assert (right.actions == real.actions).mean() > 0.75
    assert np.array_equal(right.states, real.states) and np.array_equal(right.which, real.which)
    again = score(right, clevr)
    assert np.array_equal(right.success, again.success) and np.array_equal(right.rewards, again.rewards)


def test_a_one_step_goal_is_reached_with_the_right_label(labeller, clevr, real):
    easy = next(i for i in clevr.suite("easy") if (i.goal["ball"], i.goal["direction"]) == ("red", "right"))
    first = real.cut(np.ones_like(real.lengths))
    pushes = first.take(first.actions == 0)  # red, to the right
    asked = replace(pushes, instructions=(easy,), which=np.zeros(len(pushes), np.int32))
    wrong = score(replace(asked, actions=np.full(len(pushes), 39)), clevr)
    assert not wrong.success.any()
    assert relabel(wrong, labeller, clevr).success.mean() > 0.7


def test_saved_and_loaded_it_is_the_same(labeller, real, tmp_path):
    labeller.save(tmp_path / "m")
    loaded = inverse.load_inverse(tmp_path / "m")
    states = real.states[real.before[:50]], real.states[real.before[:50] + 1]
    assert np.array_equal(loaded.outputs(*states), labeller.outputs(*states))
    assert loaded.hits == labeller.hits
    with pytest.raises(KalmError, match="holds a model of kind 'inverse'"):
        inverse.storage.facts(tmp_path / "m", "forward")
