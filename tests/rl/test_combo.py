"""COMBO: losses by hand, model rollouts on a known model, a world where it succeeds and others cannot."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import plane
import pytest
import torch
from safetensors.numpy import load_file

from kalm.dynamics.settings import DynamicsConfig
from kalm.errors import KalmError
from kalm.rl.algorithms.combo import COMBOConfig, data_rows
from kalm.rl.algorithms.cql import CQLConfig
from kalm.rl.buffer import MixedBuffer
from kalm.rl.model_based import ModelContext, model_batches
from kalm.rl.model_buffer import ModelBuffer, Transitions, roll_out
from kalm.rl.networks import DiagonalNormal
from kalm.rl.policy import load_mlp_policy
from kalm.rl.settings import TrainConfig
from kalm.rl.table import create_learner
from kalm.rl.train import train_offline
from kalm.runs.metrics import read_metrics

CONFIG = TrainConfig(
    batch=128, hidden=(64, 64), lr=3e-3, gamma=0.5, reward_scale=1, cql=CQLConfig(alpha=0.05),
    combo=COMBOConfig(alpha=0.05, real_share=0.5, rollouts=1000, refresh=100, target=50, explore=0.5),
)  # fmt: skip
SMALL = CONFIG.changed(
    batch=8, hidden=(16, 16), combo=CONFIG.combo.changed(rollouts=20, refresh=10, horizon=3)
)


def combo(**fields):
    """The small settings with another section for COMBO."""
    return SMALL.changed(combo=SMALL.combo.changed(**fields))


DYNAMICS = DynamicsConfig(members=3, hidden=(32, 32), forward_steps=400, evaluate_every=100, lr=5e-3)
QUICK = DYNAMICS.changed(forward_steps=20)


class Known:
    """The model that is right."""

    def sample(self, states, actions, rng):
        return plane.step(states, actions)


@pytest.fixture(scope="module")
def real():
    return plane.data(300)


def vectors(rollouts, rng):
    """The same data with a continuous action space; what the vectors are does not matter."""
    spec = replace(rollouts.spec, action_kind="continuous", action_size=2)
    actions = rng.uniform(-1, 1, (rollouts.transitions, 2)).astype(np.float32)
    return replace(rollouts, spec=spec, actions=actions)


def made(real, encoder, folder, config=SMALL, imagined=None):
    """A learner, and its batches."""
    rng = np.random.default_rng(0)
    data = MixedBuffer(real, imagined, encoder, config.mix, rng, reward_scale=config.reward_scale)
    learner = create_learner("combo", real.spec, data.observation_size, config, "cpu")
    context = ModelContext(plane.Plane(), real, config, QUICK, 0, folder)
    return SimpleNamespace(learner=learner, mix=model_batches(learner, data, context))


def constant(layers, biases):
    """Make a network answer with these numbers for every input."""
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    layers[-1].bias.data = torch.tensor(biases)


def test_loss_by_hand(real, encoder, tmp_path):
    both = made(real, encoder, tmp_path, combo(alpha=3.0))
    values = [1.0, 2.0, 3.0, 0.0]
    layers = both.learner.q.layers
    first, last = layers[0], layers[-1]
    constant(layers, values)
    constant(both.learner.target_q.layers, [5.0, 6.0, 7.0, 8.0])
    # One hidden number is 1 at the first model row and 0 elsewhere; it adds 1 to Q(s, 1) and 2 to Q(s, 3).
    marker = first.weight.shape[1] - 1
    first.weight.data[0, marker] = 1
    layers[1].weight.data[0, 0] = 1
    last.weight.data[1, 0], last.weight.data[3, 0] = 1, 2
    batch = both.mix.sample(4)
    seen, then = batch.observations.clone(), batch.next_observations.clone()
    seen[:, marker] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    then[:, marker] = 0
    batch = replace(
        batch,
        observations=seen,
        next_observations=then,
        actions=torch.tensor([[0.0], [2.0], [1.0], [3.0]]),
        rewards=torch.tensor([[0.5], [5.0], [1.0], [0.0]]),
        terminals=torch.tensor([[0.0], [1.0], [0.0], [0.0]]),
    )
    losses = both.learner.losses(batch)
    # Double Q: the best action of Q at s' is 2, the target network gives it 7: goals 0.5 + 0.5 * 7 = 4, then
    # 5 (terminal), 1 + 3.5 = 4.5 and 3.5. Q of the actions: 1, 3, 2 + 1, 0.
    td = (3**2 + 2**2 + 1.5**2 + 3.5**2) / 2 / 4
    down = math.log(sum(map(math.exp, [1, 3, 3, 2]))) + 3 * math.log(sum(map(math.exp, values)))
    conservative = down / 4 - (1 + 3) / 2  # pushed down in every row, up only in those of the data
    assert losses["td_loss"].item() == pytest.approx(td, rel=1e-5)
    assert losses["conservative_loss"].item() == pytest.approx(conservative, rel=1e-5)
    assert losses["loss"].item() == pytest.approx(td + 3 * conservative, rel=1e-5)


def test_continuous_loss_by_hand(real, encoder, tmp_path):
    config = combo(alpha=1.5)
    both = made(vectors(real, np.random.default_rng(0)), encoder, tmp_path, config)
    learner = both.learner
    for nets, outputs in ((learner.critics, (1.0, 2.0)), (learner.target_critics, (5.0, 4.0))):
        for net, output in zip((nets.first, nets.second), outputs, strict=True):
            constant(net.layers, [output])
    # The actor is a normal distribution around 0 of deviation 1 before tanh, at every state.
    constant([*learner.actor.mean.layers, learner.actor.log_std], [0.0, 0.0])
    for layer in [*learner.actor.mean.layers, learner.actor.log_std]:
        torch.nn.init.zeros_(layer.bias)
    batch = both.mix.sample(4)
    batch = replace(batch, rewards=torch.ones(4, 1), terminals=torch.tensor([[0.0], [0.0], [1.0], [1.0]]))
    torch.manual_seed(5)
    losses = learner.critic_losses(batch)
    # Goals: 1 + 0.5 * min(5, 4) = 3 and, at terminals, 1; squared without a half.
    td = ((3 - 1) ** 2 * 2 + 0) / 4 + ((3 - 2) ** 2 * 2 + (1 - 2) ** 2 * 2) / 4
    assert losses["td_loss"].item() == pytest.approx(td, rel=1e-5)
    # With Q the same everywhere the conservative term is the log-sum-exp of -log densities, in both critics.
    torch.manual_seed(5)
    even = DiagonalNormal(torch.zeros(4, 2), torch.zeros(4, 2))
    _, densities = learner.sampled(even, even)
    gap = (-densities).logsumexp(1).mean().item()
    assert losses["conservative_loss"].item() == pytest.approx(2 * 1.5 * 2 * gap, rel=1e-4)
    assert losses["critic_loss"].item() == pytest.approx(td + 6 * gap, rel=1e-4)


def test_rollouts_in_a_known_model():
    judge = plane.PlaneJudge([plane.CORNER.goal, plane.CORNER.goal, plane.sides(1).instructions[0].goal])
    judge.needs[2] = [True, False, False, False]
    states = np.array([[0.3, 0.6], [-0.6, 0.6], [-0.9, 0.0]], np.float32)
    told = []

    def act(states, goals):
        told.append(goals.tolist())
        return np.zeros(len(states), np.int64)

    found = roll_out(
        plane.SPEC, Known(), judge, states, np.array([4, 7, 2]), act, 3, np.random.default_rng(0)
    )
    assert told == [[4, 7, 2], [7, 2], [7, 2]]  # the first is there after one step, the others are cut
    np.testing.assert_allclose(found.after[:, 0], [0.6, -0.3, -0.6, 0.0, -0.3, 0.3, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.before[:3], states)
    np.testing.assert_allclose(found.before[3:], found.after[[1, 2, 3, 4]])
    assert found.goals.tolist() == [4, 7, 2, 7, 2, 7, 2]
    assert found.terminals.tolist() == [True] + 6 * [False]
    np.testing.assert_allclose(found.rewards, [0.2 + 1] + 6 * [0.3], atol=1e-6)


def test_one_step_goals_end_after_a_step():
    judge = plane.PlaneJudge([plane.CORNER.goal] * 2)
    judge.one_step[1] = True
    states = np.zeros((2, 2), np.float32)
    found = roll_out(
        plane.SPEC,
        Known(),
        judge,
        states,
        np.arange(2),
        lambda s, g: np.zeros(len(s), int),
        3,
        np.random.default_rng(0),
    )
    assert found.goals.tolist() == [0, 1, 0, 0] and not found.terminals.any()


def test_a_model_that_runs_away_is_noticed():
    model = SimpleNamespace(sample=lambda states, actions, rng: states + np.float32(np.inf))
    with pytest.raises(KalmError, match="not finite. Lower dynamics.lr"):
        roll_out(
            plane.SPEC, model, plane.PlaneJudge([plane.CORNER.goal]), np.zeros((1, 2), np.float32),
            np.zeros(1, int), lambda s, g: np.zeros(len(s), int), 3, np.random.default_rng(0),
        )  # fmt: skip


def test_the_ring_keeps_the_newest():
    ring = ModelBuffer(5, 1, 1, "cpu")

    def add(*numbers):
        column = np.array(numbers)
        state = column[:, None].astype(np.float32)
        ring.add(Transitions(state, column, state[:, 0], column > 3, state + 1, column))

    add(1, 2, 3)
    assert len(ring) == 3 and ring.goals.tolist() == [1, 2, 3, 0, 0]
    add(4, 5, 6, 7)
    assert len(ring) == 5 and ring.goals.tolist() == [6, 7, 3, 4, 5]
    assert ring.after[:, 0].tolist() == [7, 8, 4, 5, 6]
    assert ring.facts.tolist() == [[6, 6, 1], [7, 7, 1], [3, 3, 0], [4, 4, 1], [5, 5, 1]]
    ring.clear()
    assert len(ring) == 0


def test_shares_of_a_batch():
    assert [data_rows(8, share) for share in (0.5, 0.8, 0.01, 0.99)] == [4, 6, 1, 7]


def test_batches_are_data_then_model(real, encoder, tmp_path):
    imagined = replace(plane.lost(50, 3), source=np.ones(50, np.int8))
    config = combo(real_share=0.75).changed(reward_scale=0.5, batch=100)
    mix = made(real, encoder, tmp_path, config, imagined).mix
    batch, size = mix.sample(100), real.spec.state_size
    assert batch.observations.shape == (100, size + encoder.size) and batch.actions.shape == (100, 1)
    ring = mix.ring
    rows = np.arange(len(ring))
    mine = mix.gather(rows)
    texts = [mix.data.instructions[goal].text for goal in ring.goals[rows].tolist()]
    np.testing.assert_array_equal(mine.observations[:, :size], ring.before[rows])
    np.testing.assert_array_equal(mine.observations[:, size:], encoder.encode(texts))
    np.testing.assert_array_equal(mine.next_observations[:, size:], encoder.encode(texts))
    goals = [mix.data.instructions[goal].goal for goal in ring.goals[rows].tolist()]
    judge = plane.PlaneJudge(goals)
    before, after = ring.before[rows].numpy(), ring.after[rows].numpy()
    np.testing.assert_allclose(mine.rewards[:, 0], 0.5 * judge.reward(before, None, after), atol=1e-6)
    np.testing.assert_array_equal(mine.terminals[:, 0], judge.success(before, None, after))
    known = {tuple(row) for row in mine.next_observations.tolist()}
    assert all(tuple(row) in known for row in batch.next_observations[75:].tolist())
    data = batch.next_observations[:75]
    data = data[(data[:, :size].abs() < 1).any(dim=1)]  # both stop in the plane's corners
    assert len(data) > 50 and not any(tuple(row) in known for row in data.tolist())


def test_model_rollouts_keep_the_goal_of_their_first_state(real, encoder, tmp_path):
    mix = made(real, encoder, tmp_path).mix
    mix.sample(8)
    first = mix.ring.before[:20].numpy()
    texts = np.array([item.text for item in real.instructions])
    for state, goal in zip(first, mix.ring.goals[:20].tolist(), strict=True):
        rows = np.flatnonzero((real.states[real.before] == state).all(axis=1))
        assert mix.data.instructions[goal].text in set(texts[real.which[real.owner[rows]]])


def test_the_model_is_rolled_out_on_schedule(real, encoder, tmp_path):
    both = made(real, encoder, tmp_path)
    written = []
    for _ in range(25):
        both.mix.sample(8)
        written.append(int(both.mix.ring.written))
    assert len(set(written)) == 3
    assert written[:10] == [written[0]] * 10 and written[10:20] == [written[10]] * 10
    assert 0 < written[0] <= 20 * 3


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_updates_change_the_policy_and_report_every_term(kind, real, encoder, tmp_path):
    data = real if kind == "discrete" else vectors(real, np.random.default_rng(0))
    both = made(data, encoder, tmp_path)
    layers = both.learner.acting.layers
    before = layers[0].weight.clone()
    for step in range(12):
        losses = both.learner.update(both.mix.sample(8), step)
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert {"td_loss", "conservative_loss"} <= losses.keys()
    assert not torch.equal(before, layers[0].weight)


class Stopped(Exception):
    pass


def same(one, two):
    a, b = load_file(one), load_file(two)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_resumes_exactly(kind, real, encoder, tmp_path):
    data = real if kind == "discrete" else vectors(real, np.random.default_rng(0))
    config = combo(refresh=25).changed(steps=110, checkpoint_every=60)

    def train(folder, **options):
        torch.manual_seed(99)
        train_offline(data.spec, data, None, "combo", 0, config, encoder, tmp_path / folder,
            world=plane.Plane(), dynamics=QUICK, **options)  # fmt: skip

    def stop(n=1, *, resumed=False, **fields):
        if n >= 100:
            raise Stopped

    train("whole")
    with pytest.raises(
        Stopped
    ):  # at step 100; the last checkpoint is of 60, and has the model's rollouts of 1, 26 and 51
        train("cut", advance=stop)
    train("cut")
    for file in ("policy.safetensors", "checkpoint.safetensors"):
        assert same(tmp_path / "whole" / file, tmp_path / "cut" / file)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "cut")
    states, texts = data.first_states[:9], ["go to the left"] * 9
    one, other = (
        load_mlp_policy(tmp_path / name, encoder=encoder).act(states, texts) for name in ("whole", "cut")
    )
    assert np.array_equal(one, other) and one.shape == (9, 2)[: data.actions.ndim]
    stored = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    assert stored["weight/ring.written"] > 0 and (stored["weight/ring.after"] != 0).any()


def test_a_training_that_goes_on_forgets_the_old_model(real, encoder, tmp_path):
    config = SMALL.changed(steps=20)
    options = {"world": plane.Plane(), "dynamics": QUICK}
    train_offline(plane.SPEC, real, None, "combo", 0, config, encoder, tmp_path / "first", **options)
    longer, fewer = config.changed(steps=30), plane.sides(60, 5)
    start = tmp_path / "first"
    train_offline(
        plane.SPEC, fewer, None, "combo", 0, longer, encoder, tmp_path / "on", start=start, **options
    )
    stored = load_file(tmp_path / "on" / "checkpoint.safetensors")
    assert stored["weight/ring.goals"].max() < len(fewer.instructions)
    assert stored["weight/ring.written"] <= 20 * 3


@pytest.mark.parametrize(
    ("config", "dynamics", "message"),
    [
        (SMALL, QUICK.changed(members=0), "needs forward models"),
        (SMALL.changed(batch=1), QUICK, "train.batch of 2 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, dynamics, message, real, encoder, tmp_path):
    with pytest.raises(KalmError, match=message):
        train_offline(
            plane.SPEC,
            real,
            None,
            "combo",
            0,
            config,
            encoder,
            tmp_path,
            world=plane.Plane(),
            dynamics=dynamics,
        )
    assert not list(tmp_path.iterdir())


def test_it_finds_what_the_data_never_show(real, encoder, tmp_path):
    success = {}
    for name in ("combo", "cql", "bc"):
        config = CONFIG.changed(steps=1000, checkpoint_every=1000, evaluate_every=250)
        seen = success[name] = []

        def look(policy, step, seen=seen):
            seen.append(plane.play(policy))
            return {"success": seen[-1]}

        options = {"world": plane.Plane(), "dynamics": DYNAMICS, "eval_callback": look}
        train_offline(plane.SPEC, real, None, name, 0, config, encoder, tmp_path / name, **options)
    assert np.mean(success["combo"][-4:]) > 0.7, success
    assert max(success["cql"] + success["bc"]) < 0.1, success
