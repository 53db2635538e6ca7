"""What becomes of imagined rollouts: hand-made ones with every flaw, and nothing lost without a word."""

from dataclasses import replace

import numpy as np
import pytest

from kalm import envs
from kalm.data.collect import collect_rollouts
from kalm.data.rollouts import RolloutSet
from kalm.data.settings import CollectConfig
from kalm.data.validation import require_valid
from kalm.dynamics import models
from kalm.dynamics.filter import best, judge, plausibility_weights, refine
from kalm.dynamics.models import Models, fitted, needed
from kalm.dynamics.settings import DynamicsConfig, RefineConfig
from kalm.envs.clevr.spec import BALLS
from kalm.errors import KalmError
from kalm.lm.settings import ImagineConfig
from kalm.runs.progress import track
from kalm.types import Rollout

APART = np.array([-0.4, 0, -0.2, 0.4, 0, 0, 0.2, 0.4, 0.4, 0], np.float32)  # five balls, all is well
SMALL = DynamicsConfig(members=2, hidden=(32, 32), forward_steps=300, inverse_steps=200, evaluate_every=100)


@pytest.fixture(scope="module")
def clevr():
    return envs.make("clevr")


@pytest.fixture(scope="module")
def real(clevr, tmp_path_factory):
    return collect_rollouts(clevr, CollectConfig(rollouts=600, shard=600), 0, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def known(real, tmp_path_factory) -> Models:
    kinds = ("forward", "inverse")
    return fitted(tmp_path_factory.mktemp("models") / "dynamics", real, SMALL, kinds, 0, "cpu", track)


def moved(**balls):
    """The state in which these balls have gone so far."""
    state = APART.reshape(5, 2).copy()
    for ball, way in balls.items():
        state[BALLS.index(ball)] += way
    return state.ravel()


@pytest.fixture
def flawed(clevr):
    """Red is pushed: well; off the table; into green; too far; well but in vain; well in two steps."""
    instruction = clevr.suite("seen")[0]
    paths = [
        [APART, moved(red=(0.05, 0))],
        [APART, moved(red=(0, -0.35)), moved(red=(0.05, 0))],
        [APART, moved(red=(0.3, 0))],
        [APART, moved(red=(0.5, 0.1), green=(0.1, -0.2))],
        [APART, moved(red=(0.05, 0))],
        [APART, moved(red=(0.05, 0)), moved(red=(0.1, 0))],
    ]
    success = [True, True, True, True, False, True]
    return RolloutSet.from_rollouts(
        clevr.spec,
        [
            Rollout(
                instruction,
                np.array(path),
                np.zeros(len(path) - 1, int),
                np.zeros(len(path) - 1),
                good,
                "imagined",
            )
            for path, good in zip(paths, success, strict=True)
        ],
    )


def test_flaws_are_counted_by_step(flawed, clevr):
    found = judge(flawed, clevr, None, 2.0)
    assert found.failed.tolist() == [False] * 4 + [True, False]
    assert found.flaws["off_table"].tolist() == [0, 1, 0, 0, 0, 0]
    assert found.flaws["interpenetrating"].tolist() == [0, 0, 1, 0, 0, 0]
    assert found.flaws["step_too_large"].tolist() == [0, 0, 0, 1, 0, 0]
    assert found.impossible.tolist() == [0, 1, 1, 1, 0, 0]
    assert found.plausible.tolist() == [1, 0.5, 0, 0, 1, 1]
    assert not found.surprise.any()


def test_dropping_says_why(flawed, clevr):
    config = RefineConfig(plausibility="drop", plausible_share=0.5)  # the second has that share
    done = refine(flawed, np.arange(6), clevr, config, Models())
    assert np.array_equal(done.rollouts.states, flawed.take(np.array([0, 5])).states)
    assert done.facts == {
        "raw": 6,
        "dropped": {
            "rollouts": 4,
            "with": {"goal_not_reached": 1, "off_table": 1, "interpenetrating": 1, "step_too_large": 1},
        },
        "kept": 2,
    }
    with pytest.raises(KalmError, match="no imagined rollout is plausible"):
        refine(flawed.take(np.array([2, 4])), np.arange(2), clevr, config, Models())


def test_weighing_keeps_everything(flawed, clevr):
    config = RefineConfig(plausibility="weight", least_weight=0.2)
    done = refine(flawed, np.arange(6), clevr, config, Models())
    assert done.rollouts.weights == pytest.approx([1, 0.6, 0.2, 0.2, 0.2, 1])
    assert done.facts["weights"]["mean"] == pytest.approx(3.2 / 6)
    assert done.facts["kept"] == done.facts["raw"] == 6
    require_valid(done.rollouts)
    assert plausibility_weights(judge(flawed, clevr, None, 2.0), 1.0).tolist() == [1] * 6


def test_the_best_of_several_samples_is_kept(flawed, clevr):
    judged = judge(flawed, clevr, None, 2.0)
    assert best(judged, flawed.lengths, np.array([0, 0, 0, 1, 1, 1])).tolist() == [0, 5]
    assert best(judged, flawed.lengths, np.array([0, 1, 1, 2, 2, 0])).tolist() == [0, 2, 3], (
        "goal, then flaws"
    )
    less = replace(judged, surprise=np.array([3.0, 0, 0, 0, 0, 1.0]))
    assert best(less, flawed.lengths, np.zeros(6, int)).tolist() == [5], "surprise comes before length"
    config = RefineConfig()
    done = refine(flawed, np.array([0, 0, 0, 7, 7, 7]), clevr, config, Models(), samples=3)
    assert np.array_equal(done.rollouts.states, flawed.take(np.array([0, 5])).states)
    assert done.facts == {"raw": 6, "samples": {"at_most": 3, "set_aside": 4}, "kept": 2}


def test_unlikely_steps_surprise_the_forward_models(known, clevr, real):
    fresh = real.take(np.arange(100))
    usual = judge(fresh, clevr, known.ensemble, 2.0)
    jump = fresh.states.copy()
    jump[fresh.before + 1] = fresh.states[fresh.before] + np.float32(0.2)  # all balls, every time
    odd = judge(replace(fresh, states=jump), clevr, known.ensemble, 2.0)
    assert (usual.flaws["distance"] > 0).mean() < 0.1 < 0.9 < (odd.flaws["distance"] > 0).mean()
    assert np.median(odd.surprise) > 2 > np.median(usual.surprise)


def test_surprising_steps_are_let_pass_up_to_a_share(known, clevr, real):
    fresh = real.take(np.arange(100))
    strict = RefineConfig(plausibility="drop", tolerance=1e-9, plausible_share=0.0)
    judged = judge(fresh, clevr, known.ensemble, strict.tolerance)
    right = ~judged.failed & (judged.impossible == 0)
    assert right.any() and (judged.plausible == 0).all()  # every step is surprising
    done = refine(fresh, np.arange(100), clevr, strict, known)
    assert np.array_equal(done.rollouts.states, fresh.take(np.flatnonzero(right)).states)
    with pytest.raises(KalmError, match="no imagined rollout is plausible"):
        refine(fresh, np.arange(100), clevr, strict.changed(plausible_share=0.01), known)


def test_labels_come_before_the_verdict(known, clevr, real):
    wrong = replace(real, actions=(real.actions + 3) % 40)
    done = refine(wrong, np.arange(len(real)), clevr, RefineConfig(relabel=True), known)
    assert 0.7 < done.facts["relabelled"]["share_changed"] <= 1
    assert (done.rollouts.actions == real.actions).mean() > (wrong.actions == real.actions).mean() + 0.5


def test_models_are_fitted_once_and_only_those_that_are_needed(real, known, tmp_path):
    assert needed(RefineConfig(), SMALL) == ()
    assert needed(RefineConfig(relabel=True), SMALL) == ("inverse",)
    assert needed(RefineConfig(plausibility="drop"), SMALL) == ("forward",)
    assert needed(RefineConfig(), SMALL, samples=2) == ("forward",)
    assert needed(RefineConfig(plausibility="drop"), SMALL.changed(members=0)) == ()
    folder = tmp_path / "dynamics"
    short = SMALL.changed(inverse_steps=20, evaluate_every=20)
    one = fitted(folder, real, short, ("inverse",), 0, "cpu", track)
    weights_file = folder / "inverse" / "weights.safetensors"
    made = weights_file.stat().st_mtime_ns
    again = fitted(folder, real, short, ("inverse",), 0, "cpu", track)
    assert weights_file.stat().st_mtime_ns == made and again.to_json() == one.to_json()
    assert set(known.to_json()) == {"forward", "inverse"} and set(one.to_json()) == {"inverse"}
    fitted(folder, real, short, ("inverse",), 1, "cpu", track)
    assert weights_file.stat().st_mtime_ns > made, "another seed is another fit"
    assert (folder / models.FITTED).exists()


def test_samples_that_cannot_differ_are_refused():
    with pytest.raises(ValueError, match="would all be the same"):
        ImagineConfig(samples=2)
    ImagineConfig(samples=2, state_noise=0.1)
