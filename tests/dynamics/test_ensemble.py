"""Forward models of known systems: how near, how sure, and how they are kept."""

import numpy as np
import pytest
from pushed import POINT, THINGS, drawn, rollouts, truth

from kalm.dynamics.ensemble import (
    ForwardEnsemble,
    Prediction,
    disagreement,
    distance,
    fit_ensemble,
    load_ensemble,
)
from kalm.dynamics.settings import DynamicsConfig
from kalm.errors import KalmError

CONFIG = DynamicsConfig(members=3, hidden=(64, 64), forward_steps=600, evaluate_every=200, lr=5e-3)


@pytest.fixture(scope="module", params=[THINGS, POINT], ids=lambda spec: spec.name)
def fitted(request):
    return fit_ensemble(rollouts(request.param, 4000), CONFIG, 0)


def test_it_learns_a_known_system(fitted):
    spec = fitted.spec
    states, actions = drawn(spec, 500, seed=7)
    after = truth(spec, states, actions)
    prediction = fitted.predict(states, actions)
    assert prediction.mean.shape == prediction.spread.shape == (3, 500, spec.state_size)
    error = np.sqrt(np.square(prediction.mean.mean(axis=0) - after).mean())
    still = np.sqrt(np.square(after - states).mean())
    assert error < 0.1 * still and fitted.errors.error == pytest.approx(error, rel=0.5)
    assert fitted.errors.nothing_moves == pytest.approx(still, rel=0.2)
    assert fitted.errors.transitions == 200
    steady = (prediction.spread == 0).sum(axis=2)
    assert (steady == (2 if spec is THINGS else 0)).all()  # the third thing never moves
    assert (prediction.spread >= 0).all() and np.median(prediction.spread) < still


def test_members_disagree_where_they_have_not_been(fitted):
    states, actions = drawn(fitted.spec, 500, seed=7)
    here = disagreement(fitted.predict(states, actions))
    far = disagreement(fitted.predict(states * 6, actions))
    assert np.median(far) > 5 * np.median(here)
    assert (here <= fitted.errors.disagreement).mean() > 0.9


def test_saved_and_loaded_it_is_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = load_ensemble(tmp_path / "model")
    states, actions = drawn(fitted.spec, 20, seed=1)
    one, other = fitted.predict(states, actions), loaded.predict(states, actions)
    assert np.array_equal(one.mean, other.mean) and np.array_equal(one.spread, other.spread)
    assert loaded.errors == fitted.errors


def test_the_same_seed_gives_the_same_ensemble():
    real, short = rollouts(POINT, 400), CONFIG.changed(forward_steps=20)
    states, actions = drawn(POINT, 5)
    one, same, other = (fit_ensemble(real, short, seed).predict(states, actions).mean for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.allclose(one, other)
    assert not np.allclose(one[0], one[1]), "members differ"


def test_fitting_stops_when_it_helps_no_more():
    told = []
    patient = CONFIG.changed(patience=0, evaluate_every=10, forward_steps=3000, lr=0.03)
    fit_ensemble(rollouts(POINT, 300), patient, 0, advance=lambda n=1, **fields: told.append(n))
    assert sum(told) < 3000 and set(told) == {10}


def test_disagreement_and_distance_by_hand():
    mean = np.array([[[0, 0]], [[3, 4]], [[0, 1]]], np.float32)  # three members, one transition
    prediction = Prediction(mean, np.ones_like(mean))
    assert disagreement(prediction).tolist() == [5]
    assert distance(prediction, np.array([[1, 5 / 3 + 2]])) == pytest.approx([2])
    assert disagreement(Prediction(mean[:1], mean[:1])).tolist() == [0]


def test_bad_input_is_a_clear_error(tmp_path):
    with pytest.raises(KalmError, match="too few to fit"):
        fit_ensemble(rollouts(POINT, 1), CONFIG, 0)
    with pytest.raises(KalmError, match="does not exist"):
        load_ensemble(tmp_path)
    ForwardEnsemble(POINT, 2, (8,)).save(tmp_path / "m")
    file = tmp_path / "m" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(KalmError, match="Delete .* to fit it anew"):
        load_ensemble(tmp_path / "m")


def test_a_drawn_state_is_what_one_member_says(fitted):
    states, actions = drawn(fitted.spec, 7, seed=3)
    prediction = fitted.predict(states, actions)
    draws = np.stack([fitted.sample(states, actions, np.random.default_rng(seed)) for seed in range(400)])
    mean, members = prediction.mean, len(prediction.mean)
    spread = np.sqrt(np.square(prediction.spread).mean(0) + mean.var(0))  # (N, S) of the mixture
    assert draws.dtype == np.float32 and draws.shape == (400, *states.shape)
    assert (np.abs(draws.mean(0) - mean.mean(0)) < 5 * spread / 20 + 1e-5).all()
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.4, atol=1e-5)
    assert members == 3 and len(fitted.sample(states[:1], actions[:1], np.random.default_rng(0))) == 1
    again = fitted.sample(states, actions, np.random.default_rng(399))
    assert np.array_equal(again, draws[399])


def test_draws_stay_where_real_states_are_however_often_they_are_fed_back():
    real = rollouts(POINT, 300)
    real.states[:, 1] = 0.25  # never changes
    fitted = fit_ensemble(real, CONFIG.changed(forward_steps=50), 0)
    rng = np.random.default_rng(0)
    states = real.states[real.before[:50]].astype(np.float32)
    for _ in range(40):
        states = fitted.sample(states, np.ones((50, POINT.action_size), np.float32), rng)
    assert (states[:, 1] == 0.25).all()
    assert (states >= real.states.min(0)).all() and (states <= real.states.max(0)).all()
    assert (fitted.predict(states, np.ones((50, POINT.action_size))).spread[..., 1] == 0).all()
