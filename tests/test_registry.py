"""The one table of learners, and policies of every kind behind one way in."""

import shutil

import pytest

import kalm.rl.table
from kalm import envs, registry
from kalm.cli.options import ALGORITHMS, spread
from kalm.config import Config
from kalm.errors import KalmError
from kalm.evaluation.episodes import evaluate_policy, sample_episodes
from kalm.lm import sft
from kalm.lm.settings import GroundConfig
from kalm.runs.folder import PolicyJob
from kalm.runs.io import read_json, write_json


@pytest.fixture(scope="module")
def world():
    return envs.make("clevr")


@pytest.fixture(scope="module")
def lm_run(world, tmp_path_factory):
    """A run folder with a model that was never trained, and the policy that it is."""
    run = tmp_path_factory.mktemp("run")
    model = sft.fresh(GroundConfig(state_network=False), world, 0, "cpu")
    model.save(run / "grounded" / "model")
    config = Config()
    sections = config.train, config.dynamics, config.decision_transformer, config.ground
    task = registry.TrainingTask(
        PolicyJob("lm", "plain", 0, None), *sections, _Rollouts(world), None, run / "grounded" / "model",
        None, run / "policies" / "lm-seed0", "cpu",
    )  # fmt: skip
    registry.table()["lm"].fit(task)
    return run


class _Rollouts:
    """What making an `lm` policy needs of rollouts: their world."""

    def __init__(self, world):
        self.spec = world.spec


def test_the_table_holds_every_algorithm_and_the_help_tells_them():
    table = registry.table()
    assert list(table) == [*kalm.rl.table.ALGORITHMS, "lm", "dt"]
    assert [name for name, learner in table.items() if not learner.trains] == ["lm"]
    assert set(ALGORITHMS.split(", ")) == {name for name in table if "-" not in name}
    assert table["combo"].sections == ("dynamics",) and table["bc"].sections == ()


def test_what_cannot_be_made_is_refused(world, tmp_path):
    with pytest.raises(KalmError, match="unknown algorithm 'ppo'. Known: awac, bc, .*dt, iql, lm"):
        registry.require_algorithm("ppo", world.spec, None)
    with pytest.raises(KalmError, match="'lm' needs a grounded language model. Give --model"):
        registry.require_algorithm("lm", world.spec, None)
    with pytest.raises(KalmError, match="holds no grounded language model"):
        registry.require_algorithm("lm", world.spec, tmp_path)
    assert not registry.require_algorithm("lm", world.spec, None, comes=True).trains
    assert registry.require_algorithm("dt", world.spec, None).trains


def test_the_language_model_acts_and_moves_with_its_run(lm_run, world, tmp_path):
    chosen, seeds = sample_episodes(world.suite("seen"), 2, 0)
    rows = evaluate_policy(kalm.load_policy(lm_run / "policies/lm-seed0"), world, chosen, seeds, horizon=2)
    assert [row.length for row in rows] == [2, 2]
    moved = shutil.copytree(lm_run, tmp_path / "moved")
    again = evaluate_policy(kalm.load_policy(moved / "policies/lm-seed0"), world, chosen, seeds, horizon=2)
    assert again == rows
    assert registry.checkpoints(moved / "policies/lm-seed0", 5) == [(0, moved / "policies/lm-seed0")]
    (moved / "grounded/model/grounded.json").write_text("{}")
    with pytest.raises(KalmError, match=r"grounded.json is missing or was changed"):
        kalm.load_policy(moved / "policies/lm-seed0")


def test_another_world_or_version_is_refused(lm_run, tmp_path):
    place = lm_run / "policies/lm-seed0"
    kalm.load_policy(place, world="clevr")
    with pytest.raises(KalmError, match="acts in environment 'clevr' with 10 state numbers .* 'marbles'"):
        kalm.load_policy(place, world="marbles")
    newer = shutil.copytree(place, tmp_path / "newer")
    write_json(newer / "policy.json", {**read_json(newer / "policy.json", "policy"), "version": 9})
    with pytest.raises(KalmError, match="format version 9"):
        kalm.load_policy(newer)
    with pytest.raises(KalmError, match="does not exist"):
        kalm.load_policy(tmp_path / "nowhere")


def test_checkpoints_are_the_last_ones_in_order(tmp_path):
    for step in (5, 900, 20, 1000):
        write_json(tmp_path / "steps" / f"{step:08d}" / "policy.json", {})
    (tmp_path / "steps" / "00002000").mkdir()  # stopped before its facts were written
    assert [step for step, _ in registry.checkpoints(tmp_path, 3)] == [20, 900, 1000]
    assert len(registry.checkpoints(tmp_path, 9)) == 4


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--seeds 0 1 --out x", "--seeds 0 --seeds 1 --out x"),
        ("--out x --algos bc cql iql", "--out x --algos bc --algos cql --algos iql"),
        ("--algos bc --algos cql --json", "--algos bc --algos cql --json"),
        ("--json --out x", "--json --out x"),
    ],
)
def test_options_take_several_values(typed, read):
    assert spread(typed.split(), {"--seeds", "--algos"}) == read.split()
